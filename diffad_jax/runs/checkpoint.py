"""Checkpoints of a run, in `WORKDIR/checkpoints/STEP`. The only file that imports orbax."""

import contextlib
import copy
import json
import logging
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from configs.errors import UserError
from diffad_jax.runs import files, processes

logger = logging.getLogger(__name__)
State = TypeVar("State")
_policies = ocp.training.save_decision_policies
LAST, BEST = "checkpoints", "checkpoints_best"  # folders in a run's


class Checkpoints:
    """Saves in the background, keeps the newest few. A context manager: leaving waits for saves.

    Of several processes each writes its part: the folder must be one that all of them see.

    Args:
      workdir: the run's folder, local or gs://.
      every: steps between checkpoints.
      keep: how many to keep.
      writer: False only reads, and leaves alone what a training process is just writing.
      name: of the folder in `workdir`.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        every: int = 1,
        keep: int = 1,
        *,
        writer: bool = True,
        name: str = LAST,
    ):
        self._every, self._writer = every, writer
        self._folder = place(workdir, name)
        # Two folders written at once must not wait for each other's processes.
        context = ocp.Context()
        context.multiprocessing.barrier_sync_key_prefix = name
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            context=context,
            save_decision_policy=_policies.FixedIntervalPolicy(every),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            # What a killed process left half-written is removed at the next start.
            cleanup_tmp_directories=writer,
        )

    def __enter__(self) -> "Checkpoints":
        logging.getLogger("absl").addFilter(self._quiet)
        return self

    def __exit__(self, *_) -> None:
        try:
            with self._failures_named():
                self._checkpointer.close()
        finally:
            logging.getLogger("absl").removeFilter(self._quiet)

    @staticmethod
    def _quiet(record: logging.LogRecord) -> bool:
        """Not the tracebacks that each of orbax's threads prints of an error we tell anyway."""
        return not (record.exc_info and "orbax" in record.pathname)

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, rising."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def due(self, step: int) -> bool:
        """Whether `step` is one of those that are saved anyway."""
        return step % self._every == 0

    def save(self, step: int, state: State, notes: dict[str, Any] | None = None) -> None:
        """Copy the state off the devices now, write it in the background.

        `notes` (JSON) become part of the checkpoint: both are there, or neither.

        Raises:
          OSError: this or an earlier checkpoint cannot be written.
        """
        if step == self.latest and self._checkpointer.checkpoints[-1].path.exists():
            return
        notes = copy.deepcopy(notes)  # orbax writes them later
        with self._failures_named():
            self._checkpointer.save_async(step, state, force=True, custom_metadata=notes)

    def notes(self, step: int) -> dict[str, Any]:
        """The notes of a checkpoint."""
        return self._checkpointer.metadata(step).custom_metadata or {}

    def restore(self, target: State, step: int | None = None) -> State:
        """The newest readable checkpoint (or `step`'s) in the shapes and shardings of `target`.

        It may have been saved on another number of devices. A writer moves those that cannot be
        read to `FOLDER_damaged/STEP`.

        Raises:
          UserError: there is no such checkpoint, none can be read, or it is of another structure.
        """
        steps = self.steps
        wanted = steps if step is None else [s for s in steps if s == step]
        for candidate in reversed(wanted):
            state, problem = self._load(candidate, target)
            if not processes.anywhere(state is None):
                return state
            self._set_aside(candidate, problem or "another process cannot read it")
        if wanted:
            raise UserError(f"no checkpoint in {self._folder} can be read: tried {wanted}")
        which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise UserError(f"{which} in {self._folder}: found {steps}")

    def _load(self, step: int, target: State) -> tuple[Any, str]:
        """A checkpoint's state and '', or None and why it cannot be read."""
        path = self._folder / str(step)
        try:
            # Orbax would go on without the notes.
            json.loads((path / "_CHECKPOINT_METADATA").read_text())
            found = _shapes(self._checkpointer.metadata(step).metadata)
        except Exception as error:  # whatever a damaged file leads to
            return None, _line(error)
        wanted = _shapes(target)
        if found and found != wanted:
            names = sorted(k for k in found | wanted if found.get(k) != wanted.get(k))
            raise UserError(
                f"{path} is of another structure, in {len(names)} arrays: {names[0]} is "
                f"{found.get(names[0])} there, expected {wanted.get(names[0])}"
            )
        try:
            return self._checkpointer.load(step, target), ""
        except Exception as error:
            return None, _line(error)

    def _set_aside(self, step: int, problem: str) -> None:
        """Out of the way, but not deleted; a reader only says it."""
        path = self._folder / str(step)
        logger.warning("%s cannot be read, trying the one before it (%s)", path, problem)
        if not self._writer:
            return
        damaged = self._folder.parent / f"{self._folder.name}_damaged"
        target, count = damaged / str(step), 0
        while target.exists():
            count += 1
            target = damaged / f"{step}.{count}"
        if jax.process_index() == 0 and path.exists():
            damaged.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            logger.warning("moved to %s", target)
        processes.barrier("checkpoint_set_aside")
        self._checkpointer.reload()

    @contextlib.contextmanager
    def _failures_named(self) -> Iterator[None]:
        """Failures to write, of whatever type, become one line that names the folder."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # of the devices or of other processes, not of the disk
            raise
        except Exception as error:
            raise OSError(
                f"{self._folder}: a checkpoint cannot be written ({_line(error)}); the newest "
                "complete one stays: make room and start the same command"
            ) from error


class Best:
    """One more checkpoint, of the step whose evaluation on the test split was the best.

    Chosen with the test split: its metrics are better than those of new pictures will be. Where no
    metric is given, or this is not a context yet, it does nothing.
    """

    def __init__(self, workdir: epath.PathLike, metric: str):
        self._metric, self._best = metric, float("-inf")
        self._checkpoints = Checkpoints(workdir, name=BEST) if metric else None
        if self._checkpoints and (latest := self._checkpoints.latest) is not None:
            self._best = self._checkpoints.notes(latest)[metric]

    def __enter__(self) -> "Best":
        if self._checkpoints:
            self._checkpoints.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self._checkpoints:
            self._checkpoints.__exit__(*error)

    def offer(self, step: int, state: State, metrics: dict[str, float]) -> None:
        """Keep `state` if its metric is above all before."""
        value = metrics.get(self._metric, float("nan"))
        if self._checkpoints and value > self._best:
            self._best = value
            self._checkpoints.save(step, state, {self._metric: value})


def place(workdir: epath.PathLike, name: str = LAST) -> epath.Path:
    """Where a run's checkpoints lie; absolute, as orbax wants it."""
    remote = files.is_remote(workdir)
    return epath.Path(workdir if remote else os.path.abspath(workdir)) / name


def abstract(state, sharding: jax.sharding.Sharding):
    """Shapes and dtypes of a state (from `jax.eval_shape`) with a sharding: a restore target."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    """Shape of every array by its path; dataclasses and dicts name their parts alike."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _line(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
