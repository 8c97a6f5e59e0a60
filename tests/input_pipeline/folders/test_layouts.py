"""Every layout built on disk in miniature, what is found in it, and what is refused."""

import csv
import typing

import pytest

from configs import schema
from configs.errors import UserError
from input_pipeline.builder import kind_of
from input_pipeline.folders import layouts, scan
from input_pipeline.folders.scan import GOOD, Record
from tests.input_pipeline.folders.trees import found, good, touch
from tests.support import helpers


def visa_table(root, rows):
    (root / "split_csv").mkdir(parents=True, exist_ok=True)
    with open(root / "split_csv/1cls.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["object", "split", "label", "image", "mask"])
        writer.writerows(rows)


def test_mvtec(tmp_path):
    nut = tmp_path / "nut"
    touch(nut, "train/good/001.png", "train/good/000.png", "test/good/000.png", "license.txt")
    touch(nut, "test/bent/000.png", "ground_truth/bent/000_mask.png", "train/good/.hidden.png")
    train = good("train/good/000.png", "train/good/001.png")
    test = [("test/bent/000.png", "ground_truth/bent/000_mask.png", "bent")]
    assert found(nut) == ("mvtec", train, test + good("test/good/000.png"))


def test_visa_in_folders(tmp_path):
    pcb = tmp_path / "pcb"
    touch(pcb, "train/good/0000.JPG", "test/good/0001.JPG", "test/bad/000.JPG")
    touch(pcb, "ground_truth/bad/000.png")
    test = [("test/bad/000.JPG", "ground_truth/bad/000.png", "bad"), *good("test/good/0001.JPG")]
    assert found(pcb) == ("visa", good("train/good/0000.JPG"), test)


def test_visa_as_downloaded(tmp_path):
    normal, bad = "pcb/Data/Images/Normal", "pcb/Data/Images/Anomaly"
    visa_table(
        tmp_path,
        [
            ["pcb", "test", "anomaly", f"{bad}/000.JPG", "pcb/Data/Masks/Anomaly/000.png"],
            ["pcb", "train", "normal", f"{normal}/0001.JPG", ""],
            ["candle", "train", "normal", "candle/Data/Images/Normal/0000.JPG", ""],
            ["pcb", "train", "normal", f"{normal}/0000.JPG", ""],
            ["pcb", "train", "anomaly", f"{bad}/001.JPG", "pcb/Data/Masks/Anomaly/001.png"],
            ["pcb", "test", "normal", f"{normal}/0002.JPG", ""],
        ],
    )
    touch(tmp_path, f"{normal}/0000.JPG", "candle/Data/Images/Normal/0000.JPG", "other/a.png")
    images = "Data/Images"
    name, train, test = found(tmp_path / "pcb")
    assert name == "visa_csv"
    assert train == good(f"{images}/Normal/0000.JPG", f"{images}/Normal/0001.JPG")
    mask = "Data/Masks/Anomaly/000.png"
    assert test[0] == (f"{images}/Anomaly/000.JPG", mask, "anomaly")
    assert test[1:] == good(f"{images}/Normal/0002.JPG")
    assert layouts.categories(tmp_path, "visa_csv") == ["candle", "pcb"]
    # A folder beside them that the table does not list is the user's own.
    assert found(tmp_path / "other")[0] == "folder"
    with pytest.raises(UserError, match=r"1cls\.csv lists no picture of other"):
        found(tmp_path / "other", "visa_csv")


def test_dagm_as_downloaded_trains_on_nothing_defective(tmp_path):
    one = tmp_path / "Class1"
    touch(one, "Train/0001.PNG", "Train/0002.PNG", "Train/0003.PNG", "Train/Label/Labels.txt")
    touch(one, "Train/Label/0002_label.PNG", "Test/0001.PNG", "Test/0004.PNG")
    touch(one, "Test/Label/0004_label.PNG")
    test = [*good("Test/0001.PNG"), ("Test/0004.PNG", "Test/Label/0004_label.PNG", "bad")]
    assert found(one) == ("dagm_raw", good("Train/0001.PNG", "Train/0003.PNG"), test)


def test_dagm_in_folders(tmp_path):
    one = tmp_path / "Class1"
    touch(one, "train/good/0001.PNG", "test/scratch/0004.PNG", "test/good/0002.PNG")
    touch(one, "ground_truth/scratch/0004_label.PNG")
    name, train, test = found(one)
    assert (name, len(train), [row[2] for row in test]) == ("dagm", 1, [GOOD, "scratch"])
    assert test[1][1] == "ground_truth/scratch/0004_label.PNG"


@pytest.mark.parametrize("place", ["", "good", "OK", "train", "train/good", "Train/Normal"])
def test_ones_own_good_pictures_alone(tmp_path, place):
    names = ["a b.jpg", "ü.TIFF", "z.webp"]
    touch(tmp_path / "my part" / place, *names, "notes.txt")
    prefix = f"{place}/" if place else ""
    expected = good(*(f"{prefix}{name}" for name in sorted(names)))
    assert found(tmp_path / "my part") == ("folder", expected, [])


MASKS = [
    "ground_truth/dent/7_mask.png",
    "ground_truth/dent/7_gt.bmp",
    "masks/dent/7.png",
    "mask/7.tif",
    "labels/7_label.png",
    "test/dent/7_mask.png",
    "Test/dent/7_label.png",
]


@pytest.mark.parametrize("mask", MASKS)
def test_ones_own_masks_in_the_common_namings(tmp_path, mask):
    """A good picture of the same name has no part in it; a mask is no picture."""
    test = mask.partition("/")[0] if mask.lower().startswith("test") else "test"
    touch(tmp_path / "p", "1.png", f"{test}/ok/7.png", f"{test}/dent/7.png", mask)
    name, train, rows = found(tmp_path / "p")
    assert (name, train) == ("folder", good("1.png"))
    assert rows == [(f"{test}/dent/7.png", mask, "dent"), *good(f"{test}/ok/7.png")]


def test_ones_own_without_masks(tmp_path):
    touch(tmp_path / "p", "good/1.png", "test/bad/2.png", "test/good/3.png")
    assert found(tmp_path / "p", missing_masks="ignore")[2][0] == ("test/bad/2.png", "", "bad")
    with pytest.raises(UserError, match=r"bad/2.png has no mask: it is not in .*missing_masks"):
        found(tmp_path / "p")


def test_a_missing_mask_does_not_change_what_the_layout_is_taken_for(tmp_path):
    touch(tmp_path / "p", "train/good/1.png", "test/bad/2.png", "test/bad/3.png")
    touch(tmp_path / "p", "ground_truth/bad/2_mask.png")
    assert layouts.recognise(tmp_path / "p")[0] == "mvtec"
    with pytest.raises(UserError, match=r"bad/3.png has no mask: .*ground_truth/bad/3_mask.png;"):
        found(tmp_path / "p")


def test_foregrounds_and_parts(tmp_path):
    touch(tmp_path / "p", "train/good/1.png", "train/good/2.png", "DISthresh/good/2.jpg")
    records = scan.scan(tmp_path / "p", layouts.LAYOUTS["mvtec"])
    assert [record.foreground for record in records] == ["", "DISthresh/good/2.jpg"]
    assert scan.parts(tmp_path / "p") == []
    touch(tmp_path, "carpet/thresh/1.png")
    assert scan.parts(tmp_path / "p") == [Record("parts", "../carpet/thresh/1.png", "", "", GOOD)]
    touch(tmp_path, "p/thresh/3.png")
    assert scan.parts(tmp_path / "p") == [Record("parts", "thresh/3.png", "", "", GOOD)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train/good/1.png", "good/1.png"], "train/good and good hold pictures: which"),
        (["1.png", "train/1.png"], "train and p hold pictures: which"),
        (["train/good/1.png", "test/2.png"], "test/2.png is neither good nor defective"),
        (["2024/1.png", "2024/2.png", "b/3.png"], "no good pictures in p; 2 in 2024; 1 in b"),
        (["readme.txt"], "no good pictures in p; it holds no .png"),
        (
            ["1.png", "test/a/1.png", "test/b/1.png", "masks/1.png"],
            "test/a/1.png and test/b/1.png have the same mask: masks/1.png",
        ),
    ],
)
def test_what_is_unclear_is_refused_and_named(tmp_path, files, words):
    touch(tmp_path / "p", *files)
    with pytest.raises(UserError) as error:
        found(tmp_path / "p")
    text = str(error.value)
    assert "\n" not in text
    plain = text.replace(f"{tmp_path}/p/", "").replace(f"{tmp_path}/", "")
    for part in words.split("; "):
        assert part in plain


