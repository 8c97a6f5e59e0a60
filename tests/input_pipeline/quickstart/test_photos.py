import functools
import json

import numpy as np
import pytest
from PIL import Image

from input_pipeline.quickstart import __main__ as front_door
from input_pipeline.quickstart import photos
from input_pipeline.quickstart.defects import DEFECTS
from input_pipeline.quickstart.render import stream
from input_pipeline.textures import RULES, texture

SMALL = dict(size=64, train=2, good=1, defects=1, textures=1)
ALL_DEFECTS = [(category, defect) for category in DEFECTS for defect in DEFECTS[category]]


@functools.cache
def pair(category, defect, index):
    """Good and defective version at 128 px, and the mask."""
    good = photos.good_picture(category, f"test/{defect}", index, 128, 0)
    return good, *photos.defect_picture(category, defect, index, 128, 0)


def files_of(folder):
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "data"
    assert photos.write_photos(folder, **SMALL)
    return folder


def test_layout_is_mvtec_and_dtd(written):
    expected = {"recipe.json"}
    for category in ("gear", "fabric"):
        expected |= {f"{category}/train/good/{i:03d}.png" for i in range(2)}
        expected.add(f"{category}/test/good/000.png")
        for defect in DEFECTS[category]:
            expected.add(f"{category}/test/{defect}/000.png")
            expected.add(f"{category}/ground_truth/{defect}/000_mask.png")
    expected |= {f"textures/images/{kind}/{kind}_000.png" for kind in RULES}
    assert set(files_of(written)) == expected
    for name, path in files_of(written).items():
        if path.suffix == ".png":
            with Image.open(path) as image:
                mode = "L" if "ground_truth" in name else "RGB"
                assert (image.size, image.mode) == ((64, 64), mode), name


def test_textures_are_the_procedural_ones(written):
    assert photos.texture is texture
    for place, rule in enumerate(RULES):
        shown = np.asarray(Image.open(written / f"textures/images/{rule}/{rule}_000.png"))
        np.testing.assert_array_equal(shown, texture(place, 64, 0))


def test_defect_kinds_cover_what_is_asked():
    assert {"scratch", "dent", "stain", "hole", "missing_part", "foreign_body"} <= set(
        DEFECTS["gear"]
    )
    assert {"cut", "stain", "hole", "thread"} <= set(DEFECTS["fabric"])
    assert len(RULES) * 8 >= 60


def test_masks_on_disk_are_binary_and_small(written):
    masks = sorted(written.glob("*/ground_truth/*/*_mask.png"))
    assert len(masks) == len(ALL_DEFECTS)
    for path in masks:
        mask = np.asarray(Image.open(path))
        assert set(np.unique(mask)) == {0, 255}, path
        assert 0.003 < (mask > 0).mean() < 0.2, path


def test_same_seed_same_bytes_whatever_the_count(written, tmp_path):
    photos.write_photos(tmp_path / "more", **{**SMALL, "train": 3, "good": 2})
    more = files_of(tmp_path / "more")
    for name, path in files_of(written).items():
        if name != "recipe.json":
            assert path.read_bytes() == more[name].read_bytes(), name
    pictures = [p.read_bytes() for n, p in more.items() if "ground_truth" not in n]
    assert len(set(pictures)) == len(pictures), "two pictures are the same"


def test_other_seed_other_pictures():
    for category in DEFECTS:
        first = photos.good_picture(category, "train/good", 0, 64, 0)
        assert (first != photos.good_picture(category, "train/good", 0, 64, 1)).mean() > 0.5
    assert (texture(0, 64, 0) != texture(0, 64, 1)).mean() > 0.5


@pytest.mark.parametrize(("category", "defect"), ALL_DEFECTS)
def test_mask_is_what_changed(category, defect):
    for index in range(2):
        good, bad, mask = pair(category, defect, index)
        change = np.abs(bad.astype(int) - good.astype(int)).max(2)
        assert change[~mask].max() == 0
        # The rest of the inside are pixels closed in by changed ones.
        assert (change[mask] >= photos.VISIBLE).mean() > 0.8
        assert change[mask].mean() > 20


@pytest.mark.parametrize(("category", "defect"), ALL_DEFECTS)
def test_defect_is_visible_at_64_px(category, defect):
    def half(a):
        return a.reshape(64, 2, 64, 2, -1).mean((1, 3))

    for index in range(2):
        good, bad, mask = pair(category, defect, index)
        change = np.abs(half(bad.astype(float)) - half(good.astype(float))).max(-1)
        inside = half(mask.astype(float))[..., 0] > 0.5
        assert inside.sum() >= 10
        assert np.sort(change[inside])[-10:].min() > 20


@pytest.mark.parametrize(
    ("category", "defect"),
    [("gear", "hole"), ("gear", "missing_part"), ("fabric", "hole"), ("fabric", "cut")],
)
def test_removed_material_lies_in_the_mask(category, defect):
    """The mask against the geometry: where the product is gone the mask is set."""
    for index in range(2):
        _, _, mask = pair(category, defect, index)
        surface, _ = photos._scene(category, f"test/{defect}", index, 128, 0)
        broken = surface.copy()
        DEFECTS[category][defect](broken, stream(0, category, f"test/{defect}", index, "defect", 0))
        gone = (surface.alpha - broken.alpha).reshape(128, 2, 128, 2).mean((1, 3)) > 0.9
        assert gone.sum() > 15
        assert mask[gone].mean() > 0.9


def test_changed_region_closes_gaps_and_drops_specks():
    good = np.full((128, 128, 3), 100, np.uint8)
    bad = good.copy()
    bad[40:60, 40:60] += 50
    bad[50, 40:60] = 100  # a line through the defect that kept its grey
    bad[100, 100] += 50  # a speck
    bad[0:8, 120:128, 1] -= 30  # a corner of the picture, one channel
    bad[80:90, 10:20] += photos.VISIBLE - 1  # too faint to see
    expected = np.zeros((128, 128), bool)
    expected[40:60, 40:60] = expected[0:8, 120:128] = True
    np.testing.assert_array_equal(photos.changed_region(good, bad), expected)


def test_scene_does_not_depend_on_the_size():
    small = photos.good_picture("gear", "train/good", 3, 64, 0).astype(float)
    large = photos.good_picture("gear", "train/good", 3, 128, 0).astype(float)
    large = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.97


def test_rerun_does_nothing(written):
    before = {name: path.stat().st_mtime_ns for name, path in files_of(written).items()}
    assert photos.write_photos(written, **SMALL) is False
    assert before == {name: path.stat().st_mtime_ns for name, path in files_of(written).items()}


def test_foreign_or_different_folder_is_refused(written, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.txt").write_text("sun")
    with pytest.raises(ValueError, match="mine exists and was not made by this program"):
        photos.write_photos(tmp_path / "mine", **SMALL)
    assert list(files_of(tmp_path)) == ["mine/holiday.txt"]
    with pytest.raises(ValueError, match=r"'seed': 0.*'seed': 5"):
        photos.write_photos(written, **SMALL, seed=5)
    assert json.loads((written / "recipe.json").read_text())["seed"] == 0


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(photos, "texture", fail)
    with pytest.raises(OSError, match="disk full"):
        photos.write_photos(tmp_path / "data", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_impossible_size_is_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"size=32 is not in 64\.\.256 px"):
        photos.write_photos(tmp_path / "data", size=32)
    monkeypatch.setattr(
        "sys.argv", ["quickstart", "--output", str(tmp_path / "d"), "--size", "512"]
    )
    with pytest.raises(SystemExit):
        front_door.main()
    assert "size=512 is not in 64..256 px" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
