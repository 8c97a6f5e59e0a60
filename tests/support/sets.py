"""A tiny category in each layout, with names that have spaces and letters beyond ASCII."""

import csv
import dataclasses
import pathlib

import numpy as np
from PIL import Image

from configs import default, schema

SIZE = 32  # px
NAME = "Tür 1"
TABLE = "split_csv/1cls.csv"


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a layout has its files, relative to the category; {} is a file name's stem."""

    train: str
    good: str
    bad: str
    mask: str  # of a defective test picture
    good_mask: str  # where a good picture's would be; "": its picture would be defective


PLACES = {
    "mvtec": Places(
        train="train/good/{}.png",
        good="test/good/{}.png",
        bad="test/große Delle/{}.png",
        mask="ground_truth/große Delle/{}_mask.png",
        good_mask="ground_truth/good/{}_mask.png",
    ),
    "visa": Places(
        train="train/good/{}.PNG",
        good="test/good/{}.PNG",
        bad="test/bad/{}.PNG",
        mask="ground_truth/bad/{}.png",
        good_mask="ground_truth/good/{}.png",
    ),
    "dagm": Places(
        train="train/good/{}.PNG",
        good="test/good/{}.PNG",
        bad="test/dent/{}.PNG",
        mask="ground_truth/dent/{}_label.PNG",
        good_mask="ground_truth/good/{}_label.PNG",
    ),
    "dagm_raw": Places(
        train="Train/{}.PNG",
        good="Test/{}.PNG",
        bad="Test/{}.PNG",
        mask="Test/Label/{}_label.PNG",
        good_mask="",
    ),
    "visa_csv": Places(
        train="Data/Images/Normal/{}.bmp",
        good="Data/Images/Normal/{}.bmp",
        bad="Data/Images/Anomaly/{}.bmp",
        mask="Data/Masks/Anomaly/{}.png",
        good_mask="Data/Masks/Normal/{}.png",
    ),
    "folder": Places(
        train="{}.tiff",
        good="test/OK/{}.tiff",
        bad="test/NG/{}.tiff",
        mask="test/NG/{}_mask.png",
        good_mask="test/OK/{}_mask.png",
    ),
}
TRAIN = ["a ü0", "a ü1", "a ü2", "a ü3"]
GOOD, BAD = "b ü0", "c ü0"


def noise(name: str, *shape: int) -> np.ndarray:
    """u8[shape], a function of the name."""
    return np.random.default_rng(list(name.encode())).integers(0, 256, shape, np.uint8)


def save(path: pathlib.Path, array: np.ndarray, **options) -> pathlib.Path:
    """Write one picture, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def picture(stem: str) -> np.ndarray:
    """What lies in a picture's file."""
    return noise(stem, SIZE, SIZE, 3)


def mask() -> np.ndarray:
    """The mask of the defective picture: 35 px, of small integers as VisA's."""
    marked = np.zeros((SIZE, SIZE), np.uint8)
    marked[4:9, 3:10] = 3
    return marked


def make(root: pathlib.Path, layout: str, name: str = NAME) -> pathlib.Path:
    """Write ROOT/NAME: four good training pictures, a good and a defective test picture."""
    places, folder = PLACES[layout], root / name
    for stem in TRAIN:
        save(folder / places.train.format(stem), picture(stem))
    save(folder / places.good.format(GOOD), picture(GOOD))
    save(folder / places.bad.format(BAD), picture(BAD))
    save(folder / places.mask.format(BAD), mask())
    if layout == "visa_csv":
        write_table(root, name)
    return folder


def write_table(root: pathlib.Path, name: str, good_mask: str = "") -> None:
    """Write VisA's table for the category."""
    p = PLACES["visa_csv"]
    rows = [(name, "train", "normal", f"{name}/{p.train.format(stem)}", "") for stem in TRAIN]
    rows += [
        (
            name,
            "test",
            "normal",
            f"{name}/{p.good.format(GOOD)}",
            good_mask and f"{name}/{good_mask}",
        ),
        (name, "test", "anomaly", f"{name}/{p.bad.format(BAD)}", f"{name}/{p.mask.format(BAD)}"),
    ]
    (root / TABLE).parent.mkdir(parents=True, exist_ok=True)
    with open(root / TABLE, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("object", "split", "label", "image", "mask"), *rows])


def options(root: pathlib.Path, name: str = NAME, **changes) -> schema.DataConfig:
    """The default `data` section for ROOT/NAME, with its cache beside ROOT and no textures."""
    values = default.get_config().data.to_dict()
    values |= {"root": str(root), "category": name, "cache_dir": str(root.parent / "cache")}
    return schema.DataConfig(**values | {"textures": ""} | changes)
