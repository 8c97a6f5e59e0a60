"""predictions.jsonl as a journal: what was judged in a folder that never ends, a line a picture."""

import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from diffad_jax.predicting.results import HEADER, TABLES, TEXT, csv_line, json_line
from diffad_jax.runs import files

logger = logging.getLogger(__name__)
Stamp = tuple[int, int]  # a file's size in bytes and its time of change in ns


class Journal:
    """The tables of `results.TABLES`, which grow as pictures come, and survive whatever ends this.

    A line of predictions.jsonl says that a file was judged, and which: it has two more keys, size
    and mtime_ns. A line is there whole or not at all, and predictions.csv follows it.

    Attributes:
      known: the stamp of the file that was judged last under a name.
    """

    def __init__(self, folder: pathlib.Path):
        """Go on where an earlier one ended: a line that is not whole is cut away.

        Raises:
          OSError: the tables cannot be read or written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._csv, self._jsonl = (folder / name for name in TABLES)
        self.known: dict[str, Stamp] = {}
        self._behind: list[str] = []  # lines that predictions.csv lacks, of a full disk
        files.append(self._jsonl, "")
        table = (HEADER + "".join(map(csv_line, self._rows()))).encode(**TEXT)
        if not self._csv.exists() or self._csv.read_bytes() != table:
            files.write(self._csv, table)

    def add(self, row: dict[str, Any], stamp: Stamp) -> None:
        """One picture, once: another call with the same name and stamp adds nothing.

        Raises:
          OSError: as on a full disk. The same call then completes what is missing.
        """
        if self.known.get(row["picture"]) != stamp:
            line = json_line(row | {"size": stamp[0], "mtime_ns": stamp[1]})
            files.append(self._jsonl, line)
            self.known[row["picture"]] = stamp
            self._behind.append(csv_line(row))
        while self._behind:
            files.append(self._csv, self._behind[0])
            del self._behind[0]

    def _rows(self) -> Iterator[dict[str, Any]]:
        """The lines that can be read."""
        with self._jsonl.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    csv_line(row)
                    self.known[row["picture"]] = (row.get("size"), row.get("mtime_ns"))
                except (ValueError, TypeError, LookupError, AttributeError) as error:
                    logger.warning("%s: line %d is none of ours: %s", self._jsonl, number, error)
                    continue
                yield row
