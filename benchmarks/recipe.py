"""Which way of training learns fastest: arms x categories x seeds, one run after another.

python -m benchmarks.recipe --out runs/recipe --config configs/small.py --config.train.steps=250 \
    --arms paper,recipe --categories data/mvtec/bottle,data/mvtec/grid --seeds 0,1 \
    --config.data.textures=data/dtd/images

An arm is a name of `ARMS`, or one made up here: `NAME:model.prediction=epsilon:train.ema_decay=0`.
Each run is a child process in OUT/ARM/CATEGORY-SEED, with its messages beside it. What is finished
is not run again and what was interrupted goes on, so the same command may be given, changed and
stopped (Ctrl-C, SIGTERM) at any time. `--table` only shows what there is.

What came of it: benchmarks/RECIPE.md; why each arm was kept or dropped: ARMS.md.
"""

import dataclasses
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence

from absl import app, flags

from configs import default

# Changes of the configuration that is given, one of the recipe's (small, fast). Each arm goes one
# step from the paper's method to the recipe; what each is for: ARMS.md.
_UNLIMITED = ("loss.snr_gamma=0",)
_NOISY = (
    *("data.matched_share=0", *_UNLIMITED),
    *("diffusion.train_split=300", "diffusion.train_end=1000"),
    *("evaluate.less_noisy=200", "evaluate.noisier=400"),
)
_ROUGH = ("evaluate.residual=0", "evaluate.smoothing=0", *_NOISY)
_REPAINT = ("model.difference=0", *_ROUGH)
_PAPER = ("model.prediction=epsilon", "model.image_range=unit", "loss.target=normal", *_REPAINT)
_RATES = tuple(
    f"{part}.{key}={value}"
    for part in ("unet_optim", "segmentation_optim")
    for key, value in default.get_config()[part].items()
)
ARMS: dict[str, tuple[str, ...]] = {
    "rates": (*_RATES, *_PAPER),  # the paper's method at its own learning rates, too
    "paper": _PAPER,
    "clean": _REPAINT,
    "difference": _ROUGH,
    "noisy": _NOISY,
    "unlimited": _UNLIMITED,
    "recipe": (),
}
COLUMNS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro_30": "AUPRO 0.30",
    "reconstruction_psnr": "PSNR, dB",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of the study."""

    arm: str
    overrides: tuple[str, ...]
    category: pathlib.Path
    seed: int
    out: pathlib.Path

    @property
    def workdir(self) -> pathlib.Path:
        return self.out / self.arm / f"{self.category.name}-{self.seed}"

    def command(self, config: str, common: Sequence[str]) -> list[str]:
        """The child's; overrides of the arm come after those common to all."""
        return [
            *(sys.executable, "-m", "diffad_jax.main", f"--config={config}"),
            f"--workdir={self.workdir}",
            f"--config.data.root={self.category.parent}",
            f"--config.data.category={self.category.name}",
            f"--config.seed={self.seed}",
            *common,
            *(f"--config.{override}" for override in self.overrides),
        ]

    def history(self) -> list[dict]:
        """Lines of the run's metrics.jsonl; none where it has not begun."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def batch(self) -> int:
        """Pictures a step, of a run that has begun."""
        return json.loads((self.workdir / "config.json").read_text())["train"]["batch_size"]

    def final(self) -> dict | None:
        """Metrics of the last step; None where that was not reached or judged."""
        judged = [line for line in self.history() if line["kind"] == "eval"]
        if not judged or judged[-1]["step"] < judged[-1]["total_steps"]:
            return None
        path = self.workdir / "eval" / str(judged[-1]["step"]) / "metrics.json"
        return json.loads(path.read_text()) if path.exists() else None


def arms(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Overrides of the arms asked for.

    Raises:
      ValueError: no such arm.
    """
    chosen = {}
    for word in names or ARMS:
        name, *overrides = word.split(":")
        if not overrides and name not in ARMS:
            raise ValueError(f"no arm {name!r}: choose of {', '.join(ARMS)}, or give its overrides")
        chosen[name] = tuple(overrides) or ARMS[name]
    return chosen


def runs(names: Sequence[str], categories: Sequence[str], seeds: Sequence[str], out: str):
    """All runs, a seed of every arm and category before the next seed."""
    chosen = arms(names)
    return [
        Run(arm, overrides, pathlib.Path(category), int(seed), pathlib.Path(out))
        for seed in seeds
        for category in categories
        for arm, overrides in chosen.items()
    ]


def execute(run: Run, config: str, common: Sequence[str]) -> bool:
    """Train until the run is finished; whether it is. A failure is told, and does not stop others.

    While the child runs, being told to stop is passed on to it: it saves its state and ends.
    """
    if run.final() is not None:
        return True
    run.workdir.parent.mkdir(parents=True, exist_ok=True)
    with open(run.workdir.with_suffix(".log"), "a") as log:
        child = subprocess.Popen(run.command(config, common), stdout=log, stderr=log)
        told = []

        def stop(number, _):
            told.append(number)
            child.terminate()

        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(number, stop) for number in numbers]
        try:
            code = child.wait()
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)
    if told:
        sys.exit(f"stopped in {run.workdir}; the same command goes on")
    if code:
        print(f"{run.workdir}: ended with code {code}, see its .log", file=sys.stderr)
    return run.final() is not None


