"""What the program reads pictures with: `load_category` and `load_textures`.

How a folder is arranged is a row of `layouts.LAYOUTS`; `builder` decodes and keeps it; a
`PreparedSet` is one folder so kept, which is asked for its splits.
"""

import dataclasses
import logging
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int, UInt8

from configs.schema import DataConfig
from input_pipeline import corrections, sealed, textures
from input_pipeline.builder import PicturesConfig, find, kind_of, prepare
from input_pipeline.folders.layouts import LAYOUTS
from input_pipeline.folders.scan import GOOD, Record, check_masks, digest
from input_pipeline.on_disk import Pictures, Stored

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Category:
    """One category. `test` is empty (n = 0) when the folder holds no test pictures.

    `held_out` are good training pictures that are not in `train` (`data.holdout`): what a threshold
    can be found with when no defective picture is known. Often empty.
    """

    train: Pictures  # its fingerprint covers `parts`
    test: Pictures
    held_out: Pictures
    kind: str  # object or texture
    folder: str
    as_read: str = ""  # data.resize and data.fit: how the pictures became squares
    # Of a texture: parts of a picture where anomalies may lie, 255, one to be drawn for each
    # example; the pictures in `thresh/`, as the authors have them. None: there are none.
    parts: UInt8[np.ndarray, "k s s 1"] | None = None


@dataclasses.dataclass(frozen=True)
class Textures:
    """The pictures that synthetic anomalies are painted with."""

    images: UInt8[np.ndarray, "n s s 3"] | Stored
    names: list[str]  # paths relative to `data.textures`, or of procedural ones rule and number
    fingerprint: str  # 12 hexadecimal digits, as `Pictures.fingerprint`
    procedural: bool  # computed, as `data.textures` is empty


@dataclasses.dataclass(frozen=True)
class PreparedSet:
    """The pictures of one folder at one size, decoded and resized, as kept in the cache.

    Its splits are 'train', 'test' and 'parts', each sorted by name; any may be empty.
    """

    builder: tfds.core.DatasetBuilder
    kind: str  # object or texture
    memory_gib: float  # planes that are larger together are read from disk at each use

    @property
    def path(self) -> str:
        """The folder of the cache that holds it."""
        return str(self.builder.data_path)

    @property
    def folder(self) -> str:
        """The name of the folder that it was made from."""
        return str(self.builder.info.metadata["folder"])

    def records(self, split: str) -> list[Record]:
        """What is known of the pictures of a split, in their order."""
        records = (Record(*values) for values in self.builder.info.metadata["records"])
        return [record for record in records if record.split == split]

    def planes(
        self, split: str, rows: Int[np.ndarray, "n"], wanted: list[str]
    ) -> Mapping[str, np.ndarray | Stored]:
        """Planes ('image', 'mask', 'foreground') u8[n, s, s, c] of some pictures of a split.

        Arrays, or where all planes together are above `memory_gib`, `Stored`.
        """
        shapes = {plane: self.builder.info.features[plane].shape for plane in wanted}
        if not len(rows):
            return {plane: np.zeros((0, *shape), np.uint8) for plane, shape in shapes.items()}
        source = sealed.Shards(self.builder, split)
        stored = {plane: Stored(source, plane, shape, rows) for plane, shape in shapes.items()}
        if sum(math.prod(plane.shape) for plane in stored.values()) > self.memory_gib * 2**30:
            return stored
        planes = {plane: np.empty(stored[plane].shape, np.uint8) for plane in wanted}
        for place, row in enumerate(rows):
            example = source[int(row)]  # once for all planes
            for plane in wanted:
                planes[plane][place] = example[plane]
        return planes

    def pictures(self, split: str, rows: Int[np.ndarray, "n"], parts_stamp: str = "") -> Pictures:
        """Some pictures of a split."""
        of_split = self.records(split)
        chosen = [of_split[row] for row in rows]
        has_foreground = np.array([bool(record.foreground) for record in chosen], np.bool_)
        wanted = ["image"]
        wanted += ["mask"] * (split == "test") + ["foreground"] * bool(has_foreground.any())
        planes = self.planes(split, rows, wanted)
        masks = planes.get("mask")
        if isinstance(masks, Stored):
            masks = masks[np.arange(len(masks))]  # metrics need all; a third of the pictures
        return Pictures(
            images=planes["image"],
            masks=masks,
            has_mask=np.array([record.has_mask for record in chosen], np.bool_),
            labels=np.array([record.defect != GOOD for record in chosen], np.int32),
            defects=[record.defect for record in chosen],
            names=[record.picture for record in chosen],
            stamps=[record.stamp for record in chosen],
            foregrounds=planes.get("foreground"),
            has_foreground=has_foreground,
            parts_stamp=parts_stamp,
        )


