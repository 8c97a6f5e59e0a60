"""One process a folder: who is working in it, while somebody is."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from configs.errors import UserError, of_store
from diffad_jax.runs import files
from input_pipeline.on_disk import is_remote

logger = logging.getLogger(__name__)
FILE = ".lock"
# On an object store: seconds between two signs of life, and without one until the holder is dead.
BEAT, PATIENCE = 10.0, 45.0


class Hold:
    """Keeps a folder for this process. A context manager.

    On a file system, the kernel holds the lock, and lets go of it when the process ends in whatever
    way. On an object store nothing can: there a thread of the holder writes the file again and
    again, and a newcomer waits to see whether it changes before it takes over. A holder that could
    not write for so long, and lives, stops at its next checkpoint (`check`).
    """

    def __init__(self, workdir: epath.PathLike):
        self._workdir = epath.Path(workdir)
        self._path = self._workdir / FILE
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        self._descriptor: int | None = None
        self._thread: threading.Thread | None = None  # writes, on an object store
        self._ended = threading.Event()

    def __enter__(self) -> "Hold":
        if is_remote(self._workdir):
            self._wait()
            self._write(0)
            self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
            self._thread.start()
        else:
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._lock()
        return self

    def __exit__(self, *_) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            with _tolerant(self._path):  # what it was held for may be done: the end is no failure
                if self._is_mine():
                    self._path.unlink(missing_ok=True)
        if self._descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def check(self) -> None:
        """Raise UserError where another process has taken the folder over."""
        if self._thread is not None and not self._is_mine():
            raise UserError(self._taken())

    def _wait(self) -> None:
        """Until the holder, if there is one, has gone or given no sign of life for long enough."""
        before, since = self._text(), time.monotonic()
        if before:
            told = "%s: another process is or was at work here, waiting %.0f s for a sign of it"
            logger.info(told, self._workdir, PATIENCE)
        while before and time.monotonic() < since + PATIENCE:
            time.sleep(BEAT / 2)
            now = self._text()
            if now and now != before:
                raise UserError(self._taken())
            before = now

    def _beat(self) -> None:
        """Give signs of life, until the end or until another process has taken over."""
        count = 0
        while not self._ended.wait(BEAT):
            count += 1
            with _tolerant(self._path):
                if not self._is_mine():
                    return
                self._write(count)

    def _write(self, beat: int) -> None:
        # Whole or not at all, as any file of an object store: no need to rename it.
        with files.named(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._me | {"beat": beat}))

    def _lock(self) -> None:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise UserError(self._taken()) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
                logger.warning("%s: no locks on this file system", self._path)
            # The former holder may have removed the file between our two calls.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(self._me).encode())
        self._descriptor = descriptor

    def _is_mine(self) -> bool:
        return self._holder().items() >= self._me.items()

    def _text(self) -> str:
        """What stands in the file; '' where there is none."""
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""

    def _holder(self) -> dict[str, Any]:
        try:
            return json.loads(self._text())
        except ValueError:  # gone, or just being written
            return {}

    def _taken(self) -> str:
        holder = self._holder()
        return (
            f"{self._workdir} is in use by another process, {holder.get('pid', '?')} on host "
            f"{holder.get('host', '?')}: wait for it, or stop it"
        )


@contextlib.contextmanager
def _tolerant(path: epath.Path) -> Iterator[None]:
    """A context in which an object store that cannot be reached is a warning."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not of_store(error):
            raise
        logger.warning("%s cannot be reached: %s", path, error)
