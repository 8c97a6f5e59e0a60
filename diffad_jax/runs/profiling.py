"""What a step costs and what holds it up: memory, FLOPs, waiting for input, profiler traces."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from configs.errors import UserError
from configs.schema import Config

logger = logging.getLogger(__name__)
GIB = 2**30
IN_FLIGHT = 2  # steps the host runs ahead of the devices; each holds a batch in their memory
INPUT_BOUND = 0.05  # of the time; devices that wait longer for pictures are held up by them

# FLOP/s of one JAX device in bfloat16 without sparsity, by the makers' data sheets. A TPU v2, v3 or
# 7x chip is two devices. Names as `device_kind` begins; the longest that fits counts.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A10": 125e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165e12,
}


def peak_flops(device_kind: str) -> float | None:
    """FLOP/s of a device in bfloat16, whatever a run computes in; None where it is not known."""
    words = f"{device_kind} ".replace("-", " ")
    known = [name for name in PEAK_FLOPS if words.startswith(f"{name} ")]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def step_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Most memory that a compiled step takes of a device, its arguments included; None: unknown."""
    sizes = compiled.memory_analysis()
    if sizes is None:
        return None
    return (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.generated_code_size_in_bytes
    )


def report_memory(needed: int | None, limit: int | None, config: Config) -> None:
    """Say what a step will take of each device (bytes), and what helps where that is too much."""
    if needed is None:
        return
    if limit is None:
        logger.info("a step takes %.2f GiB of each device", needed / GIB)
    elif needed <= limit:
        logger.info("a step takes %.2f of %.2f GiB of each device", needed / GIB, limit / GIB)
    else:
        logger.warning(
            "a step takes %.2f GiB of each device, which has %.2f: it will hardly fit; %s",
            needed / GIB,
            limit / GIB,
            advice(config),
        )


def advice(config: Config) -> str:
    """Which keys make a step smaller, the one that costs least first."""
    train, model = config.train, config.model
    ways = []
    if model.compute_dtype != "bfloat16":
        ways.append("model.compute_dtype=bfloat16")
    lighter = {"none": "norms", "norms": "blocks"}.get(model.remat)
    if lighter:
        ways.append(f"model.remat={lighter}")
    if train.batch_size > train.accumulation_steps:
        ways.append(f"train.accumulation_steps={2 * train.accumulation_steps}")
        ways.append(f"a train.batch_size below {train.batch_size}")
    ways.append("more devices")
    return f"try {', '.join(ways)}"


def scoring_advice(size: int) -> str:
    """What makes scoring in batches of `size` take less memory."""
    smaller = [f"an evaluate.batch_size below {size}"] if size > 1 else []
    return f"try {', '.join([*smaller, 'model.compute_dtype=bfloat16', 'more devices'])}"


@contextlib.contextmanager
def fitting(helps: str) -> Iterator[None]:
    """A context in which running out of device memory is a UserError that says what `helps`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        line = " ".join(str(error).split())[:200]
        raise UserError(f"out of device memory: {helps} ({line})") from error


def memory_stats(name: str) -> int | None:
    """The largest value of `device.memory_stats()[name]` (bytes) of this host; None: unknown."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    values = [s[name] for s in stats if name in s]
    return max(values) if values else None


@dataclasses.dataclass
class _Step:
    """Times (s, monotonic) at which a batch was asked for and there, and the step's end."""

    asked: float
    there: float
    before: concurrent.futures.Future | None  # the end of the step before
    end: concurrent.futures.Future

    def idle(self) -> float:
        """Seconds in which the devices had nothing to do because the batch was not there."""
        free = self.asked if self.before is None else max(self.asked, self.before.result())
        return max(0.0, self.there - free)


