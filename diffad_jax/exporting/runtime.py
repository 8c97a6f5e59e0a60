"""An exported model in the place of a run: the same evaluation and prediction, by ONNX Runtime."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator

import ml_collections
import numpy as np
from jaxtyping import UInt8

from configs import schema, stored
from configs.errors import UserError
from diffad_jax.exporting import infer
from diffad_jax.scoring.scorer import Found, Judge

FACTS = "bundle.json"
LONGEST = 20.0  # seconds that times are measured for


class Runtime(Judge):
    """A bundle's model, run by its own `infer.py`.

    Attributes:
      facts: what bundle.json says.
    """

    def __init__(self, bundle: str | os.PathLike, provider: str = "cpu"):
        """Start it.

        Raises:
          UserError: no whole bundle, one of another format, or no such provider.
        """
        with told():
            self._model = infer.Model(bundle, provider)
        self.facts = json.loads((pathlib.Path(bundle) / FACTS).read_text("utf-8"))
        self.config = schema.parse(ml_collections.ConfigDict(stored.filled(self.facts["config"])))
        self.step = self.facts["identity"]["step"]

    def padded(self, size: int) -> int:
        """Any size will do."""
        return size

    def batch(self, images: UInt8[np.ndarray, "n s s 3"], size: int | None = None) -> Found:
        """Judge a batch; nothing is padded."""
        score, anomaly_map, reconstruction = self._model.judge(images)
        return Found(score, anomaly_map[..., None], reconstruction)

    def stream(self, images: UInt8[np.ndarray, "n s s 3"]) -> Iterator[Found]:
        """Judge any number, batch by batch."""
        for start in range(0, len(images), self.batch_size):
            yield self.batch(images[start : start + self.batch_size])


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A context in which what the runtime refuses is a UserError."""
    try:
        yield
    except infer.Refused as error:
        raise UserError(str(error)) from error


def milliseconds(model: Judge, size: int, count: int = 30) -> dict[str, float | int]:
    """How long a batch of `size` noise pictures takes: median and 95th percentile.

    Of `count` batches after the first, or as many as take LONGEST seconds, at least three.
    """
    side = model.config.model.image_size
    images = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), np.uint8)
    model.batch(images, size)
    seconds: list[float] = []
    while len(seconds) < count and (len(seconds) < 3 or sum(seconds) < LONGEST):
        start = time.perf_counter()
        model.batch(images, size)
        seconds.append(time.perf_counter() - start)
    median, high = np.percentile(1e3 * np.array(seconds), [50, 95])
    return {
        "batch": size,
        "batches": len(seconds),
        "median": round(float(median), 2),
        "p95": round(float(high), 2),
    }
