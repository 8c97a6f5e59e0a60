"""Pictures a second of a whole evaluation, and how much of that time is the device's step.

python -m benchmarks.evaluate --config configs/default.py --pictures=83
python -m benchmarks.evaluate --config configs/small.py --data --config.data.root=MVTEC

Prints one JSON line. End to end: pictures to the devices, maps back, all measures, scores.csv,
grid.png and report.html; not compilation, nor the reading of the pictures. The step's share is that
of as many steps, each as the fastest of `--steps`, on a batch that lies on the devices already: on
a machine that does other work too, do not trust it. Weights are random: nothing depends on
them but the figures in the report.
"""

import json
import logging
import tempfile
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from configs import schema
from diffad_jax import evaluate
from diffad_jax.method import jitted, train_state
from diffad_jax.runs import sharding
from input_pipeline import datasets

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_PICTURES = flags.DEFINE_integer("pictures", 83, "Random pictures.", lower_bound=2)
_DATA = flags.DEFINE_bool("data", False, "The test pictures of config.data, not random ones.")
_STEPS = flags.DEFINE_integer("steps", 3, "Timed steps, after one that is not.", lower_bound=1)


def main(_) -> None:
    """Measure and print."""
    config = schema.parse(_CONFIG.value)
    logging.getLogger("diffad_jax").setLevel(logging.ERROR)
    size = config.model.image_size
    if _DATA.value:
        pictures = datasets.load_category(config.data, size).test
    else:
        pictures = random_pictures(_PICTURES.value, size)
    mesh, key, networks = sharding.data_mesh(), jax.random.key(0), train_state.define(config.model)
    init = jax.jit(
        lambda: train_state.init_variables(config.model, key),
        out_shardings=sharding.replicated(mesh),
    )
    variables, key = init(), evaluate.run_key(config, mesh)
    step = jitted.evaluate_step(networks, config, mesh)
    batch, index, _ = next(
        evaluate.padded_batches(pictures.images, config.evaluate.batch_size, mesh)
    )
    _, compile_s = timed(lambda: jax.block_until_ready(step(variables, batch, index, key)))
    step_s = min(
        timed(lambda: jax.block_until_ready(step(variables, batch, index, key)))[1]
        for _ in range(_STEPS.value)
    )
    judged, judge_s = timed(lambda: evaluate.judge(step, variables, key, pictures, config, mesh))
    pixels, rank_s = timed(lambda: evaluate.rank_pixels(judged, config))
    values, measure_s = timed(lambda: evaluate.measure(judged, pixels))
    measure_s += rank_s
    with tempfile.TemporaryDirectory() as folder:
        _, write_s = timed(lambda: evaluate.write(folder, 0, judged, values, pixels, None, config))
    total, batches = judge_s + measure_s + write_s, -(-len(judged.names) // len(batch))
    result = {
        "device": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "pictures": len(judged.names),
        "image_size": size,
        "batch_size": len(batch),
        "compute_dtype": config.model.compute_dtype,
        "compile_and_first_step_s": round(compile_s, 1),
        "step_s": round(step_s, 3),
        "judge_s": round(judge_s, 3),
        "measure_s": round(measure_s, 3),
        "write_s": round(write_s, 3),
        "pictures_per_s": round(len(judged.names) / total, 3),
        "step_share": round(batches * step_s / total, 3),
    }
    print(json.dumps(result))


def random_pictures(count: int, size: int) -> datasets.Pictures:
    """Noise pictures; three of four are defective, with a mask of one block."""
    generator = np.random.default_rng(0)
    labels = (np.arange(count) % 4 > 0).astype(np.int32)
    masks = np.zeros((count, size, size, 1), np.uint8)
    masks[labels == 1, size // 4 : size // 2, size // 4 : size // 2] = 1
    return datasets.Pictures(
        images=generator.integers(0, 256, (count, size, size, 3), np.uint8),
        masks=masks,
        has_mask=np.ones(count, np.bool_),
        labels=labels,
        defects=["block" if label else "good" for label in labels],
        names=[f"{i}.png" for i in range(count)],
        foregrounds=None,
        has_foreground=np.zeros(count, np.bool_),
    )


def timed(function):
    """The function's result and how many seconds it took."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main)
