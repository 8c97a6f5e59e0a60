"""Time and peak memory of one training step at a configuration, on whatever JAX finds.

python -m benchmarks.full_step --config configs/default.py --config.train.batch_size=1

Prints one JSON line: seconds of compilation, of the first and of each later step, images/s, peak
memory: of the device where it keeps count, else of the process (`ru_maxrss`, data and program
included). Inputs are random pictures; TensorFlow is not needed.
"""

import functools
import json
import resource
import statistics
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from diffad_jax import config as configs
from diffad_jax import optim, sharding, steps, train_state

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_STEPS = flags.DEFINE_integer("steps", 3, "Timed steps, after one that is not.", lower_bound=1)


def main(_) -> None:
    """Measure and print."""
    config = configs.parse(_CONFIG.value)
    mesh = sharding.data_mesh()
    everywhere = sharding.replicated(mesh)
    networks = train_state.define(config.model)
    optimizer = optim.optimizer(config, total_steps=1000)
    key = jax.device_put(jax.random.key(config.seed), everywhere)
    init = functools.partial(train_state.init, config, optimizer)
    state = jax.jit(init, out_shardings=everywhere)(key)
    batch = sharding.to_devices(random_batch(config), mesh)

    jitted = steps.jit_train_step(networks, optimizer, config, mesh)
    compiled, compile_seconds = timed(lambda: jitted.lower(state, batch, key).compile())
    seconds = []
    for _ in range(1 + _STEPS.value):
        (state, _), spent = timed(
            lambda state=state: jax.block_until_ready(compiled(state, batch, key))
        )
        seconds.append(spent)
    median = statistics.median(seconds[1:])
    result = {
        "device": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "batch_size": config.train.batch_size,
        "image_size": config.model.image_size,
        "compute_dtype": config.model.compute_dtype,
        "remat": config.model.remat,
        "parameters": sum(x.size for x in jax.tree.leaves(state.variables.params)),
        "compile_s": round(compile_seconds, 1),
        "first_step_s": round(seconds[0], 3),
        "step_s": [round(spent, 3) for spent in seconds[1:]],
        "images_per_s": round(config.train.batch_size / median, 3),
        "compiler_temporaries_gib": round(compiled.memory_analysis().temp_size_in_bytes / 2**30, 2),
        **peak_memory(),
    }
    print(json.dumps(result))


def random_batch(config: configs.Config) -> dict[str, np.ndarray]:
    """A batch of noise pictures; every other one anomalous."""
    generator, size = np.random.default_rng(0), config.model.image_size
    count = config.train.batch_size
    label = (np.arange(count) % 2).astype(np.float32)
    mask = generator.random((count, size, size, 1)) > 0.9
    return {
        "image": generator.random((count, size, size, 3), np.float32),
        "mask": mask * label[:, None, None, None],
        "label": label,
    }


def timed(function):
    """The function's result and how many seconds it took."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def peak_memory() -> dict[str, float]:
    """Peak memory so far, GiB."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return {"peak_device_gib": round(stats["peak_bytes_in_use"] / 2**30, 2)}
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_process_gib": round(kib / 2**20, 2)}


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main)
