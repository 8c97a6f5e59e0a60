"""What `--input` means, one picture after another, whatever their number, and one share of it.

    a folder, a picture, a pattern   local (`files`), or a folder or a picture of an object store
    list.txt, list.csv, .parquet     a list of pictures: a path a line; or the column called path,
                                     picture, file or filename; relative to where the list lies
    NAME.tfrecord*, NAME.array_record*   files of records, or a pattern of them: a record is a
                                     picture file, or a tf.train.Example that holds one

A folder's pictures come sorted by path, a list's as they stand there. Of folders and lists, a share
has the pictures whose names it falls to by their CRC-32, so that what is added in between moves no
other; of records, whole files by turns.
"""

import csv
import functools
import glob
import io
import itertools
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from configs.errors import UserError
from diffad_jax.predicting import files
from diffad_jax.predicting.files import Source
from input_pipeline.decoding import formats
from input_pipeline.folders import listing
from input_pipeline.on_disk import is_remote

COLUMNS = ("path", "picture", "file", "filename")
LISTS = (".txt", ".csv", ".parquet")
_RECORDS = re.compile(r"\.(tfrecords?|array_?record)[^/]*$")
_ROWS = 1024  # of a Parquet list, read at a time


def stream(given: str | os.PathLike, index: int = 0, count: int = 1) -> Iterator[Source]:
    """Share `index` of `count` of the pictures; see above.

    Raises:
      UserError: there is no such input, or not one picture in it, for whichever share.
    """
    text = os.path.expanduser(os.fspath(given))
    if _RECORDS.search(text):
        return _of_records(text, index, count)
    if text.lower().endswith(LISTS):
        found = _of_list(epath.Path(text))
    elif is_remote(text):
        found = _of_store(epath.Path(text))
    elif os.path.isdir(text):
        found = files.below(pathlib.Path(text))
    else:
        found = iter(files.find(text))
    first = next(found, None)
    if first is None:
        raise UserError(f"no pictures: {text} has no file in {' '.join(formats.EXTENSIONS)}")
    every = itertools.chain([first], found)
    return every if count == 1 else (s for s in every if share_of(s.name, count) == index)


def share_of(name: str, count: int) -> int:
    """The share, 0 to count - 1, that a picture falls to by its name."""
    return zlib.crc32(os.fsencode(name)) % count


def _of_store(place: epath.Path, above: str = "") -> Iterator[Source]:
    """A picture of an object store, or those in a folder and in all below it, sorted by path."""
    if not above and listing.kind_of(place) == "":
        yield _fetched(place.name, place)
        return
    if not above and not place.is_dir():
        raise UserError(f"no such file or folder: {place}")
    names = sorted(_name_in_store(path) for path in place.iterdir())
    for name in names:
        path = place / name
        if name.endswith("/"):
            yield from () if listing.is_junk(path.name) else _of_store(path, above + name)
            continue
        kind = listing.kind_of(path)
        source = Source(above + name, path, kind, content=functools.partial(_content, path))
        if kind != listing.PASSED_OVER and not files.is_result(source):
            yield source


def _name_in_store(path: epath.Path) -> str:
    """A file's name, or a folder's with a slash; to ask costs a request, so names are believed."""
    known = listing.kind_of(path) != listing.PASSED_OVER
    return path.name if known or not path.is_dir() else f"{path.name}/"


def _of_list(place: epath.Path) -> Iterator[Source]:
    """The pictures that a list names."""
    if not place.exists():
        raise UserError(f"there is no list {place}")
    read = {".txt": _lines, ".csv": _column, ".parquet": _parquet}[place.suffix.lower()]
    try:
        for number, name in enumerate(read(place)):
            if name:
                # Where a path is whole, the list's folder has no part in it.
                path = epath.Path(name) if is_remote(name) else place.parent / name
                yield _fetched(name, path, number)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{place} cannot be read as a list: {error}") from error


def _fetched(name: str, path: epath.Path, order: int | None = None) -> Source:
    remote = is_remote(path)
    content = functools.partial(_content, path) if remote else None
    return Source(name, path if remote else pathlib.Path(path), "", order, content)


def _content(path: epath.Path) -> bytes:
    """A file of an object store. Only one that is not there is a picture's own fault."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} cannot be read as a picture: there is no such file") from error


def _lines(place: epath.Path) -> Iterator[str]:
    """The lines of a text. Odd bytes are kept, as the names of files have them."""
    with place.open("rb") as file:
        for number, line in enumerate(file):
            text = line.decode("utf-8", "surrogateescape").strip()
            yield text if number else text.removeprefix("\ufeff")  # which Excel begins with


def _column(place: epath.Path) -> Iterator[str]:
    reader = csv.DictReader(_lines(place))
    column = _chosen(place, reader.fieldnames or ())
    yield from ((row[column] or "").strip() for row in reader)


def _parquet(place: epath.Path) -> Iterator[str]:
    table = pyarrow("to read a list").parquet.ParquetFile(io.BytesIO(place.read_bytes()))
    column = _chosen(place, table.schema_arrow.names)
    for batch in table.iter_batches(_ROWS, columns=[column]):
        yield from (value or "" for value in batch.column(0).to_pylist())


def _chosen(place: epath.Path, names: Iterable[str]) -> str:
    """The column of the pictures."""
    names = list(names)
    for name in names:
        if name.strip().lower() in COLUMNS or len(names) == 1:
            return name
    raise UserError(f"{place} has the columns {names}: call that of the pictures {COLUMNS[0]}")


def pyarrow(why: str) -> Any:
    """The module, with its Parquet.

    Raises:
      UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UserError(f"pyarrow is needed {why}: pip install 'diffad_jax[parquet]'") from error
    return pyarrow


def _of_records(text: str, index: int, count: int) -> Iterator[Source]:
    """The records of every `count`-th file from the `index`-th on."""
    from input_pipeline.decoding import records  # late: TensorFlow is slow to import

    place = epath.Path(text)
    paths = sorted(place.parent.glob(place.name)) if glob.has_magic(text) else [place]
    if not paths or not paths[0].exists():
        raise UserError(f"there are no records {text}")
    for number, path in list(enumerate(paths))[index::count]:
        for row, content in enumerate(records.pictures(path)):
            name = f"{path.name}/{row:08d}"
            yield Source(name, path, "", (number << 32) + row, content)
