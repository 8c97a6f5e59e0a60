"""A folder that is watched: each picture in it is judged once, when it is whole."""

import collections
import functools
import logging
import math
import os
import pathlib
import queue
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from watchdog import events, observers

from configs.errors import UserError
from diffad_jax.predicting import writing
from diffad_jax.predicting.files import Source, below, within
from diffad_jax.predicting.journal import Journal, Stamp
from diffad_jax.serving.station import FAILED, Full, Part, Station
from input_pipeline.folders.listing import UNREADABLE

logger = logging.getLogger(__name__)
MOST, HELD = 16, 2**24  # pictures, and their bytes, that are read and not yet in the tables
ROOM = 0.02  # s, until the station is asked again
HEARD = [events.FileClosedEvent, events.FileMovedEvent, events.FileCreatedEvent]


class _Seen(NamedTuple):
    source: Source
    stamp: Stamp
    since: float  # s, monotonic: so long it has not changed


class Watcher(events.FileSystemEventHandler):
    """Submits the pictures of a folder to a station; writes predict's tables, maps and overlays.

    A file is whole when it was closed or renamed and has not changed since, or when it has not
    changed for `settle` seconds: events wake, rescans find what they miss. What cannot be read is
    tried once more, 4 * settle later. What has a line in predictions.jsonl is judged again only if
    size or time of the file is another; what has none is begun anew after whatever end.
    """

    def __init__(
        self, station: Station, folder: pathlib.Path, output: pathlib.Path, settle: float = 1.0
    ):
        """Raises UserError: there is no such folder, or the output lies in it."""
        self._folder, self._output = pathlib.Path(os.path.abspath(folder)), output
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder} to watch")
        if pathlib.Path(os.path.abspath(output)).is_relative_to(self._folder):
            raise UserError(f"the output folder {output} lies in the watched folder {folder}")
        self._station, self._settle, self._mounted = station, settle, os.path.ismount(folder)
        self._journal: Journal | None = None
        self._seen: dict[str, _Seen] = {}  # not yet in the journal
        self._tried: dict[str, tuple[Stamp, int, dict[str, Any]]] = {}  # could not be read, once
        self._observer, self._observed = observers.Observer(), 0  # the folder's number; 0: none
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._stopped, self._next_scan = threading.Event(), -math.inf
        self._pool = ThreadPoolExecutor(2)
        self._thread = threading.Thread(target=self._run, name="watching", daemon=True)

    def start(self) -> None:
        """Begin, with what lies there already."""
        self._observer.start()
        self._thread.start()

    def stop(self) -> None:
        """Submit no more, write what was submitted."""
        self._stopped.set()
        self._events.put(None)
        self._thread.join()
        self._pool.shutdown()
        self._observer.stop()
        self._observer.join()

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        """Take note; what was only created need not be whole."""
        path = pathlib.Path(os.fsdecode(event.dest_path or event.src_path))
        self._events.put((path, None if event.event_type == "created" else _stamp(path)))

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._journal = self._journal or Journal(self._output)
                self._listen()
                if time.monotonic() >= self._next_scan:
                    self._scan()
                self._judge()
                self._tell("watching", "")
            except Exception as error:  # whatever it was, all is begun anew
                logger.exception("watching goes on")
                self._tell("watching", _reason(error))
                self._stopped.wait(self._settle)

    def _tell(self, about: str, problem: str) -> None:
        if problem:
            self._station.problems[about] = problem
        else:
            self._station.problems.pop(about, None)

    def _listen(self) -> None:
        """Wait until something is heard, or due."""
        due = min([self._next_scan, *(seen.since + self._settle for seen in self._seen.values())])
        wait = max(0.0, due - time.monotonic())
        try:
            while (heard := self._events.get(timeout=wait)) is not None:
                wait = 0.0
                for source in within(self._folder, heard[0]):
                    self._note(source, heard[1], self._seen.pop(source.name, None))
        except queue.Empty:
            return

    def _scan(self) -> None:
        """Note all that lies there."""
        begun = time.monotonic()
        there = self._folder.is_dir() and os.path.ismount(self._folder) >= self._mounted
        self._observe(self._folder.stat().st_ino if there else 0)
        found = list(below(self._folder)) if there else []
        pictures = [source for source in found if source.left_out != UNREADABLE]
        told = "a folder in the watched one cannot be read" if len(pictures) < len(found) else ""
        self._tell("folder", told if there else "the watched folder is not there")
        known, self._seen = self._seen, {}
        for source in pictures:
            self._note(source, None, known.get(source.name))
        self._next_scan = begun + max(3 * self._settle, 20 * (time.monotonic() - begun))

    def _observe(self, place: int) -> None:
        """Hear what happens in the folder of this number; 0: of none."""
        if place == self._observed:
            return
        self._observer.unschedule_all()
        self._observed = place
        try:
            if place:
                self._observer.schedule(self, str(self._folder), recursive=True, event_filter=HEARD)
        except OSError as error:  # no more watches
            logger.warning("new pictures are found by rescans alone: %s", error)

    def _note(self, source: Source, whole: Stamp | None, before: _Seen | None) -> None:
        """Since when is a file as it is? `whole`: as it was when it was closed."""
        stamp = _stamp(source.path)
        if stamp is not None and self._journal and self._journal.known.get(source.name) != stamp:
            since = before.since if before and before.stamp == stamp else time.monotonic()
            self._seen[source.name] = _Seen(source, stamp, -math.inf if stamp == whole else since)

    def _judge(self) -> None:
        """Submit what is whole, the oldest first; write what was found."""
        latest = time.monotonic() - self._settle
        whole = [seen for seen in self._seen.values() if seen.since <= latest]
        jobs: collections.deque = collections.deque()
        for seen in sorted(whole, key=lambda seen: (seen.stamp[1], seen.source.name)):
            while len(jobs) == MOST or sum(len(job[1]) for job in jobs) > HELD:
                self._finish(*jobs.popleft())
            content = None if self._stopped.is_set() else self._content(seen)
            line = None if content is None else self._begin(seen, content)
            if line is not None:
                jobs.append((seen, content, line, self._pool.submit(line)))
        while jobs:
            self._finish(*jobs.popleft())

    def _content(self, seen: _Seen) -> bytes | str | None:
        """The file, or why it cannot be read; None: it has changed."""
        name, path, left_out = seen.source.name, seen.source.path, seen.source.left_out
        content: bytes | str = Source(name, pathlib.Path(name), left_out).problem
        try:
            content = content if left_out else path.read_bytes()
        except OSError as error:
            content = f"{name} cannot be read as a picture: {_reason(error)}"
        if _stamp(path) == seen.stamp:
            return content
        del self._seen[seen.source.name]
        self._note(seen.source, None, None)
        return None

    def _begin(self, seen: _Seen, content: bytes | str) -> Callable[[], dict[str, Any]] | None:
        """Submit it when there is room; what waits for its line. None: the end came first."""
        stamp, key, row = self._tried.get(seen.source.name, (None, 0, {}))
        if isinstance(content, str):
            return functools.partial(writing.unreadable, seen.source.name, content)
        if (stamp, key) == (seen.stamp, hash(content)):
            return lambda: row
        while not self._stopped.is_set():
            try:
                part = self._station.submit(content, seen.source.name, "folder")
                return functools.partial(self._line, seen.source, content, part)
            except Full:
                self._stopped.wait(ROOM)
        return None

    def _line(self, source: Source, content: bytes, future: Future[Part]) -> dict[str, Any]:
        """A picture's line, when its map and overlay are written."""
        if error := future.exception():
            raise RuntimeError("the station has failed") from error
        part, served = future.result(), self._station.served
        found, verdict = part.finding, part.row["verdict"]
        if part.row["error"] or found is None:
            return part.row
        picture, pixel = served.read(content, source.name), served.pixel_threshold
        return part.row | writing.write_maps(self._output, source, picture, found, verdict, pixel)

    def _finish(self, seen: _Seen, content: bytes | str, line: Callable, job: Future) -> None:
        """Write a picture's line; wait while the disk is full."""
        name, problem = seen.source.name, "none"
        while problem:
            try:
                row, problem = job.result(), ""
                known = self._tried.get(name, (None,))[0] == seen.stamp
                if row["error"] and not known:
                    if row["error"] != FAILED:
                        self._tried[name] = seen.stamp, hash(content), row
                    self._seen[name] = seen._replace(since=time.monotonic() + 3 * self._settle)
                elif self._journal is not None:
                    self._journal.add(row, seen.stamp)
                    self._seen.pop(name, None)
                    self._tried.pop(name, None)
            except OSError as error:
                problem = f"results cannot be written: {_reason(error)}"
                if self._stopped.wait(self._settle):
                    return  # it is judged again after the next start
                job = self._pool.submit(line)
            self._tell("output", problem)


def _stamp(path: pathlib.Path) -> Stamp | None:
    """Size and time of a file; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _reason(error: Exception) -> str:
    """Why, without the path, which is nobody's business outside."""
    told = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return getattr(told, "strerror", None) or type(told).__name__
