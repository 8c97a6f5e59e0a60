"""What a training image costs, in decodes of a picture of the same category by OpenCV.

    pip install opencv-python-headless        # for this comparison only
    python -m benchmarks.input_pipeline --config configs/default.py --config.train.batch_size=8 \
        --config.data.root=FOLDER --config.data.category=bottle --config.data.textures=TEXTURES

CPU seconds (`time.process_time`) of one core: the process is pinned to it and every library has one
thread. `cv2.imread` of the category's training pictures and training batches take turns, so both
meet the same machine. Prints one JSON line, then where the time goes.

    python -m benchmarks.input_pipeline --config configs/default.py --memory

measures peak memory instead, with random pictures in the number of MVTec AD's largest category
(hazelnut, 391) and of DTD (5,640).
"""

import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import app, flags
from ml_collections import config_flags

from diffad_jax import config as configs
from input_pipeline import augment, datasets, pipeline, synthesis

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Times that decoding and batches take turns.")
_BATCHES = flags.DEFINE_integer("batches", 6, "Batches a round.")
_MEMORY = flags.DEFINE_bool("memory", False, "Measure peak memory with random pictures.")

LARGEST_CATEGORY, TEXTURES = 391, 5640
CALLS = 100  # of each piece of the breakdown


def main(_) -> None:
    """Measure and print."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    config = configs.parse(_CONFIG.value)
    if _MEMORY.value:
        print(json.dumps(memory(config)))
        return
    result, category, textures = speed(config)
    print(json.dumps(result))
    table(category, textures, config, result["image_ms"])


def speed(config: configs.Config):
    """(figures, category, textures)."""
    try:
        import cv2
    except ImportError:
        sys.exit("cv2 is missing: pip install opencv-python-headless")
    cv2.setNumThreads(1)
    size = config.model.image_size
    # A cache of its own, else the preparation would be found done.
    with tempfile.TemporaryDirectory() as cache:
        data = configs.dataclasses.replace(config.data, cache_dir=cache)
        config = configs.dataclasses.replace(config, data=data)
        start, start_wall = time.process_time(), time.perf_counter()
        category = datasets.load_category(data, size)
        prepared = time.process_time() - start
        textures = datasets.load_textures(data, size)
        before, before_wall = time.process_time(), time.perf_counter()
        batches = pipeline.numpy_batches(category, textures, config, start_step=0)
        next(batches)
        first = time.process_time() - before
        first_wall = time.perf_counter() - before_wall
        all_wall = time.perf_counter() - start_wall
    files = [str(pathlib.Path(category.folder) / name) for name in category.train.names]
    per_batch = config.train.batch_size
    decodes, images, labels = [], [], []

    def make() -> None:
        labels.extend(label for _ in range(_BATCHES.value) for label in next(batches)["label"])

    make()
    for _ in range(_ROUNDS.value):
        decodes.append(_cpu(lambda: [cv2.imread(file) for file in files]) / len(files))
        images.append(_cpu(make) / _BATCHES.value / per_batch)
    decode, image = statistics.median(decodes), statistics.median(images)
    height, width = cv2.imread(files[0]).shape[:2]
    result = {
        "image_size": size,
        "kind": category.kind,
        "pictures": len(files),
        "picture_size": f"{width}x{height}",
        "textures": 0 if textures is None else len(textures),
        "imread_ms": round(1e3 * decode, 2),
        "image_ms": round(1e3 * image, 3),
        "ratio": round(image / decode, 3),
        "ratio_of_each_round": [round(i / d, 3) for i, d in zip(images, decodes, strict=True)],
        "images_per_s_and_core": round(1 / image, 1),
        "anomalous_share": round(float(np.mean(labels)), 3),
        "prepare_ms_a_picture": round(1e3 * prepared / len(files), 1),
        "prepare_in_imreads": round(prepared / len(files) / decode, 2),
        "first_batch_cpu_s": round(first, 2),
        "first_batch_wall_s": round(first_wall, 2),
        "from_nothing_to_first_batch_wall_s": round(all_wall, 2),
        "peak_process_gib": round(_peak_gib(), 2),
    }
    return result, category, textures


def table(category: datasets.Category, textures, config: configs.Config, image_ms: float) -> None:
    """Print what each piece costs: CPU time a call, calls an image, the product."""
    examples = pipeline.Examples(category, textures, config)
    anomalous = 1 - config.data.normal_share
    size, op_share = config.model.image_size, 3 / len(augment.RANDOM_OPS)
    own = anomalous * (0.5 if category.kind == "object" or textures is None else 0.0)
    order = _piece(lambda image, seed: pipeline.picture_index(seed[1], len(examples.images), 0))
    raise NotImplementedError


def memory(config: configs.Config) -> dict[str, float]:
    """Peak memory with the largest sets, everything in memory."""
    size, rng = config.model.image_size, np.random.default_rng(0)

    def pictures(count: int) -> np.ndarray:
        return rng.integers(0, 256, (count, size, size, 3), np.uint8)

    n = LARGEST_CATEGORY
    train = datasets.Pictures(
        images=pictures(n),
        masks=None,
        has_mask=np.zeros(n, np.bool_),
        labels=np.zeros(n, np.int32),
        defects=["good"] * n,
        names=[f"{i}.png" for i in range(n)],
        foregrounds=None,
        has_foreground=np.zeros(n, np.bool_),
    )
    category = datasets.Category(train, train, train, "object", "random")
    textures = pictures(TEXTURES)
    before = _peak_gib()
    with tempfile.TemporaryDirectory() as cache:
        data = configs.dataclasses.replace(config.data, cache_dir=cache)
        config = configs.dataclasses.replace(config, data=data)
        batches = pipeline.numpy_batches(category, textures, config, start_step=0)
        for _ in range(5):
            next(batches)
    return {
        "image_size": size,
        "pictures": n,
        "textures": TEXTURES,
        "arrays_gib": round((train.images.nbytes + textures.nbytes) / 2**30, 2),
        "peak_before_pipeline_gib": round(before, 2),
        "peak_process_gib": round(_peak_gib(), 2),
    }


def _cpu(function: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main)
