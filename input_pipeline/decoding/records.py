"""Pictures in files of records. A record is a picture file, or a tf.train.Example with one."""

import functools
import gzip
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator

import tensorflow as tf
from array_record.python import array_record_module
from etils import epath
from google.protobuf.message import DecodeError

from configs.errors import UserError
from input_pipeline.decoding import formats
from input_pipeline.on_disk import is_remote

_FRAME = 16  # bytes around each record of a TFRecord file: its length, and two checksums
_BLOCK = 2**20  # bytes of a compressed file, read at a time


def pictures(path: epath.Path) -> Iterator[Callable[[], bytes]]:
    """What reads each record of a TFRecord or ArrayRecord file, in order, and gives its picture.

    It raises a UserError where there is none; after a damaged record, nothing follows.
    """
    return _tfrecord(path) if ".tfrecord" in path.name else _array_record(path)


def _tfrecord(path: epath.Path) -> Iterator[Callable[[], bytes]]:
    kind = "GZIP" if path.suffix == ".gz" else None
    records = tf.data.TFRecordDataset(os.fspath(path), kind).as_numpy_iterator()
    length = 0
    try:
        for record in records:
            length += len(record) + _FRAME
            yield functools.partial(_picture_in, record, path)
    except tf.errors.DataLossError:
        length = -1
    # TensorFlow takes a file that is cut between two records, or in the header of one, for whole.
    if length != _length(path):
        yield functools.partial(_damaged, path)


def _length(path: epath.Path) -> int | None:
    """How many bytes of records a TFRecord file holds; None: its compression is cut or damaged."""
    if path.suffix != ".gz":
        return path.stat().length
    try:
        with path.open("rb") as file, gzip.open(file) as plain:
            return sum(map(len, iter(functools.partial(plain.read, _BLOCK), b"")))
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return None


def _array_record(path: epath.Path) -> Iterator[Callable[[], bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        local = os.fspath(path)
        if is_remote(path):  # ArrayRecord reads no object stores
            local = os.path.join(folder, path.name)
            path.copy(local)
        try:
            records = array_record_module.ArrayRecordReader(local)
            for row in range(records.num_records()):
                yield functools.partial(_picture_in, records.read([row])[0], path)
            records.close()
        except (ValueError, RuntimeError):
            yield functools.partial(_damaged, path)


def _damaged(path: epath.Path) -> bytes:
    raise UserError(f"{path} is damaged from this record on: what follows cannot be read")


def _picture_in(record: bytes, path: epath.Path) -> bytes:
    """The picture file that a record is, or that a tf.train.Example holds."""
    if formats.extension(record):
        return record
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        features = {}
    values = (value for name in sorted(features) for value in features[name].bytes_list.value)
    for value in values:
        if formats.extension(value):
            return value
    raise UserError(f"{path} holds a record that is no picture, nor an example with one")
