"""A prepared set in the cache: sealed when it is whole, checked against the seal ever after.

The seal, `seal.json` in the set's folder, holds size and digest of each of its files.
"""

import contextlib
import io
import json
import os
import uuid
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds
from absl import logging as absl_logging
from etils import epath

from configs.errors import UserError
from input_pipeline.folders.contents import Known
from input_pipeline.folders.scan import Record
from input_pipeline.on_disk import files_of, is_remote, replacing

SEAL = "seal.json"
_NEEDED = ("dataset_info.json", "features.json", "metadata.json")


class Damaged(UserError):
    """A prepared set is not as it was written."""


def opened(path: epath.Path, cache_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of a prepared set, checked: by its seal, or where it has none, as one that
    `tfds build` made, by reading all of it once; then it is sealed.

    Raises:
      Damaged: it is not whole, with the path and what is wrong.
      UserError: it cannot be read now, or its shards are of a format that has no index.
    """
    try:
        wrong = problem(path, cache_dir)
        if wrong:
            raise Damaged(f"the prepared pictures in {path} are damaged ({wrong})")
        with quiet():
            builder = tfds.builder_from_directory(path)
        _check_format(builder)
        if wrong is None:
            _read_all(builder)
            seal(path)
        return builder
    except UserError:
        raise
    except Exception as error:  # what the readers of TFDS raise has no common class
        gone = isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))
        if is_remote(path) or (isinstance(error, OSError) and not gone):
            raise UserError(
                f"{_unreadable(path, error)}: mend that, or remove the folder"
            ) from error
        raise Damaged(f"the prepared pictures in {path} are damaged ({reason(error)})") from error


class Shards(Sequence):
    """The examples of one split of a prepared set, by index; threads may read at once."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        """Opens the shards.

        Raises:
          UserError: they cannot be opened; names the set's folder.
        """
        self._path = builder.data_path
        with self._told():
            self._source = builder.as_data_source(split)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row):
        """An example; UserError where it cannot be read."""
        with self._told():
            return self._source[row]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # the reader raises RuntimeError, ValueError, IndexError
            raise UserError(
                f"{_unreadable(self._path, error)}: if the disk is well, remove the folder to have "
                f"them prepared again"
            ) from error


def _read_all(builder: tfds.core.DatasetBuilder) -> None:
    """Read every example of a local set; raises of any kind where it is not whole."""
    records = [Record(*values) for values in builder.info.metadata["records"]]
    for split in {record.split for record in records}:
        count = sum(record.split == split for record in records)
        source = builder.as_data_source(split)
        if len(source) != count:
            raise Damaged(f"{builder.data_path} is damaged ({len(source)} {split}, not {count})")
        for row in range(0 if is_remote(builder.data_path) else count):
            if source[row]["image"].shape != builder.info.features["image"].shape:
                raise Damaged(f"{builder.data_path} is damaged (picture {row} of {split})")


def _unreadable(path: epath.PathLike, error: Exception) -> str:
    return f"the prepared pictures in {path} cannot be read ({reason(error)})"


def there(path: epath.Path) -> bool:
    """Whether anything is at a path; a folder that cannot be looked into is not."""
    try:
        return path.exists()
    except OSError:
        return False


def reason(error: Exception) -> str:
    """The beginning of a library's message, in one line."""
    text = getattr(error, "strerror", None) or str(error).split(";")[0]
    return " ".join(text.split())[:200] or type(error).__name__


def seal(path: epath.Path) -> None:
    """Note sizes, and of a local set digests, of all files of a prepared set, in `SEAL`.

    A folder that cannot be written stays without.
    """
    names = sorted(name for name in files_of(path) if name != SEAL)
    with contextlib.suppress(OSError):
        marks = {} if is_remote(path) else Known(path, "").stamps(path / name for name in names)
        content = {
            name: [(path / name).stat().length, marks.get(os.fspath(path / name), "")]
            for name in names
        }
        with replacing(path / SEAL) as partial:
            partial.write_text(json.dumps(content, indent=0))


def problem(path: epath.Path, cache_dir: str, needed: Sequence[str] = _NEEDED) -> str | None:
    """What is wrong with a sealed folder, in words: '' where it is as sealed, None without a seal.

    Sizes are always compared, digests where a file was touched since they last were.

    Raises:
      OSError: a file is there and cannot be read.
    """
    if not path.is_dir():
        return "it is no folder"
    for name in needed:
        if not (path / name).is_file():
            return f"{name} is missing"
    try:
        found = json.loads((path / SEAL).read_bytes())
        entries = {str(name): (int(size), str(mark)) for name, (size, mark) in found.items()}
    except (FileNotFoundError, IsADirectoryError, ValueError, TypeError, AttributeError):
        return None
    if not entries.keys() >= set(needed):
        return None
    for name, (size, _) in entries.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if (length := file.stat().length) != size:
            return f"{name} has {length:,} bytes, {size:,} were written"
    if is_remote(path):
        return ""
    marks = Known(path, cache_dir).stamps(path / name for name in entries)
    changed = [n for n, (_, mark) in entries.items() if marks[os.fspath(path / n)] != mark]
    return f"{changed[0]} is not as it was written" if changed else ""


def take_away(path: epath.Path) -> None:
    """Remove a damaged set, out of sight at once so that another process may write its own.

    Raises:
      UserError: it cannot be removed.
    """
    away = path.parent / f".{path.name}-{uuid.uuid4().hex[:12]}.partial"
    try:
        path.rename(away)
        delete(away)
    except FileNotFoundError:  # another process was first
        return
    except OSError as error:
        raise UserError(
            f"{path} is damaged and cannot be removed ({error.strerror or error}): remove it"
        ) from error


def delete(path: epath.Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir():
        path.rmtree()
    else:
        path.unlink()


def _check_format(builder: tfds.core.DatasetBuilder) -> None:
    """UserError where the shards cannot be read by index."""
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{builder.data_path} holds {builder.info.file_format.value} files, need array_record: "
            f"delete the folder, or build it with --file_format array_record"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the messages and bars of TFDS, which speak of downloads that do not happen."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)