class Meter:
    """Speed of training, and how much of the time the devices wait for batches.

    The host prepares the next step while the devices compute, so the time it waits for a batch says
    nothing by itself. A thread therefore notes when each step ends. A context manager.

    Args:
      step: the step training starts from.
      batch_size: pictures a step.
      mesh: the devices.
      flops: of a step on all devices; None: no MFU.
    """

    def __init__(self, step: int, batch_size: int, mesh: Mesh, flops: float | None):
        peak = peak_flops(mesh.devices.flat[0].device_kind)
        self._batch_size = batch_size
        self._share_of_peak = flops / (peak * mesh.size) if flops and peak else None
        self._watcher = concurrent.futures.ThreadPoolExecutor(1, "step-end")
        self._steps: list[_Step] = []  # of the window
        self._running: collections.deque[concurrent.futures.Future] = collections.deque()
        self._step, self._began = step, time.monotonic()
        self._waited = self._worked = 0.0  # s, of the windows so far

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_) -> None:
        self._watcher.shutdown(wait=False)

    def fetch(self, batches: Iterator[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """The next batch; waits until at most IN_FLIGHT steps are under way."""
        while len(self._running) >= IN_FLIGHT:
            self._running.popleft().result()
        self._asked = time.monotonic()
        batch = next(batches)
        self._there = time.monotonic()
        return batch

    def started(self, metrics: Mapping[str, jax.Array]) -> None:
        """A step was handed to the devices; its metrics are there when it ends."""
        before = self._steps[-1].end if self._steps else None
        end = self._watcher.submit(_end, metrics["loss"])
        self._steps.append(_Step(self._asked, self._there, before, end))
        self._running.append(end)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context that does not count as training time."""
        while self._running:
            self._running.popleft().result()
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def window(self, step: int) -> dict[str, float]:
        """Speed since the last call, at the step just finished.

        images_per_second; input_wait: share of the time in [0, 1]; where they are known mfu: share
        of the devices' bfloat16 peak, and device_gib: the most memory of a device ever in use.
        """
        waited = sum(s.idle() for s in self._steps)
        now = time.monotonic()
        seconds, steps = max(now - self._began, 1e-9), step - self._step
        self._waited, self._worked = self._waited + waited, self._worked + seconds
        self._steps, self._step, self._began = [], step, now
        values = {
            "images_per_second": steps * self._batch_size / seconds,
            "input_wait": min(waited / seconds, 1.0),
        }
        if self._share_of_peak:
            values["mfu"] = self._share_of_peak * steps / seconds
        used = memory_stats("peak_bytes_in_use")
        return values if used is None else values | {"device_gib": used / GIB}

    def verdict(self) -> str:
        """What a faster run would need."""
        share = self._waited / max(self._worked, 1e-9)
        if share > INPUT_BOUND:
            return (
                f"bound by input: the devices waited {share:.0%} of the time for pictures; "
                "more CPU cores would make it faster"
            )
        return f"bound by the devices: they waited {share:.1%} of the time for pictures"


class Trace:
    """A profiler trace of some steps, in WORKDIR/profile, of the first host. A context manager.

    Args:
      workdir: the run's folder.
      steps: the first and the last step (from 1) to trace, or empty.
    """

    def __init__(self, workdir: epath.PathLike, steps: tuple[int, ...]):
        wanted = steps and jax.process_index() == 0
        self._first, self._last = steps if wanted else (-1, -1)
        self._folder = epath.Path(workdir) / "profile"
        self._active = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_) -> None:
        if self._active:
            jax.profiler.stop_trace()
            logger.info("trace: %s (XProf or Perfetto show it)", self._folder)
        self._active = False

    def before(self, step: int) -> None:
        """Start where `step` is the first one wanted."""
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._active = True

    def after(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Stop where `step` is the last one wanted, when the devices have finished it."""
        if self._active and step == self._last:
            jax.block_until_ready(metrics)
            self.__exit__()


def _end(result: jax.Array) -> float:
    """When an array is there (s, monotonic)."""
    jax.block_until_ready(result)
    return time.monotonic()
