r"""The TensorFlow Datasets builder: one source folder of any layout, decoded, resized, in shards.

The program builds what is missing by itself (`prepare`); `python -m diffad_jax.main --mode prepare`
does so ahead of time, for hosts without the source folder. With TFDS's own tools (`pip install
apache-beam mlcroissant`), one category at 256 px, or with any field:

    PYTHONPATH=. tfds build anomaly_pictures/mvtec --imports input_pipeline.builder \
        --manual_dir parts/screw --data_dir DIR --file_format array_record
    ... anomaly_pictures --config '{"folder": "parts/screw", "image_size": 512}'
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import multiprocessing
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from configs.errors import UserError, of_store
from input_pipeline import cache, corrections, sealed
from input_pipeline.decoding.pictures import decode_foreground, decode_mask, decode_rgb
from input_pipeline.decoding.resizing import resize_nearest, resize_picture
from input_pipeline.folders.contents import check_name, stamped
from input_pipeline.folders.layouts import LAYOUTS, resolve
from input_pipeline.folders.scan import GOOD, Record, digest, parts
from input_pipeline.on_disk import chunks, files_of, is_remote

logger = logging.getLogger(__name__)

_VERSION = "4.0.0"  # raise it whenever the same source would give other shards
# Categories that the paper treats as textures; all others are objects.
TEXTURES = frozenset(
    ["carpet", "grid", "leather", "tile", "wood", "zipper"] + [f"class{i}" for i in range(1, 11)]
)
SPLITS = ("train", "test", "parts")


@dataclasses.dataclass(eq=False, kw_only=True)
class PicturesConfig(tfds.core.BuilderConfig):
    """One source folder at one size. What `tfds build --config` takes as JSON.

    `name` ends in a digest of all that decides the result but the folder's path, so a changed
    source is another config and is prepared anew, and a moved one is not. Without a folder, which
    is then TFDS's manual_dir, it is the layout's.
    """

    name: str = dataclasses.field(default="", init=False)
    folder: str = ""
    layout: str = "auto"  # a row of `layouts.LAYOUTS`, or `corrections.LAYOUT`
    image_size: int = 256  # px
    resize: str = "bilinear"  # as data.resize
    fit: str = "stretch"  # as data.fit
    missing_masks: str = "error"  # as data.missing_masks
    kind: str = "auto"  # as data.kind
    cache_dir: str = ""  # where it is remembered which files were read; "": nowhere

    def __post_init__(self):
        """Scan the folder.

        Raises:
          UserError: no layout fits, or as `scan.scan`.
        """
        if not self.folder:
            self.name, self.records = self.layout, []
            return
        if self.layout == corrections.LAYOUT:
            found = corrections.records(self.path)
        else:
            found = self._scanned()
        self.records = stamped(self.path, found, self.cache_dir)
        facts = [_VERSION, self.image_size, self.resize, self.fit]
        facts += [dataclasses.astuple(record) for record in self.records]
        self.name = self.stem(self.path, self.image_size, self.resize, self.fit) + digest(facts)

    def _scanned(self) -> list[Record]:
        self.layout, found = resolve(self.path, self.layout, self.missing_masks)
        if LAYOUTS[self.layout].category and kind_of(self.path.name, self.kind) == "texture":
            found += parts(self.path)
        return found

    @property
    def path(self) -> pathlib.Path:
        """The source folder."""
        return pathlib.Path(self.folder).expanduser()

    @staticmethod
    def stem(folder: pathlib.Path, image_size: int, resize: str, fit: str) -> str:
        """What the name begins with; the fingerprint follows."""
        plain = re.sub(r"[^A-Za-z0-9]+", "_", folder.name)
        return f"{plain}-{image_size}-{resize}-{fit}-"


class _Info(tfds.core.DatasetInfo):
    """What TFDS knows of a set."""

    def initialize_from_bucket(self) -> None:
        """Not from there: nobody else has these pictures, and each look leaves a folder in /tmp."""


class AnomalyPictures(tfds.core.GeneratorBasedBuilder):
    """Pictures of any layout, decoded to 8-bit RGB and resized to a square."""

    VERSION = tfds.core.Version(_VERSION)
    BUILDER_CONFIGS: ClassVar = [PicturesConfig(layout=name) for name in ("auto", *LAYOUTS)]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is the folder of one category, or of textures."
    url_infos = None  # nothing is downloaded, so there are no checksums to look for

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        layout = LAYOUTS.get(config.layout, LAYOUTS["folder"])

        def plane(channels: int) -> tfds.features.Tensor:
            shape = (config.image_size, config.image_size, channels)
            return tfds.features.Tensor(
                shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
            )

        features = {"image": plane(3), "name": tfds.features.Text()}
        if layout.category:
            features |= {
                "mask": plane(1),
                "has_mask": np.bool_,
                "foreground": plane(1),
                "has_foreground": np.bool_,
                "label": np.int32,
                "defect": tfds.features.Text(),
            }
        return _Info(
            builder=self,
            description=layout.description,
            citation=layout.citation,
            license=layout.licence,
            disable_shuffling=True,  # the order of `records` is the order of the data set
            features=tfds.features.FeaturesDict(features),
            # Names and labels without reading a shard, also where the source folder is not.
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        config = self.builder_config
        if not config.folder:
            config = dataclasses.replace(config, folder=str(dl_manager.manual_dir))
        self.info.metadata["folder"] = config.path.name
        self.info.metadata["records"] = [dataclasses.astuple(record) for record in config.records]
        splits = {s: [r for r in config.records if r.split == s] for s in SPLITS}
        return {s: self._generate_examples(config, rs) for s, rs in splits.items() if rs}

    def _generate_examples(
        self, config: PicturesConfig, records: list[Record]
    ) -> Iterator[tuple[int, dict]]:
        features = list(self.info.features)

        def example(record: Record) -> dict:
            whole = load_record(config.path, record, config.image_size, config.resize, config.fit)
            return {name: whole[name] for name in features}

        # Pillow and TensorFlow release the interpreter lock, so threads decode in parallel.
        with concurrent.futures.ThreadPoolExecutor(multiprocessing.cpu_count()) as pool:
            for rows in chunks(len(records)):
                some = pool.map(example, [records[row] for row in rows])
                yield from zip(rows.tolist(), some, strict=True)


def kind_of(category: str, kind: str) -> str:
    """'object' or 'texture': what `data.kind` says, or where that is 'auto' the category's name."""
    if kind != "auto":
        return kind
    return "texture" if pathlib.PurePath(category).name.lower() in TEXTURES else "object"


