"""What the step benchmarks share: one child process a row, and the table of all rows.

Every row is measured by a process of its own, because peak memory counts from a process's start,
and because JAX and PyTorch would share a GPU's memory badly.
"""

import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from benchmarks.compiled import breakdown
from configs import schema
from diffad_jax.method import jitted
from diffad_jax.runs import processes, profiling

# Words of a variant, such as "bfloat16+norms": the configuration changes they stand for.
WORDS = {
    "float32": {"compute_dtype": "float32"},  # on GPUs the products of a float32 run are TF32
    "bfloat16": {"compute_dtype": "bfloat16"},
    "norms": {"remat": "norms"},
    "blocks": {"remat": "blocks"},
    "cudnn": {"attention": "cudnn"},
    "highest": {},  # products in full float32, where the others may be TF32
    "ynnpack": {},  # on CPUs: convolutions by YNNPACK, as XLA has it by default
    "malloc": {},  # on CPUs: memory goes back to the system, as glibc has it by default
}
COLUMNS = {
    "framework": "framework",
    "variant": "variant",
    "batch_size": "batch",
    "step_ms": "ms",
    "images_per_s": "images/s",
    "mfu": "MFU",
    "peak_gib": "peak GiB",
    "compile_s": "compile s",
    "error": "",
}


def define_flags(variants: str, batches: str) -> None:
    """Flags of a sweep; --config must be given."""
    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.mark_flags_as_required(["config"])
    flags.DEFINE_list("variants", variants, f"Words joined by +: {' '.join(WORDS)}.")
    flags.DEFINE_list("batches", batches, "Batch sizes.")
    flags.DEFINE_list("torch", "", "Also PyTorch: eager (as the authors run), best. Needs torch.")
    flags.DEFINE_integer("steps", 5, "Timed steps of each row.", lower_bound=1)
    flags.DEFINE_bool("breakdown", False, "Also say where our steps' time goes, by a trace.")
    flags.DEFINE_string("row", "", "Measure this variant only, in this process (used inside).")


def main(module: str, task: str, row: Callable[[schema.Config, int], dict]) -> None:
    """Print one row (`--row`), or measure all."""
    if flags.FLAGS.row:
        if "malloc" not in flags.FLAGS.row.split("+"):
            processes.keep_memory()
        config = configured(flags.FLAGS.config, flags.FLAGS.row)
        print(json.dumps(row(config, flags.FLAGS.steps)))
    else:
        run(module, task)


def run(module: str, task: str) -> None:
    """Measure every variant at every batch size; print each row, then the table."""
    stop_children_too()
    given, rows = flags.FLAGS, []
    for batch in given.batches:
        common = [
            *config_arguments(),
            f"--config.train.batch_size={batch}",
            f"--steps={given.steps}",
        ]
        for variant in given.variants:
            arguments = [f"--row={variant}", f"--breakdown={given.breakdown}", *common]
            rows.append(child(module, arguments, "jax", variant, batch))
        for mode in given.torch:
            arguments = [f"--task={task}", f"--mode={mode}", *common]
            rows.append(child("benchmarks.torch_peer", arguments, "torch", mode, batch))
    for row in rows:
        known = [r for r in rows if "flops" in r and r["batch_size"] == row["batch_size"]]
        if known and "step_ms" in row:
            speed = known[0]["flops"] / (row["step_ms"] / 1e3)
            row["mfu"] = round(speed / known[0]["peak_flops"], 3)
    print(table(rows))
    for row in rows:
        if "breakdown" in row:
            print(f"\n{row['variant']}, batch {row['batch_size']}:\n")
            print(breakdown.table(row["breakdown"]))


def config_arguments() -> Iterator[str]:
    """The words of this process's command line that belong to --config."""
    for word, following in zip(sys.argv[1:], [*sys.argv[2:], ""], strict=True):
        if word == "--config":
            yield f"--config={following}"
        elif word.startswith("--config"):
            yield word


def child(module: str, arguments: list[str], framework: str, variant: str, batch: str) -> dict:
    """The row that a child process prints as its last line."""
    row = {"framework": framework, "variant": variant, "batch_size": int(batch)}
    row |= printed_row([sys.executable, "-m", module, *arguments])
    print(json.dumps(row), flush=True)
    return row


