"""What the program reads pictures with: `load_category` and `load_textures`.

How a folder is arranged is a row of `layouts.LAYOUTS`; `builder` decodes and keeps it.
"""

import dataclasses
import logging
import math
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int, Int32, UInt8

from configs.schema import DataConfig
from input_pipeline import textures
from input_pipeline.builder import PicturesConfig, find, kind_of, prepare, records
from input_pipeline.layouts import LAYOUTS
from input_pipeline.on_disk import Stored
from input_pipeline.scan import GOOD, check_masks

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of one split, sorted by name. s is the picture size in px."""

    images: UInt8[np.ndarray, "n s s 3"] | Stored
    masks: UInt8[np.ndarray, "n s s 1"] | None  # 1 where defective; None in a training split
    has_mask: Bool[np.ndarray, "n"]  # masks[i] is the truth (all-zero for a good test picture)
    labels: Int32[np.ndarray, "n"]  # 0 good, 1 defective
    defects: list[str]
    names: list[str]  # paths relative to the category's folder
    # 255 where anomalies may lie, soft between; None: no file for any picture, or a test split
    foregrounds: UInt8[np.ndarray, "n s s 1"] | Stored | None
    has_foreground: Bool[np.ndarray, "n"]  # foregrounds[i] was read from a file


@dataclasses.dataclass(frozen=True)
class Category:
    """One category. `test` is empty (n = 0) when the folder holds no test pictures.

    `held_out` are good training pictures that are not in `train` (`data.holdout`): what a threshold
    can be found with when no defective picture is known. Often empty.
    """

    train: Pictures
    test: Pictures
    held_out: Pictures
    kind: str  # object or texture
    folder: str
    # Of a texture: parts of a picture where anomalies may lie, 255, one to be drawn for each
    # example; the pictures in `thresh/`, as the authors have them. None: there are none.
    parts: UInt8[np.ndarray, "k s s 1"] | None = None


def load_category(data: DataConfig, image_size: int) -> Category:
    """Read one category, preparing it in the cache first when it is new or has changed.

    Raises:
      ValueError: no such folder; no good training pictures; a defective test picture without its
        mask (unless data.missing_masks is 'ignore'); a mask of another size than its picture; a
        file that is not a whole picture.
    """
    folder = pathlib.Path(data.root).expanduser() / data.category
    builder = builder_of(folder, data.layout, data, image_size)
    train, test = (records(builder, split) for split in ("train", "test"))
    defective = any(record.defect != GOOD for record in test)
    aside = held_out(len(train), defective, data.holdout)
    kind = kind_of(data.category, data.kind)
    return Category(
        train=_read(builder, "train", np.flatnonzero(~aside), data.memory_gib),
        test=_read(builder, "test", np.arange(len(test)), data.memory_gib),
        held_out=_read(builder, "train", np.flatnonzero(aside), data.memory_gib),
        kind=kind,
        folder=str(folder),
        parts=_parts(builder) if kind == "texture" else None,
    )


def held_out(n: int, defective: bool, share: float) -> Bool[np.ndarray, "n"]:
    """Which of n good training pictures are kept aside: evenly spaced in the order of names.

    Args:
      n: good training pictures.
      defective: whether a defective picture is known, which decides where `share` is -1.
      share: `data.holdout`.
    """
    if share == -1.0:
        share = 0.0 if defective else 0.1
    count = min(math.ceil(share * n), n - 1)
    aside = np.zeros(n, np.bool_)
    aside[(2 * np.arange(count) + 1) * n // (2 * max(count, 1))] = True
    return aside


def load_textures(
    data: DataConfig, image_size: int
) -> UInt8[np.ndarray, "n s s 3"] | Stored | None:
    """Every picture under `data.textures`, sorted by path; None when that is empty.

    Raises:
      ValueError: no such folder; no pictures; a file that is not a whole picture.
    """
    if not data.textures:
        logger.warning(
            "data.textures is empty: anomalies are made of the picture's own pieces (self-"
            "augmentation) and of procedural textures"
        )
        return None
    builder = textures_builder(data, image_size)
    rows = np.arange(len(records(builder, "train")))
    return _planes(builder, "train", rows, ["image"], data.memory_gib)["image"]


def textures_builder(data: DataConfig, image_size: int) -> tfds.core.DatasetBuilder:
    """The prepared pictures of `data.textures`; as `builder_of`."""
    folder = textures.folder_of(data.textures, data.cache_dir, data.layout != "prepared")
    return builder_of(folder, "textures", data, image_size)


def builder_of(
    folder: pathlib.Path, layout: str, data: DataConfig, image_size: int
) -> tfds.core.DatasetBuilder:
    """The prepared pictures of a folder, prepared first when it is new or has changed.

    Raises:
      ValueError: as `builder.prepare`, or where data.layout is 'prepared' as `builder.find`.
    """
    if data.layout == "prepared":
        builder = find(folder, image_size, data.resize, data.fit, data.cache_dir)
        check_masks(folder, LAYOUTS["folder"], records(builder, "test"), data.missing_masks)
        return builder
    config = PicturesConfig(
        folder=str(folder),
        layout=layout,
        image_size=image_size,
        resize=data.resize,
        fit=data.fit,
        missing_masks=data.missing_masks,
        kind=data.kind,
    )
    return prepare(config, data.cache_dir)


def _read(
    builder: tfds.core.DatasetBuilder, split: str, rows: Int[np.ndarray, "n"], memory_gib: float
) -> Pictures:
    """Some pictures of a prepared split; none when the source has no such split."""
    of_split = records(builder, split)
    chosen = [of_split[row] for row in rows]
    has_foreground = np.array([bool(record.foreground) for record in chosen], np.bool_)
    wanted = ["image"]
    wanted += ["mask"] * (split == "test") + ["foreground"] * bool(has_foreground.any())
    planes = _planes(builder, split, rows, wanted, memory_gib)
    masks = planes.get("mask")
    if isinstance(masks, Stored):
        masks = masks[np.arange(len(masks))]  # a third of the pictures; metrics need all at once
    return Pictures(
        images=planes["image"],
        masks=masks,
        has_mask=np.array([record.has_mask for record in chosen], np.bool_),
        labels=np.array([record.defect != GOOD for record in chosen], np.int32),
        defects=[record.defect for record in chosen],
        names=[record.picture for record in chosen],
        foregrounds=planes.get("foreground"),
        has_foreground=has_foreground,
    )


def _parts(builder: tfds.core.DatasetBuilder) -> UInt8[np.ndarray, "k s s 1"] | None:
    """`Category.parts`; in memory, for they are few."""
    rows = np.arange(len(records(builder, "parts")))
    if not len(rows):
        return None
    return _planes(builder, "parts", rows, ["image"], math.inf)["image"][..., :1].copy()


def _planes(
    builder: tfds.core.DatasetBuilder,
    split: str,
    rows: Int[np.ndarray, "n"],
    wanted: list[str],
    memory_gib: float,
) -> dict[str, np.ndarray | Stored]:
    """Planes of some pictures of a split: arrays, or `Stored` above `memory_gib` in all."""
    shapes = {plane: builder.info.features[plane].shape for plane in wanted}
    if not len(rows):
        return {plane: np.zeros((0, *shape), np.uint8) for plane, shape in shapes.items()}
    source = builder.as_data_source(split)
    stored = {plane: Stored(source, plane, shape, rows) for plane, shape in shapes.items()}
    if sum(math.prod(plane.shape) for plane in stored.values()) > memory_gib * 2**30:
        return stored
    planes = {plane: np.empty(stored[plane].shape, np.uint8) for plane in wanted}
    for place, row in enumerate(rows):
        example = source[int(row)]
        for plane in wanted:
            planes[plane][place] = example[plane]
    return planes
