"""Folders of pictures, found, decoded, resized and prepared once through TensorFlow Datasets.

`load_category` and `load_textures` are what the program calls. How a folder is arranged is a row
of `layouts.LAYOUTS`.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from jaxtyping import Bool, Int, Int32, UInt8

from diffad_jax.config import DataConfig
from input_pipeline.layouts import GOOD, LAYOUTS, Layout, Record, scan
from input_pipeline.pictures import decode_mask, decode_rgb, resize_nearest, resize_picture

logger = logging.getLogger(__name__)

# Categories that the paper treats as textures; all others are objects.
TEXTURES = frozenset(
    ["carpet", "grid", "leather", "tile", "wood", "zipper"] + [f"class{i}" for i in range(1, 11)]
)
_CHUNK = 64  # pictures decoded ahead of the writer, which bounds the memory


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of one split in memory, sorted by name. s is the picture size in px."""

    images: UInt8[np.ndarray, "n s s 3"]
    masks: UInt8[np.ndarray, "n s s 1"] | None  # 1 where defective; None in a training split
    has_mask: Bool[np.ndarray, "n"]  # masks[i] is the truth (all-zero for a good test picture)
    labels: Int32[np.ndarray, "n"]  # 0 good, 1 defective
    defects: list[str]
    names: list[str]  # paths relative to the category's folder
    foregrounds: UInt8[np.ndarray, "n s s 1"] | None  # 255 where anomalies may lie, soft between
    has_foreground: Bool[np.ndarray, "n"]  # foregrounds[i] was read from a file

    def take(self, index: Int[np.ndarray, "k"]) -> "Pictures":
        """The pictures at these places, in this order."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        chosen = {
            name: [value[i] for i in index] if isinstance(value, list) else value[index]
            for name, value in values.items()
            if value is not None
        }
        return Pictures(**values | chosen)


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


def load_category(data: DataConfig, image_size: int) -> Category:
    """Read one category, preparing it in the cache first when it is new or has changed.

    Raises:
      ValueError: no such folder; no good training pictures; a defective test picture without its
        mask (unless data.missing_masks is 'ignore'); a mask of another size than its picture; a
        file that is not a whole picture.
    """
    folder = pathlib.Path(data.root).expanduser() / data.category
    config = _source(folder, data.layout, image_size, data.resize, data.missing_masks)
    builder = prepare(config, data.cache_dir)
    kind = data.kind
    if kind == "auto":
        kind = "texture" if data.category.lower() in TEXTURES else "object"
    train, test = (_read(builder, split) for split in ("train", "test"))
    train, held_out = hold_out(dataclasses.replace(train, masks=None), test, data.holdout)
    return Category(train, test, held_out, kind, str(folder))


def hold_out(train: Pictures, test: Pictures, share: float) -> tuple[Pictures, Pictures]:
    """Training pictures that stay, and those kept aside: evenly spaced in the order of names.

    Args:
      train: the good training pictures.
      test: where `share` is -1, says whether a defective picture is known.
      share: `data.holdout`.
    """
    if share == -1.0:
        share = 0.0 if test.labels.any() else 0.1
    n = len(train.names)
    count = min(math.ceil(share * n), n - 1)
    aside = np.zeros(n, np.bool_)
    aside[(2 * np.arange(count) + 1) * n // (2 * max(count, 1))] = True
    return train.take(np.flatnonzero(~aside)), train.take(np.flatnonzero(aside))


def load_textures(
    path: str, cache_dir: str, image_size: int, resize: str
) -> UInt8[np.ndarray, "n s s 3"] | None:
    """Every picture under `path`, sorted by path; None when `path` is empty.

    Raises:
      ValueError: no such folder; no pictures; a file that is not a whole picture.
    """
    if not path:
        logger.warning("data.textures is empty: anomalies come from the picture's own pieces")
        return None
    folder = pathlib.Path(path).expanduser()
    config = _source(folder, "textures", image_size, resize, "error")
    return _read(prepare(config, cache_dir), "train").images


@dataclasses.dataclass(eq=False, kw_only=True)
class SourceConfig(tfds.core.BuilderConfig):
    """One source folder at one size. `name` ends in a fingerprint of all that decides the result,
    so a changed source is another config and is prepared anew.
    """

    folder: pathlib.Path = dataclasses.field(repr=False)
    layout: Layout = dataclasses.field(repr=False)
    image_size: int  # px
    resize: str
    records: list[Record] = dataclasses.field(repr=False)


class SourcePictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Pictures of any layout, decoded to 8-bit RGB and resized to a square."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded, so there are no checksums to look for

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        size, layout = config.image_size, config.layout

        def plane(channels: int) -> tfds.features.Tensor:
            shape = (size, size, channels)
            return tfds.features.Tensor(
                shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
            )

        return tfds.core.DatasetInfo(
            builder=self,
            description=layout.description,
            citation=layout.citation,
            license=layout.licence,
            disable_shuffling=True,  # the order of `records` is the order of the data set
            features=tfds.features.FeaturesDict(
                {
                    "image": plane(3),
                    "mask": plane(1),
                    "has_mask": np.bool_,
                    "foreground": plane(1),
                    "has_foreground": np.bool_,
                    "label": np.int32,
                    "defect": tfds.features.Text(),
                    "name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        records = self.builder_config.records
        splits = {s: [r for r in records if r.split == s] for s in ("train", "test")}
        return {s: self._generate_examples(chosen) for s, chosen in splits.items() if chosen}

    def _generate_examples(self, records: list[Record]) -> Iterator[tuple[int, dict]]:
        config = self.builder_config

        def example(record: Record) -> dict:
            return load_record(config.folder, record, config.image_size, config.resize)

        # Pillow and TensorFlow release the interpreter lock, so threads decode in parallel.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(records), _CHUNK):
                chunk = records[start : start + _CHUNK]
                yield from enumerate(pool.map(example, chunk), start)


def _source(
    folder: pathlib.Path, layout_name: str, image_size: int, resize: str, missing_masks: str
) -> SourceConfig:
    """Scan a folder and name what is to be prepared from it."""
    layout = LAYOUTS[layout_name]
    records = scan(folder, layout, missing_masks)
    digest = fingerprint(folder, records, [str(SourcePictures.VERSION), image_size, resize])
    plain_name = re.sub(r"[^A-Za-z0-9]+", "_", folder.name)
    return SourceConfig(
        name=f"{layout_name}-{plain_name}-{image_size}-{resize}-{digest}",
        folder=folder,
        layout=layout,
        image_size=image_size,
        resize=resize,
        records=records,
    )


def fingerprint(folder: pathlib.Path, records: Iterable[Record], options: list) -> str:
    """12 hexadecimal digits that change with the folder, its list of pictures, any file's size or
    modification time, and the options.
    """
    entries: list = [str(folder.resolve()), options]
    for record in records:
        files = [f for f in (record.picture, record.mask, record.foreground) if f]
        stats = [(folder / f).stat() for f in files]
        entries.append([dataclasses.astuple(record), [(s.st_size, s.st_mtime_ns) for s in stats]])
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:12]


def prepare(config: SourceConfig, cache_dir: str) -> SourcePictures:
    """The builder of `config`, its pictures written under `cache_dir` unless they are there.

    TFDS writes into a folder of another name and renames it when all is written, so what an
    interrupted preparation leaves is never read.
    """
    with _quiet():
        builder = SourcePictures(config=config, data_dir=os.path.expanduser(cache_dir))
    if builder.data_path.exists():
        return builder
    logger.info("preparing %d pictures of %s (once)", len(config.records), config.folder)
    options = tfds.download.DownloadConfig(try_download_gcs=False, compute_stats="skip")
    try:
        with _quiet():
            builder.download_and_prepare(download_config=options, file_format="array_record")
    except OSError:
        # Another process that prepares the same pictures may have been first to rename.
        with _quiet():
            builder = SourcePictures(config=config, data_dir=os.path.expanduser(cache_dir))
        if not builder.data_path.exists():
            raise
    return builder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages and bars of TFDS, which speak of downloads that do not happen."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)


def _read(builder: SourcePictures, split: str) -> Pictures:
    """One prepared split in memory; empty when the source has none."""
    size = builder.builder_config.image_size
    rows = list(builder.as_data_source(split)) if split in builder.info.splits else []

    def stack(key: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        empty = np.zeros((0, *shape), dtype)
        return np.stack([row[key] for row in rows]).astype(dtype, copy=False) if rows else empty

    has_foreground = stack("has_foreground", (), np.bool_)
    foregrounds = stack("foreground", (size, size, 1), np.uint8) if has_foreground.any() else None
    return Pictures(
        images=stack("image", (size, size, 3), np.uint8),
        masks=stack("mask", (size, size, 1), np.uint8),
        has_mask=stack("has_mask", (), np.bool_),
        labels=stack("label", (), np.int32),
        defects=[row["defect"].decode() for row in rows],
        names=[row["name"].decode() for row in rows],
        foregrounds=foregrounds,
        has_foreground=has_foreground,
    )


def load_record(folder: pathlib.Path, record: Record, size: int, resize: str) -> dict:
    """Decode and resize the files of one record to the features of `SourcePictures`.

    Raises:
      ValueError: a file that is not a whole picture; a mask of another size than its picture.
    """
    picture = decode_rgb(folder / record.picture)
    mask = np.zeros((size, size, 1), np.uint8)
    if record.mask:
        full = decode_mask(folder / record.mask)
        if full.shape[:2] != picture.shape[:2]:
            raise ValueError(
                f"{folder / record.mask} is {full.shape[1]}x{full.shape[0]} px but its picture "
                f"{folder / record.picture} is {picture.shape[1]}x{picture.shape[0]} px"
            )
        mask = resize_nearest(full, size)
    foreground = np.zeros((size, size, 1), np.uint8)
    if record.foreground:
        grey = decode_rgb(folder / record.foreground).max(-1, keepdims=True)
        foreground = resize_picture(grey, size, resize)
    return {
        "image": resize_picture(picture, size, resize),
        "mask": mask,
        "has_mask": bool(record.mask) or (record.split == "test" and record.defect == GOOD),
        "foreground": foreground,
        "has_foreground": bool(record.foreground),
        "label": int(record.defect != GOOD),
        "defect": record.defect,
        "name": record.picture,
    }
