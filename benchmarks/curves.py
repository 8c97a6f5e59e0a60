"""What `benchmarks.recipe` left, over time: a table of minutes and measures, or a chart of steps.

    python -m benchmarks.curves --out runs/recipe --arms paper,recipe --seeds 0,1 \
        --categories data/mvtec/bottle --chart docs/recipe.svg
    python -m benchmarks.curves --out runs/gpu --arms recipe --categories data/mvtec/bottle \
        --append benchmarks/RESULTS.md

The chart has a panel a measure and a line an arm: the mean over all runs, at the steps at which
each of them was judged. The table has a row for each time that a run was judged; minutes are those
of training, without compilation and evaluations.
"""

import datetime
import pathlib
import platform
import statistics
import sys
from collections.abc import Iterator, Sequence

import jax
from absl import app, flags
from matplotlib.figure import Figure

from benchmarks.recipe import COLUMNS, Run, judged, runs

SHOWN = ("image_auroc", "pixel_ap", "aupro_30")


def timeline(run: Run) -> Iterator[tuple[float, dict]]:
    """(minutes of training, measures) for each time that the run was judged."""
    history = run.history()
    for seconds, line in judged(history, run.batch) if history else ():
        yield seconds / 60, line


def means(every: Sequence[Run], metric: str) -> list[tuple[int, float]]:
    """(step, mean of the measure over the runs) where every run was judged."""
    values = [
        {line["step"]: line[metric] for _, line in timeline(run) if line.get(metric) is not None}
        for run in every
    ]
    steps = sorted(set.intersection(*map(set, values))) if values else []
    return [(step, statistics.mean(one[step] for one in values)) for step in steps]


def chart(every: Sequence[Run]) -> Figure:
    """A panel a measure, a line an arm."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharex=True)
    for panel, metric in zip(panels, SHOWN, strict=True):
        for arm in dict.fromkeys(run.arm for run in every):
            points = means([run for run in every if run.arm == arm], metric)
            if points:
                panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=arm)
        panel.set(title=COLUMNS[metric], xlabel="step")
        panel.grid(visible=True, alpha=0.3)
    panels[0].legend(title=", ".join(dict.fromkeys(run.category.name for run in every)))
    return figure


def table(every: Sequence[Run]) -> str:
    """Markdown: minutes and measures of every run."""
    rows = [["run", "minutes", "step", *COLUMNS.values()]]
    rows.append(["---"] * len(rows[0]))
    for run in every:
        for minutes, line in timeline(run):
            cells = ["" if line.get(key) is None else f"{line[key]:.3f}" for key in COLUMNS]
            name = f"{run.arm}, {run.category.name}, seed {run.seed}"
            rows.append([name, f"{minutes:.1f}", str(line["step"]), *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(argv: Sequence[str]) -> None:
    """Write what was asked for."""
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    given = flags.FLAGS
    every = runs(given.arms, given.categories, given.seeds, given.out)
    if not any(list(timeline(run)) for run in every):
        sys.exit(f"no run under {given.out} was judged yet")
    if given.chart:
        chart(every).savefig(given.chart, metadata={"Date": None})
    text = table(every)
    print(text)
    if given.append:
        device = jax.devices()[0]
        head = f"{datetime.date.today()}, {len(jax.devices())} x {device.device_kind}"
        with open(given.append, "a") as file:
            file.write(f"\n## `{pathlib.Path(given.out).name}`: {head}, {platform.machine()}\n\n")
            file.write(f"{text}\n")


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "The folder of all runs.", required=True)
    flags.DEFINE_list("arms", [], "As for benchmarks.recipe.")
    flags.DEFINE_list("categories", None, "As for benchmarks.recipe.", required=True)
    flags.DEFINE_list("seeds", ["0"], "As for benchmarks.recipe.")
    flags.DEFINE_string("chart", "", "The SVG or PNG file to write.")
    flags.DEFINE_string("append", "", "The Markdown file that gets the table, with the machine.")
    app.run(main)
