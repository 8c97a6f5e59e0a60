"""The pictures of a public TensorFlow Datasets set, such as dtd, as a folder of files."""

import logging
import os
import pathlib
import shutil
import tempfile

import tensorflow_datasets as tfds

from input_pipeline.pictures import EXTENSIONS

logger = logging.getLogger(__name__)

PREFIX = "tfds:"


def folder_of(textures: str, cache_dir: str, needed: bool) -> pathlib.Path:
    """The folder that `data.textures` names.

    Args:
      textures: a folder, or 'tfds:NAME', whose files are written to CACHE/tfds/NAME when they are
        not there yet.
      cache_dir: `data.cache_dir`.
      needed: whether the files have to be there.

    Raises:
      ValueError: no such set, one without pictures, or one that can be neither read nor downloaded.
    """
    if not textures.startswith(PREFIX):
        return pathlib.Path(textures).expanduser()
    if needed and "://" in cache_dir:
        raise ValueError(f"data.textures={textures} needs a local data.cache_dir, got {cache_dir}")
    name = textures.removeprefix(PREFIX)
    folder = pathlib.Path(cache_dir).expanduser() / "tfds" / name.replace("/", "-")
    if needed and not folder.exists():
        try:
            _write(_builder(name, cache_dir), folder)
        except Exception as error:  # what TFDS raises has no common class
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"data.textures={textures} cannot be had: {reason[:300]}; give the folder of a "
                f"copy, or '' for procedural textures"
            ) from error
    return folder


def _builder(name: str, cache_dir: str) -> tfds.core.DatasetBuilder:
    """The set where it is prepared, in TFDS's own folder or in the cache; else downloaded there."""
    for data_dir in (None, os.path.expanduser(cache_dir)):
        builder = tfds.builder(name, data_dir=data_dir)
        if builder.data_path.exists():
            return builder
    logger.info("downloading %s (once)", name)
    builder.download_and_prepare()
    return builder


def _write(builder: tfds.core.DatasetBuilder, folder: pathlib.Path) -> None:
    """Write all pictures of all splits as they are encoded; the folder is there whole or not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}.incomplete", dir=folder.parent))
    try:
        for split in sorted(builder.info.splits):
            (partial / split).mkdir()
            encoded = {"image": tfds.decode.SkipDecoding()}
            rows = builder.as_dataset(split=split, decoders=encoded)
            for i, row in enumerate(rows.as_numpy_iterator()):
                end = EXTENSIONS[0] if row["image"].startswith(b"\x89PNG") else EXTENSIONS[1]
                (partial / split / f"{i:06}{end}").write_bytes(row["image"])
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
