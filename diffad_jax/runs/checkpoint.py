"""Checkpoints of a run, in `WORKDIR/checkpoints/STEP`. The only file that imports orbax."""

import contextlib
import copy
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from configs.errors import UserError, of_store
from diffad_jax.runs import checksums, folder, processes, stopping
from input_pipeline.on_disk import is_remote

logger = logging.getLogger(__name__)
State = TypeVar("State")
_policies = ocp.training.save_decision_policies
LAST, BEST = "checkpoints", "checkpoints_best"  # folders in a run's
NOTES = "NOTES.json"  # in a checkpoint
ORBAX_NOTES = "_CHECKPOINT_METADATA"
# What orbax writes when all else is there: the time, and that it is complete.
_LATER = (ORBAX_NOTES, "commit_success.txt")
# How the library that writes arrays begins what a file system or an object store answered.
_STATUS = re.compile(r"(?!INVALID_ARGUMENT|UNIMPLEMENTED)[A-Z]+(_[A-Z]+)*: ")


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
        self._every, self._writer, self._name = every, writer, name
        self._workdir, self._folder = workdir, place(workdir, name)
        self._saving: tuple[int, dict[str, Any]] = (0, {})  # step and notes under way
        self._noted: int | None = None
        context = ocp.Context()
        # Two folders written at once must not wait for each other's processes.
        context.multiprocessing.barrier_sync_key_prefix = name
        # A function of its own: of a bound method, orbax would call a copy's.
        context.async_options.post_finalization_callback = lambda: self._complete()
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            context=context,
            save_decision_policy=_policies.FixedIntervalPolicy(every),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            # What a killed process left half-written is removed at the next start.
            cleanup_tmp_directories=writer,
        )

    def __enter__(self) -> "Checkpoints":
        self._note()
        logging.getLogger("absl").addFilter(self._quiet)
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is not stopping.AtOnce:
                with self._failures_named():
                    self._checkpointer.close()
            if kind is None:  # else the next start does it
                self._note()
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
        with self._failures_named():
            self._checkpointer.wait()  # its end still needs the notes of the one before
        self._note()
        with self._failures_named():
            self._saving = step, copy.deepcopy(notes or {})
            self._checkpointer.save_async(step, state, force=True)

    def _complete(self) -> None:
        """Add notes and checksums to what orbax has written, before it is given its name.

        In the thread that writes, when every process has written its part; of process 0 only.
        """
        if jax.process_index() != 0:
            return
        step, notes = self._saving
        final = self._folder / str(step)
        # On an object store a checkpoint is written where it stays, and marked as complete.
        written = next(self._folder.glob(f"{step}.orbax-checkpoint-tmp*"), final)
        (written / NOTES).write_text(json.dumps(notes))
        checksums.write(written, without=_LATER)

    def _note(self) -> None:
        """Note the newest checkpoint in the workdir, once it has its name: a promise before that
        would be broken by a process that is killed in between.
        """
        newest = self.latest
        if self._writer and self._name == LAST and newest not in (None, self._noted):
            if jax.process_index() == 0:
                folder.note_saved(self._workdir, newest)
            self._noted = newest

    def notes(self, step: int) -> dict[str, Any]:
        """The notes of a checkpoint that is `whole`."""
        return json.loads((self._folder / str(step) / NOTES).read_text())

    def whole(self, step: int) -> bool:
        """Whether all of a checkpoint is as it was written; a writer moves another out of the way.

        Raises:
          OSError: it cannot be read now, which is no damage: nothing is moved.
        """
        path = self._folder / str(step)
        # One process reads for all: they see the same folder.
        problem = _damage(path) if jax.process_index() == 0 else ""
        if not processes.anywhere(bool(problem)):
            return True
        self._set_aside(step, problem or "another process found it damaged")
        return False

    def restore(self, target: State, step: int | None = None) -> State:
        """The newest whole checkpoint (or `step`'s) in the shapes and shardings of `target`.

        It may have been saved on another number of devices. A writer moves those that are damaged,
        as their checksums prove, to `FOLDER_damaged/STEP`. Any other failure to read leaves all as
        it is, and is raised.

        Raises:
          UserError: there is no such checkpoint, none is whole, or it is of another structure.
          OSError: it cannot be read now; names it.
        """
        steps = self.steps
        wanted = steps if step is None else [s for s in steps if s == step]
        for candidate in reversed(wanted):
            if self.whole(candidate):
                return self._load(candidate, target)
        if wanted:
            raise UserError(f"no checkpoint in {self._folder} is whole: tried {wanted}")
        which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise UserError(f"{which} in {self._folder}: found {steps}")

    def _load(self, step: int, target: State) -> State:
        with _told(f"{self._folder / str(step)} cannot be read"):
            found = _shapes(self._checkpointer.metadata(step).metadata)
        wanted = _shapes(target)
        if found and found != wanted:
            names = sorted(k for k in found | wanted if found.get(k) != wanted.get(k))
            raise UserError(
                f"{self._folder / str(step)} is of another structure, in {len(names)} arrays: "
                f"{names[0]} is {found.get(names[0])} there, expected {wanted.get(names[0])}"
            )
        with _told(f"{self._folder / str(step)} cannot be read"):
            return self._checkpointer.load(step, target)

    def _set_aside(self, step: int, problem: str) -> None:
        """Out of the way, but not deleted; a reader only says it."""
        path = self._folder / str(step)
        logger.warning("%s is damaged (%s)", path, problem)
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

    def _failures_named(self) -> contextlib.AbstractContextManager:
        """Of writing."""
        return _told(
            f"{self._folder}: a checkpoint cannot be written",
            "; the newest complete one stays: make room, or mend what it says, and start the same "
            "command",
        )


