"""Run parts until the time is up; what fails or is left out says so, and the rest goes on."""

import json
import time
from collections.abc import Iterable, Iterator

from benchmarks import sweep
from benchmarks.device.parts import Part

LEAST = 20  # s: with less left a part is not begun
Row = tuple[Part, dict | None]  # None: not begun


def run(parts: Iterable[Part], seconds: float) -> Iterator[Row]:
    """Each part with its row: what it printed, {"error": why not}, or None where it was not begun.

    A training run's row has what it left in its metrics.jsonl, whether it failed or not, as
    "history".
    """
    end = time.monotonic() + seconds
    for part in parts:
        left = end - time.monotonic()
        if part.missing():
            yield part, {"error": f"{part.missing()} is not installed"}
        elif left < LEAST:
            yield part, None
        else:
            yield part, measured(part, min(left, part.share * seconds))


def measured(part: Part, limit: float) -> dict:
    """The row of a part that has `limit` seconds."""
    if part.workdir is None:
        return sweep.printed_row(part.command, limit)
    _, error = sweep.outcome(part.command, limit)
    path = part.workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    row = {"history": [json.loads(line) for line in lines if line.endswith("}")]}
    return row | ({"error": error} if error else {})
