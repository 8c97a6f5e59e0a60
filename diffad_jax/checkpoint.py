"""Checkpoints of a run, in `WORKDIR/checkpoints/STEP`. The only file that imports orbax."""

import copy
import os
from typing import Any, TypeVar

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from diffad_jax.train_state import TrainState

State = TypeVar("State")
_policies = ocp.training.save_decision_policies


class Checkpoints:
    """Saves in the background, keeps the newest few. A context manager: leaving waits for saves.

    Args:
      workdir: the run's folder, local or gs://.
      every: steps between checkpoints.
      keep: how many to keep.
      writer: False only reads, and leaves alone what a training process is just writing.
    """

    def __init__(
        self, workdir: epath.PathLike, every: int = 1, keep: int = 1, *, writer: bool = True
    ):
        self._every = every
        self._checkpointer = ocp.training.Checkpointer(
            folder(workdir),
            save_decision_policy=_policies.FixedIntervalPolicy(every),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            # What a killed process left half-written is removed at the next start.
            cleanup_tmp_directories=writer,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def due(self, step: int) -> bool:
        """Whether `step` is one of those that are saved anyway."""
        return step % self._every == 0

    def save(self, step: int, state: TrainState, notes: dict[str, Any] | None = None) -> None:
        """Copy the state off the devices now, write it in the background.

        `notes` (JSON) become part of the checkpoint: both are there, or neither.
        """
        if step != self.latest:
            notes = copy.deepcopy(notes)  # orbax writes them later
            self._checkpointer.save_async(step, state, force=True, custom_metadata=notes)

    def notes(self) -> dict[str, Any]:
        """The notes of the newest checkpoint."""
        return self._checkpointer.metadata().custom_metadata or {}

    def restore(self, target: State, step: int | None = None) -> State:
        """The checkpoint of `step` (the newest by default) in the shapes and shardings of `target`.

        Raises:
          ValueError: there is no such checkpoint.
        """
        steps = [checkpoint.step for checkpoint in self._checkpointer.checkpoints]
        step = self.latest if step is None else step
        if step not in steps:
            raise ValueError(
                f"no checkpoint of step {step} in {self._checkpointer.directory}: found {steps}"
            )
        return self._checkpointer.load(step, target)


def folder(workdir: epath.PathLike) -> epath.Path:
    """Where a run's checkpoints lie; absolute, as orbax wants it."""
    remote = "://" in os.fspath(workdir)
    return epath.Path(workdir if remote else os.path.abspath(workdir)) / "checkpoints"


def abstract(state, sharding: jax.sharding.Sharding):
    """Shapes and dtypes of a state (from `jax.eval_shape`) with a sharding: a restore target."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
