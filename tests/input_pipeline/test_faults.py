"""Every layout on disk, whole and with each fault: the loader's one line, and the check's."""

import pathlib

import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax.data_tools import check
from input_pipeline import datasets
from input_pipeline.folders import layouts
from tests.input_pipeline.decoding.test_pictures import claim
from tests.support import helpers, sets

LAYOUTS = sorted(sets.PLACES)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "my data"


def load(root, **changes):
    return datasets.load_category(sets.options(root, **changes), sets.SIZE)


def checked(root, name=sets.NAME, **changes):
    changes = {f"data__{k}": v for k, v in {"root": str(root), "category": name, **changes}.items()}
    config = helpers.parsed(train__batch_size=1, **changes)
    findings, summary = check.check_category(config, name)
    return [str(finding) for finding in findings], summary


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_whole_category_is_read_exactly(root, layout):
    folder, places = sets.make(root, layout), sets.PLACES[layout]
    assert layouts.recognise(folder)[0] == layout
    assert layouts.categories(root, "auto") == [sets.NAME]
    category = load(root)
    assert category.train.names == [places.train.format(stem) for stem in sets.TRAIN]
    np.testing.assert_array_equal(category.train.images, [sets.picture(s) for s in sets.TRAIN])
    tests = {places.good.format(sets.GOOD): 0, places.bad.format(sets.BAD): 1}
    assert dict(zip(category.test.names, category.test.labels.tolist(), strict=True)) == tests
    for name, label, image, mask in zip(
        category.test.names,
        category.test.labels,
        category.test.images,
        category.test.masks,
        strict=True,
    ):
        np.testing.assert_array_equal(image, sets.picture(pathlib.Path(name).stem))
        np.testing.assert_array_equal(mask[..., 0], (sets.mask() > 0) * label)
    findings, summary = checked(root)
    assert findings == []
    assert summary.startswith(
        f"{sets.NAME}: layout {layout}, 4 good training pictures, 1 good and 1"
    )
    assert summary.endswith("1 masks, 32x32 px")


def damage(folder, places, fault):
    """Do it; (the file that is to be named, what is to be said of it)."""
    train, bad = places.train.format(sets.TRAIN[1]), places.bad.format(sets.BAD)
    mask, unreadable = places.mask.format(sets.BAD), "cannot be read as a picture"
    file, words = {
        "truncated": (train, unreadable),
        "text": (bad, unreadable),
        "huge": (train, "60000x60000 px"),
        "dangling link": (train, "No such file"),
        "link to itself": (bad, "Too many levels"),
        "truncated mask": (mask, unreadable),
        "empty mask": (mask, "empty"),
        "mask of another size": (mask, "30x20 px"),
    }[fault]
    path = folder / file
    content = path.read_bytes()
    if "truncated" in fault:
        path.write_bytes(content[: len(content) // 2])
    elif fault == "text":
        path.write_text("not a picture")
    elif fault == "huge":
        claim(path, 60_000, 60_000)
    elif "link" in fault:
        path.unlink()
        path.symlink_to("nowhere.png" if fault == "dangling link" else path.name)
    else:
        sets.save(path, np.zeros((20, 30) if "size" in fault else (32, 32), np.uint8))
    return file, words


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "fault",
    [
        "truncated",
        "text",
        "huge",
        "dangling link",
        "link to itself",
        "truncated mask",
        "empty mask",
        "mask of another size",
    ],
)
def test_a_fault_is_one_line_that_names_the_file(root, layout, fault):
    folder = sets.make(root, layout)
    file, words = damage(folder, sets.PLACES[layout], fault)
    with pytest.raises(UserError) as error:
        load(root)
    text = str(error.value)
    assert text.startswith(str(folder / file)) and words in text and "\n" not in text
    findings, _ = checked(root)
    assert findings and findings[0].startswith(f"error: {folder / file}: ")
    assert words in findings[0] and len(findings) <= 2  # an empty mask may be of another size


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if sets.PLACES[name].good_mask])
@pytest.mark.parametrize("marked", [True, False])
def test_a_mask_for_a_good_picture(root, layout, marked):
    """An empty one says what is known; one that marks something contradicts the folder."""
    folder, file = sets.make(root, layout), sets.PLACES[layout].good_mask.format(sets.GOOD)
    sets.save(folder / file, sets.mask() * marked)
    if layout == "visa_csv":
        sets.write_table(root, sets.NAME, file)
    good = sets.PLACES[layout].good.format(sets.GOOD)
    if not marked:
        assert len(load(root).test.names) == 2 and checked(root)[0] == []
        return
    with pytest.raises(UserError, match="marks 35 px") as error:
        load(root)
    assert str(folder / file) in str(error.value) and str(folder / good) in str(error.value)
    assert checked(root)[0] == [f"error: {folder / file}: marks 35 px of {good}, a good picture"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_category_reached_through_links(root, layout):
    """The folder itself, and one picture."""
    folder = sets.make(root.parent / "store", layout)
    picture = folder / sets.PLACES[layout].train.format(sets.TRAIN[0])
    away = picture.rename(root.parent / "away.png")
    picture.symlink_to(away)
    root.mkdir()
    (root / sets.NAME).symlink_to(folder)
    if layout == "visa_csv":
        (root / "split_csv").symlink_to(folder.parent / "split_csv")
    np.testing.assert_array_equal(load(root).train.images[0], sets.picture(sets.TRAIN[0]))
