"""What the model says about a picture, the regions it marks, and the tables of a whole run."""

import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.ndimage
from etils import epath
from jaxtyping import Float32, UInt8

from diffad_jax.predicting.files import RESULTS
from input_pipeline.on_disk import replacing

TABLES = ("predictions.csv", "predictions.jsonl")
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


def write(folder: epath.PathLike, rows: Iterable[dict[str, Any]]) -> None:
    """Write both tables, `COLUMNS` of the rows alone, local or gs://; each whole or not at all."""
    with contextlib.ExitStack() as stack:
        partial = [stack.enter_context(replacing(epath.Path(folder) / name)) for name in TABLES]
        csv_file, jsonl_file = (stack.enter_context(path.open("wb")) for path in partial)
        csv_file.write(HEADER.encode())
        for row in rows:
            row = {name: row[name] for name in COLUMNS}
            csv_file.write(csv_line(row).encode(**TEXT))
            jsonl_file.write(json_line(row).encode(**TEXT))


def publish(folder: pathlib.Path, output: pathlib.Path) -> None:
    """Move maps, overlays and at last the tables from a folder to the output, and remove it."""
    files = [path for name in RESULTS for path in sorted((folder / name).rglob("*"))]
    for path in (*(path for path in files if path.is_file()), *(folder / name for name in TABLES)):
        place = output / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    shutil.rmtree(folder)
