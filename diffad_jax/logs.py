"""Where a run's numbers go: metrics.jsonl, TensorBoard, the progress bar. First host only."""

import json
import logging
import math
import time

import jax
import numpy as np
import tensorboardX
from etils import epath
from jaxtyping import UInt8
from tqdm import tqdm

from diffad_jax import workdir as workdirs

logger = logging.getLogger(__name__)


class Log:
    """A context manager. On a resumed run, what an earlier one logged after `step` is dropped.

    Args:
      workdir: the run's folder.
      step: the step training starts from.
      total_steps: where it ends.
      batch_size: pictures a step.
    """

    def __init__(self, workdir: epath.PathLike, step: int, total_steps: int, batch_size: int):
        self._active = jax.process_index() == 0
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._lines = _lines_until(self._path, step)
        self._batch_size, self._total = batch_size, total_steps
        self._step, self._time = step, time.monotonic()
        self._board = self._bar = None
        if self._active:
            board = epath.Path(workdir) / "tensorboard"
            self._board = tensorboardX.SummaryWriter(str(board), purge_step=step + 1)
            # disable=None: a bar on a terminal, plain log lines elsewhere.
            self._bar = tqdm(total=total_steps, initial=step, unit="step", disable=None)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        if self._active:
            self._bar.close()
            self._board.close()

    def pause(self) -> None:
        """Start the clock of the next `train` call now: what came before is not training time."""
        self._time = time.monotonic()

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Means since the last call, at the step just finished, with speed and time to go."""
        now = time.monotonic()
        speed = (step - self._step) / max(now - self._time, 1e-9)
        images = speed * self._batch_size
        self._write("train", step, metrics | {"images_per_second": images})
        if self._active:
            self._bar.set_postfix(
                {"loss": f"{metrics['loss']:.4f}", "images/s": f"{images:.1f}"}, refresh=False
            )
            self._bar.update(step - self._step)
            if self._bar.disable:
                eta = tqdm.format_interval((self._total - step) / speed)
                logger.info(
                    "step %d/%d  loss %.4f  %.1f images/s  ETA %s",
                    *(step, self._total, metrics["loss"], images, eta),
                )
        self._step, self._time = step, now

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of the test split at `step`."""
        self._write("eval", step, metrics)

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """A picture for TensorBoard."""
        if self._active:
            self._board.add_image(name, picture, step, dataformats="HWC")

    def _write(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        if not self._active:
            return
        finite = {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}
        line = json.dumps({"kind": kind, "step": step} | finite)
        # An evaluation done again after a resume takes the place of the earlier one.
        same = json.dumps({"kind": kind, "step": step})[:-1] + ","
        self._lines = [old for old in self._lines if not old.startswith(same)] + [line]
        # Rewritten whole, because object stores cannot append.
        workdirs.write(self._path, "\n".join(self._lines) + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)


def _lines_until(path: epath.Path, step: int) -> list[str]:
    """Lines of an earlier run up to and including `step`."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if json.loads(line)["step"] <= step]