def test_a_table_without_its_columns(tmp_path):
    touch(tmp_path, "pcb/1.png", "split_csv/1cls.csv")
    with pytest.raises(UserError, match=r"1cls.csv has no column image, label, mask, object"):
        found(tmp_path / "pcb", "visa_csv")


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path / "store", "good/1.png", "good/2.png", "other/3.png")
    p = tmp_path / "p"
    (p / "train").mkdir(parents=True)
    (p / "train/good").symlink_to(tmp_path / "store/good")
    (tmp_path / "store/good/linked.png").symlink_to(tmp_path / "store/other/3.png")
    (tmp_path / "store/good/loop").symlink_to(tmp_path / "store")
    (tmp_path / "store/good/itself.png").symlink_to("itself.png")
    names = ["1.png", "2.png", "itself.png", "linked.png"]  # what cannot be read is not left out
    assert found(p)[1] == good(*(f"train/good/{name}" for name in names))
    textures = scan.scan(tmp_path / "store", layouts.LAYOUTS["textures"])
    assert [r.picture for r in textures] == [f"good/{name}" for name in names] + ["other/3.png"]


def test_categories(tmp_path):
    touch(tmp_path, "b/train/good/1.png", "a/1.png", "notes/readme.txt", ".hidden/1.png", "x.png")
    touch(tmp_path, "textures/images/woven/1.jpg")
    assert layouts.categories(tmp_path, "auto") == ["a", "b"]
    assert layouts.categories(tmp_path, "mvtec") == ["b"]
    with pytest.raises(UserError, match=r"no category in .*notes: none of its 0 folders"):
        layouts.categories(tmp_path / "notes", "auto")
    with pytest.raises(UserError, match="no such folder"):
        layouts.categories(tmp_path / "none", "auto")
    with pytest.raises(UserError, match=r"data\.layout=prepared"):
        layouts.categories(tmp_path, "prepared")
    assert layouts.chosen("all", tmp_path, "auto") == ["a", "b"]
    assert layouts.chosen("b, c", tmp_path, "auto") == ["b", "c"]


