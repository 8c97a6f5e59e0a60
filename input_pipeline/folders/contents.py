"""What identifies pictures: the bytes of their files, not their times or where they lie."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import stat
import time
from collections.abc import Iterable, Mapping

from etils import epath

from configs.errors import UserError
from input_pipeline.folders.scan import Record, digest

MEMORY = "contents"  # folder of the cache: what was read of each source folder, and when
_SETTLED = 2.0  # seconds: a file that changed less long ago may change again within one tick
_Facts = list[int]  # size in bytes, time of change of content and of inode (ns), inode


class Known:
    """Digests of the files below one folder, remembered in the cache between two starts.

    A file is read again unless its size, times and inode are those it was read with; ctime, which
    no program can set, is one of them. The memory is only a short cut: where it is damaged, cannot
    be written or the cache is remote, all is read.
    """

    def __init__(self, folder: epath.PathLike, cache_dir: str):
        """`cache_dir` as data.cache_dir; '' remembers nothing."""
        self._folder = os.path.realpath(folder)
        self._path = None
        if cache_dir and "://" not in cache_dir:
            name = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
            self._path = pathlib.Path(cache_dir).expanduser() / MEMORY / f"{name}.json"
        self._before = self._read()
        self._now: dict[str, tuple[_Facts, str]] = {}

    def _read(self) -> Mapping[str, tuple[_Facts, str]]:
        try:
            found = json.loads(self._path.read_bytes())["files"] if self._path else {}
            return {str(name): (list(facts), str(mark)) for name, (facts, mark) in found.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def write(self) -> None:
        """Remember what was read, in place of what was remembered before."""
        if self._path is None or self._now == self._before:
            return
        content = json.dumps({"folder": self._folder, "files": self._now})
        partial = self._path.with_suffix(f".{os.getpid()}.partial")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(content)
            partial.replace(self._path)

    def stamp(self, file: epath.PathLike) -> str:
        """64 hexadecimal digits: sha256 of the bytes of a file. Threads may call this at once.

        Raises:
          OSError: it cannot be read, or is no file: a pipe would be waited for without end.
        """
        facts = os.stat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(None, "it is no file", os.fspath(file))
        seen = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
        name = os.path.relpath(file, self._folder)
        before = self._before.get(name)
        if before and before[0] == seen:
            self._now[name] = before
            return before[1]
        with open(file, "rb") as content:
            mark = hashlib.file_digest(content, "sha256").hexdigest()
        if time.time() - max(facts.st_ctime, facts.st_mtime) > _SETTLED:
            self._now[name] = (seen, mark)
        return mark

    def stamps(self, files: Iterable[epath.PathLike]) -> dict[str, str]:
        """`stamp` of many files, read by several threads; then `write`."""
        files = list(dict.fromkeys(os.fspath(file) for file in files))
        with concurrent.futures.ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
            found = dict(zip(files, pool.map(self.stamp, files), strict=True))
        self.write()
        return found


def stamped(folder: pathlib.Path, records: Iterable[Record], cache_dir: str = "") -> list[Record]:
    """The records with their `stamp`, which does not depend on where the folder is.

    Args:
      folder: that of the category, or of textures.
      records: of its pictures.
      cache_dir: where it is remembered what was read; '': nowhere.

    Raises:
      UserError: a file of a record is not there or cannot be read, or its name is not UTF-8.
    """
    records = list(records)
    check_name(folder)
    named = [[r.picture, r.mask, r.foreground] for r in records]
    for name in sorted({name for names in named for name in names if name}):
        check_name(folder / name)
    files = [folder / name for names in named for name in names if name]
    try:
        found = Known(folder, cache_dir).stamps(files)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read as a picture: {error.strerror or error}"
        ) from error
    marks = [[name and found[os.fspath(folder / name)] for name in names] for names in named]
    return [
        dataclasses.replace(record, stamp=digest(mark))
        for record, mark in zip(records, marks, strict=True)
    ]


def check_name(path: epath.PathLike) -> None:
    """UserError where a path is not UTF-8: tables, reports and prepared sets could not name it."""
    if readable(path) != os.fspath(path):
        raise UserError(
            f"the name of {readable(path)} is not UTF-8: rename it (as by `convmv -t utf8`)"
        )


def readable(path: epath.PathLike) -> str:
    r"""A path as text that can be written anywhere: bytes that are not UTF-8 become `\xNN`."""
    return os.fsencode(os.fspath(path)).decode("utf-8", "backslashreplace")