class Best:
    """One more checkpoint, of the step whose evaluation on the test split was the best.

    Chosen with the test split: its metrics are better than those of new pictures will be. Where no
    metric is given, or this is not a context yet, it does nothing.
    """

    def __init__(self, workdir: epath.PathLike, metric: str):
        self._metric, self._best = metric, float("-inf")
        self._checkpoints = Checkpoints(workdir, name=BEST) if metric else None
        for step in reversed(self._checkpoints.steps if self._checkpoints else []):
            if self._checkpoints and self._checkpoints.whole(step):
                self._best = self._value(step, self._checkpoints.notes(step))
                break

    def _value(self, step: int, notes: dict[str, Any]) -> float:
        """What the one that stands is worth."""
        value = notes["metrics"].get(self._metric, float("-inf"))
        if notes["metric"] != self._metric:
            logger.warning(
                "%s holds step %d, the best by %s until now: from here on the best by %s, where it "
                "has %s",
                BEST,
                step,
                notes["metric"],
                self._metric,
                value if math.isfinite(value) else "none",
            )
        return value

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
            known = {name: float(v) for name, v in metrics.items() if math.isfinite(v)}
            self._checkpoints.save(step, state, {"metric": self._metric, "metrics": known})


def place(workdir: epath.PathLike, name: str = LAST) -> epath.Path:
    """Where a run's checkpoints lie; absolute, as orbax wants it."""
    remote = is_remote(workdir)
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


def _damage(path: epath.Path) -> str:
    """What is wrong with a checkpoint, in words; '' for nothing."""
    if problem := checksums.problem(path):
        return problem
    try:
        json.loads((path / ORBAX_NOTES).read_bytes())
    except FileNotFoundError:
        return f"{ORBAX_NOTES} is missing"
    except ValueError:
        return f"{ORBAX_NOTES} is not as it was written"
    return ""


@contextlib.contextmanager
def _told(what: str, advice: str = "") -> Iterator[None]:
    """A context in which what a disk or an object store refused becomes one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError:  # of the devices or of other processes
        raise
    except Exception as error:
        if not _of_storage(error):
            raise
        raise OSError(f"{what} ({_line(error)}){advice}") from error


def _of_storage(error: BaseException | None) -> bool:
    """Whether a disk or an object store is behind an error, or one that caused it."""
    while error is not None:
        if isinstance(error, OSError) or of_store(error):
            return True
        if isinstance(error, (ValueError, RuntimeError)) and _STATUS.match(str(error)):
            return True
        error = error.__cause__
    return False


def _line(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
