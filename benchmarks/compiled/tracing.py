"""How long Python traces and lowers the training step: what every start begins with.

python -m benchmarks.compiled.tracing --config configs/default.py

CPU seconds of the thread, so that other work beside it changes them little; XLA has no part in them
yet. Run it again for another figure: in a process that has traced the step once, much is known.
"""

import json
import time

import jax
from absl import app, flags
from ml_collections import config_flags

from configs import schema
from diffad_jax.method import jitted, optim
from diffad_jax.runs import sharding


def main(_) -> None:
    """Print one JSON line."""
    jax.config.update("jax_platforms", "cpu")
    config, mesh = schema.parse(flags.FLAGS.config), sharding.data_mesh()
    start = time.thread_time()
    jitted.lower_train_step(optim.optimizer(config, total_steps=1), config, mesh)
    print(json.dumps({"cpu_seconds": round(time.thread_time() - start, 1)}))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.mark_flags_as_required(["config"])
    app.run(main)
