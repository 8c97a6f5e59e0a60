"""The rows of a prediction while it runs, in parts that are whole on disk; a restart goes on."""

import collections
import itertools
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from diffad_jax.predicting.files import Source
from diffad_jax.predicting.results import TEXT, json_line
from diffad_jax.runs import files, lock

logger = logging.getLogger(__name__)
ROWS, SECONDS = 1000, 30.0  # of a part, whichever comes first
ABOUT = "about.json"


class Parts:
    """A folder of parts, local or on an object store: FIRST.jsonl holds the rows from FIRST on.

    Attributes:
      folder: where they lie. What else lies there belongs to the prediction.
      counts: pictures by what became of them: a verdict, "without verdict" or "unreadable".
      left_out: why what is no picture was not read, and how often.
    """

    def __init__(self, folder: epath.PathLike, about: Mapping[str, Any]):
        """Go on where an earlier one about the same ended, or begin anew.

        Args:
          folder: made if need be.
          about: JSON; what the rows depend on.
        """
        self.folder = epath.Path(folder)
        self.counts = dict.fromkeys(("good", "defective", "without verdict", "unreadable"), 0)
        self.left_out: collections.Counter[str] = collections.Counter()
        self._rows: list[dict[str, Any]] = []  # judged, and not yet in a part
        self._done, self._since = 0, time.monotonic()
        place = self.folder / ABOUT
        self._parts = sorted(self.folder.glob("[0-9]*.jsonl")) if self.folder.exists() else []
        if not place.exists() or json.loads(place.read_text()) != dict(about):
            if self._parts:
                logger.warning("%s is of another prediction: begun anew", self.folder)
            self._empty()
            files.write(place, json.dumps(about))

    def remaining(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources that have no row yet. Rows stay as long as the sources are those of before.

        Where another one, or another file, is in a place, what follows is judged anew.
        """
        rows = (row for part in self._parts for row in _read(part))
        iterator = iter(sources)
        for source in iterator:
            row = next(rows, None)
            if row is None or {**row, **_extra(source), "picture": source.name} != row:
                iterator = itertools.chain([source], iterator)
                break
            self._count(row)
        if self._done:
            logger.info("%d pictures are done already", self._done)
        self._cut()
        yield from iterator

    def add(self, source: Source, row: dict[str, Any]) -> None:
        """The next row. It may be lost until `flush`, which is called now and then."""
        row = row | _extra(source)
        self._rows.append(row)
        self._count(row)
        if len(self._rows) >= ROWS or time.monotonic() > self._since + SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what there is as a part."""
        if not self._rows:
            return
        first = self._done - len(self._rows)
        path = self.folder / f"{first:010d}.jsonl"
        files.write(path, _lines(self._rows))
        seconds, self._since = time.monotonic() - self._since, time.monotonic()
        speed = len(self._rows) / max(seconds, 1e-3)
        logger.info("%d pictures are done, %.1f pictures/s", self._done, speed)
        self._parts.append(path)
        self._rows = []

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, in order."""
        self.flush()
        for part in self._parts:
            yield from _read(part)

    def _empty(self) -> None:
        """Remove what lies there, but for the lock of who works there."""
        for path in self.folder.iterdir() if self.folder.exists() else ():
            if path.is_dir():
                path.rmtree()
            elif path.name != lock.FILE:
                path.unlink()
        self._parts = []

    def _count(self, row: Mapping[str, Any]) -> None:
        self._done += 1
        if row.get("left_out"):
            self.left_out[row["left_out"]] += 1
        else:
            kind = "unreadable" if row["error"] else row["verdict"] or "without verdict"
            self.counts[kind] += 1

    def _cut(self) -> None:
        """Forget the rows after those that are counted."""
        for part in self._parts[::-1]:
            rows = list(_read(part))
            kept = rows[: max(0, self._done - int(part.stem))]
            if len(kept) == len(rows):
                return
            logger.warning("%d rows are not of these pictures: judged anew", len(rows) - len(kept))
            if kept:
                files.write(part, _lines(kept))
            else:
                part.unlink()
                self._parts.remove(part)


def _extra(source: Source) -> dict[str, Any]:
    """What tells a source from another one of its name."""
    values: dict[str, Any] = {}
    if source.order is not None:
        values["order"] = source.order
    if source.left_out:
        values["left_out"] = source.left_out
    if source.content is None and not source.left_out:
        try:
            found = os.stat(source.path)
            values |= {"size": found.st_size, "mtime_ns": found.st_mtime_ns}
        except OSError:
            values |= {"size": None, "mtime_ns": None}
    return values


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(map(json_line, rows)).encode(**TEXT)


def _read(part: epath.Path) -> Iterator[dict[str, Any]]:
    with part.open("r") as lines:
        yield from map(json.loads, lines)