def load_category(
    data: DataConfig, image_size: int, kept_aside: Mapping[str, str] | None = None
) -> Category:
    """Read one category, preparing it in the cache first when it is new or has changed.

    Args:
      data: which, and how it is read.
      image_size: px.
      kept_aside: the pictures that a run holds out, names with stamps; they are found by content,
        whatever they are called now, and those that are gone are left out. None: a new run, for
        which `data.holdout` decides.

    Raises:
      UserError: no such folder; no good training pictures; a defective test picture without its
        mask (unless data.missing_masks is 'ignore'); a mask of another size than its picture; a
        file that is not a whole picture.
    """
    prepared = prepared_category(data, image_size)
    train, test = prepared.records("train"), prepared.records("test")
    defective = [record.defect != GOOD for record in test]
    if kept_aside is None:
        aside = held_out(len(train), any(defective) and not all(defective), data.holdout)
    else:
        aside = same_pictures(train, kept_aside)
    parts = prepared.records("parts") if prepared.kind == "texture" else []
    planes = prepared.planes("parts", np.arange(len(parts)), ["image"])["image"]
    category = Category(
        train=prepared.pictures(
            "train",
            np.flatnonzero(~aside),
            digest([[part.picture, part.stamp] for part in parts]) if parts else "",
        ),
        test=prepared.pictures("test", np.arange(len(test))),
        held_out=prepared.pictures("train", np.flatnonzero(aside)),
        kind=prepared.kind,
        folder=str(folder_of(data)),
        as_read=f"{data.resize}-{data.fit}",
        parts=planes[np.arange(len(parts))][..., :1].copy() if parts else None,  # few: in memory
    )
    if not data.corrections:
        return category
    good, bad = corrected(data.corrections, data, image_size)
    tested = [row for row, stamp in enumerate(category.test.stamps) if stamp not in good.stamps]
    return dataclasses.replace(
        category,
        train=category.train.and_then(good),
        test=category.test.picked(tested).and_then(bad),
    )


def corrected(file: str, data: DataConfig, image_size: int) -> tuple[Pictures, Pictures]:
    """The good and the defective pictures of a corrections.jsonl.

    Raises:
      UserError: as `corrections.folder_of` and `corrections.records`; a file that is not a whole
        picture.
    """
    data = dataclasses.replace(data, missing_masks="ignore")  # not everybody marks the region
    prepared = _prepared(corrections.folder_of(file), corrections.LAYOUT, data, image_size)
    good, defective = (
        prepared.pictures(split, np.arange(len(prepared.records(split))))
        for split in ("train", "test")
    )
    return good, defective


def with_corrections(
    category: Category, file: str, data: DataConfig, image_size: int, known: Collection[str]
) -> Category:
    """The category with the pictures of a corrections.jsonl as further test pictures.

    Args:
      category: to begin with.
      file: as `corrected`; errors, too.
      data: how pictures are read.
      image_size: px.
      known: stamps of pictures that are left out: trained on, or there already.
    """
    test = category.test
    for some in corrected(file, data, image_size):
        rows = [row for row, stamp in enumerate(some.stamps) if stamp not in known]
        test = test.and_then(some.picked(rows))
    return dataclasses.replace(category, test=test)


