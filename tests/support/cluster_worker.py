"""One process of a cluster, for test_processes and test_categories; eight CPU devices in all.

After python -m tests.support.cluster_worker:

train WORKDIR DATA --cluster=HOST:PORT,COUNT,ID [--SIGNAL=STEP ...]
steps OUTPUT --cluster=HOST:PORT,COUNT,ID
category DATA --workdir=WORKDIR --config.data.category=NAME ...
"""

import os
import pathlib
import pickle
import signal
import sys
import time

import jax
import pytest

from configs.errors import UserError
from diffad_jax import train
from diffad_jax.runs import processes, stopping
from input_pipeline import pipeline
from tests import test_train
from tests.runs import test_sharding

CHANGES = {
    "train__steps": 40,
    "train__log_every": 3,
    "train__checkpoint_every": 5,
    "train__evaluate_every": 20,
    "train__image_every": 16,
}


def run(workdir, data, signals=None, pause=0.0, **changes):
    """Train networks of one number each, on the real pictures; signals hit this process itself.

    A signal comes before the given step, in a process that starts from the first one.
    """
    batches = pipeline.numpy_batches

    def interrupted(*args, start_step, **kwargs):
        source, wait = batches(*args, start_step=start_step, **kwargs), pause
        for step, batch in enumerate(source, start_step + 1):
            for name, at in (signals or {}).items():
                if at == step:
                    os.kill(os.getpid(), getattr(signal, name))
                    # JAX looks once a second whether a process of several was told to stop.
                    wait = 0.5 if jax.process_count() > 1 else pause
            time.sleep(wait)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        test_train.make_toy(patch)
        patch.setattr(pipeline, "numpy_batches", interrupted)
        config = test_train.configured(pathlib.Path(data), **CHANGES | changes)
        return train.run(config, workdir)


def steps(output):
    """Steps of the real networks in float64, as test_sharding makes them on eight devices."""
    jax.config.update("jax_enable_x64", True)
    results = test_sharding.float64_steps(8)
    pathlib.Path(f"{output}.{jax.process_index()}").write_bytes(pickle.dumps(results))


def category(data, options):
    """What diffad_jax.main does for one of many categories, with the same flags."""
    jax.config.update("jax_num_cpu_devices", 1)
    name, work = options["config.data.category"], pathlib.Path(options["workdir"])
    first = not list(work.glob("checkpoints/[0-9]*"))
    signals = {"SIGKILL": 8} if first and name == options.get("killed") else {}
    try:
        run(work, data, signals, pause=0.03, data__category=name)
    except UserError as error:
        sys.exit(f"error: {error}")
    except stopping.Stopped:
        sys.exit(stopping.STATUS)


def main(mode, place, *rest):
    options = dict(o.removeprefix("--").split("=", 1) for o in rest if o.startswith("--"))
    jax.config.update("jax_platforms", "cpu")
    if mode == "category":
        return category(place, options)
    processes.HEARTBEAT_SECONDS = 10  # the test should not take longer than it must
    where, count, index = options.pop("cluster").split(",")
    jax.config.update("jax_num_cpu_devices", 8 // int(count))
    try:
        with processes.joined(where, int(count), int(index)):
            if mode == "steps":
                steps(place)
            else:
                run(place, rest[0], {name: int(step) for name, step in options.items()})
    except stopping.Stopped:
        sys.exit(stopping.STATUS)


if __name__ == "__main__":
    main(*sys.argv[1:])
