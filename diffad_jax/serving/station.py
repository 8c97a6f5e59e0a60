"""Pictures taken one by one, judged together: a queue, one thread that judges, what was found."""

import concurrent.futures
import dataclasses
import json
import logging
import os
import pathlib
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from configs.errors import UserError
from diffad_jax.predicting import writing
from diffad_jax.predicting.results import COLUMNS
from diffad_jax.runs import files
from diffad_jax.scoring import appearance
from diffad_jax.scoring.threshold import confidence
from diffad_jax.serving.drift import Drift
from diffad_jax.serving.models import Served
from input_pipeline.decoding.pictures import MAX_PIXELS

logger = logging.getLogger(__name__)
MOST_PIXELS = 2**26  # of a picture in a request: 0.2 GB decoded
LEAST_FREE = 2**26  # bytes of the station's disk; with less, it says so
FAILED = "the model could not judge it"


class Full(Exception):
    """Nothing more is taken now: enough is waiting, or the station ends."""


@dataclasses.dataclass(eq=False)
class Part:
    """A picture that came, and what was found.

    id: unguessable, of letters, digits, '-' and '_'. time: when it came, unix seconds; since: the
      same of a clock that nobody sets. name: for people, no path. source: "request" or "folder".
    data: the picture as it came; b"" when it is no longer kept.
    row: its line of the tables, `results.COLUMNS`; map and overlay are None.
    milliseconds: from its coming to its verdict.
    finding: None: it cannot be read, or is no longer kept.
    """

    name: str
    source: str
    data: bytes
    id: str = dataclasses.field(default_factory=lambda: secrets.token_urlsafe(12))
    since: float = dataclasses.field(default_factory=time.monotonic)
    time: float = dataclasses.field(default_factory=time.time)
    row: dict[str, Any] = dataclasses.field(default_factory=lambda: dict.fromkeys(COLUMNS))
    milliseconds: float = 0.0
    finding: writing.Found | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        found = self.finding
        arrays = 0 if found is None else found.anomaly_map.nbytes + found.reconstruction.nbytes
        return len(self.data) + arrays


