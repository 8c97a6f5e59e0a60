"""All arrangements that docs/data.md names, built on disk and found again, record by record."""

import itertools

import pytest

from input_pipeline.folders import layouts, scan
from tests.input_pipeline.folders.trees import found, good, touch

GOOD_NAMES = ["good", "ok", "normal"]
TRAIN = ["", "train", *GOOD_NAMES, *(f"train/{name}" for name in GOOD_NAMES)]
SUFFIXES = ["", "_mask", "_label", "_gt"]
MASKS = [
    f"{top}/{place}7{suffix}"
    for top in ("ground_truth", "masks", "mask", "gt", "labels")
    for place in ("dent/", "")
    for suffix in SUFFIXES
] + [f"test/dent/7{suffix}" for suffix in SUFFIXES if suffix]
CAPITALS = [str.lower, str.upper, str.title]


def build(folder, train, name, mask, capitals):
    """Write it; (training picture, good test picture, defective one, its mask)."""
    places = [capitals(place) for place in (train, f"test/{name}", "test/dent")]
    top, _, stem = mask.rpartition("/")
    mask = f"{capitals(top)}/{stem}"
    files = [f"{place}/{stem}.png".lstrip("/") for place, stem in zip(places, "157", strict=True)]
    touch(folder, *files, f"{mask}.bmp")
    return *files, f"{mask}.bmp"


@pytest.mark.parametrize(("mask", "name"), list(itertools.product(MASKS, GOOD_NAMES)))
def test_ones_own_folder(tmp_path, mask, name):
    """129 namings of masks and good test pictures, each with 8 places of the training pictures, in
    turn in small, capital and both letters: 1,032 folders. What auto takes, named, gives the same.
    """
    turn = (MASKS.index(mask) + GOOD_NAMES.index(name)) % 3
    for i, train in enumerate(TRAIN):
        p, capitals = tmp_path / f"p{i}", CAPITALS[(turn + i) % 3]
        picture, fine, bad, its = build(p, train, name, mask, capitals)
        layout, recognised = layouts.recognise(p)
        folder = scan.scan(p, layouts.LAYOUTS["folder"])
        assert recognised == folder
        rows = [(r.split, r.picture, r.mask, r.defect) for r in folder]
        expected = [("test", bad, its, bad.split("/")[1]), ("test", fine, "", "good")]
        assert sorted(rows) == sorted([("train", picture, "", "good"), *expected]), (p, layout)
        assert scan.scan(p, layouts.LAYOUTS[layout]) == folder
        strict = {"_mask": "mvtec", "_label": "dagm", "": "visa"}.get(mask.rpartition("7")[2])
        if mask.startswith("ground_truth/dent") and train.startswith("train/") and strict:
            assert layout == strict
        else:
            assert layout == "folder"


def test_there_are_129():
    assert len(MASKS) * len(GOOD_NAMES) == 129 and len(TRAIN) == 8


STRICT = [
    (layout, ending, train, test, capitals)
    for layout, ending in [("mvtec", "_mask"), ("visa", ""), ("dagm", "_label")]
    for train in GOOD_NAMES
    for test in GOOD_NAMES
    for capitals in CAPITALS
]


@pytest.mark.parametrize(("layout", "ending", "train", "test", "capitals"), STRICT)
def test_a_strict_layout_knows_what_the_lenient_one_knows(
    tmp_path, layout, ending, train, test, capitals
):
    """Names of good folders and capital letters; foregrounds and parts as well."""
    p = tmp_path / "p"
    mask = f"ground_truth/dent/7{ending}"
    picture, fine, bad, its = build(p, f"train/{train}", test, mask, capitals)
    fore = f"{capitals('disthresh')}/{capitals(train)}/1.jpg"
    touch(p, fore, f"{capitals('thresh')}/x.png")
    assert found(p) == found(p, layout) == found(p, "auto")
    name, trained, tested = found(p, layout)
    assert (name, trained) == (layout, good(picture))
    assert sorted(tested) == sorted([*good(fine), (bad, its, bad.split("/")[1])])
    records = scan.scan(p, layouts.LAYOUTS[layout])
    assert records[0].foreground == fore
    assert [r.picture for r in scan.parts(p)] == [f"{capitals('thresh')}/x.png"]
    assert scan.unused(p, records) == []


@pytest.mark.parametrize("capitals", CAPITALS)
@pytest.mark.parametrize("both", [True, False])
def test_dagm_as_downloaded(tmp_path, capitals, both):
    """Train without what has a label, in any capital letters."""
    p, train, test, label = tmp_path / "Class1", *map(capitals, ("train", "test", "label"))
    touch(p, f"{train}/1.PNG", f"{train}/2.PNG", f"{test}/3.PNG", f"{test}/4.PNG")
    touch(p, f"{test}/{label}/4_{capitals('label')}.PNG")
    if both:
        touch(p, f"{train}/{label}/2_{capitals('label')}.PNG", f"{train}/{label}/Labels.txt")
    expected = good(f"{train}/1.PNG", f"{train}/2.PNG")[: 1 if both else 2]
    mask = f"{test}/{label}/4_{capitals('label')}.PNG"
    tested = [*good(f"{test}/3.PNG"), (f"{test}/4.PNG", mask, "bad")]
    assert found(p) == found(p, "dagm_raw") == ("dagm_raw", expected, tested)
