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
from diffad_jax.method import optim, train_state
from diffad_jax.runs import sharding
from diffad_jax.scoring import metrics, results, scorer
from diffad_jax.scoring.identity import identify
from input_pipeline import datasets


def main(_) -> None:
    """Measure and print."""
    given = flags.FLAGS
    config = schema.parse(given.config)
    logging.getLogger("diffad_jax").setLevel(logging.ERROR)
    size = config.model.image_size
    if given.data:
        pictures = datasets.load_category(config.data, size).test
    else:
        pictures = random_pictures(given.pictures, size)
    model = random_model(config)
    compile_s, step_s = step_seconds(model, pictures, given.steps)
    judged, judge_s = timed(lambda: model.judge(pictures))
    (pixels, values), measure_s = timed(lambda: measure(judged, config))
    identity = identify(model.config, model.step, pictures.fingerprint)
    evaluation = results.Evaluation(judged, values, pixels, None, identity)
    with tempfile.TemporaryDirectory() as folder:
        _, write_s = timed(lambda: evaluate.write(folder, evaluation, config))
    total, batches = judge_s + measure_s + write_s, -(-len(judged.names) // model.batch_size)
    result = {
        "device": f"{model.mesh.size} x {jax.devices()[0].device_kind}",
        "pictures": len(judged.names),
        "image_size": size,
        "batch_size": model.batch_size,
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


def random_model(config: schema.Config) -> scorer.Scorer:
    """The scorer of a run that has not begun."""
    mesh, optimizer = sharding.data_mesh(), optim.optimizer(config, total_steps=1)
    init = jax.jit(
        lambda: train_state.init(config, optimizer, jax.random.key(0)),
        out_shardings=sharding.replicated(mesh),
    )
    return scorer.fresh(config, mesh, init())


def step_seconds(
    model: scorer.Scorer, pictures: datasets.Pictures, count: int
) -> tuple[float, float]:
    """Seconds of the first step, which compiles, and of the fastest of `count` others."""
    rows = np.arange(model.batch_size) % len(pictures.names)
    images = pictures.images[rows]
    batch = sharding.share(scorer.in_unit_range(images), model.mesh)

    def step():
        judged = model.judge_batch(model.variables, batch, model.noises)
        return jax.block_until_ready(judged)

    return timed(step)[1], min(timed(step)[1] for _ in range(count))


def measure(judged: results.Judged, config: schema.Config):
    """The ranking of all pixels, and all measures."""
    pixels = evaluate.ranking(judged, config.evaluate.exact_pictures)
    values = metrics.of_images(judged.labels, judged.scores)
    return pixels, values if pixels is None else values | metrics.of_pixels(pixels)


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
        stamps=["0" * 12] * count,
        foregrounds=None,
        has_foreground=np.zeros(count, np.bool_),
    )


def timed(function):
    """The function's result and how many seconds it took."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.DEFINE_integer("pictures", 83, "Random pictures.", lower_bound=2)
    flags.DEFINE_bool("data", False, "The test pictures of config.data, not random ones.")
    flags.DEFINE_integer("steps", 3, "Timed steps, after one that is not.", lower_bound=1)
    flags.mark_flags_as_required(["config"])
    app.run(main)
