"""From a position in the data order to a batch of training examples.

Position p = step * batch + i names one example of a run. Which picture it shows, in which order an
epoch goes through the pictures, and every draw of the synthesis follow from (seed, p). So a run
resumes anywhere at no cost, and N hosts together make the batches that one host makes.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from jaxtyping import Bool, UInt8

from configs.errors import UserError
from configs.schema import DataConfig
from input_pipeline import keep_tensorflow_off_accelerators
from input_pipeline.datasets import Category, Textures
from input_pipeline.foreground import (
    COMPUTED,
    FILE,
    FULL,
    RANDOM,
    SOURCES,
    foregrounds_for,
    random_part,
)
from input_pipeline.on_disk import Stored
from input_pipeline.synthesis import origin, synthesize, unit

# Streams of the draws made here, folded into the example's seed; the synthesis has its own.
_TEXTURE_STREAM = 7001
_FOREGROUND_STREAM = 7002
_ORDER_STREAM = 7003

WORKERS = os.cpu_count() or 1  # examples made at a time

# From a picture's index and the example's seed to where anomalies may lie: f32[s, s, 1] in [0, 1].
Foreground: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Of the examples that `painted` shows: the same for every run, so that runs can be compared.
_PAINTED_SEED = 7004
PAINTED = 32

_ALIGNMENT = 64  # bytes, what TensorFlow's kernels may rely on


def train_batches(
    category: Category,
    textures: Textures,
    data: DataConfig,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    process_index: int = 0,
    process_count: int = 1,
    with_clean: bool = False,
) -> tf.data.Dataset:
    """Endless training batches of this host, beginning with that of `start_step`.

    Args:
      category: with n training pictures of s x s px.
      textures: what anomalies are painted with.
      data: how anomalies are made: `foreground`, `cache_dir`, `normal_share`, `matched_share`,
        `blend_min` and `blend_max` are used.
      seed: of the whole run.
      batch_size: over all hosts.
      start_step: 0-based.
      process_index: this host's; its examples are that contiguous slice of each batch.
      process_count: hosts.
      with_clean: also give each picture without its anomaly.

    Returns:
      Dataset of {'image' f32[b, s, s, 3] in [0, 1], 'mask' f32[b, s, s, 1] in [0, 1],
      'label' f32[b]} with b = batch_size / process_count; with `with_clean` also
      'clean' f32[b, s, s, 3] in [0, 1].

    Raises:
      UserError: fewer pictures than a batch; a batch that the hosts cannot share evenly.
    """
    check(category, batch_size, process_count)
    local = batch_size // process_count
    examples_of_run = Examples(category, textures, data, seed, with_clean)

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and it takes seconds
    def at(count: tf.Tensor) -> dict[str, tf.Tensor]:
        """The example that this host makes after `count` others."""
        position = count // local * batch_size + process_index * local + count % local
        return examples_of_run.example(position)

    options = tf.data.Options()
    options.deterministic = True
    # They rewrite the graph through a copy of all that it captures: the pictures once more.
    options.experimental_optimization.apply_default_optimizations = False
    # It costs processor time, and the end of a run waited 7 to 37 seconds for its thread.
    options.autotune.enabled = False
    counts = tf.data.Dataset.range(start_step * local, np.iinfo(np.int64).max // process_count)
    examples = counts.map(at, num_parallel_calls=WORKERS, deterministic=True)
    batches = examples.batch(local, drop_remainder=True)
    return batches.prefetch(2).with_options(options)


@dataclasses.dataclass(frozen=True, eq=False)
class Painted:
    """n training pictures before and after a synthetic anomaly was painted, and where it lies."""

    before: UInt8[np.ndarray, "n s s 3"]
    after: UInt8[np.ndarray, "n s s 3"]
    where: Bool[np.ndarray, "n s s"]


def painted(category: Category, textures: Textures, data: DataConfig) -> Painted:
    """`PAINTED` anomalous examples, the same for every seed; arguments as of `train_batches`."""
    data = dataclasses.replace(data, normal_share=0.0)
    made = Examples(category, textures, data, _PAINTED_SEED, with_clean=True)
    shown = [example for _, example, _ in made.shown(0, PAINTED)]
    before, after = (
        np.stack([np.round(example[name] * 255).astype(np.uint8) for example in shown])
        for name in ("clean", "image")
    )
    where = np.stack([example["mask"][..., 0] > 0 for example in shown])
    return Painted(before, after, where)


def check(category: Category, batch_size: int, process_count: int) -> None:
    """Raise UserError where a category cannot fill a batch, or the hosts cannot share one."""
    n = len(category.train.images)
    if n < batch_size:
        raise UserError(
            f"{category.folder} has {n} good training pictures, "
            f"fewer than train.batch_size={batch_size}"
        )
    if batch_size % process_count:
        raise UserError(
            f"train.batch_size={batch_size} is not divisible by the {process_count} hosts"
        )


def numpy_batches(
    category: Category,
    textures: Textures,
    data: DataConfig,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    process_index: int = 0,
    process_count: int = 1,
    with_clean: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of `train_batches` as NumPy arrays, for programs without TensorFlow code."""
    batches = train_batches(
        category,
        textures,
        data,
        seed=seed,
        batch_size=batch_size,
        start_step=start_step,
        process_index=process_index,
        process_count=process_count,
        with_clean=with_clean,
    )
    return _told(batches.as_numpy_iterator())


