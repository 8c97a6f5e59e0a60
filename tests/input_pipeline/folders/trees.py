"""Folders in miniature for these tests: empty files, and masks that are pictures."""

import pathlib

import numpy as np
from PIL import Image

from configs.errors import UserError
from input_pipeline.folders import layouts, scan


def touch(folder: pathlib.Path, *names: str) -> None:
    """Empty files: a scan opens no picture."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def mask(folder: pathlib.Path, name: str, marked: bool) -> str:
    """Write a small mask, which marks a pixel or nothing; returns its name."""
    touch(folder, name)
    plane = np.zeros((8, 8), np.uint8)
    plane[3, 3] = 255 * marked
    Image.fromarray(plane).save(folder / name)
    return name


def found(folder: pathlib.Path, layout: str = "auto", missing_masks: str = "error"):
    """(layout, training pictures, test pictures); each picture is (name, mask, defect)."""
    name, records = layouts.resolve(folder, layout, missing_masks)
    rows = {"train": [], "test": []}
    for r in records:
        rows[r.split].append((r.picture, r.mask, r.defect))
    return name, rows["train"], rows["test"]


def good(*pictures: str):
    """What `found` gives for good pictures without masks."""
    return [(picture, "", scan.GOOD) for picture in pictures]


def refusal(folder: pathlib.Path, layout: str = "auto") -> str:
    """The one line that a folder is refused with, without the paths that lead to it."""
    try:
        found(folder, layout)
    except UserError as error:
        text = str(error)
        assert "\n" not in text
        return text.replace(f"{folder}/", "").replace(f"{folder.parent}/", "")
    raise AssertionError(f"{folder} was not refused")
