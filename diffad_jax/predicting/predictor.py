"""A trained model that judges pictures of any size."""

import collections
import concurrent.futures
import itertools
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from configs.errors import UserError
from configs.schema import Config
from diffad_jax.predicting import tiles
from diffad_jax.predicting.results import Prediction, find_boxes
from diffad_jax.scoring.scorer import Judge
from diffad_jax.scoring.threshold import confidence
from input_pipeline.decoding.pictures import decode_rgb
from input_pipeline.decoding.resizing import resize_picture, window
from input_pipeline.on_disk import is_remote

Picture = np.ndarray | os.PathLike | str
Item = TypeVar("Item")
Made = TypeVar("Made")
WORKERS = min(8, os.cpu_count() or 1)  # threads that read, and as many that finish


class Predictor:
    """A trained model. Make one with `predict.load`; it compiles at its first call.

    Attributes:
      config: the configuration; `evaluate.batch_size` pictures (or tiles) are judged at a time.
      step: training step of the checkpoint.
      threshold: on the score; None: no verdicts.
      pixel_threshold: on the map, for the boxes; None: no boxes.
      slope: of the confidence (`scoring.threshold.fit_slope`); None: no confidences.
    """

    def __init__(
        self,
        model: Judge,
        threshold: float | None,
        pixel_threshold: float | None,
        slope: float | None = None,
    ):
        self.config, self.step = model.config, model.step
        self.threshold, self.pixel_threshold, self.slope = threshold, pixel_threshold, slope
        self._model = model
        self._warm, self._working, self._waiting = False, 0.0, 0.0  # s, after the first batch

    def told(self) -> str:
        """What has bounded the speed after the first batch: the model, or reading the pictures."""
        seconds = self._working + self._waiting
        if not seconds:
            return "too few pictures to tell what bounds the speed"
        share = 100 * self._working / seconds
        bound = "by the model" if share > 50 else "by reading, resizing and writing pictures"
        return f"the model was at work {share:.0f} % of {seconds:.0f} s: bound {bound}"

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """Judge one picture, or several.

        Args:
          pictures: 8-bit RGB u8[h,w,3], grey u8[h,w], or the path of a picture: one Prediction.
            A stack u8[n,h,w,3], or a list or tuple of any of these, of any sizes: a list.

        Raises:
          UserError: another type or shape, an empty picture, or a file that is no whole picture.
        """
        several = isinstance(pictures, (list, tuple)) or getattr(pictures, "ndim", 0) == 4
        given: Any = pictures
        chosen = list(given) if several else [given]
        for picture in chosen:
            if not isinstance(picture, (str, os.PathLike)):
                read_picture(picture)  # all are checked before the first is judged
        results: list[Prediction] = list(self.stream(chosen, count=len(chosen)))
        return results if several else results[0]

    def stream(
        self,
        pictures: Iterable[Any],
        *,
        read: Callable[[Any], UInt8[np.ndarray, "h w 3"]] | None = None,
        then: Callable[[Any, np.ndarray | None, Prediction | UserError], Any] | None = None,
        count: int | None = None,
    ) -> Iterator[Any]:
        """Judge any number of pictures, in order, holding about three batches of them in memory.

        Args:
          pictures: arrays or paths as for a call, or any items that `read` understands.
          read: an item's picture, or a UserError raised; called in several threads.
          then: what to make of an item, its picture (None: could not be read) and its result (or
            the error); called in several threads. By default the result, or the error raised.
          count: how many pictures there are at least, if known: fewer than a batch are judged in a
            smaller one. None: always in whole ones, which compile once.
        """
        read_one, conclude, size = read or read_picture, then or _or_raise, self._batch_size(count)

        def finish(job: _Job) -> Any:
            return conclude(job.item, job.picture, job.error or self._prediction(job))

        jobs = ahead(lambda item: _Job(item, read_one, self.config), pictures, size)
        return ahead(finish, self._judge(jobs, size), size)

    def _batch_size(self, count: int | None) -> int:
        """That of the configuration, or the next power of two where there are fewer pictures."""
        size = self.config.evaluate.batch_size
        if count is not None and not self.config.predict.tile_overlap:
            size = min(size, 1 << max(0, count - 1).bit_length())
        return self._model.padded(size)

    def _judge(self, jobs: Iterable["_Job"], size: int) -> Iterator["_Job"]:
        """The jobs, in order, each when the model has seen all of its tiles."""
        waiting: collections.deque[_Job] = collections.deque()

        def tiles() -> Iterator[tuple[_Job, int]]:
            for job in jobs:
                waiting.append(job)
                yield from ((job, number) for number in range(job.missing))

        remaining, begun = tiles(), time.monotonic()
        while batch := list(itertools.islice(remaining, size)):
            self._waiting += time.monotonic() - begun
            begun = time.monotonic()
            images = np.stack([job.tile(number) for job, number in batch])
            judged = self._model.batch(images, size)
            values = np.concatenate([judged.anomaly_map, judged.reconstruction], axis=-1)
            for (job, number), score, value in zip(batch, judged.score, values, strict=True):
                job.add(number, float(score), value)
            self._working += time.monotonic() - begun
            if not self._warm:  # the first one waits for the compiler
                self._warm, self._working, self._waiting = True, 0.0, 0.0
            begun = time.monotonic()
            while waiting and not waiting[0].missing:
                yield waiting.popleft()
        yield from waiting  # unreadable ones at the end

    def _prediction(self, job: "_Job") -> Prediction:
        """The result at the picture's own size."""
        score, anomaly_map, reconstruction = job.result()
        if not math.isfinite(score):
            raise FloatingPointError(f"the score of {job.item} is {score}: the model has diverged")
        return Prediction(
            score=score,
            defective=None if self.threshold is None else score >= self.threshold,
            confidence=self._confidence(score),
            anomaly_map=anomaly_map,
            boxes=find_boxes(anomaly_map, self.pixel_threshold),
            reconstruction=reconstruction,
        )

    def _confidence(self, score: float) -> float | None:
        if self.threshold is None or self.slope is None:
            return None
        return float(confidence(score, self.threshold, self.slope))


