"""Pictures taken one by one, judged together: a queue, one thread that judges, what was found.

station = Station(models.opened("bottle_model"), folder=pathlib.Path("bottle_model-station"))
part = station.submit(data, "photo.png", "request").result()
"""

import collections
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
from typing import Any, NamedTuple

import numpy as np

from configs.errors import UserError
from diffad_jax.predicting.results import COLUMNS
from diffad_jax.runs import files
from diffad_jax.scoring.threshold import confidence
from diffad_jax.serving.models import Finding, Served
from input_pipeline.decoding.pictures import MAX_PIXELS

logger = logging.getLogger(__name__)
BOX = ("x", "y", "width", "height", "area", "peak")
MOST_PIXELS = 2**26  # of a picture in a request: 0.2 GB decoded
LEAST_FREE = 2**26  # bytes of the station's disk; below, it is told before it is full
FAILED = "the model could not judge it"  # an error of ours, not the picture's


class Full(Exception):
    """Nothing more is taken now: enough is waiting, or (`closing`) the station ends."""


@dataclasses.dataclass(eq=False)
class Part:
    """A picture, and what was found.

    id: unguessable, of letters, digits, '-' and '_'. time: when it came, unix seconds.
    name: for people; a client's is no path. source: "request" or "folder".
    row: its line of the tables, `results.COLUMNS`; map and overlay are None.
    milliseconds: from its coming to its verdict.
    data: the picture as it came; b"" when it is no longer kept.
    finding: None: it cannot be read, or is no longer kept.
    """

    id: str
    time: float
    name: str
    source: str
    row: dict[str, Any]
    milliseconds: float
    data: bytes
    finding: Finding | None

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        found = self.finding
        arrays = 0 if found is None else found.anomaly_map.nbytes + found.reconstruction.nbytes
        return len(self.data) + arrays


class _Waiting(NamedTuple):
    data: bytes
    name: str
    source: str
    time: float
    since: float  # s, monotonic
    future: "concurrent.futures.Future[Part]"