def _told(iterator: Iterator) -> Iterator:
    """The same. A UserError raised while a picture was read, which TensorFlow turns into the text
    of an error of its own, is one again.
    """
    try:
        yield from iterator
    except tf.errors.OpError as error:
        _, found, told = str(error).partition(f"{UserError.__name__}: ")
        if found:
            raise UserError(told.splitlines()[0]) from error
        raise


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


class Examples:
    """The training examples of a run, each a function of its position p in the data order.

    Methods are TensorFlow graph code, position int64[].
    """

    def __init__(
        self,
        category: Category,
        textures: Textures,
        data: DataConfig,
        seed: int,
        with_clean: bool = False,
    ):
        """Arguments as of `train_batches`. Finds foregrounds where there are no files."""
        keep_tensorflow_off_accelerators()
        self._seed = seed
        self._n, self._size = category.train.images.shape[:2]
        # The paper has self-augmentation for objects only; with procedural textures alone we use it
        # for surfaces too.
        own = category.kind == "object" or textures.procedural
        self._draws = {
            "own_share": 0.5 if own else 0.0,
            "matched_share": data.matched_share,
            "blend_min": data.blend_min,
            "blend_max": data.blend_max,
        }
        self._normal_share, self._with_clean = data.normal_share, with_clean
        self._textures = len(textures.images)
        # From an index (and the example's seed): uint8[s, s, 3] twice, and f32[s, s, 1] in [0, 1].
        self.image, self.texture = reader(category.train.images), reader(textures.images)
        self.foreground = _foreground_function(category, data)

    def example(self, position: tf.Tensor) -> dict[str, tf.Tensor]:
        """What the networks are trained with: see `synthesis.synthesize`."""
        seed = self._example_seed(position)
        picture = picture_index(position, self._n, self._seed)
        return synthesize(
            self.image(picture),
            lambda: self.foreground(picture, seed),
            lambda: self.texture(self._texture_index(seed)),
            seed,
            normal_share=self._normal_share,
            with_clean=self._with_clean,
            **self._draws,
        )

    def origin(self, position: tf.Tensor) -> dict[str, tf.Tensor]:
        """What `example` is made of: `picture` int64[], the index of the training picture, and,
        should it be anomalous, `texture` int64[] and the values of `synthesis.origin`.
        """
        seed = self._example_seed(position)
        return {
            "picture": picture_index(position, self._n, self._seed),
            "texture": self._texture_index(seed),
            **origin(seed, **self._draws),
        }

    def shown(self, first: int, count: int) -> Iterator[tuple[int, dict, dict]]:
        """(position, `example`, `origin`) of `count` positions from `first` on, as NumPy values."""

        @tf.autograph.experimental.do_not_convert
        def at(position: tf.Tensor) -> tuple:
            return position, self.example(position), self.origin(position)

        yield from _told(tf.data.Dataset.range(first, first + count).map(at).as_numpy_iterator())

    def _example_seed(self, position: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.constant(self._seed, tf.int64), position])

    def _texture_index(self, seed: tf.Tensor) -> tf.Tensor:
        stream = tf.random.fold_in(seed, _TEXTURE_STREAM)
        return tf.random.stateless_uniform([], stream, 0, self._textures, dtype=tf.int64)


def reader(pictures: UInt8[np.ndarray, "n h w c"] | Stored) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from an index (int64[]) to pictures[index], in the graph.

    An array is kept in memory once more, as a tensor; what lies on disk is read at each call.
    """
    if type(pictures) is np.ndarray:
        tensor = _tensor(pictures)
        return lambda index: tensor[index]

    def read(index: np.integer) -> np.ndarray:
        return np.array(pictures[np.array([index])][0])

    shape = pictures.shape[1:]
    return lambda index: tf.ensure_shape(tf.numpy_function(read, [index], tf.uint8), shape)


def _tensor(array: np.ndarray) -> tf.Tensor:
    """The array as a tensor. `tf.constant` would hold it twice in memory beside the array."""
    buffer = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    aligned = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    aligned[...] = array
    return tf.experimental.dlpack.from_dlpack(aligned.__dlpack__())


def _foreground_function(category: Category, data: DataConfig) -> Foreground:
    found = foregrounds_for(category, data.foreground, data.cache_dir)
    size = category.train.images.shape[1]
    makers: dict[str, Foreground] = {
        RANDOM: _drawn(found.parts, size),
        FULL: lambda index, seed: tf.ones([size, size, 1]),
    }
    for source, planes in ((FILE, found.files), (COMPUTED, found.computed)):
        if planes is not None:
            makers[source] = _of_picture(planes)
    present = [source for source in SOURCES if source in found.sources]
    which = tf.constant([present.index(source) for source in found.sources])

    def foreground(index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        branches = [functools.partial(makers[source], index, seed) for source in present]
        if len(branches) == 1:
            return branches[0]()
        return tf.ensure_shape(tf.switch_case(which[index], branches), [size, size, 1])

    return foreground


def _of_picture(planes: np.ndarray | Stored) -> Foreground:
    """The plane u8[s, s, 1] of the picture itself."""
    read = reader(planes)
    return lambda index, seed: unit(read(index))


def _drawn(parts: np.ndarray | None, size: int) -> Foreground:
    """One of `parts` u8[k, s, s, 1], else a random part, drawn by the example's seed."""
    part = None if parts is None else reader(parts)
    count = 0 if parts is None else len(parts)

    def drawn(index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        stream = tf.random.fold_in(seed, _FOREGROUND_STREAM)
        if part is None:
            return random_part(stream, size)
        return unit(part(tf.random.stateless_uniform([], stream, 0, count, tf.int64)))

    return drawn
