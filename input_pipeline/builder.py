r"""The TensorFlow Datasets builder: one source folder of any layout, decoded, resized, in shards.

The program builds by itself what it has not built yet (`prepare`). By hand, as where a machine
without the source folder is to read the shards:

    tfds build anomaly_pictures --imports input_pipeline.builder --file_format array_record \
        --data_dir gs://bucket/prepared --config '{"folder": "parts/screw", "image_size": 256}'
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging

from input_pipeline.layouts import GOOD, LAYOUTS, Layout, Record, scan
from input_pipeline.pictures import decode_mask, decode_rgb, resize_nearest, resize_picture

logger = logging.getLogger(__name__)

_VERSION = "2.0.0"  # raise it whenever the same source would give other shards
_CHUNK = 64  # pictures decoded ahead of the writer, which bounds the memory


@dataclasses.dataclass(eq=False, kw_only=True)
class PicturesConfig(tfds.core.BuilderConfig):
    """One source folder at one size. What `tfds build --config` takes as JSON.

    `name` ends in a fingerprint of all that decides the result, so a changed source is another
    config and is prepared anew.
    """

    name: str = dataclasses.field(default="", init=False)
    folder: str
    layout: str = "mvtec"
    image_size: int = 256  # px
    resize: str = "bilinear"
    missing_masks: str = "error"

    def __post_init__(self):
        """Scan the folder.

        Raises:
          ValueError: as `layouts.scan`.
        """
        folder = pathlib.Path(self.folder).expanduser()
        self.records = scan(folder, self.row, self.missing_masks)
        digest = fingerprint(folder, self.records, [_VERSION, self.image_size, self.resize])
        plain = re.sub(r"[^A-Za-z0-9]+", "_", folder.name)
        self.name = f"{self.layout}-{plain}-{self.image_size}-{self.resize}-{digest}"

    @property
    def row(self) -> Layout:
        """The layout's row of the table."""
        return LAYOUTS[self.layout]


class AnomalyPictures(tfds.core.GeneratorBasedBuilder):
    """Pictures of any layout, decoded to 8-bit RGB and resized to a square."""

    VERSION = tfds.core.Version(_VERSION)
    builder_config_cls = PicturesConfig
    url_infos = None  # nothing is downloaded, so there are no checksums to look for

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        if config is None:
            raise ValueError('anomaly_pictures needs a config with at least {"folder": ...}')

        def plane(channels: int) -> tfds.features.Tensor:
            shape = (config.image_size, config.image_size, channels)
            return tfds.features.Tensor(
                shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
            )

        features = {"image": plane(3), "name": tfds.features.Text()}
        if config.row.category:
            features |= {
                "mask": plane(1),
                "has_mask": np.bool_,
                "foreground": plane(1),
                "has_foreground": np.bool_,
                "label": np.int32,
                "defect": tfds.features.Text(),
            }
        return tfds.core.DatasetInfo(
            builder=self,
            description=config.row.description,
            citation=config.row.citation,
            license=config.row.licence,
            disable_shuffling=True,  # the order of `records` is the order of the data set
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        records = self.builder_config.records
        splits = {s: [r for r in records if r.split == s] for s in ("train", "test")}
        return {s: self._generate_examples(chosen) for s, chosen in splits.items() if chosen}

    def _generate_examples(self, records: list[Record]) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        folder, names = pathlib.Path(config.folder).expanduser(), list(self.info.features)

        def example(record: Record) -> dict:
            whole = load_record(folder, record, config.image_size, config.resize)
            return {name: whole[name] for name in names}

        # Pillow and TensorFlow release the interpreter lock, so threads decode in parallel.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(records), _CHUNK):
                chunk = records[start : start + _CHUNK]
                yield from enumerate(pool.map(example, chunk), start)


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


def prepare(config: PicturesConfig, cache_dir: str) -> AnomalyPictures:
    """The builder of `config`, its pictures written under `cache_dir` unless they are there.

    TFDS writes into a folder of another name and renames it when all is written, so what an
    interrupted preparation leaves is never read.
    """
    with _quiet():
        builder = AnomalyPictures(config=config, data_dir=os.path.expanduser(cache_dir))
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
            builder = AnomalyPictures(config=config, data_dir=os.path.expanduser(cache_dir))
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


def load_record(folder: pathlib.Path, record: Record, size: int, resize: str) -> dict:
    """Decode and resize the files of one record to the features of `AnomalyPictures`.

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
        "has_mask": record.has_mask,
        "foreground": foreground,
        "has_foreground": bool(record.foreground),
        "label": int(record.defect != GOOD),
        "defect": record.defect,
        "name": record.picture,
    }
