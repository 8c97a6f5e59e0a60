"""Rows as one Markdown section for RESULTS.md."""

from collections.abc import Iterator, Sequence

from benchmarks import recipe, sweep
from benchmarks.compiled import breakdown
from benchmarks.device.budget import Row
from benchmarks.device.parts import Part

Rows = Sequence[Row]
TRAINED = {
    "step": "step",
    "loss": "loss",
    "images_per_second": "images/s",
    "input_wait": "input wait",
    "mfu": "MFU of the data sheet",
    "device_gib": "peak GiB",
}


def text(rows: Rows, command: str, date: str, seconds: float) -> str:
    """The section."""
    every = {table: [(p, row) for p, row in rows if p.table == table] for table in tables(rows)}
    machine = next((row for _, row in every.get("machine", ()) if row), {})
    blocks = [
        f"## {machine.get('device', 'Unknown device')}, {date}",
        f"    {command}",
        f"{seconds:.0f} s. {about(machine)}",
        *products(machine),
    ]
    for task in ("training", "inference"):
        begun = [as_row(p, row) for p, row in every.get(task, ()) if row is not None]
        if begun:
            share_of_peak(begun, machine.get("flops", {}))
            blocks += [f"### {task.capitalize()}", sweep.table(begun), *traces(task, begun)]
    blocks += [block for _, row in every.get("recipe", ()) if row for block in trained(row)]
    missed = [part.name for part, row in rows if row is None]
    if missed:
        blocks.append(f"Not run, for want of time: {', '.join(missed)}.")
    return "\n\n".join(blocks) + "\n"


def tables(rows: Rows) -> list[str]:
    """In the order in which they come."""
    return list(dict.fromkeys(part.table for part, _ in rows))


def about(machine: dict) -> str:
    """Driver, versions, host."""
    if "error" in machine or not machine:
        return f"The machine could not be asked: {machine.get('error', 'no time')}."
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    driver = f"NVIDIA driver {machine['driver']}; " if machine["driver"] else ""
    return f"{driver}{machine['platform_version']}; {versions}; {machine['host']}."


def products(machine: dict) -> Iterator[str]:
    """What matrix products reach, the peak that MFU refers to."""
    if "flops" not in machine:
        return
    sheet, n = machine["data_sheet_flops"], machine["n"]
    known = f"; the data sheet says {sheet / 1e12:.0f} of a device in bfloat16" if sheet else ""
    yield f"Products of {n} x {n} matrices, TFLOP/s of all devices{known}:"
    lines = ["| operands | TFLOP/s |", "|---|---|"]
    lines += [f"| {name} | {flops / 1e12:.3g} |" for name, flops in machine["flops"].items()]
    yield "\n".join(lines)


def as_row(part: Part, row: dict) -> dict:
    """A row of `sweep.table`."""
    return {"framework": part.framework, "variant": part.variant, "batch_size": part.batch} | row


def share_of_peak(rows: Sequence[dict], peaks: dict[str, float]) -> None:
    """Add MFU: FLOPs of the step over its time, and over a matrix product's in the same type.

    PyTorch's step has the FLOPs of ours.
    """
    for row in rows:
        same = (r["flops"] for r in rows if "flops" in r and r["batch_size"] == row["batch_size"])
        flops = next(same, None)
        narrow = row["variant"].startswith("bfloat16") or row["variant"] == "best"
        peak = peaks.get("bfloat16" if narrow else "float32")
        if flops and peak and "step_ms" in row:
            row["mfu"] = round(flops / (row["step_ms"] / 1e3) / peak, 3)


def traces(task: str, rows: Sequence[dict]) -> Iterator[str]:
    """Where the time of a step goes."""
    for row in rows:
        if "breakdown" in row:
            yield f"Where the time goes: {task}, {row['variant']}, batch {row['batch_size']}:"
            yield breakdown.table(row["breakdown"])


def trained(row: dict) -> Iterator[str]:
    """The recipe's run: its speed and waiting for input, step by step, and its measures."""
    yield "### The recipe, cut short"
    if "error" in row:
        yield f"It failed: {row['error']}."
    lines = [line for line in row.get("history", ()) if line["kind"] == "train"]
    if lines:
        shown = [key for key in TRAINED if any(key in line for line in lines)]
        cells = [[f"{line[key]:.4g}" if key in line else "" for key in shown] for line in lines]
        head = [[TRAINED[key] for key in shown], ["---"] * len(shown)]
        yield "\n".join("| " + " | ".join(line) + " |" for line in (*head, *cells))
    for line in row.get("history", ()):
        if line["kind"] == "eval":
            known = {key: name for key, name in recipe.COLUMNS.items() if line.get(key) is not None}
            measures = ", ".join(f"{name} {line[key]:.3f}" for key, name in known.items())
            yield f"After step {line['step']}: {measures}."
