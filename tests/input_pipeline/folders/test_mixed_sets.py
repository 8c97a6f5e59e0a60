"""Good and defective pictures side by side: what a mask marks is never trained on, nor a mask."""

import pytest

from input_pipeline.folders import scan
from tests.input_pipeline.folders.trees import found, good, mask, refusal, touch


def test_kolektor_sdd(tmp_path):
    """A label beside every picture, black for the good ones."""
    kos = tmp_path / "kos01"
    touch(kos, *(f"Part{i}.jpg" for i in range(4)))
    labels = [mask(kos, f"Part{i}_label.bmp", marked=i == 2) for i in range(4)]
    name, train, test = found(kos)
    assert (name, test) == ("folder", [])
    assert train == [(f"Part{i}.jpg", labels[i], "good") for i in (0, 1, 3)]


def test_kolektor_sdd_2(tmp_path):
    """train and test, each with a mask beside every picture."""
    p = tmp_path / "KolektorSDD2"
    for split, marked in [("train", 10001), ("test", 20002)]:
        for number in range(marked - marked % 10, marked - marked % 10 + 4):
            touch(p, f"{split}/{number}.png")
            mask(p, f"{split}/{number}_GT.png", number == marked)
    name, train, test = found(p)
    assert name == "folder"
    assert [row[0] for row in train] == [f"train/{n}.png" for n in (10000, 10002, 10003)]
    assert [(row[0], row[2]) for row in test] == [
        ("test/20000.png", "good"),
        ("test/20001.png", "good"),
        ("test/20002.png", "bad"),
        ("test/20003.png", "good"),
    ]
    assert all(row[1] == row[0].replace(".png", "_GT.png") for row in [*train, *test])


ENDINGS = [
    *("_mask", "_MASK", "_label", "_Label", "_gt", "_GT", "-mask", ".mask", " mask", "_masks"),
    *("_labels", "_ground_truth", "_GroundTruth", "_seg", "_segmentation", "_annotation", "__gt"),
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("place", ["", "good", "train", "train/good"])
@pytest.mark.parametrize("layout", ["auto", "folder", "mvtec"])
def test_a_mask_beside_training_pictures(tmp_path, ending, place, layout):
    if layout == "mvtec" and place != "train/good":
        return
    p = tmp_path / "p"
    touch(p / place, "1.png", "2.png", "3.png")
    mask(p / place, f"2{ending}.png", marked=True)
    assert [row[0].rpartition("/")[2] for row in found(p, layout)[1]] == ["1.png", "3.png"]


@pytest.mark.parametrize("folder", ["label", "Label", "labels", "masks", "MASK", "ground_truth"])
@pytest.mark.parametrize("ending", ["", "_mask", "_LABEL", "_gt"])
@pytest.mark.parametrize("place", ["", "good", "train", "train/good"])
def test_masks_in_a_folder_inside_that_of_training_pictures(tmp_path, folder, ending, place):
    p = tmp_path / "p"
    touch(p / place, "1.png", "2.png", "3.png")
    mask(p / place, f"{folder}/2{ending}.png", marked=True)
    mask(p / place, f"{folder}/3{ending}.png", marked=False)
    assert [row[0].rpartition("/")[2] for row in found(p)[1]] == ["1.png", "3.png"]


def test_the_mask_of_a_test_picture_says_nothing_of_a_training_picture_of_that_name(tmp_path):
    p = tmp_path / "p"
    touch(p, "1.png", "7.png", "test/dent/7.png", "test/good/1.png")
    mask(p, "masks/7.png", marked=True)
    mask(p, "masks/8.png", marked=True)  # of one that is gone
    name, train, test = found(p)
    assert (name, train) == ("folder", good("1.png", "7.png"))
    assert test == [("test/dent/7.png", "masks/7.png", "dent"), *good("test/good/1.png")]


@pytest.mark.parametrize("layout", ["auto", "dagm_raw", "folder"])
@pytest.mark.parametrize("split", ["Train", "Test"])
def test_a_label_of_another_name_is_not_passed_over(tmp_path, layout, split):
    if (layout, split) == ("folder", "Test"):
        return
    p = tmp_path / "Class1"
    touch(p, "Train/0001.PNG", "Train/0002.PNG", "Test/0003.PNG", "Test/0004.PNG")
    mask(p, "Test/Label/0003_label.PNG", marked=True)
    mask(p, f"{split}/Label/2_label.PNG", marked=True)
    text = refusal(p, layout)
    if layout == "folder":
        assert "neither good nor defective" in text
    else:
        assert text.startswith(f"{split}/Label/2_label.PNG belongs to no picture in {split}")


def test_labels_that_are_not_there(tmp_path):
    p = tmp_path / "Class1"
    touch(p, "Train/0001.PNG", "Train/0002.PNG", "Test/0003.PNG")
    assert refusal(p, "dagm_raw").startswith("no labels in Class1, such as Train/Label/0001_label:")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["1.png", "2_mask.png"], "2_mask.png is named like a mask, but its picture is not beside"),
        (["1.png", "1_mask.png", "1_gt.png"], "1_gt.png and 1_mask.png both belong to 1.png"),
        (["1.png", "test/2.png", "test/3.png", "test/3_gt.png"], "test/2.png is neither good nor"),
        (
            ["1.png", "test/a/2.png", "masks/a/2.png", "masks/a/2.bmp"],
            "masks/a/2.bmp and masks/a/2.png both belong to test/a/2.png: remove one",
        ),
        (
            ["1.png", "DISthresh/good/1.png", "DISthresh/good/1.jpg"],
            "DISthresh/good/1.jpg and DISthresh/good/1.png both belong to 1.png: remove one",
        ),
        (["1.png", "1_mask.png"], "1_mask.png cannot be read as a picture"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(tmp_path, files, words):
    touch(tmp_path / "p", *files)
    assert refusal(tmp_path / "p").startswith(words)


def test_nothing_but_defective_pictures(tmp_path):
    p = tmp_path / "p"
    touch(p, "1.png")
    mask(p, "1_mask.png", marked=True)
    with pytest.raises(scan.NoGoodPictures, match=r"all in .* have a mask that marks a defect"):
        found(p)


def test_a_product_whose_pictures_are_called_like_masks(tmp_path):
    touch(tmp_path / "p", "front_mask.png", "back_mask.png")
    assert found(tmp_path / "p")[1] == good("back_mask.png", "front_mask.png")


def test_a_mask_that_changes_is_read_again(tmp_path):
    p = tmp_path / "p"
    touch(p, "1.png", "2.png")
    mask(p, "2_gt.png", marked=False)
    assert len(found(p)[1]) == 2
    (p / "2_gt.png").unlink()
    mask(p, "2_gt.png", marked=True)
    assert found(p)[1] == good("1.png")
