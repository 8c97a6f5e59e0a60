"""What the model says about a picture, the regions it marks, and the tables of a whole run."""

import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Float32, UInt8

TABLES = ("predictions.csv", "predictions.jsonl")
PARTIAL = "predictions.partial"  # a folder in the output folder
COLUMNS = (
    "picture",
    "score",
    "threshold",
    "confidence",
    "verdict",
    "width",
    "height",
    "boxes",
    "map",
    "overlay",
    "error",
)
HEADER = ",".join(COLUMNS) + "\n"  # of predictions.csv
# How both are encoded. A file name on disk need not be valid Unicode; its odd bytes are then shown
# in predictions.csv, and come back when predictions.jsonl is read.
TEXT: Any = {"encoding": "utf-8", "errors": "backslashreplace"}


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
    confidence: how sure it is that the picture is defective, in [0, 1], 0.5 at the threshold; see
      `scoring.threshold.confidence`. None where there is no threshold, or no evaluation to
      calibrate it with.
    anomaly_map: in [0, 1], for every pixel of the picture; 0 where the model does not look
      (outside of the middle square, with data.fit = 'crop').
    boxes: the regions whose map is >= the pixel threshold, the highest peak first; neighbours also
      count diagonally. They follow from the map alone: a picture called good can have some, and
      one called defective none. Empty where there is no threshold.
    reconstruction: RGB, the picture repainted as a good one; itself where the model does not look.
    """

    score: float
    defective: bool | None
    confidence: float | None
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


def csv_line(row: dict[str, Any]) -> str:
    """A line of predictions.csv: `COLUMNS` as keys, boxes as dicts; None where there is no value.

    Other keys have no part in it.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writerow(row | {"boxes": None if row["error"] else len(row["boxes"])})
    return text.getvalue()


def json_line(row: dict[str, Any]) -> str:
    """A line of predictions.jsonl, with all keys."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


class Tables:
    """predictions.csv and predictions.jsonl of an output folder: a line a picture, in order.

    While they grow, they and the files that they name lie in the folder predictions.partial in it,
    and every line is whole on disk before the next picture. Leaving the context without an error
    moves all of that to its place, the tables last: until then what an earlier run wrote is whole.

    Attributes:
      folder: where the files go that the tables name.
    """

    def __init__(self, output: pathlib.Path):
        self._output, self.folder = output, output / PARTIAL
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Tables":
        if self.folder.exists():  # of a run that did not end
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        files = []
        for name in TABLES:
            file = (self.folder / name).open("w", **TEXT, newline="")
            files.append(self._stack.enter_context(file))
        self._csv, self._jsonl = files
        self._csv.write(HEADER)
        return self

    def write(self, row: dict[str, Any]) -> None:
        """One picture; see `csv_line`."""
        self._csv.write(csv_line(row))
        self._jsonl.write(json_line(row))
        self._csv.flush()
        self._jsonl.flush()

    def __exit__(self, kind, *_) -> None:
        self._stack.close()
        if kind is None:
            tables = [self.folder / name for name in TABLES]
            files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
            for path in (*(path for path in files if path not in tables), *tables):
                place = self._output / path.relative_to(self.folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
            shutil.rmtree(self.folder)
