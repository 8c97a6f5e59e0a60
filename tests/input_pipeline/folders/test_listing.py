"""What is passed over is passed over everywhere alike, and what a person would miss is told."""

import os

import pytest

from configs.errors import UserError
from input_pipeline.folders import layouts, listing, scan
from tests.input_pipeline.folders.trees import found, good, refusal, touch

JUNK_FOLDERS = [
    *(".hidden", ".ipynb_checkpoints", ".Trash-1000", "@eaDir", "@Recycle", "#recycle"),
    *("#snapshot", "$RECYCLE.BIN", "RECYCLER", "__MACOSX", "System Volume Information"),
    *("lost+found", "__pycache__", "Temporary Items", "Network Trash Folder"),
]
JUNK_FILES = [".DS_Store", "Thumbs.db", "desktop.ini", "._001.png", ".hidden.png", "~$x.png"]


@pytest.fixture
def closed(monkeypatch):
    """Make folders unreadable, also for a test that runs as root."""
    shut = set()
    scandir = os.scandir

    def refuse(path="."):
        if os.path.realpath(path) in shut:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def inside(path):
        above = os.path.dirname(os.path.realpath(path))
        return above not in shut and isdir(path)

    isdir = os.path.isdir
    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os.path, "isdir", inside)
    return lambda folder: shut.add(os.path.realpath(folder))


@pytest.mark.parametrize("junk", JUNK_FOLDERS)
@pytest.mark.parametrize("layout", ["mvtec", "dagm_raw", "folder"])
def test_a_junk_folder_is_nothing_anywhere(tmp_path, caplog, junk, layout):
    """No defect class, no category, no texture, no good pictures, and nothing is said of it."""
    one = tmp_path / "Class1"
    trees = {
        "mvtec": ["train/good/1.png", "test/good/2.png", "test/bent/3.png"],
        "dagm_raw": ["Train/1.png", "Test/2.png", "Test/3.png", "Test/Label/3_label.png"],
        "folder": ["1.png", "test/good/2.png", "test/bent/3.png", "masks/3.png"],
    }
    touch(one, *trees[layout])
    if layout == "mvtec":
        touch(one, "ground_truth/bent/3_mask.png")
    before = found(one)
    assert before[0] == layout
    for place in ("", "train", "train/good", "Train", "test", "Test", "test/bent", "masks"):
        if (one / place).is_dir():
            touch(one / place / junk, "9.png", "8.heic", "good/7.png")
            touch(one / place, *JUNK_FILES)
    assert found(one) == before and found(one, layout) == before
    assert "not used" not in caplog.text and "not read" not in caplog.text
    touch(tmp_path / junk, "good/1.png")
    assert layouts.categories(tmp_path, "auto") == ["Class1"]
    textures = scan.scan(one, layouts.LAYOUTS["textures"])
    assert not [r for r in textures if "9.png" in r.picture or "._" in r.picture]


def test_a_listing_says_what_it_left_out(tmp_path, closed):
    touch(tmp_path, "a.png", "b.HEIC", "c.txt", "sub/d.jfif", "sub/e.gif", "shut/f.png", ".g.png")
    closed(tmp_path / "shut")
    listed = listing.walk(tmp_path, recursive=True)
    assert [f.name for f in listed.pictures] == ["a.png", "d.jfif"]
    assert [f.name for f in listed.folders] == ["shut", "sub"]
    assert [(f.name, why) for f, why in listed.left_out] == [
        ("b.HEIC", ".heic"),
        ("shut", "unreadable folder"),
        ("e.gif", ".gif"),
    ]
    assert [f.name for f in listed.passed_over] == [".g.png", "c.txt"]
    two = [*listed.left_out, *listed.left_out]
    assert listing.told(listed.left_out) == "1 .gif, 1 .heic, 1 unreadable folder"
    assert listing.told(two) == "2 .gif, 2 .heic, 2 unreadable folders"
    assert listing.walk(tmp_path).pictures == [tmp_path / "a.png"]
    assert listing.walk(tmp_path / "none") == listing.walk(tmp_path / "a.png") == listing.Listing()


@pytest.mark.parametrize(
    "shut", ["", "train", "train/good", "test", "test/bent", "ground_truth", "ground_truth/bent"]
)
@pytest.mark.parametrize("layout", ["auto", "mvtec"])
def test_an_unreadable_folder_is_one_line(tmp_path, closed, shut, layout):
    p = tmp_path / "p"
    touch(p, "train/good/1.png", "test/bent/3.png", "ground_truth/bent/3_mask.png")
    closed(p / shut)
    text = refusal(p, layout)
    assert text.startswith("the folder ") and "cannot be read" in text
    assert shut in text


def test_an_unreadable_folder_elsewhere_is_told(tmp_path, closed, caplog):
    p = tmp_path / "p"
    touch(p, "train/good/1.png", "raw/2.png", "train/good/3.heic", "train/good/4.HEIC")
    closed(p / "raw")
    assert found(p)[1] == good("train/good/1.png")
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        f"{p}/raw: not read: 1 unreadable folder",
        f"{p}/train/good: not read: 2 .heic",
    ]


def test_an_unreadable_category_is_no_silent_gap(tmp_path, closed):
    touch(tmp_path, "a/1.png", "b/1.png")
    closed(tmp_path / "b")
    with pytest.raises(UserError, match=r"the folder .*/b cannot be read"):
        layouts.categories(tmp_path, "auto")


def test_only_pictures_of_other_formats(tmp_path):
    touch(tmp_path / "p", "1.heic", "2.heic", "raw/3.dng")
    text = refusal(tmp_path / "p")
    assert text.startswith("no good pictures in p")
    assert text.endswith("it holds 2 .heic in .; 1 .dng in raw")


@pytest.mark.parametrize(
    ("one", "two"), [("train", "Train"), ("train/good", "train/GOOD"), ("test", "TEST")]
)
def test_two_folders_that_differ_in_capital_letters(tmp_path, one, two):
    p = tmp_path / "p"
    touch(p, "train/good/1.png", f"{one}/x/1.png", f"{two}/x/2.png")
    assert "differ in capital letters only" in refusal(p)


def test_a_folder_name_in_another_unicode_form(tmp_path):
    """As a copy by way of another system leaves it: u and two dots, or one letter."""
    p = tmp_path / "p"
    touch(p, "train/good/1.png", "test/Du\u0308se/3u\u0308.png", "ground_truth/D\xfcse/3\xfc.png")
    assert found(p)[2] == [
        ("test/Du\u0308se/3u\u0308.png", "ground_truth/D\xfcse/3\xfc.png", "Du\u0308se")
    ]
