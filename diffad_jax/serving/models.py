"""The model that a station judges with, a bundle or a run: the same to whoever calls it."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath
from jaxtyping import Float32, UInt8

import diffad_jax
from configs.errors import UserError
from diffad_jax.exporting import image_files, infer
from diffad_jax.scoring.threshold import read
from input_pipeline.decoding.pictures import MAX_PIXELS, decode_rgb

BATCH = 8  # pictures judged at a time, where a bundle does not say
Picture = UInt8[np.ndarray, "h w 3"]


class Finding(Protocol):
    """What a model makes of a picture: `predicting.results.Prediction`, or `infer.Result`."""

    score: float
    anomaly_map: Float32[np.ndarray, "h w"]
    boxes: Sequence[Any]  # with x, y, width, height, area, peak
    reconstruction: UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """A model, and what it is.

    kind: "bundle" or "run". size: px of the square that it sees. step: of training. program: the
      version of this program that made it. precision: of its convolutions.
    threshold, pixel_threshold, slope: found by its evaluation; None: there is none.
    rule: how the threshold was found, and on how many pictures.
    batch_size: pictures judged at a time.
    reference: what its reference.json says; None: there is none.
    needed: files without which it cannot be started again.
    judge: findings of u8[h,w,3] pictures, to the last bit those of `--mode predict` in whole
      batches: a bundle's do not depend on the batch, and a run's batches are filled up.
    """

    kind: str
    category: str
    size: int
    step: int | None
    program: str
    precision: str
    threshold: float | None
    pixel_threshold: float | None
    slope: float | None
    rule: str | None
    batch_size: int
    reference: dict[str, list] | None
    needed: tuple[epath.Path, ...]
    resizing: tuple[str, str]  # data.resize, data.fit
    judge: Callable[[list[Picture]], Sequence[Finding]]

    def read(self, data: bytes, name: str, most: int = MAX_PIXELS) -> Picture:
        """A picture file's content decoded, as prediction does.

        Raises:
          UserError: it is no whole picture, or has more than `most` pixels.
        """
        return decode_rgb(pathlib.PurePath(name), data, most)

    def square(self, picture: Picture) -> UInt8[np.ndarray, "s s 3"]:
        """A picture as the model sees it."""
        return image_files.resize_picture(picture, self.size, *self.resizing)


def opened(place: str, threshold: float | None = None) -> Served:
    """The model of a bundle, which needs no JAX, or of a run; it is ready to judge at once.

    Args:
      place: its folder.
      threshold: that the station will have; of the pixels, too, where none was found.

    Raises:
      UserError: neither, or one that cannot be used.
    """
    bundle = (epath.Path(place) / "bundle.json").exists()
    served = (_bundle if bundle else _run)(epath.Path(place), threshold)
    served.judge([np.zeros((served.size, served.size, 3), np.uint8)])  # compiled now, not later
    return served


def _bundle(folder: epath.Path, threshold: float | None) -> Served:
    try:
        model = infer.Model(folder)
        _, pixel = model.limits(threshold)
    except infer.Refused as error:
        raise UserError(str(error)) from error
    facts = json.loads((folder / "bundle.json").read_text())
    found, picture, config = facts["thresholds"], facts["picture"], facts.get("config", {})
    batch = config.get("evaluate", {}).get("batch_size", BATCH)
    return Served(
        kind="bundle",
        category=facts["category"],
        size=picture["size"],
        step=facts.get("identity", {}).get("step"),
        program=facts.get("program", "unknown"),
        precision=facts.get("precision", "unknown"),
        threshold=found.get("image"),
        pixel_threshold=pixel,
        slope=found.get("slope"),
        rule=_rule(found.get("source"), found.get("pictures")),
        batch_size=batch,
        reference=_reference(folder),
        needed=(folder / "bundle.json", folder / "model.onnx"),
        resizing=(picture["resize"], picture["fit"]),
        judge=lambda pictures: model(pictures, threshold, batch),
    )


def _run(folder: epath.Path, threshold: float | None) -> Served:
    from diffad_jax.predicting import loading  # late: a bundle is judged where there is no JAX
    from diffad_jax.runs import processes

    processes.cache_compilations()
    model = loading.load(folder, threshold=threshold)
    config, found = model.config, read(folder)
    return Served(
        kind="run",
        category=config.data.category,
        size=config.model.image_size,
        step=model.step,
        program=diffad_jax.__version__,
        precision=config.model.compute_dtype,
        threshold=None if found is None else found.image,
        pixel_threshold=model.pixel_threshold,
        slope=model.slope,
        rule=None if found is None else _rule(found.source, found.pictures),
        batch_size=config.evaluate.batch_size,
        reference=_reference(folder / "eval" / str(model.step)),
        needed=(folder / "config.json",),
        resizing=(config.data.resize, config.data.fit),
        judge=lambda pictures: list(model.stream(pictures)),  # all batches filled up: same bits
    )


def _rule(source: str | None, pictures: int | None) -> str | None:
    return f"{source}, found on {pictures} pictures" if source else None


def _reference(folder: epath.Path) -> dict[str, list] | None:
    file = folder / "reference.json"
    return json.loads(file.read_text()) if file.exists() else None
