"""From a position in the data order to a batch of training examples.

Position p = step * batch + i names one example of a run. Which picture it shows, in which order an
epoch goes through the pictures, and every draw of the synthesis follow from (seed, p). So a run
resumes anywhere at no cost, and N hosts together make the batches that one host makes.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from jaxtyping import UInt8

from diffad_jax.config import Config
from input_pipeline.datasets import Category
from input_pipeline.foreground import foregrounds_for, random_part
from input_pipeline.synthesis import synthesize

# Streams of the draws made here, folded into the example's seed; the synthesis has its own.
_TEXTURE_STREAM = 7001
_FOREGROUND_STREAM = 7002
_ORDER_STREAM = 7003


def train_batches(
    category: Category,
    textures: UInt8[np.ndarray, "m s s 3"] | None,
    config: Config,
    *,
    start_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> tf.data.Dataset:
    """Endless training batches of this host, beginning with that of `start_step`.

    Args:
      category: with n training pictures of s x s px.
      textures: anomaly sources, or None.
      config: `seed`, `train.batch_size` (over all hosts) and `data` are used.
      start_step: 0-based.
      process_index: this host's; its examples are that contiguous slice of each batch.
      process_count: hosts.

    Returns:
      Dataset of {'image' f32[b, s, s, 3] in [0, 1], 'mask' f32[b, s, s, 1] in [0, 1],
      'label' f32[b]} with b = batch_size / process_count.

    Raises:
      ValueError: fewer pictures than a batch; a batch that the hosts cannot share evenly.
    """
    batch = config.train.batch_size
    check(category, batch, process_count)
    local = batch // process_count
    example = _example_function(category, textures, config)

    def at(count: tf.Tensor) -> dict[str, tf.Tensor]:
        """The example that this host makes after `count` others."""
        return example(count // local * batch + process_index * local + count % local)

    options = tf.data.Options()
    options.deterministic = True
    counts = tf.data.Dataset.range(start_step * local, np.iinfo(np.int64).max // process_count)
    examples = counts.map(at, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = examples.batch(local, drop_remainder=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def check(category: Category, batch_size: int, process_count: int) -> None:
    """Raise ValueError where a category cannot fill a batch, or the hosts cannot share one."""
    n = len(category.train.images)
    if n < batch_size:
        raise ValueError(
            f"{category.folder} has {n} good training pictures, "
            f"fewer than train.batch_size={batch_size}"
        )
    if batch_size % process_count:
        raise ValueError(
            f"train.batch_size={batch_size} is not divisible by the {process_count} hosts"
        )


def numpy_batches(
    category: Category,
    textures: UInt8[np.ndarray, "m s s 3"] | None,
    config: Config,
    *,
    start_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of `train_batches` as NumPy arrays, for programs without TensorFlow code."""
    batches = train_batches(
        category,
        textures,
        config,
        start_step=start_step,
        process_index=process_index,
        process_count=process_count,
    )
    return batches.as_numpy_iterator()


def picture_index(position: tf.Tensor, n: int, seed: int) -> tf.Tensor:
    """Which of n pictures stands at a position (int64[]) of the data order: int64[] in [0, n).

    Every epoch, n positions, is a permutation of its own.
    """
    epoch = tf.random.fold_in(tf.constant([seed, _ORDER_STREAM], tf.int64), position // n)
    # The op knows only 256 permutations of n, whatever its seed. Two of them with a random
    # rotation between make orders that hardly ever repeat in the thousands of epochs of a run.
    shift = tf.random.stateless_uniform([], tf.random.fold_in(epoch, 2), 0, n, tf.int64)
    index = position % n
    index = tf.random.experimental.index_shuffle(index, tf.random.fold_in(epoch, 0), n - 1)
    index = (index + shift) % n
    return tf.random.experimental.index_shuffle(index, tf.random.fold_in(epoch, 1), n - 1)


def _example_function(category: Category, textures: np.ndarray | None, config: Config):
    """The function from a position (int64[]) to one example."""
    data, size = config.data, category.train.images.shape[1]
    # Tensors that the graph captures: the pictures stay in memory once, outside the graph.
    images = tf.constant(category.train.images)
    stored, drawn = foregrounds_for(category, data.foreground)
    foregrounds, is_drawn = tf.constant(stored), tf.constant(drawn)
    any_drawn = bool(drawn.any())
    sources = None if textures is None else tf.constant(textures)

    def foreground_of(index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        fixed = tf.cast(foregrounds[index], tf.float32) / 255.0
        if not any_drawn:
            return fixed
        part = random_part(tf.random.fold_in(seed, _FOREGROUND_STREAM), size)
        return tf.where(is_drawn[index], part, fixed)

    def example(position: tf.Tensor) -> dict[str, tf.Tensor]:
        index = picture_index(position, len(category.train.images), config.seed)
        seed = tf.stack([tf.constant(config.seed, tf.int64), position])
        texture = None
        if sources is not None:
            stream = tf.random.fold_in(seed, _TEXTURE_STREAM)
            texture = sources[
                tf.random.stateless_uniform([], stream, 0, len(textures), dtype=tf.int64)
            ]
        return synthesize(
            images[index],
            foreground_of(index, seed),
            texture,
            seed,
            kind=category.kind,
            normal_share=data.normal_share,
            blend_min=data.blend_min,
            blend_max=data.blend_max,
        )

    return example
