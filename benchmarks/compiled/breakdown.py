"""Where a step's time goes, from a profiler trace: convolutions, norms, attention, idle gaps."""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator

import jax

from benchmarks.compiled import hlo

IDLE = "nothing runs"
UNKNOWN = "not in the program"  # copies between host and device, kernels without an instruction
STEPS = 3


def measure(compiled: jax.stages.Compiled, step: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of each kind of instruction in one call of `step`, of one device.

    Work that overlaps counts fully for each, so on a CPU, where several instructions run at a time,
    the sum is above the step's time. `IDLE` is the time between the first and the last instruction
    of all steps in which none runs: the gaps between launches, and waiting for the host.

    Args:
      compiled: the program that `step` runs.
      step: runs it once, to the end.
    """
    program = hlo.parse(compiled.as_text())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                step()
        (trace,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(trace))
    devices = list(lines(profile.planes))
    total, per_device = totals(program, devices), STEPS * len(devices)
    return {kind: round(ns / 1e6 / per_device, 2) for kind, ns in total.most_common()}


def lines(planes: Iterable) -> Iterator[tuple[bool, list[list]]]:
    """Per device: whether all of its events are its own work, and the events of each line."""
    planes = list(planes)
    # Others that begin alike are not a device's own work.
    devices = [plane for plane in planes if re.fullmatch(r"/device:(GPU|TPU):\d+", plane.name)]
    for plane in devices or [plane for plane in planes if plane.name == "/host:CPU"]:
        # A TPU's plane has lines that repeat its operations by step and by program.
        everything = [(line.name, list(line.events)) for line in plane.lines]
        wanted = [events for name, events in everything if name == "XLA Ops"]
        wanted = wanted or [events for name, events in everything if "Stream" in name]
        yield bool(devices), wanted or [events for name, events in everything if "XLA" in name]


def totals(
    program: hlo.Program, devices: Iterable[tuple[bool, list[list]]]
) -> collections.Counter[str]:
    """Nanoseconds by kind, of all devices together."""
    instructions = {i.name: i for body in program.computations.values() for i in body}
    kinds = {name: program.kind(i) for name, i in instructions.items()}
    total = collections.Counter()
    for own, events_of_lines in devices:
        intervals = []
        for event in (event for events in events_of_lines for event in events):
            name = instruction_name(event)
            if name not in kinds and not own:
                continue  # what else the process does on its threads
            if name in kinds and instructions[name].opcode in hlo.CONTAINERS:
                continue
            total[kinds.get(name, UNKNOWN)] += event.duration_ns
            intervals.append((event.start_ns, event.start_ns + event.duration_ns))
        total[IDLE] += idle(intervals)
    return total


def instruction_name(event) -> str:
    """The instruction that an event belongs to: GPUs note it, TPUs write its whole line."""
    noted = [str(value) for key, value in event.stats if key == "hlo_op"]
    return (noted or [event.name])[0].split(" = ")[0].lstrip("%")


def idle(intervals: list[tuple[float, float]]) -> float:
    """How much of the span from the first start to the last end no interval covers."""
    gaps, reached = 0.0, None
    for start, end in sorted(intervals):
        if reached is not None and start > reached:
            gaps += start - reached
        reached = end if reached is None else max(reached, end)
    return gaps


def table(parts: dict[str, float]) -> str:
    """Milliseconds and shares of their sum as Markdown."""
    rows = ["| part of the step | ms | share |", "|---|---|---|"]
    rows += [f"| {kind} | {ms} | {ms / sum(parts.values()):.1%} |" for kind, ms in parts.items()]
    return "\n".join(rows)
