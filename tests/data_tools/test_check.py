"""Checking a data set: every finding, its severity, and the exit status."""

import os
import pathlib
import re
import sys

import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax.data_tools import check
from input_pipeline import datasets
from tests.support import folders, helpers, sets


@pytest.fixture
def root(tmp_path):
    sets.make(tmp_path / "data", "mvtec", "nut")
    return tmp_path / "data"


def config(root, batch_size=1, **changes):
    values = {"root": str(root), "category": "nut", "holdout": 0.0} | changes
    changes = {f"data__{key}": value for key, value in values.items()}
    return helpers.parsed(train__batch_size=batch_size, **changes)


def findings(root, batch_size=1, **changes):
    found, _ = check.check_category(config(root, batch_size, **changes), "nut")
    return [str(finding).replace(f"{root}/nut/", "").replace(f"{root}/", "") for finding in found]


def write(root, name, array):
    return sets.save(root / "nut" / name, array)


def test_a_sound_category_has_none_and_is_summed_up(root, capsys):
    assert check.run(config(root)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "nut: layout mvtec, 4 good training pictures, 1 good and 1 defective test pictures "
        "(große Delle 1), 1 masks, 32x32 px",
        "errors: 0, warnings: 0",
    ]


def test_constant_and_dark_pictures(root):
    write(root, "train/good/x.png", np.full((32, 32, 3), (7, 200, 7), np.uint8))
    write(root, "test/good/y.png", sets.picture("dark") // 16)
    assert findings(root) == [
        "error: train/good/x.png: one colour everywhere: [7, 200, 7]",
        "warning: test/good/y.png: dark: no level above 15 of 255",
    ]


def test_duplicates(root):
    """Between train and test an error, within one a warning; the same file, or only the pixels."""
    nut, first = root / "nut", sets.TRAIN[0]
    (nut / "test/good/copy.png").write_bytes((nut / f"train/good/{first}.png").read_bytes())
    write(root, "test/große Delle/again.bmp", sets.picture(sets.TRAIN[1]))
    write(root, "ground_truth/große Delle/again_mask.png", sets.mask())
    write(root, "train/good/twice.bmp", sets.picture(first))
    write(root, "test/good/is bad.bmp", sets.picture(sets.BAD))
    # Another shape of the same bytes is another picture.
    write(root, "train/good/tall.bmp", sets.picture(first).reshape(64, 16, 3))
    assert findings(root) == [
        f"warning: train/good/twice.bmp: the same pixels as train/good/{first}.png",
        f"error: test/good/copy.png: the same file as train/good/{first}.png",
        f"error: test/große Delle/again.bmp: the same pixels as train/good/{sets.TRAIN[1]}.png",
        f"error: test/große Delle/{sets.BAD}.png: the same pixels as test/good/is bad.bmp",
        "warning: nut: pictures of 2 sizes: 32x32 px (10), 16x64 px (1)",
    ]


def test_masks(root):
    small, bad = np.zeros((32, 32), np.uint8), "test/große Delle"
    small[1, 2] = 1  # between the pixels that nearest takes at 32 of 96
    for name, mask in (
        ("inverted", 255 - 255 * (sets.mask() > 0).astype(np.uint8)),
        ("none", None),
        ("speck", np.pad(small, (0, 64))),
    ):
        write(
            root,
            f"{bad}/{name}.png",
            sets.noise(name, *(mask.shape if mask is not None else (32, 32)), 3),
        )
        if mask is not None:
            write(root, f"ground_truth/große Delle/{name}_mask.png", mask)
    found = findings(root)
    assert found[:2] == [
        "warning: ground_truth/große Delle/inverted_mask.png: the mask covers 97 % of the picture: "
        "is it inverted?",
        "warning: ground_truth/große Delle/speck_mask.png: marks 1 px, nothing of it is left at 32 "
        "px",
    ]
    assert found[2] == f"error: {bad}/none.png: defective, but has no mask"
    ignored = findings(root, missing_masks="ignore")
    assert ignored[2] == f"warning: {bad}/none.png: defective, but has no mask"


def test_foregrounds(root):
    write(root, "DISthresh/good/a ü0.png", np.zeros((32, 32), np.uint8))
    (root / "nut/DISthresh/good/a ü1.png").write_text("no picture")
    assert findings(root) == [
        "warning: DISthresh/good/a ü0.png: a foreground without any object",
        "error: DISthresh/good/a ü1.png: cannot be read as a picture: it is no PNG, JPEG, BMP, "
        "TIFF or WebP file",
    ]


WRONG = {
    "inverted": (255 - 255 * np.pad(np.ones((16, 16), np.uint8), 8), "is it inverted?"),
    "another size": (np.zeros((16, 32), np.uint8), "is 32x16 px, but its picture is 32x32 px"),
    "grey": (sets.noise("grey", 32, 32), "is no foreground: it needs black (0) and white (255)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_foreground_is_named(root, name):
    """By the check and, in the same words, by what trains."""
    levels, text = WRONG[name]
    file = write(root, "DISthresh/good/a ü0.png", levels)
    (line,) = findings(root)
    assert line.startswith("error: DISthresh/good/a ü0.png: ") and text in line
    assert line.count("a ü0.png") == 1
    with pytest.raises(UserError, match=re.escape(text)) as error:
        datasets.load_category(sets.options(root, "nut"), 32)
    assert str(file) in str(error.value)


def test_parts_of_a_texture_are_read_too(root):
    write(root, "thresh/1.png", sets.noise("part", 32, 32))
    write(root, "thresh/2.png", 255 * np.eye(32, dtype=np.uint8))
    write(root, "thresh/3.png", np.eye(48, dtype=np.uint8))
    write(root, "thresh/4.png", np.zeros((32, 32), np.uint8))
    (root / "nut/thresh/5.png").write_text("no picture")
    found = findings(root, kind="texture")
    assert [line.split(": ")[:2] for line in found] == [
        ["error", "thresh/1.png"],
        ["warning", "thresh/4.png"],
        ["error", "thresh/5.png"],
    ]
    assert findings(root, kind="object") == []


def test_damage_and_pipes_are_errors(root):
    """And nothing waits for a pipe."""
    jpeg = root / "nut/train/good/holed.jpg"
    sets.save(jpeg, sets.noise("jpeg", 160, 160, 3))
    data = jpeg.read_bytes()
    jpeg.write_bytes(data[:4096] + bytes(4096) + data[8192:])
    os.mkfifo(root / "nut/train/good/pipe.png")
    found = findings(root)
    assert len(found) == 2 and "from byte 4,09" in found[0] and "its data is zeros" in found[0]
    assert found[1].endswith("a pipe, a socket or a device, no file")


def test_every_unreadable_file_is_named(root):
    for path in (root / "nut").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    found = findings(root)
    assert len(found) == 7 and all("cannot be read as a picture" in line for line in found)
    assert [line.partition(": ")[2].partition(": ")[0] for line in found] == [
        *(f"train/good/{stem}.png" for stem in sets.TRAIN),
        f"test/good/{sets.GOOD}.png",
        f"test/große Delle/{sets.BAD}.png",
        f"ground_truth/große Delle/{sets.BAD}_mask.png",
    ]


def test_too_few_and_one_sided(root):
    few = "error: nut: 4 good pictures to train on, fewer than train.batch_size=5"
    assert findings(root, batch_size=5) == [few] and findings(root, batch_size=4) == []
    assert findings(root, batch_size=4, holdout=0.25) == [few.replace("4", "3").replace("=5", "=4")]
    (root / f"nut/test/good/{sets.GOOD}.png").unlink()
    assert findings(root) == ["warning: nut: no good test picture: no metrics"]


def test_pictures_that_nothing_uses(root):
    write(root, "spare/1.png", sets.picture("1"))
    write(root, "spare/2.png", sets.picture("2"))
    assert findings(root) == ["warning: spare: its pictures are not used (2)"]


def test_a_folder_that_no_layout_fits_is_still_read(root, capsys):
    write(root, "good/1.png", sets.picture("1"))
    (root / "nut/good/2.png").write_text("no picture")
    found = findings(root)
    assert found[0].startswith("error: nut: ") and "hold pictures: which are the good" in found[0]
    assert found[1].startswith("error: good/2.png: cannot be read") and len(found) == 2
    assert check.run(config(root)) == 1
    assert capsys.readouterr().out.endswith("nut: 9 pictures, no layout\nerrors: 2, warnings: 0\n")


def test_all_categories_and_the_textures(root, tmp_path, capsys):
    sets.make(root, "dagm_raw", "Class1")
    write(root, "spare/1.png", sets.picture("1"))
    (tmp_path / "stuff").mkdir()
    (tmp_path / "stuff/x.jpg").write_bytes(b"")
    assert check.run(config(root, category="all", textures=str(tmp_path / "stuff"))) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"error: {tmp_path}/stuff/x.jpg: cannot be read as a picture")
    assert lines[1].startswith("Class1: layout dagm_raw, 4 good") and len(lines) == 5
    assert lines[2] == f"warning: {root}/nut/spare: its pictures are not used (1)"
    assert lines[4] == "errors: 1, warnings: 1"
    assert check.run(config(root, textures=str(tmp_path / "none"))) == 1
    assert f"error: {tmp_path}/none: data.textures: no such folder" in capsys.readouterr().out


def test_the_command(root, tmp_path):
    write(root, "train/good/x.png", np.zeros((32, 32, 3), np.uint8))
    result = folders.call(
        [
            *(sys.executable, "-m", "diffad_jax.main", "--mode=check", "--config=test"),
            *(f"--config.data.root={root}", "--config.data.category=nut"),
        ],
        tmp_path,
    )
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"error: {root}/nut/train/good/x.png: one colour everywhere: [0, 0, 0]"
    assert lines[-1] == "errors: 1, warnings: 0" and len(lines) == 3


def test_prepared_shards_have_no_files_to_check(root):
    with pytest.raises(UserError, match=r"data\.layout=prepared"):
        check.run(config(root, layout="prepared"))
    assert pathlib.Path(root / "nut").is_dir()