def prepare(config: PicturesConfig, cache_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of `config`, its pictures written under `cache_dir` unless they are there.

    TFDS writes into a folder of another name and renames it when all is written, so what an
    interrupted preparation leaves is never read. What is there and damaged is made anew.

    Raises:
      UserError: as `load_record`; the cache cannot be written, or not be read.
    """
    check_name(cache_dir)
    cache_dir = os.path.expanduser(cache_dir)
    path = epath.Path(cache_dir) / AnomalyPictures.name / config.name / _VERSION
    try:
        if sealed.there(path):
            return sealed.opened(path, cache_dir)
    except sealed.Damaged as error:
        logger.warning("%s: preparing them again", error)
        sealed.take_away(path)
    logger.info("preparing %d pictures of %s (once)", len(config.records), config.folder)
    options = tfds.download.DownloadConfig(try_download_gcs=False, compute_stats="skip")
    try:
        with sealed.quiet(), _written_into(path, cache_dir) as folder:
            builder = AnomalyPictures(config=config, data_dir=folder)
            builder.download_and_prepare(download_config=options, file_format="array_record")
    except Exception as error:
        # The writer of the shards raises RuntimeError.
        if not isinstance(error, (OSError, RuntimeError)) and not of_store(error):
            raise
        # Another process that prepares the same pictures may have been first to rename.
        if not sealed.there(path):
            raise _unwritable(cache_dir, error) from error
        return sealed.opened(path, cache_dir)
    sealed.seal(path)
    logger.info("%s", cache.told(cache_dir))
    return sealed.opened(path, cache_dir) if is_remote(cache_dir) else builder


@contextlib.contextmanager
def _written_into(path: epath.Path, cache_dir: str) -> Iterator[str]:
    """The folder to prepare the set of `path` in: a local one, as shards cannot be written to an
    object store. From there it is copied, and last what says that it is whole.
    """
    if not is_remote(cache_dir):
        yield cache_dir
        return
    with tempfile.TemporaryDirectory() as folder:
        yield folder
        made = epath.Path(folder) / path.relative_to(cache_dir)
        path.mkdir(parents=True, exist_ok=True)
        for name in sorted(files_of(made), key=lambda name: (name.endswith(".json"), name)):
            (made / name).copy(path / name, overwrite=True)


def _unwritable(cache_dir: str, error: Exception) -> UserError:
    return UserError(
        f"cannot write prepared pictures to data.cache_dir={cache_dir}: {sealed.reason(error)}"
    )


def find(
    folder: pathlib.Path, image_size: int, resize: str, fit: str, cache_dir: str
) -> tfds.core.DatasetBuilder:
    """What was prepared in `cache_dir` from a folder of that name, which need not be here.

    Raises:
      UserError: nothing, or more than one state of it; it is damaged.
    """
    check_name(cache_dir)
    top = epath.Path(os.path.expanduser(cache_dir)) / AnomalyPictures.name
    pattern = PicturesConfig.stem(folder, image_size, resize, fit) + "*"
    paths = sorted(top.glob(f"{pattern}/{_VERSION}")) if top.exists() else []
    # Names that differ in other than Latin letters and digits share a pattern.
    try:
        built = [sealed.opened(path, cache_dir) for path in paths]
    except sealed.Damaged as error:
        raise UserError(
            f"{error}: remove the folder, and prepare them again where the pictures are"
        ) from error
    found = [builder for builder in built if builder.info.metadata["folder"] == folder.name]
    if len(found) != 1:
        names = [builder.data_path.parent.name for builder in found]
        raise UserError(
            f"found {len(found)} prepared sets of {folder.name} at {top / pattern}, need one"
            f"{': ' * bool(names)}{', '.join(names)}"
        )
    return found[0]


def load_record(folder: pathlib.Path, record: Record, size: int, resize: str, fit: str) -> dict:
    """Decode the files of one record and bring them to the features of `AnomalyPictures`.

    Raises:
      UserError: a file that is not a whole picture; a mask of another size than its picture, an
        empty one of a defective picture, or one that marks a defect in a good picture; a
        foreground as `decode_foreground`.
    """
    if record.split == "parts":
        picture = np.repeat(decode_foreground(folder / record.picture), 3, axis=-1)
    else:
        picture = decode_rgb(folder / record.picture)
    mask = np.zeros((size, size, 1), np.uint8)
    if record.mask:
        mask = resize_nearest(_mask(folder, record, picture.shape), size, fit)
    foreground = np.zeros((size, size, 1), np.uint8)
    if record.foreground:
        plane = decode_foreground(folder / record.foreground, picture.shape[:2])
        foreground = resize_picture(plane, size, resize, fit, border="constant")
    return {
        "image": resize_picture(picture, size, resize, fit),
        "mask": mask,
        "has_mask": record.has_mask,
        "foreground": foreground,
        "has_foreground": bool(record.foreground),
        "label": int(record.defect != GOOD),
        "defect": record.defect,
        "name": record.picture,
    }


def _mask(folder: pathlib.Path, record: Record, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of a picture of `shape`, checked."""
    mask = decode_mask(folder / record.mask)
    if mask.shape[:2] != shape[:2]:
        raise UserError(
            f"{folder / record.mask} is {mask.shape[1]}x{mask.shape[0]} px but its picture "
            f"{folder / record.picture} is {shape[1]}x{shape[0]} px"
        )
    marked = int(mask.sum())
    if record.defect != GOOD and not marked:
        raise UserError(
            f"{folder / record.mask} is empty but its picture {folder / record.picture} is "
            f"defective: mark the defect, or delete the mask and set data.missing_masks=ignore"
        )
    if record.defect == GOOD and marked:
        raise UserError(
            f"{folder / record.mask} marks {marked} px but its picture {folder / record.picture} "
            f"is good"
        )
    return mask