class _Job:
    """One picture on its way through the model: its tiles (one, resized, where it is not cut)."""

    def __init__(self, item: Any, read: Callable[[Any], np.ndarray], config: Config):
        self.item, self.missing = item, 0
        self.picture: np.ndarray | None = None
        self.error: UserError | None = None
        self._grid: tiles.Grid | None = None
        self._canvas: tiles.Canvas | None = None
        try:
            picture = read(item)
        except UserError as error:
            self.error = error
            return
        self.picture = picture
        size, overlap = config.model.image_size, config.predict.tile_overlap
        height, width = picture.shape[:2]
        self._top, self._fit = config.evaluate.top_pixels, config.data.fit
        if overlap and max(height, width) > size:
            self._grid = tiles.grid(height, width, size, overlap)
            self._canvas = tiles.Canvas(self._grid, 4)
            self.missing = len(self._grid.corners)
        else:
            self._resized = resize_picture(picture, size, config.data.resize, self._fit)
            self.missing = 1

    def tile(self, number: int) -> UInt8[np.ndarray, "s s 3"]:
        """What the model is shown."""
        if self._grid is None or self.picture is None:
            return self._resized
        return self._grid.cut(self.picture, number)

    def add(self, number: int, score: float, values: Float32[np.ndarray, "s s 4"]) -> None:
        """What it says: a score, and map and reconstruction as four channels."""
        self.missing -= 1
        if self._canvas is None:
            self._score, self._values = score, values
        else:
            self._canvas.add(number, values)

    def result(self) -> tuple[float, Float32[np.ndarray, "h w"], UInt8[np.ndarray, "h w 3"]]:
        """Score, map and reconstruction, the latter two at the picture's own size.

        The score of a blended map is the mean of its `evaluate.top_pixels` largest values, as that
        of a model-sized one: a tile is not resized, so a defect has as many pixels in either.
        """
        values = self._values if self._canvas is None else self._canvas.mean
        anomaly_map, colours = values[..., 0], np.round(values[..., 1:] * 255).astype(np.uint8)
        if self._canvas is None and self.picture is not None:
            nothing = np.zeros(self.picture.shape[:2], np.float32)
            anomaly_map = put_back(anomaly_map, nothing, self._fit)
            return self._score, anomaly_map, put_back(colours, self.picture, self._fit)
        flat = anomaly_map.ravel()
        top = min(self._top, flat.size)
        score = float(np.mean(np.partition(flat, flat.size - top)[flat.size - top :]))
        return score, np.ascontiguousarray(anomaly_map), colours


def read_picture(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """A file decoded, or an array checked; grey becomes RGB.

    Raises:
      UserError: another type or shape than `Predictor` takes, or not a whole picture.
    """
    if isinstance(picture, (str, os.PathLike)):
        if is_remote(picture):
            raise UserError(f"{picture} is not local: give its pixels, or use predict.run")
        return decode_rgb(pathlib.Path(picture))
    array = np.asarray(picture)
    if array.dtype != np.uint8:
        raise UserError(
            f"a picture must be 8-bit (uint8, 0..255), got {array.dtype} of shape {array.shape}"
        )
    if array.ndim == 2 or array.shape[2:] == (1,):
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=-1)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(f"a picture must be [h,w,3] or [h,w], got shape {array.shape}")
    return array


def put_back(
    values: Shaped[np.ndarray, "s s *c"], picture: Shaped[np.ndarray, "h w *c"], fit: str
) -> Shaped[np.ndarray, "h w *c"]:
    """What the model says about its square, where that lies in a picture: `resize_picture` undone.

    Bilinear, antialiased where it shrinks. What the square does not show (`fit` 'crop') stays.

    Args:
      values: float32, or 8-bit RGB.
      picture: of the same type; it is not changed.
      fit: how the square came from the picture, as `data.fit`.
    """
    (height, width), size = picture.shape[:2], values.shape[0]
    if picture.shape == values.shape:
        return values
    top, left, rows, columns = window(height, width, fit)
    y0, y1 = max(0, top), min(height, top + rows)
    x0, x1 = max(0, left), min(width, left + columns)
    shown = (x0 - left) / columns, (y0 - top) / rows, (x1 - left) / columns, (y1 - top) / rows
    image = Image.fromarray(np.ascontiguousarray(values)).resize(
        (x1 - x0, y1 - y0),
        Image.Resampling.BILINEAR,
        box=(size * shown[0], size * shown[1], size * shown[2], size * shown[3]),
    )
    result = picture.copy()
    # Rounding must not make a value larger than all it comes from.
    result[y0:y1, x0:x1] = np.clip(np.asarray(image), values.min(), values.max())
    return result


def ahead(function: Callable[[Item], Made], items: Iterable[Item], count: int) -> Iterator[Made]:
    """`map` in threads, results in order, at most `count` of them computed ahead."""
    pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
    results: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for item in items:
            results.append(pool.submit(function, item))
            if len(results) > count:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _or_raise(item: Any, picture: Any, result: Prediction | UserError) -> Prediction:
    if isinstance(result, UserError):
        raise result
    return result
