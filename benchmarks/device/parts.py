"""What is measured, the most telling first: each part is a process of its own."""

import dataclasses
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Sequence

from benchmarks import recipe

MODULES = {"training": "benchmarks.train_step", "inference": "benchmarks.inference"}
TASKS = {"training": "train", "inference": "infer"}  # as benchmarks.torch_peer has them
# (task, framework, variant), in order of worth. Where the time goes is asked of the first of each.
FIRST = (
    ("training", "jax", "bfloat16"),
    ("training", "torch", "best"),
    ("inference", "jax", "bfloat16"),
    ("inference", "torch", "best"),
)
NEXT = (
    ("training", "jax", "float32"),
    ("training", "torch", "eager"),
    ("inference", "jax", "float32"),
    ("inference", "torch", "eager"),
    ("training", "jax", "bfloat16+cudnn"),
    ("training", "jax", "bfloat16+norms"),
    ("inference", "jax", "bfloat16+cudnn"),
    ("training", "jax", "float32+norms"),
)
THIRD = 1 / 3


@dataclasses.dataclass(frozen=True)
class Part:
    """A command that prints its row as its last line, and what the row is called."""

    table: str  # machine, training, inference or recipe
    command: tuple[str, ...]
    framework: str = "jax"
    variant: str = ""
    batch: int = 0
    needs: tuple[str, ...] = ()  # modules
    share: float = THIRD  # of all the time that it may take: one that hangs leaves some to others
    workdir: pathlib.Path | None = None  # of a training run, which prints no row

    @property
    def name(self) -> str:
        words = (self.table, self.framework if self.variant else "", self.variant)
        batch = f"batch {self.batch}" if self.batch else ""
        return " ".join(word for word in (*words, batch) if word)

    def missing(self) -> str:
        """What is not installed of what it needs; ""."""
        return next((m for m in self.needs if importlib.util.find_spec(m) is None), "")


def every(
    config: Sequence[str], batches: Sequence[int], steps: int, training: Part | None
) -> Iterator[Part]:
    """All parts in order.

    Args:
      config: the words of a command line that name the configuration.
      batches: sizes, the main one first.
      steps: timed steps of each row.
      training: the recipe's run, where there are pictures for it.
    """
    main, *others = batches
    yield Part("machine", (sys.executable, "-m", "benchmarks.device.machine"))
    yield from rows(FIRST, config, main, steps, trace=True)
    if training:
        yield training
    yield from rows(NEXT, config, main, steps)
    for batch in others:
        yield from rows(FIRST + NEXT, config, batch, steps)


def rows(
    kinds, config: Sequence[str], batch: int, steps: int, *, trace: bool = False
) -> Iterator[Part]:
    """A part for each of `kinds` at one batch size."""
    common = (*config, f"--config.train.batch_size={batch}", f"--steps={steps}")
    for task, framework, variant in kinds:
        if framework == "torch":
            flags = ("benchmarks.torch_peer", f"--task={TASKS[task]}", f"--mode={variant}")
        else:
            flags = (MODULES[task], f"--row={variant}", f"--breakdown={trace}")
        needs = ("torch",) if framework == "torch" else ()
        command = (sys.executable, "-m", *flags, *common)
        yield Part(task, command, framework, variant, batch, needs)


def recipe_run(
    config: str, category: pathlib.Path, steps: int, common: Sequence[str], out: pathlib.Path
) -> Part:
    """The recipe cut to `steps`, its warm-up, a twentieth, with it; evaluated at the end."""
    overrides = (
        *(f"train.steps={steps}", f"train.log_every={max(steps // 6, 1)}"),
        *("train.image_every=0", "train.evaluate_every=0", f"train.checkpoint_every={steps}"),
        *(f"{name}.warmup_steps={steps // 20}" for name in ("unet_optim", "segmentation_optim")),
    )
    run = recipe.Run("recipe", overrides, category, 0, out)
    command = tuple(run.command(config, common))
    needs = ("tensorflow",)
    return Part("recipe", command, needs=needs, share=1.0, workdir=run.workdir)
