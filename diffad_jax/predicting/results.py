"""What the model says about a picture, the regions it marks, and the tables of a whole run."""

import contextlib
import csv
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Float32, UInt8

from diffad_jax.predicting.files import PARTIAL, TABLES

COLUMNS = (
    "picture",
    "score",
    "threshold",
    "verdict",
    "width",
    "height",
    "boxes",
    "map",
    "overlay",
    "error",
)


@dataclasses.dataclass(frozen=True)
class Box:
    """A connected region of a map: the smallest upright rectangle around it, in px.

    x, y: of the upper left pixel, from the upper left of the picture as people see it (turned
    upright by its EXIF orientation); width, height: >= 1; area: pixels of the region itself; peak:
    its largest value in the map.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What the model makes of one picture of h x w px.

    score: in [0, 1], the larger the more anomalous.
    defective: whether score >= the threshold; None where there is no threshold.
    anomaly_map: in [0, 1], for every pixel of the picture; 0 where the model does not look
      (outside of the middle square, with data.fit = 'crop').
    boxes: the regions whose map is >= the pixel threshold, the highest peak first; neighbours also
      count diagonally. They follow from the map alone: a picture called good can have some, and
      one called defective none. Empty where there is no threshold.
    reconstruction: RGB, the picture repainted as a good one; itself where the model does not look.
    """

    score: float
    defective: bool | None
    anomaly_map: Float32[np.ndarray, "h w"]
    boxes: tuple[Box, ...]
    reconstruction: UInt8[np.ndarray, "h w 3"]


def find_boxes(anomaly_map: Float32[np.ndarray, "h w"], threshold: float | None) -> tuple[Box, ...]:
    """The regions of a map where it is >= threshold (None: none); see `Prediction.boxes`."""
    if threshold is None:
        return ()
    regions, count = scipy.ndimage.label(anomaly_map >= threshold, np.ones((3, 3)))
    if not count:
        return ()
    areas = np.bincount(regions.ravel())[1:]
    peaks = scipy.ndimage.maximum(anomaly_map, regions, np.arange(1, count + 1))
    boxes = []
    for (rows, columns), area, peak in zip(
        scipy.ndimage.find_objects(regions), areas, peaks, strict=True
    ):
        size = (columns.stop - columns.start, rows.stop - rows.start)
        boxes.append(Box(columns.start, rows.start, *size, int(area), float(peak)))
    return tuple(sorted(boxes, key=lambda box: (-box.peak, box.y, box.x)))


class Tables:
    """predictions.csv and predictions.jsonl of an output folder: a line a picture, in order.

    While they grow they are called predictions.csv.partial and predictions.jsonl.partial, and every
    line is whole on disk before the next picture. Leaving the context without an error gives them
    their names. Those of an earlier run are removed on entering, because its maps are overwritten.
    """

    def __init__(self, folder: pathlib.Path):
        self._paths = [folder / name for name in TABLES]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Tables":
        files = []
        for path in self._paths:
            path.unlink(missing_ok=True)
            partial = path.with_name(path.name + PARTIAL)
            # A file name on disk need not be valid Unicode; its odd bytes are then shown, not lost.
            file = partial.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            files.append(self._stack.enter_context(file))
        self._csv, self._jsonl = files
        self._writer = csv.DictWriter(self._csv, COLUMNS, lineterminator="\n")
        self._writer.writeheader()
        return self

    def write(self, row: dict[str, Any]) -> None:
        """One picture: `COLUMNS` as keys, boxes as dicts; None where there is no value."""
        self._writer.writerow(row | {"boxes": None if row["error"] else len(row["boxes"])})
        self._jsonl.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._csv.flush()
        self._jsonl.flush()

    def __exit__(self, kind, *_) -> None:
        self._stack.close()
        if kind is None:
            for path in self._paths:
                path.with_name(path.name + PARTIAL).replace(path)