def judged(history: Sequence[dict], batch: int) -> Iterator[tuple[float, dict]]:
    """(seconds of training, line) for each time that a run was judged."""
    seconds, step = 0.0, 0
    for line in history:
        if line["kind"] == "train":
            seconds += (line["step"] - step) * batch / line["images_per_second"]
            step = line["step"]
        else:
            yield seconds, line


def until(history: Sequence[dict], metric: str, level: float, batch: int) -> tuple[int, float]:
    """The first judged step at which the metric is at least `level`, and seconds of training."""
    for seconds, line in judged(history, batch):
        if (line.get(metric) or 0.0) >= level:
            return line["step"], seconds
    raise LookupError(f"{metric} never reaches {level}")


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, and the range where there are several: 0.912 (0.901-0.930)."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def rows(finished: Sequence[tuple[Run, dict]], metric: str, level: float) -> Iterator[list[str]]:
    """A row for each arm and category, and one for an arm's mean over its categories."""
    for arm in dict.fromkeys(run.arm for run, _ in finished):
        medians = []
        of_arm = [(run, values) for run, values in finished if run.arm == arm]
        for category in dict.fromkeys(run.category.name for run, _ in of_arm):
            some = [(run, values) for run, values in of_arm if run.category.name == category]
            measured = {
                key: [values[key] for _, values in some if values.get(key) is not None]
                for key in COLUMNS
            }
            digits = {key: 1 if key.endswith("psnr") else 3 for key in COLUMNS}
            cells = [spread(v, digits[k]) if v else "" for k, v in measured.items()]
            medians.append({k: statistics.median(v) for k, v in measured.items() if v})
            yield [arm, category, str(len(some)), *cells, _reached(some, metric, level)]
        if len(medians) > 1:
            means = {
                key: statistics.mean(m[key] for m in medians)
                for key in COLUMNS
                if all(key in m for m in medians)
            }
            cells = [f"{means[k]:.{digits[k]}f}" if k in means else "" for k in COLUMNS]
            yield [arm, "**mean**", "", *cells, ""]


def _reached(some: Sequence[tuple[Run, dict]], metric: str, level: float) -> str:
    """Steps and seconds of every seed that got there."""
    words = []
    for run, _ in some:
        try:
            step, seconds = until(run.history(), metric, level, run.batch)
        except LookupError:
            words.append("-")
        else:
            words.append(f"{step} ({seconds:.0f} s)")
    return ", ".join(words)


def table(every: Sequence[Run], metric: str, level: float) -> str:
    """Markdown: what is finished."""
    finished = [(run, values) for run in every if (values := run.final()) is not None]
    head = ["arm", "category", "seeds", *COLUMNS.values(), f"{metric} {level}: steps (time)"]
    lines = [head, ["---"] * len(head), *rows(finished, metric, level)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then show the table."""
    common = [word for word in argv[1:] if word.startswith("--config.")]
    if len(common) != len(argv) - 1:
        raise app.UsageError(f"unexpected arguments: {sorted(set(argv[1:]) - set(common))}")
    given = flags.FLAGS
    metric, _, level = given.level.partition("=")
    every = runs(given.arms, given.categories, given.seeds, given.out)
    unfinished = 0
    for number, run in enumerate(() if given.table else every, 1):
        print(f"{number} of {len(every)}: {run.workdir}", flush=True)
        unfinished += not execute(run, given.config, common)
    print(table(every, metric, float(level)))
    if unfinished:  # what follows, as in `make gpu-recipe`, does not take the table for the result
        sys.exit(f"{unfinished} of {len(every)} runs are not finished; the same command goes on")


def _parse(argv: Sequence[str]) -> list[str]:
    """Flags of absl, but `--config.KEY=VALUE` is left for the children."""
    own = [word for word in argv if not word.startswith("--config.")]
    return flags.FLAGS(own) + [word for word in argv if word.startswith("--config.")]


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "The folder for all runs.", required=True)
    flags.DEFINE_string("config", "configs/small.py", "What every arm starts from.")
    flags.DEFINE_list("arms", [], "Names of ARMS, or NAME:KEY=VALUE:KEY=VALUE. All if empty.")
    flags.DEFINE_list("categories", None, "Folders of categories.", required=True)
    flags.DEFINE_list("seeds", ["0"], "Seeds.")
    flags.DEFINE_string("level", "image_auroc=0.95", "Steps and seconds until this is passed.")
    flags.DEFINE_bool("table", False, "Run nothing; show the table of what is finished.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main, flags_parser=_parse)
