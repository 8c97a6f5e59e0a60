"""Compare the PyTorch networks with ours, or measure them: one row of `benchmarks.sweep`.

    python -m benchmarks.torch_peer --check --config configs/small.py   # equal to ours?

Needs `pip install torch`. Modes: eager, float32 and one noise level after the other, as the authors
run; best, channels_last, bfloat16 autocast, `torch.compile` and both levels in one batch.
"""

import json
import sys

from absl import app, flags
from ml_collections import config_flags

from configs import schema


def main(_) -> None:
    """Check, or measure and print one row."""
    try:
        from benchmarks.torch_peer import timing
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is missing: pip install {error.name}")
    given = flags.FLAGS
    config = schema.parse(given.config)
    if given.check:
        print(json.dumps(timing.check(config)))
        return
    step = {"train": timing.training, "infer": timing.inference}[given.task](config, given.mode)
    print(json.dumps(timing.measured(step, given.steps, config.train.batch_size)))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.DEFINE_bool("check", False, "Compare with ours instead of measuring.")
    flags.DEFINE_enum("task", "train", ("train", "infer"), "What to measure.")
    flags.DEFINE_enum("mode", "eager", ("eager", "best"), "How PyTorch runs it.")
    flags.DEFINE_integer("steps", 5, "Timed steps.", lower_bound=1)
    flags.mark_flags_as_required(["config"])
    app.run(main)