def printed_row(command: Sequence[str], seconds: float | None = None) -> dict:
    """What a command prints as its last line, or {"error": why it did not}."""
    printed, error = outcome(command, seconds)
    if error:
        return {"error": error}
    try:
        return json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"it printed no row: {printed[-100:]!r}"}


def outcome(command: Sequence[str], seconds: float | None = None) -> tuple[str, str]:
    """What a command prints, and in one line why it failed; "" where it did not.

    After `seconds` it is killed, with all that it has started.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, told = process.communicate(timeout=seconds)
    except BaseException as error:  # an interrupted sweep leaves no child behind, either
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return "", f"stopped after {seconds:.0f} s"
    return printed, failure(told, process.returncode) if process.returncode else ""


def stop_children_too() -> None:
    """Let SIGTERM end `outcome` as Ctrl-C does: a child has a session of its own, and goes on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def failure(told: str, status: int) -> str:
    """The line that says what went wrong, of what a process wrote to standard error.

    Not always the last: JAX's tracebacks end in a note on how to see more of them.
    """
    if status == -signal.SIGKILL:
        return "killed: out of memory?"
    if re.search("RESOURCE_EXHAUSTED|out of memory|std::bad_alloc|MemoryError", told, re.I):
        return "out of memory"
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [
        line for line in lines if re.match(r"(error|[\w.]*(Error|Exception|Interrupt)):", line)
    ]
    return (errors or lines or [f"exit status {status}"])[-1].replace("|", "/")[:200]


def table(rows: list[dict]) -> str:
    """Rows as Markdown."""
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    lines += [[str(row.get(key, "")) for key in COLUMNS] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def configured(config, variant: str) -> schema.Config:
    """The configuration with the changes of a variant."""
    for word in variant.split("+"):
        if word not in WORDS:
            raise ValueError(f"unknown word {word!r} in variant {variant!r}: {' '.join(WORDS)}")
        config.model.update(WORDS[word])
        if word == "highest":
            jax.config.update("jax_default_matmul_precision", "highest")
        if word == "ynnpack":
            jitted.STEPS.clear()
    return schema.parse(config)


def measure(function: Callable[[], object], steps: int) -> dict[str, float]:
    """Milliseconds of a call: the median of `steps`, after one that is not counted."""
    function()
    seconds = [timed(function)[1] for _ in range(steps)]
    return {
        "step_ms": round(1e3 * statistics.median(seconds), 2),
        "fastest_ms": round(1e3 * min(seconds), 2),
        "slowest_ms": round(1e3 * max(seconds), 2),
    }


def profiled(compiled: jax.stages.Compiled, step: Callable[[], object]) -> dict[str, dict]:
    """Where the step's time goes, if that is asked for."""
    return {"breakdown": breakdown.measure(compiled, step)} if flags.FLAGS.breakdown else {}


def timed(function: Callable[[], object]) -> tuple[object, float]:
    """The function's result and how many seconds it took."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def peak_flops() -> float:
    """FLOP/s that a large bfloat16 matrix product reaches on all devices; float32 on a CPU."""
    cpu = jax.default_backend() == "cpu"
    n, repeats = (2048, 3) if cpu else (8192, 20)
    x = jax.random.normal(jax.random.key(0), (n, n), jnp.float32 if cpu else jnp.bfloat16)
    product = jax.jit(jnp.dot)
    product(x, x).block_until_ready()
    best = min(timed(lambda: product(x, x).block_until_ready())[1] for _ in range(repeats))
    return 2 * n**3 / best * jax.device_count()


def peak_gib() -> float:
    """Most memory in use so far: of a device where it keeps count, else of the process."""
    device = profiling.memory_stats("peak_bytes_in_use")
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return round((device or process) / 2**30, 2)


def random_batch(config: schema.Config) -> dict[str, np.ndarray]:
    """A batch of noise pictures; every other one anomalous."""
    generator, size = np.random.default_rng(0), config.model.image_size
    count = config.train.batch_size
    label = (np.arange(count) % 2).astype(np.float32)
    mask = (generator.random((count, size, size, 1)) > 0.9).astype(np.float32)
    image = generator.random((count, size, size, 3), np.float32)
    return {
        "image": image,
        **({"clean": image} if config.loss.target == "clean" else {}),
        "mask": mask * label[:, None, None, None],
        "label": label,
    }