class Station:
    """Judges what is submitted, up to `served.batch_size` pictures at a time. Any thread may call.

    threshold: of the score; None: no verdicts. listeners: called with every part, in order, in the
    thread that judges. drift: fed with the parts judged good. problems: what is wrong, by what it
    concerns. counts: parts by verdict ("unjudged": without threshold), and "dropped" requests.
    """

    def __init__(
        self,
        served: Served,
        *,
        folder: pathlib.Path,
        threshold: float | None = None,
        longest_wait_ms: float = 5.0,
        most_waiting: int = 64,
        kept: int = 200,
        kept_bytes: int = 2**28,
    ):
        self.served, self.folder, self.closing = served, folder, False
        self.threshold = self._stored(served.threshold) if threshold is None else threshold
        self.most_waiting, self.kept = most_waiting, kept
        self._kept_bytes, self._bytes = kept_bytes, 0
        self.listeners: list[Callable[[Part], Any]] = []
        self.drift: Drift | None = None
        self._begin_drift()
        self.problems: dict[str, str] = {}
        self.counts = dict.fromkeys(("good", "defective", "unjudged", "unreadable", "dropped"), 0)
        self._parts: dict[str, Part] = {}  # the oldest first
        self._queue: queue.SimpleQueue = queue.SimpleQueue()  # (part, future), at last None
        self._longest_wait, self._lock = longest_wait_ms / 1e3, threading.Lock()
        self._readers = concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        self._worker = threading.Thread(target=self._work, name="station", daemon=True)
        self._worker.start()

    @property
    def unsent(self) -> int:
        """Results that listeners (`sending`) could not deliver."""
        return sum(getattr(listener, "dropped", 0) for listener in self.listeners)

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        return self._queue.qsize()

    def submit(self, data: bytes, name: str, source: str) -> "concurrent.futures.Future[Part]":
        """Take a picture file's content; raises Full. Folders leave half the queue to requests."""
        future: concurrent.futures.Future[Part] = concurrent.futures.Future()
        with self._lock:
            if self.closing or self.waiting >= self.most_waiting // (1 + (source == "folder")):
                self.counts["dropped"] += source == "request"
                raise Full("the station is closing" if self.closing else "too many wait already")
            self._queue.put((Part(name, source, data), future))
        return future

    def get(self, id: str) -> Part | None:
        """The part, while it is kept."""
        return self._parts.get(id)

    def newest(self, count: int) -> list[Part]:
        """The last parts, the newest first."""
        with self._lock:
            return list(self._parts.values())[: -count - 1 : -1]

    def set_threshold(self, value: Any, now: float) -> None:
        """Judge by another threshold, also after a restart; OSError: not stored, the old stays."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError("a threshold is a number in [0, 1]")
        text = json.dumps({"threshold": float(value), "time": now})
        files.write(self.folder / "station.json", text)
        self.threshold = float(value)
        self._begin_drift()

    def troubles(self) -> dict[str, str]:
        """`problems`, and what is seen by looking: the model's files, the disk."""
        found = dict(self.problems)
        gone = [path.name for path in self.served.needed if not path.exists()]
        if gone:
            found["model"] = f"{gone[0]} is gone; judging goes on with what is in memory"
        try:
            free = shutil.disk_usage(self.folder).free
            if free < LEAST_FREE or not os.access(self.folder, os.W_OK):
                told = f"disk full: {free >> 20} MiB free" if free < LEAST_FREE else "not writable"
                found.setdefault("output", told)
        except OSError as error:
            found["output"] = f"the station's folder: {error.strerror}"
        return found

    def close(self) -> None:
        """Take no more, and finish what was taken."""
        with self._lock:
            self.closing = True
            self._queue.put(None)
        self._worker.join()
        self._readers.shutdown()

    def _begin_drift(self) -> None:
        """Look for drift from now on; which parts are judged good depends on the threshold."""
        if self.served.reference:
            pictures = self.served.reference["pictures"]
            self.drift = Drift(appearance.of_good(pictures, self.threshold))

    def _stored(self, default: float | None) -> float | None:
        """The threshold that a person has set, else that of the model."""
        file = self.folder / "station.json"
        try:
            return json.loads(file.read_text())["threshold"] if file.exists() else default
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}): remove it") from error

    def _work(self) -> None:
        batch: list[Any] = []
        while batch[-1:] != [None]:
            batch = [self._queue.get()]
            until = time.monotonic() + self._longest_wait
            while len(batch) < self.served.batch_size and batch[-1] is not None:
                try:
                    batch.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
                except queue.Empty:
                    break
            taken = [item for item in batch if item and item[1].set_running_or_notify_cancel()]
            try:
                self._finish([part for part, _ in taken], [future for _, future in taken])
            except Exception as error:  # a mistake of ours; whoever waits must hear of it
                logger.exception("a batch was lost")
                for future in (future for _, future in taken if not future.done()):
                    future.set_exception(error)

    def _finish(self, parts: list[Part], futures: list[concurrent.futures.Future]) -> None:
        """Judge, keep and tell."""
        read = list(self._readers.map(self._read, parts))
        findings = iter(self._judge([each for each in read if not isinstance(each, str)]))
        for part, picture in zip(parts, read, strict=True):
            self._keep(part, picture if isinstance(picture, str) else next(findings))
        for part, future in zip(parts, futures, strict=True):
            future.set_result(part)
        for part, picture in zip(parts, read, strict=True):
            self._tell(part, picture)

    def _read(self, part: Part) -> np.ndarray | str:
        """The picture, or why it cannot be read."""
        try:
            most = MOST_PIXELS if part.source == "request" else MAX_PIXELS
            return self.served.read(part.data, part.name, most)
        except Exception as error:
            return str(error) or type(error).__name__

    def _judge(self, pictures: list[np.ndarray]) -> Sequence[writing.Found | str]:
        """Findings; where a batch fails, its pictures are tried one by one."""
        try:
            findings = self.served.judge(pictures) if pictures else []
            self.problems.pop("judging", None)
            return findings
        except Exception as error:
            if len(pictures) > 1:
                return [one for picture in pictures for one in self._judge([picture])]
            logger.exception(FAILED)
            self.problems["judging"] = f"{FAILED}: {type(error).__name__}"
            return [FAILED]

    def _keep(self, part: Part, found: writing.Found | str) -> None:
        """Fill a part in and keep it; forget what is too much."""
        part.milliseconds = 1e3 * (time.monotonic() - part.since)
        if isinstance(found, str):
            part.row, kind = writing.unreadable(part.name, found), "unreadable"
        else:
            threshold, slope, sure = self.threshold, self.served.slope, None
            if threshold is not None and slope is not None:
                sure = float(confidence(found.score, threshold, slope))
            part.finding, part.row = found, writing.judged(part.name, found, threshold, sure)
            kind = part.row["verdict"] or "unjudged"
        with self._lock:
            self.counts[kind] += 1
            self._parts[part.id], self._bytes = part, self._bytes + part.size
            while len(self._parts) > self.kept:
                self._bytes -= self._parts.pop(next(iter(self._parts))).size
            for old in self._parts.values() if self._bytes > self._kept_bytes else ():
                if old is part or self._bytes <= self._kept_bytes:
                    break
                self._bytes -= old.size  # a copy is kept: whoever waits for it needs it whole
                self._parts[old.id] = dataclasses.replace(old, data=b"", finding=None)

    def _tell(self, part: Part, picture: np.ndarray | str) -> None:
        """Tell everybody, whatever happens to one."""
        for listener in (lambda part: self._feed(part, picture), *self.listeners):
            try:
                listener(part)
            except Exception:
                logger.exception("%s was judged, but not everybody knows", part.id)

    def _feed(self, part: Part, picture: np.ndarray | str) -> None:
        """Give a good part to `drift`."""
        if self.drift and part.row["verdict"] == "good" and not isinstance(picture, str):
            looks = appearance.statistics(self.served.square(picture)[None])
            values = {name: float(each[0]) for name, each in looks.items()}
            self.drift.add(values | {"score": part.row["score"]}, part.time)
