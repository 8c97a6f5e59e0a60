"""The model that a station judges with, a bundle or a run: the same to whoever calls it."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt8

import diffad_jax
from configs.errors import UserError
from diffad_jax.exporting import image_files, infer
from diffad_jax.predicting.writing import Found
from diffad_jax.scoring.threshold import read
from input_pipeline.decoding.pictures import MAX_PIXELS, decode_rgb

Picture = UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """A model, and what it is.

    judge: the findings of pictures, to the last bit those of `--mode predict` in whole batches,
    with whatever others they come: a bundle's do not depend on the batch, a run's is filled up.
    """

    kind: str  # "bundle" or "run"
    category: str
    size: int  # px of the square that it sees
    step: int | None
    program: str  # version of this program that made it
    precision: str
    threshold: float | None  # these three are its evaluation's
    pixel_threshold: float | None
    slope: float | None
    rule: str | None  # how the threshold was found
    batch_size: int
    reference: dict[str, list] | None  # reference.json
    needed: tuple[epath.Path | pathlib.Path, ...]  # files without which it cannot be started again
    resizing: tuple[str, str]  # data.resize, data.fit
    judge: Callable[[list[Picture]], Sequence[Found]]

    def read(self, data: bytes, name: str, most: int = MAX_PIXELS) -> Picture:
        """A file's content decoded as prediction does; UserError: no picture of <= `most` px."""
        return decode_rgb(pathlib.PurePath(name), data, most)

    def square(self, picture: Picture) -> UInt8[np.ndarray, "s s 3"]:
        """A picture as the model sees it."""
        return image_files.resize_picture(picture, self.size, *self.resizing)


def opened(place: str, threshold: float | None = None) -> Served:
    """The model of a bundle (without JAX) or of a run, ready to judge at once.

    Args:
      place: its folder.
      threshold: that the station will have; of the pixels, too, where none was found.

    Raises:
      UserError: neither, or one that cannot be used.
    """
    folder = epath.Path(place).expanduser()
    served = (_bundle if (folder / "bundle.json").exists() else _run)(folder, threshold)
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
    batch = config.get("evaluate", {}).get("batch_size", 8)
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
        rule=found.get("source"),
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
        threshold=found.image if found else None,
        pixel_threshold=model.pixel_threshold,
        slope=model.slope,
        rule=found.source if found else None,
        batch_size=config.evaluate.batch_size,
        reference=_reference(folder / "eval" / str(model.step)),
        needed=(folder / "config.json",),
        resizing=(config.data.resize, config.data.fit),
        judge=lambda pictures: list(model.stream(pictures)),
    )


def _reference(folder: epath.Path) -> dict[str, list] | None:
    file = folder / "reference.json"
    return json.loads(file.read_text()) if file.exists() else None
