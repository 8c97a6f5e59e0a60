"""What a training image costs, in decodes of a picture of the same category by OpenCV.

    pip install opencv-python-headless        # for this comparison only
    python -m benchmarks.input_pipeline --config configs/default.py \
        --config.train.batch_size=8 --config.data.holdout=0 \
        --config.data.root=FOLDER --config.data.category=bottle --config.data.textures=TEXTURES

CPU seconds (`time.process_time`) of one core: the process is pinned to it and every library has one
thread. `cv2.imread` of all training pictures and a stretch of training take turns, so that both
meet the same machine. Prints one JSON line, then where the time goes.

    python -m benchmarks.input_pipeline --config configs/default.py --memory

measures peak memory instead, with random pictures in the number of MVTec AD's largest category
(hazelnut, 391) and of DTD (5,640).
"""

import dataclasses
import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from absl import app, flags
from ml_collections import config_flags

from configs import schema
from input_pipeline import augment, datasets, pipeline, synthesis

LARGEST_CATEGORY, TEXTURES = 391, 5640
CALLS = 100  # of each piece of the breakdown


def main(_) -> None:
    """Measure and print."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    config = schema.parse(flags.FLAGS.config)
    # A cache of its own, else the preparation would be found done.
    with tempfile.TemporaryDirectory() as cache:
        data = dataclasses.replace(config.data, cache_dir=cache)
        config = dataclasses.replace(config, data=data)
        if flags.FLAGS.memory:
            print(json.dumps(memory(config)))
            return
        category, textures, beginning = first_epoch(config)
        steady = steady_state(category, textures, config)
        memory_used = {"peak_process_gib": round(_peak_gib(), 2)}
        print(json.dumps(steady | beginning | memory_used))
        table(category, textures, config, steady["image_ms"])


def first_epoch(config: schema.Config):
    """(category, textures, figures): preparation and the first batch."""
    size = config.model.image_size
    start, start_wall = time.process_time(), time.perf_counter()
    category = datasets.load_category(config.data, size)
    prepared = time.process_time() - start
    textures = datasets.load_textures(config.data, size)
    before, before_wall = time.process_time(), time.perf_counter()
    next(batches_from(0, category, textures, config))
    pictures = sum(len(s.names) for s in (category.train, category.test, category.held_out))
    figures = {
        "prepare_ms_a_picture": round(1e3 * prepared / pictures, 1),
        "first_batch_cpu_s": round(time.process_time() - before, 2),
        "first_batch_wall_s": round(time.perf_counter() - before_wall, 2),
        "from_nothing_to_first_batch_wall_s": round(time.perf_counter() - start_wall, 2),
    }
    return category, textures, figures


def batches_from(
    start_step: int, category: datasets.Category, textures: datasets.Textures, config: schema.Config
) -> Iterator[dict[str, np.ndarray]]:
    """The training batches of a run, beginning with that of `start_step`."""
    batch_size, seed = config.train.batch_size, config.seed
    return pipeline.numpy_batches(
        category, textures, config.data, seed=seed, batch_size=batch_size, start_step=start_step
    )


def steady_state(
    category: datasets.Category, textures: datasets.Textures, config: schema.Config
) -> dict:
    """Figures of training images against decodes."""
    try:
        import cv2
    except ImportError:
        sys.exit("error: cv2 is missing: pip install opencv-python-headless")
    cv2.setNumThreads(1)
    files = [str(pathlib.Path(category.folder) / name) for name in category.train.names]
    decodes, images, labels = [], [], []
    for turn in range(flags.FLAGS.rounds):
        decodes.append(_cpu(lambda: [cv2.imread(file) for file in files]) / len(files))
        images.append(_steady(category, textures, config, turn, labels))
    decode, image = statistics.median(decodes), statistics.median(images)
    height, width = cv2.imread(files[0]).shape[:2]
    return {
        "image_size": config.model.image_size,
        "kind": category.kind,
        "pictures": len(files),
        "picture_size": f"{width}x{height}",
        "textures": len(textures.names),
        "imread_ms": round(1e3 * decode, 2),
        "image_ms": round(1e3 * image, 3),
        "ratio": round(image / decode, 3),
        "ratio_of_each_round": [round(i / d, 3) for i, d in zip(images, decodes, strict=True)],
        "images_per_s_and_core": round(1 / image, 1),
        "anomalous_share": round(float(np.mean(labels)), 3),
    }


def _steady(category, textures, config: schema.Config, turn: int, labels: list[float]) -> float:
    """CPU seconds a training image.

    The iterator lives in here only: what it prepares ahead must not fall into the time of the
    decoding. At the end the batches ahead are counted as cost, though not as images.
    """
    count = flags.FLAGS.batches
    batches = batches_from(turn * count, category, textures, config)
    next(batches)
    seconds = _cpu(lambda: [labels.extend(next(batches)["label"]) for _ in range(count)])
    return seconds / count / config.train.batch_size


def table(
    category: datasets.Category,
    textures: datasets.Textures,
    config: schema.Config,
    image_ms: float,
) -> None:
    """Print what each piece costs: CPU time a call, calls an image, the product."""
    made = pipeline.Examples(category, textures, config.data, config.seed)
    n, size = len(category.train.images), config.model.image_size
    count = len(textures.names)
    anomalous = 1 - config.data.normal_share
    own = anomalous * (0.5 if category.kind == "object" or textures.procedural else 0.0)
    per_op = anomalous * 3 / len(augment.RANDOM_OPS)
    full, b = tf.ones([size, size, 1]), tf.constant(0.5)
    angles = tf.random.stateless_uniform([33, 33], [0, 0], 0.0, 6.28)
    noise = synthesis.perlin_noise(angles, tf.constant([4, 4]), size)[..., None]
    pieces = [
        ("order", 1.0, lambda x, seed: pipeline.picture_index(seed[1], n, 0)),
        ("read a picture", 1.0, lambda x, seed: made.image(seed[1] % n) + 0),
        ("to float", 1.0, lambda x, seed: synthesis.unit(x)),
        ("foreground", anomalous, lambda x, seed: made.foreground(seed[1] % n, seed)),
        ("mask with redraws", anomalous, lambda x, seed: synthesis.draw_mask(seed, full)),
        ("  of it: noise", 0.0, lambda x, seed: synthesis.perlin_noise(angles, [4, 4], size)),
        ("  of it: turning", 0.0, lambda x, seed: augment.rotate(noise, 30.0)),
        ("read a texture", anomalous - own, lambda x, seed: made.texture(seed[1] % count) + 0),
        ("choose ops", anomalous, lambda x, seed: augment.choose_ops(seed)),
        *(
            (f"op: {name}", per_op, op)
            for name, op in zip(augment.OP_NAMES, augment.RANDOM_OPS, strict=True)
        ),
        ("rearrange strips", own, synthesis.rearrange_strips),
        ("blend", anomalous, lambda x, seed: synthesis.blend(synthesis.unit(x), full, x, b)),
    ]
    empty = _piece(made, lambda x, seed: tf.zeros([]))
    rows = [(name, calls, _piece(made, piece) - empty) for name, calls, piece in pieces]
    rows.append(("batch", 1.0, _batching(size, config.train.batch_size)))
    print(f"\n{'piece':24}{'µs a call':>12}{'calls an image':>16}{'µs an image':>14}")
    for name, calls, seconds in rows:
        print(f"{name:24}{1e6 * seconds:12.0f}{calls:16.2f}{1e6 * seconds * calls:14.0f}")
    total = sum(1e3 * seconds * calls for _, calls, seconds in rows)
    print(f"{'sum':24}{'':28}{1e3 * total:14.0f}")
    print(f"{'measured':24}{'':28}{1e3 * image_ms:14.0f}")


def _piece(made: pipeline.Examples, piece: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> float:
    """CPU seconds of a piece(picture, seed) in the graph; fetching included."""
    picture = made.image(tf.constant(0, tf.int64)) + 0
    mapped = tf.autograph.experimental.do_not_convert(
        lambda i: piece(picture, tf.stack([tf.constant(0, tf.int64), i]))
    )
    results = iter(tf.data.Dataset.range(10 * CALLS).map(mapped))
    for _ in range(10):  # XLA compiles at the first call
        next(results)
    return _cpu(lambda: [next(results) for _ in range(CALLS)]) / CALLS


def _batching(size: int, batch: int) -> float:
    """CPU seconds an image of copying it and its mask into a batch."""
    example = tf.zeros([size, size, 3]), tf.zeros([size, size, 1])
    data = tf.data.Dataset.range(10**6).map(lambda i: example).batch(batch).as_numpy_iterator()
    next(data)
    return _cpu(lambda: [next(data) for _ in range(20)]) / 20 / batch


def memory(config: schema.Config) -> dict[str, float]:
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
        stamps=["0" * 12] * n,
        foregrounds=None,
        has_foreground=np.zeros(n, np.bool_),
    )
    category = datasets.Category(train, train, train, "object", "random")
    names = [f"{i}.png" for i in range(TEXTURES)]
    textures = datasets.Textures(pictures(TEXTURES), names, "0" * 12, procedural=False)
    before = _peak_gib()
    batches = batches_from(0, category, textures, config)
    for _ in range(5):
        next(batches)
    return {
        "image_size": size,
        "pictures": n,
        "textures": TEXTURES,
        "arrays_gib": round((train.images.nbytes + textures.images.nbytes) / 2**30, 2),
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
    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.DEFINE_integer("rounds", 5, "Times that decoding and batches take turns.")
    flags.DEFINE_integer("batches", 60, "Batches a round.")
    flags.DEFINE_bool("memory", False, "Measure peak memory with random pictures.")
    flags.mark_flags_as_required(["config"])
    app.run(main)