def load_textures(data: DataConfig, image_size: int) -> Textures:
    """Every picture under `data.textures`, sorted by path; procedural ones where that is empty.

    Raises:
      UserError: no such folder; no pictures; a file that is not a whole picture.
    """
    if not data.textures:
        logger.warning(
            "data.textures is empty: anomalies are painted with procedural textures and with "
            "rearranged strips of the picture itself (self-augmentation)"
        )
        names = textures.procedural_names()
        return Textures(
            images=textures.procedural_textures(image_size),
            names=names,
            fingerprint=digest([textures.RECIPE, names]),
            procedural=True,
        )
    prepared = prepared_textures(data, image_size)
    records = prepared.records("train")
    return Textures(
        images=prepared.planes("train", np.arange(len(records)), ["image"])["image"],
        names=[record.picture for record in records],
        fingerprint=digest([[record.picture, record.stamp] for record in records]),
        procedural=False,
    )


def prepared_category(data: DataConfig, image_size: int) -> PreparedSet:
    """The category, prepared first when it is new or has changed.

    Raises:
      UserError: as `builder.prepare`, or where data.layout is 'prepared' as `builder.find`.
    """
    return _prepared(folder_of(data), data.layout, data, image_size)


def prepared_textures(data: DataConfig, image_size: int) -> PreparedSet:
    """The pictures of `data.textures`, which is not empty; as `prepared_category`."""
    folder = textures.folder_of(data.textures, data.cache_dir, data.layout != "prepared")
    layout = "prepared" if data.layout == "prepared" else "textures"
    return _prepared(folder, layout, data, image_size)


def _prepared(folder: pathlib.Path, layout: str, data: DataConfig, image_size: int) -> PreparedSet:
    """The one place where the options of `data` meet the builder."""
    if layout == "prepared":
        builder = find(folder, image_size, data.resize, data.fit, data.cache_dir)
    else:
        config = PicturesConfig(
            folder=str(folder),
            layout=layout,
            image_size=image_size,
            resize=data.resize,
            fit=data.fit,
            missing_masks=data.missing_masks,
            kind=data.kind,
            cache_dir=data.cache_dir,
        )
        builder = prepare(config, data.cache_dir)
    made = PreparedSet(builder, kind_of(folder.name, data.kind), data.memory_gib)
    if layout == "prepared":  # else the scan has checked them
        check_masks(folder, LAYOUTS["folder"], made.records("test"), data.missing_masks)
    return made


def folder_of(data: DataConfig) -> pathlib.Path:
    """The category's folder."""
    return pathlib.Path(data.root).expanduser() / data.category


def held_out(n: int, labelled: bool, share: float) -> Bool[np.ndarray, "n"]:
    """Which of n good training pictures are kept aside: evenly spaced in the order of names.

    Args:
      n: good training pictures.
      labelled: whether there are good and defective test pictures, which give a threshold without
        any held out: then a `share` of -1 means none.
      share: `data.holdout`.
    """
    if share == -1.0:
        share = 0.0 if labelled else 0.1
    count = min(math.ceil(share * n), n - 1)
    aside = np.zeros(n, np.bool_)
    aside[(2 * np.arange(count) + 1) * n // (2 * max(count, 1))] = True
    return aside


def labelled(test: Pictures) -> bool:
    """Whether there are good and defective pictures, which give a threshold by themselves."""
    return bool((test.labels == 0).any() and (test.labels == 1).any())


def same_pictures(
    records: Sequence[Record], wanted: Mapping[str, str]
) -> Bool[np.ndarray, "{len(records)}"]:
    """Which pictures are those of `wanted`, names with stamps: the one of that name and stamp, else
    the first of that stamp, so that of two equal files one may be wanted and the other not.
    """
    by_stamp: dict[str, int] = {}
    for row, record in reversed(list(enumerate(records))):
        by_stamp[record.stamp] = row
    by_both = {(record.picture, record.stamp): row for row, record in enumerate(records)}
    found = np.zeros(len(records), np.bool_)
    for both in wanted.items():
        row = by_both.get(both, by_stamp.get(both[1], -1))
        found[row] |= row >= 0
    return found