def test_pictures_that_nothing_uses_are_told(tmp_path, caplog):
    touch(
        tmp_path / "p", "OK/1.png", "NG/1.png", "NG/2.png", "DISthresh/good/1.png", "thresh/1.png"
    )
    assert found(tmp_path / "p")[0] == "folder"
    warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == [f"{tmp_path}/p/NG: its pictures are not used (2)"]


def test_the_configuration_knows_every_layout():
    choices = typing.get_args(typing.get_type_hints(schema.DataConfig)["layout"])
    rows = {name for name, row in layouts.LAYOUTS.items() if row.category}
    assert set(choices) == rows | {"auto", "prepared"}
    for row in layouts.LAYOUTS.values():
        assert row.description and row.licence


def test_upper_case_folders_on_any_disk(tmp_path):
    touch(tmp_path / "p", "TRAIN/GOOD/1.PNG", "TEST/Good/2.PNG", "TEST/Bad/3.PNG")
    name, train, test = found(tmp_path / "p", missing_masks="ignore")
    assert (name, train) == ("folder", good("TRAIN/GOOD/1.PNG"))
    assert [row[2] for row in test] == ["Bad", GOOD]


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        *(("grid/", "grid"), ("./grid", "grid"), ("grid//", "grid"), ("grid , b/", "grid,b")),
        *(("all/", "all"), ("grid", "grid"), ("a/b/", "a/b"), ("Tür 1/", "Tür 1")),
    ],
)
def test_a_slash_changes_nothing(given, plain):
    """Neither the kind of a category nor what a run is bound to."""
    config = helpers.parsed(data__category=given)
    assert config.data.category == plain and config.to_dict()["data"]["category"] == plain
    assert kind_of("textures/grid/", "auto") == kind_of("Grid", "auto") == "texture"
    assert kind_of("grid/", "object") == "object" == kind_of("grids/", "auto")


def test_a_fault_in_one_category_is_not_taken_for_no_category(tmp_path):
    """Also where the message has the words of another error in it."""
    touch(
        tmp_path, "no good pictures/train/good/1.png", "no good pictures/train/ok/1.png", "b/1.png"
    )
    with pytest.raises(UserError, match=r"train/good and .*train/ok hold pictures"):
        layouts.categories(tmp_path, "auto")
