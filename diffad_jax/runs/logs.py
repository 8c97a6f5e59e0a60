"""Where a run's numbers go: metrics.jsonl, TensorBoard, the progress bar. First host only."""

import json
import logging
import math
import os
import tempfile
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tqdm import tqdm

from diffad_jax.runs import files
from input_pipeline.on_disk import is_remote

logger = logging.getLogger(__name__)
# What a line of metrics.jsonl says about the machine; all else follows from seed and pictures.
MACHINE = ("images_per_second", "input_wait", "mfu", "device_gib")


class Log:
    """A context manager. On a resumed run, what an earlier one logged after `step` is dropped.

    Every method raises OSError where a file cannot be written.

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
        self._step, self._total, self._batch_size = step, total_steps, batch_size
        self._told = False
        if self._active:
            self._board = _Board(epath.Path(workdir) / "tensorboard", step + 1)
            # disable=None: a bar on a terminal, plain log lines elsewhere.
            self._bar = tqdm(total=total_steps, initial=step, unit="step", disable=None)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        if self._active:
            self._bar.close()
            self._board.close()

    def train(self, step: int, metrics: dict[str, float], machine: dict[str, float]) -> None:
        """Means since the last call, and the machine's part (`profiling.Meter.window`)."""
        self._write("train", step, metrics | machine)
        if not self._active:
            return
        if not self._told:
            self._tell(step, machine["images_per_second"])
        words = {"loss": f"{metrics['loss']:.4f}"}
        words["rates"] = f"{metrics['unet_rate']:.2g}/{metrics['segmentation_rate']:.2g}"
        words["images/s"] = f"{machine['images_per_second']:.1f}"
        words["input wait"] = f"{machine['input_wait']:.0%}"
        if "mfu" in machine:
            words["MFU"] = f"{machine['mfu']:.1%}"
        if "device_gib" in machine:
            words["memory"] = f"{machine['device_gib']:.1f} GiB"
        self._bar.set_postfix(words, refresh=False)
        self._bar.update(step - self._step)
        if self._bar.disable:
            steps_per_second = machine["images_per_second"] / self._batch_size
            eta = tqdm.format_interval((self._total - step) / steps_per_second)
            text = "  ".join(f"{name} {word}" for name, word in words.items())
            logger.info("step %d/%d  %s  ETA %s", step, self._total, text, eta)
        self._step = step

    def _tell(self, step: int, images_per_second: float) -> None:
        """What is to come, once a speed was measured."""
        self._told = True
        if step < self._total:
            pictures = (self._total - step) * self._batch_size
            logger.info(
                "%d steps to go, %d pictures: %s at %.1f pictures/s, and the evaluations",
                self._total - step,
                pictures,
                tqdm.format_interval(pictures / images_per_second),
                images_per_second,
            )

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of the test split at `step`."""
        self._write("eval", step, metrics)

    def evaluated(self, step: int) -> dict[str, float] | None:
        """What `evaluation` was given at `step`, by an earlier process too; None: nothing."""
        about = {"kind": "eval", "step": step}
        for values in map(json.loads, self._lines):
            if about.items() <= values.items():
                numbers = {k: v for k, v in values.items() if k not in {*about, "total_steps"}}
                return {k: math.nan if v is None else v for k, v in numbers.items()}
        return None

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """A picture for TensorBoard."""
        if self._active:
            self._board.add(step, [summary.image(name, picture, dataformats="HWC")])

    def _write(self, kind: str, step: int, values: dict[str, float]) -> None:
        if not self._active:
            return
        finite = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        head = {"kind": kind, "step": step, "total_steps": self._total}
        line = json.dumps(head | finite)
        # An evaluation done again after a resume takes the place of the earlier one.
        same = json.dumps({"kind": kind, "step": step})[:-1] + ","
        self._lines = [old for old in self._lines if not old.startswith(same)] + [line]
        # Rewritten whole, because object stores cannot append.
        files.write(self._path, "\n".join(self._lines) + "\n")
        self._board.add(
            step, [summary.scalar(f"{kind}/{k}", v) for k, v in finite.items() if v is not None]
        )


class _Board:
    """TensorBoard's file, written in this thread, so that an error reaches the run.

    (`SummaryWriter` has one of its own, which dies on a full disk and leaves the run waiting.)
    """

    def __init__(self, folder: epath.Path, first_step: int):
        self._folder = folder
        # An object store cannot append: written here, the file is copied as a whole, by the client
        # of all other files. (tensorboardX's own takes an upload that it had to repeat for lost.)
        self._here = tempfile.TemporaryDirectory() if is_remote(folder) else None
        with files.named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            place = self._here.name if self._here else folder
            self._writer = EventsWriter(os.path.join(place, "events"))
        # What an earlier process wrote from here on is hidden.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._event(event_pb2.Event(step=first_step, session_log=start))

    def add(self, step: int, summaries: list) -> None:
        for one in summaries:
            self._event(event_pb2.Event(step=step, summary=one))
        with files.named(self._folder):
            self._writer.flush()
        self._copy()

    def close(self) -> None:
        try:
            with files.named(self._folder):
                self._writer.close()
            self._copy()
        finally:
            if self._here:
                self._here.cleanup()

    def _copy(self) -> None:
        for path in epath.Path(self._here.name).iterdir() if self._here else ():
            files.write(self._folder / path.name, path.read_bytes())

    def _event(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        with files.named(self._folder):
            self._writer.write_event(event)


def rows(path: epath.PathLike) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a metrics.jsonl, each with what it says; damaged ones are left out."""
    path = epath.Path(path)
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            kept = {"kind": str(row["kind"]), "step": int(row["step"])}
            found.append((line.decode(), row | kept))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _lines_until(path: epath.Path, step: int) -> list[str]:
    """Lines of an earlier run up to and including `step`."""
    known = rows(path)
    count = len(path.read_bytes().splitlines()) if path.exists() else 0
    if len(known) < count:
        logger.warning("%s: %d damaged lines are left out", path, count - len(known))
    return [line for line, row in known if row["step"] <= step]
