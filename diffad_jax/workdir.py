"""A run's folder: which configuration it belongs to, and files that are whole or not there.

WORKDIR/config.json                     the configuration
WORKDIR/.lock                           who is training in it, while somebody is
WORKDIR/checkpoints/STEP/               state of training
WORKDIR/checkpoints_best/STEP/          that of the best step on the test split (train.keep_best)
WORKDIR/checkpoints_damaged/STEP/       checkpoints that could not be read
WORKDIR/threshold.json                  from which score on a picture is called defective
WORKDIR/metrics.jsonl                   a line for every log_every steps, and one per evaluation
WORKDIR/tensorboard/                    the same, and pictures
WORKDIR/profile/                        a profiler trace (train.profile_steps)
WORKDIR/eval/STEP/                      metrics.json, scores.csv, grid.png, report.html
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import ml_collections
from etils import epath

from diffad_jax.config import Config, difference, parse

logger = logging.getLogger(__name__)

# What may change between two starts of one training run: its length, how often things are written,
# how it is evaluated, and where prepared pictures are cached.
FREE_IN_TRAINING = (
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.image_every",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep_best",
    "train.profile_steps",
    "evaluate.",
    "predict.",
    "data.cache_dir",
    "data.memory_gib",
    "data.missing_masks",
)
# What must be the same to evaluate a trained model; the pictures may be others, but not made to fit
# in another way.
FIXED_IN_EVALUATION = ("model.", "diffusion.", "data.resize", "data.fit")


class Hold:
    """Keeps a folder for this process, and for the configuration that is given (see `claim`).

    A context manager. On a file system, the kernel holds the lock, and lets go of it when the
    process ends in whatever way. On an object store nothing can: there the newcomer takes over, and
    the other one stops at its next checkpoint (`check`).
    """

    def __init__(self, workdir: epath.PathLike, config: Config | None = None):
        self._workdir, self._config = epath.Path(workdir), config
        self._path = self._workdir / ".lock"
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        self._descriptor: int | None = None
        self._remote = False

    def __enter__(self) -> "Hold":
        if self._config is not None:
            claim(self._workdir, self._config)
        if is_remote(self._workdir):
            self._remote = True
            write(self._path, json.dumps(self._me))
        else:
            self._lock()
        return self

    def __exit__(self, *_) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def check(self) -> None:
        """Raise ValueError where another process has taken the folder over."""
        if self._remote and self._holder() != self._me:
            raise ValueError(self._taken())

    def _lock(self) -> None:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise ValueError(self._taken()) from None
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


def claim(workdir: epath.PathLike, config: Config) -> None:
    """Make the folder this run's, or check that it already is.

    Raises:
      ValueError: the folder holds a run whose model, data or training differs; names the keys.
    """
    path = config_path(workdir)
    if not path.exists():
        epath.Path(workdir).mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(config.to_dict(), indent=2) + "\n")
        return
    lines = [
        line
        for line in difference(_read(path), config.to_dict())
        if not line.startswith(FREE_IN_TRAINING)
    ]
    _refuse(lines, path, "use another --workdir, or the configuration it was started with")


def check_model(workdir: epath.PathLike, config: Config) -> None:
    """Check that the folder holds a run of the same model.

    Raises:
      ValueError: no run there, or one whose model differs; names the keys.
    """
    path = _existing(workdir)
    lines = [
        line
        for line in difference(_read(path), config.to_dict())
        if line.startswith(FIXED_IN_EVALUATION)
    ]
    _refuse(lines, path, "give the configuration it was trained with")


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is on an object store, such as gs://."""
    return "://" in os.fspath(path)


def read_config(workdir: epath.PathLike) -> Config:
    """The configuration of a run.

    Raises:
      ValueError: no run there, or one of another version of this program, with other keys.
    """
    stored = get_config(workdir)
    try:
        return parse(stored)
    except ValueError as error:
        raise ValueError(f"{config_path(workdir)}: {error}; give --config") from error


def get_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
    """The configuration of a run as a configuration file gives it.

    With it, this file is one: `--config diffad_jax/workdir.py:WORKDIR`.

    Raises:
      ValueError: no run there, or its config.json is none.
    """
    stored = _read(_existing(workdir))
    # JSON has no tuples, and a list could not be overridden by a flag.
    for section in stored.values():
        if isinstance(section, dict):
            section |= {k: tuple(v) for k, v in section.items() if isinstance(v, list)}
    return ml_collections.ConfigDict(stored)


def config_path(workdir: epath.PathLike) -> epath.Path:
    """Where a run keeps its configuration."""
    return epath.Path(workdir) / "config.json"


def write(path: epath.Path, content: str | bytes) -> None:
    """Write a file so that a killed process leaves the old one or the new one, never a half.

    Raises:
      OSError: it cannot be written, as on a full disk; the old one stays.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.parent / f".{path.name}.partial"
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def named(path: epath.PathLike) -> Iterator[None]:
    """A context whose OSError names the path: writing to a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


def _existing(workdir: epath.PathLike) -> epath.Path:
    """The run's config.json, or a ValueError where there is none."""
    path = config_path(workdir)
    if not path.exists():
        inside = sorted(run.parent.name for run in epath.Path(workdir).glob("*/config.json"))
        hint = f"; there are runs in it: {', '.join(inside)}" if inside else ""
        raise ValueError(f"{workdir} holds no run: {path} does not exist{hint}")
    return path


def _read(path: epath.Path) -> dict[str, Any]:
    """The configuration in a file, or a ValueError that names it."""
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a configuration: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a configuration: it holds a {type(config).__name__}")
    return config


def _refuse(lines: list[str], path: epath.Path, advice: str) -> None:
    if lines:
        raise ValueError(f"{path} belongs to another configuration ({'; '.join(lines)}): {advice}")