class Station:
    """Judges what is submitted, up to `served.batch_size` pictures at a time; any thread may call.

    threshold: of the score; None: no verdicts. parts: what is kept, the newest last, by id.
    listeners: called with every part, in order, in the thread that judges.
    drift: fed with the parts judged good. problems: what is wrong, by what is concerned.
    counts: parts by verdict ("unjudged" where there is no threshold), "unreadable", and "dropped":
      those not taken.
    """

    def __init__(
        self,
        served: Served,
        *,
        folder: pathlib.Path,
        threshold: float | None = None,
        longest_wait_ms: float = 5,
        most_waiting: int = 64,
        kept: int = 200,
        kept_bytes: int = 2**28,
    ):
        self.served, self.folder, self.closing = served, folder, False
        self.threshold = self._stored(served.threshold) if threshold is None else threshold
        self.most_waiting, self.kept, self.drift = most_waiting, kept, None
        self.parts: collections.OrderedDict[str, Part] = collections.OrderedDict()
        self.listeners: list[Callable[[Part], None]] = []
        self.problems: dict[str, str] = {}
        self.counts = dict.fromkeys(("good", "defective", "unjudged", "unreadable", "dropped"), 0)
        self._longest_wait, self._kept_bytes, self._bytes = longest_wait_ms / 1e3, kept_bytes, 0
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._queued_bytes, self._lock = 0, threading.Lock()
        self._readers = concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        self._worker = threading.Thread(target=self._work, name="station", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        return self._queue.qsize()

    def submit(self, data: bytes, name: str, source: str) -> "concurrent.futures.Future[Part]":
        """Take a picture file's content; raises Full. A folder leaves half the queue to requests.

        Who cancels the future before its picture is begun gives the place away.
        """
        most = self.most_waiting if source == "request" else self.most_waiting // 2
        future: concurrent.futures.Future[Part] = concurrent.futures.Future()
        with self._lock:
            bytes_too = self._queued_bytes and self._queued_bytes + len(data) > self._kept_bytes
            if self.closing or self.waiting >= most or bytes_too:
                self.counts["dropped"] += source == "request"
                raise Full("the station is closing" if self.closing else "too many wait already")
            self._queued_bytes += len(data)
            self._queue.put(_Waiting(data, name, source, time.time(), time.monotonic(), future))
        return future

    def get(self, id: str) -> Part | None:
        """The part, while it is kept."""
        return self.parts.get(id)

    def newest(self, count: int) -> list[Part]:
        """The last parts, the newest first."""
        with self._lock:
            return list(self.parts.values())[: -count - 1 : -1]

    def set_threshold(self, value: float, now: float) -> None:
        """Judge by another threshold from now on, also after a restart.

        Raises:
          UserError: no score can have it.
          OSError: it cannot be stored; the old one stays.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError("a threshold is a number in [0, 1]")
        text = json.dumps({"threshold": float(value), "time": now})
        files.write(self.folder / "station.json", text)
        self.threshold = float(value)

    def troubles(self) -> dict[str, str]:
        """`problems`, and those that are seen by looking: the model's files, the disk."""
        found = dict(self.problems)
        gone = [path.name for path in self.served.needed if not path.exists()]
        if gone:
            found["model"] = f"{gone[0]} is gone; judging goes on with what is in memory"
        try:
            free = shutil.disk_usage(self.folder).free
            if free < LEAST_FREE:
                found.setdefault("output", f"disk full: {free // 2**20} MiB are free")
            elif not os.access(self.folder, os.W_OK):
                found.setdefault("output", "the station's folder cannot be written")
        except OSError as error:
            found["output"] = f"the station's folder cannot be reached: {error.strerror}"
        return found

    def close(self) -> None:
        """Take no more, and finish what was taken."""
        with self._lock:
            self.closing = True
            self._queue.put(None)
        self._worker.join()
        self._readers.shutdown()

    def _stored(self, default: float | None) -> float | None:
        """The threshold that a person has set, else that of the model."""
        file = self.folder / "station.json"
        try:
            return json.loads(file.read_text())["threshold"] if file.exists() else default
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{file} cannot be read: {error}; repair or remove it") from error

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, ended = [first], False
            until = first.since + self._longest_wait
            while len(batch) < self.served.batch_size and not ended:
                try:
                    left = until - time.monotonic()
                    item = self._queue.get(timeout=left) if left > 0 else self._queue.get(False)
                except queue.Empty:
                    break
                ended = item is None
                batch += [] if item is None else [item]
            with self._lock:
                self._queued_bytes -= sum(len(item.data) for item in batch)
            batch = [item for item in batch if item.future.set_running_or_notify_cancel()]
            try:
                self._finish(batch)
            except BaseException as error:  # a mistake of ours; whoever waits must hear of it
                logger.exception("a batch was lost")
                for item in batch:
                    if not item.future.done():
                        item.future.set_exception(error)
            if ended:
                return

    def _finish(self, batch: Sequence[_Waiting]) -> None:
        """Judge pictures, keep them, tell everybody."""
        read = list(self._readers.map(self._read, batch))
        pictures = [picture for picture in read if not isinstance(picture, str)]
        findings = iter(self._judge(pictures) if pictures else [])
        found = [said if isinstance(said, str) else next(findings) for said in read]
        parts = [self._part(*each) for each in zip(batch, found, strict=True)]
        for item, part in zip(batch, parts, strict=True):
            item.future.set_result(part)
        for part, picture in zip(parts, read, strict=True):
            for listener in [self._feed(picture), *self.listeners]:
                try:
                    listener(part)
                except Exception:
                    logger.exception("%s was judged, but not all have heard of it", part.id)

    def _read(self, item: _Waiting) -> np.ndarray | str:
        """The picture, or why it cannot be read."""
        try:
            most = MOST_PIXELS if item.source == "request" else MAX_PIXELS
            return self.served.read(item.data, item.name, most)
        except Exception as error:
            return str(error) or type(error).__name__

    def _judge(self, pictures: list[np.ndarray]) -> list[Finding | str]:
        """Findings; where a batch fails its pictures are tried one by one."""
        try:
            findings = list(self.served.judge(pictures))
            self.problems.pop("judging", None)
            return list(findings)
        except Exception as error:
            if len(pictures) > 1:
                return [one for picture in pictures for one in self._judge([picture])]
            logger.exception(FAILED)
            self.problems["judging"] = f"{FAILED}: {type(error).__name__}"
            return [FAILED]

    def _part(self, item: _Waiting, found: Finding | str) -> Part:
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"picture": item.name}
        threshold, slope, kind = self.threshold, self.served.slope, "unreadable"
        if isinstance(found, str):
            row["error"] = found
        else:
            known = threshold is not None and slope is not None
            height, width = found.anomaly_map.shape
            row |= {"score": found.score, "threshold": threshold, "width": width, "height": height}
            row["boxes"] = [{name: getattr(box, name) for name in BOX} for box in found.boxes]
            row["confidence"] = float(confidence(found.score, threshold, slope)) if known else None
            if threshold is not None:
                row["verdict"] = ("good", "defective")[found.score >= threshold]
            kind = row["verdict"] or "unjudged"
        finding = None if isinstance(found, str) else found
        taken = 1e3 * (time.monotonic() - item.since)
        about = (secrets.token_urlsafe(12), item.time, item.name, item.source)
        part = Part(*about, row, taken, item.data, finding)
        with self._lock:
            self.counts[kind] += 1
            self.parts[part.id], self._bytes = part, self._bytes + part.size
            while len(self.parts) > self.kept:
                self._bytes -= self.parts.popitem(last=False)[1].size
            full = (part for part in list(self.parts.values()) if part.size)
            while self._bytes > self._kept_bytes and (oldest := next(full, part)) is not part:
                self._bytes -= oldest.size
                oldest.data, oldest.finding = b"", None
        return part

    def _feed(self, picture: np.ndarray | str) -> Callable[[Part], None]:
        """What gives a good part to `drift`."""

        def feed(part: Part) -> None:
            if self.drift is None or isinstance(picture, str) or part.row["verdict"] != "good":
                return
            from diffad_jax.scoring import appearance

            values = appearance.statistics(self.served.square(picture)[None])
            values = {name: float(each[0]) for name, each in values.items()}
            self.drift.add(values | {"score": part.row["score"]}, part.time)

        return feed
