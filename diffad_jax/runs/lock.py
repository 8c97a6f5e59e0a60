"""One process a folder: who is working in it, while somebody is."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from typing import Any

from etils import epath

from configs.errors import UserError
from diffad_jax.runs.files import write
from input_pipeline.on_disk import is_remote

logger = logging.getLogger(__name__)
FILE = ".lock"


class Hold:
    """Keeps a folder for this process.

    A context manager. On a file system, the kernel holds the lock, and lets go of it when the
    process ends in whatever way. On an object store nothing can: there the newcomer takes over, and
    the other one stops at its next checkpoint (`check`).
    """

    def __init__(self, workdir: epath.PathLike):
        self._workdir = epath.Path(workdir)
        self._path = self._workdir / FILE
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        self._descriptor: int | None = None
        self._remote = False

    def __enter__(self) -> "Hold":
        if is_remote(self._workdir):
            self._remote = True
            write(self._path, json.dumps(self._me))
        else:
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._lock()
        return self

    def __exit__(self, *_) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def check(self) -> None:
        """Raise UserError where another process has taken the folder over."""
        if self._remote and self._holder() != self._me:
            raise UserError(self._taken())

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

    def _holder(self) -> dict[str, Any]:
        try:
            return json.loads(self._path.read_text())
        except (OSError, ValueError):  # gone, or just being written
            return {}

    def _taken(self) -> str:
        holder = self._holder()
        return (
            f"{self._workdir} is in use by another process, {holder.get('pid', '?')} on host "
            f"{holder.get('host', '?')}: wait for it, or stop it"
        )
