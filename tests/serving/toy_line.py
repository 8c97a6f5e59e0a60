"""A station whose model takes no time, pictures for it, and a program that watches a folder."""

import csv
import io
import json
import pathlib
import sys
import time

import numpy as np
from PIL import Image

from diffad_jax.exporting import infer
from diffad_jax.serving import models, station, watching

SETTLE = 0.1  # s


def finding(picture):
    """Defective where red."""
    anomaly_map = picture[..., 0].astype(np.float32) / 255
    boxes = infer.find_boxes(anomaly_map, 0.5)
    return infer.Result(float(anomaly_map.mean()), None, None, anomaly_map, boxes, picture)


def served(seconds=0.0, judge=None):
    """A model that needs some seconds for a picture."""

    def slowly(pictures):
        time.sleep(seconds * len(pictures))
        return [finding(picture) for picture in pictures]

    return models.Served(
        kind="bundle",
        category="disc",
        size=16,
        step=7,
        program="test",
        precision="float32",
        threshold=0.5,
        pixel_threshold=0.5,
        slope=2.0,
        rule=None,
        batch_size=4,
        reference=None,
        needed=(),
        resizing=("bilinear", "stretch"),
        judge=judge or slowly,
    )


def picture(seed):
    """A PNG file of 12 x 10 px."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (10, 12, 3), np.uint8)
    noise[..., 0] //= 1 + seed % 3
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "png")
    return buffer.getvalue()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def rows(output):
    """The lines of predictions.jsonl."""
    file = output / "predictions.jsonl"
    return list(map(json.loads, file.read_bytes().splitlines())) if file.exists() else []


def names(output):
    return [row["picture"] for row in rows(output)]


def table(output):
    with open(output / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill(place, count):
    for seed in range(count):
        (place / f"{seed:03}.png").write_bytes(picture(seed))


def watch(folder, output, settle):
    """Until killed."""
    line = station.Station(served(0.01), folder=pathlib.Path(output))
    watcher = watching.Watcher(line, pathlib.Path(folder), pathlib.Path(output), float(settle))
    watcher.start()
    print("watching", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    watch(*sys.argv[1:])
