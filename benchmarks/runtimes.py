"""Who judges faster: this program's compiled step, or its export by ONNX Runtime or OpenVINO.

python -m benchmarks.runtimes --workdir runs/bottle --batches 1,8 [--bundle bottle_model]

All in one process, by turns, on the CPU: what else the machine does strikes all of them. A row for
each batch size: median and 95th percentile of a batch in ms, and pictures a second. JAX is measured
twice, with XLA's own convolutions as this program compiles it, and with what XLA takes by default.
OpenVINO is measured where it is installed (`pip install openvino`).
"""

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from unittest import mock

import numpy as np
from absl import app, flags

from diffad_jax import export
from diffad_jax.exporting import bundle, runtime
from diffad_jax.method import jitted
from diffad_jax.predicting import loading

Judged = Callable[[np.ndarray], object]


def openvino(graph: pathlib.Path) -> Judged | None:
    """The same graph by OpenVINO; None where that is not installed."""
    try:
        import openvino as ov
    except ImportError:
        return None
    core = ov.Core()
    compiled = core.compile_model(core.read_model(os.fspath(graph)), "CPU")
    return lambda images: compiled({"picture": images})["score"]


def by_turns(
    ways: Mapping[str, Judged], images: np.ndarray, count: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, seconds f64[count]) of each: a batch of each by turns, after two that warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count + 2):
        for name, judge in ways.items():
            start = time.perf_counter()
            judge(images)
            seconds[name].append(time.perf_counter() - start)
    yield from ((name, np.array(all_of_them[2:])) for name, all_of_them in seconds.items())


def table(ways: Mapping[str, Judged], size: int, batches: Sequence[int], count: int) -> str:
    """Markdown: a row for each way and batch size."""
    lines = [
        "| batch | by | median, ms | P95, ms | pictures/s | to JAX |",
        "|---|---|---|---|---|---|",
    ]
    generator = np.random.default_rng(0)
    for batch in batches:
        images = generator.integers(0, 256, (batch, size, size, 3), np.uint8)
        measured = dict(by_turns(ways, images, count))
        first = np.median(next(iter(measured.values())))
        for name, seconds in measured.items():
            median, high = np.percentile(seconds, [50, 95])
            cells = f"{1e3 * median:.1f} | {1e3 * high:.1f} | {batch / median:.1f}"
            lines.append(f"| {batch} | {name} | {cells} | {first / median:.2f} |")
    return "\n".join(lines)


def main(_: Sequence[str]) -> None:
    """Load, export where no bundle is given, measure, print."""
    given = flags.FLAGS
    model, _ = loading.restored(given.workdir, None, {})
    with mock.patch.object(jitted, "compiler_options", lambda *_: None):
        plain, _ = loading.restored(given.workdir, None, {})
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(given.bundle or stack.enter_context(tempfile.TemporaryDirectory()))
        if not given.bundle:
            export.run(given.workdir, folder / "bundle")
            folder = folder / "bundle"
        exported = runtime.Runtime(folder)
        ways: dict[str, Judged] = {
            "JAX": lambda images: model.batch(images, len(images)),
            "JAX, XLA's default": lambda images: plain.batch(images, len(images)),
            "ONNX Runtime": exported.batch,
        }
        other = openvino(folder / bundle.GRAPH)
        if other is not None:
            ways["OpenVINO"] = other
        size = model.config.model.image_size
        print(table(ways, size, [int(batch) for batch in given.batches], given.count))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "An evaluated run.", required=True)
    flags.DEFINE_string("bundle", None, "Its bundle; default: made for this.")
    flags.DEFINE_list("batches", ["1", "8"], "Pictures at a time.")
    flags.DEFINE_integer("count", 20, "Batches of each that count.", lower_bound=1)
    app.run(main)
