r"""What this machine does, within a time: one Markdown section for RESULTS.md.

python -m benchmarks.device --config configs/default.py --minutes 10 \
    --category data/mvtec/bottle --config.data.textures=data/dtd/images

Peak of a matrix product; training and inference in float32 and bfloat16, with and without remat and
cuDNN's attention, against PyTorch eager and its best; where the time of a step goes; and the recipe
cut to 300 steps, with its waiting for input. In order of worth, each part a process of its own: one
that fails or runs out of memory has a row that says so, what the time does not suffice for is
named. All of it takes longer than ten minutes.
"""

import datetime
import pathlib
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator

from absl import app, flags

from benchmarks import sweep
from benchmarks.device import budget, parts, section


def main(argv: list[str]) -> None:
    """Measure, and print and write the section."""
    common = [word for word in argv[1:] if word.startswith("--config.")]
    if len(common) != len(argv) - 1:
        raise app.UsageError(f"unexpected arguments: {sorted(set(argv[1:]) - set(common))}")
    sweep.stop_children_too()
    given, began = flags.FLAGS, time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        training = None
        if given.category:
            category = pathlib.Path(given.category)
            training = parts.recipe_run(
                given.recipe, category, given.recipe_steps, common, pathlib.Path(out)
            )
        config = [f"--config={given.config}", *common]
        batches = [int(batch) for batch in given.batches]
        every = parts.every(config, batches, given.steps, training)
        rows = list(told(budget.run(every, 60 * given.minutes)))
    command = shlex.join(["python", "-m", "benchmarks.device", *sys.argv[1:]])
    seconds = time.monotonic() - began
    text = section.text(rows, command, str(datetime.date.today()), seconds)
    pathlib.Path(given.output).write_text(text)
    print(text)


def told(
    rows: Iterable[tuple[parts.Part, dict | None]],
) -> Iterator[tuple[parts.Part, dict | None]]:
    """The same, with a line to standard error for each."""
    for part, row in rows:
        if row is not None:
            how = row.get("error") or (f"{row['step_ms']} ms" if "step_ms" in row else "done")
            print(f"{part.name}: {how}", file=sys.stderr, flush=True)
        yield part, row


def _parse(argv: list[str]) -> list[str]:
    """Flags of absl, but `--config.KEY=VALUE` is left for the parts."""
    own = [word for word in argv if not word.startswith("--config.")]
    return flags.FLAGS(own) + [word for word in argv if word.startswith("--config.")]


if __name__ == "__main__":
    flags.DEFINE_string("config", "configs/default.py", "What steps are measured of.")
    flags.DEFINE_float("minutes", 10.0, "When no more is begun and what runs is stopped.")
    flags.DEFINE_list("batches", ["16", "64", "1"], "Batch sizes, the main one first.")
    flags.DEFINE_integer("steps", 10, "Timed steps of each row.", lower_bound=1)
    flags.DEFINE_string("category", "", "The folder of pictures that the recipe learns; none: not.")
    flags.DEFINE_string("recipe", "configs/fast.py", "The recipe's configuration.")
    flags.DEFINE_integer("recipe_steps", 300, "Steps of the recipe.", lower_bound=1)
    flags.DEFINE_string("output", "bench_device.md", "The Markdown file to write.")
    app.run(main, flags_parser=_parse)
