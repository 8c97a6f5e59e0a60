"""One process of a cluster, for test_cluster and test_categories; eight CPU devices in all.

python -m tests.cluster_worker train WORKDIR DATA [--cluster=HOST:PORT,COUNT,ID] [--SIGNAL=STEP ...]
python -m tests.cluster_worker steps OUTPUT --cluster=HOST:PORT,COUNT,ID
"""

import os
import pathlib
import pickle
import signal
import sys

import jax
import numpy as np
import pytest

from diffad_jax import cluster, train
from input_pipeline import pipeline
from tests import test_sharding, test_train

CHANGES = {
    "train__steps": 40,
    "train__log_every": 3,
    "train__checkpoint_every": 5,
    "train__evaluate_every": 20,
    "train__image_every": 16,
}


def run(workdir, data, signals):
    """Train networks of one number each, on the real pictures; signals hit this process itself."""
    batches = pipeline.numpy_batches

    def interrupted(*args, start_step, **kwargs):
        source = batches(*args, start_step=start_step, **kwargs)
        for step, batch in enumerate(source, start_step + 1):
            for name, at in signals.items():
                if at == step:
                    os.kill(os.getpid(), getattr(signal, name))
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        test_train.make_toy(patch)
        patch.setattr(pipeline, "numpy_batches", interrupted)
        return train.run(test_train.configured(pathlib.Path(data), **CHANGES), workdir)


def steps(output):
    """Steps of the real networks in float64, as test_sharding makes them on eight devices."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    results = test_sharding.train(jax.devices(), test_sharding.configured(), np.float64, 2)
    pathlib.Path(f"{output}.{jax.process_index()}").write_bytes(pickle.dumps(results))


def main(mode, output, *rest):
    options = dict(o.removeprefix("--").split("=") for o in rest if o.startswith("--"))
    place = options.pop("cluster", None)
    where, count, index = place.split(",") if place else (None, 1, None)
    cluster.HEARTBEAT_SECONDS = 10  # the test should not take longer than it must
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8 // int(count))
    with cluster.joined(where, int(count), int(index) if index else None):
        if mode == "steps":
            steps(output)
        else:
            run(output, rest[0], {name: int(step) for name, step in options.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
