"""The ten colour and geometry ops that an anomaly source passes, in the TensorFlow graph.

Pictures are `uint8[h, w, 3]`, RGB, in and out. Every op is a plain function of its parameters;
`random_ops` draws three of them. Randomness is stateless: equal seeds give equal pictures.
"""

import functools
import math
from typing import TypeAlias

import tensorflow as tf

Scalar: TypeAlias = tf.Tensor | float | int  # a parameter, drawn in the graph or given

LEVELS = 256
TINY = 1e-3  # steps; keeps whole numbers whole where fractions are cut off

# XLA makes one pass over the picture of what is dozens of TensorFlow kernels: a fifth of the time.
# Only arithmetic on pictures is worth it; small tensors and counting stay outside.
compiled = tf.function(jit_compile=True, autograph=False)


def gamma_contrast(image: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
    """Raise each channel, as a share of 255, to its own power; fractions are cut off.

    Args:
      image: uint8[h, w, 3].
      gamma: f32[3], positive.
    """
    share = tf.range(LEVELS, dtype=tf.float32)[None] / 255.0
    return _look_up(image, tf.pow(share, tf.cast(gamma, tf.float32)[:, None]) * 255.0)


def multiply_brightness(image: tf.Tensor, mul: Scalar, add: Scalar) -> tf.Tensor:
    """Set HSV's V = max(r, g, b) to V * mul + add, each clipped to 8 bits; hue, saturation kept.

    Args:
      image: uint8[h, w, 3].
      mul: scalar factor.
      add: scalar, grey levels.
    """
    return _multiply_brightness(image, _float(mul), _float(add))


@compiled
def _multiply_brightness(image: tf.Tensor, mul: tf.Tensor, add: tf.Tensor) -> tf.Tensor:
    hue, saturation, value = _to_hsv(image)
    product = tf.minimum(tf.floor(value * 255.0 * mul + TINY), 255.0)
    value = tf.clip_by_value(tf.round(product + add), 0.0, 255.0) / 255.0
    return _from_hsv(hue, saturation, value)


def sharpness(image: tf.Tensor, factor: Scalar) -> tf.Tensor:
    """Blend the picture with its smoothed self: 0 smooths, 1 is the identity, 2 sharpens.

    The smoothing is the 3x3 mean with weight 5 at the centre; border pixels stay as they are.

    Args:
      image: uint8[h, w, 3], at least 3x3.
      factor: scalar, weight of the picture; the smoothed one has 1 - factor.
    """
    x = tf.cast(image, tf.float32)
    rows = x[:-2] + x[1:-1] + x[2:]
    centre = x[1:-1, 1:-1]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    smooth = tf.floor((box + 4.0 * centre) / 13.0 + 0.5)
    inner = tf.clip_by_value(smooth + factor * (centre - smooth), 0.0, 255.0)
    inner = tf.cast(inner, tf.uint8)
    middle = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
    return tf.concat([image[:1], middle, image[-1:]], axis=0)


def hue_saturation(image: tf.Tensor, hue: Scalar, saturation: Scalar) -> tf.Tensor:
    """Turn the hue and add to the saturation, in HSV.

    Args:
      image: uint8[h, w, 3].
      hue: scalar, 255 a full turn, in steps of two degrees (towards zero).
      saturation: scalar, 255 from grey to pure colour.
    """
    turn = tf.truncatediv(tf.cast(hue, tf.int32) * 180, 255)
    return _hue_saturation(image, _float(turn) / 180.0, _float(saturation) / 255.0)


@compiled
def _hue_saturation(image: tf.Tensor, turn: tf.Tensor, more: tf.Tensor) -> tf.Tensor:
    hue, saturation, value = _to_hsv(image)
    hue += turn
    hue -= tf.floor(hue)
    return _from_hsv(hue, tf.clip_by_value(saturation + more, 0.0, 1.0), value)


def solarize(image: tf.Tensor, threshold: Scalar) -> tf.Tensor:
    """Invert the values that are at least `threshold` (scalar, grey levels); uint8[h, w, 3]."""
    bright = tf.cast(image >= tf.cast(threshold, tf.uint8), tf.uint8)
    return tf.bitwise.bitwise_xor(image, 255 * bright)  # a xor 255 = 255 - a; faster than where


def posterize(image: tf.Tensor, bits: Scalar) -> tf.Tensor:
    """Keep the highest `bits` (scalar, 1..8) of every value; uint8[h, w, 3]."""
    shift = tf.cast(8 - bits, tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)


def invert(image: tf.Tensor) -> tf.Tensor:
    """255 - value; uint8[h, w, 3]."""
    return 255 - image


def autocontrast(image: tf.Tensor, cutoff_percent: Scalar) -> tf.Tensor:
    """Stretch each channel to 0..255 after cutting off that share of its pixels at either end.

    A channel left with a single level stays as it is.

    Args:
      image: uint8[h, w, 3].
      cutoff_percent: scalar integer, 0..49.
    """
    counts = _histograms(image)
    cut = tf.reduce_sum(counts[0]) * tf.cast(cutoff_percent, tf.int32) // 100
    low = _first(tf.cumsum(counts, axis=1) > cut)
    high = LEVELS - 1 - _first(tf.cumsum(counts[:, ::-1], axis=1) > cut)
    levels = tf.range(LEVELS, dtype=tf.float64)[None]
    # float64 and this order of operations decide which way exact grey levels are cut.
    scale = 255.0 / tf.cast(tf.maximum(high - low, 1), tf.float64)
    stretched = levels * scale - tf.cast(low, tf.float64) * scale
    return _look_up(image, tf.where(high > low, stretched, levels))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Make each channel's histogram as flat as a table of grey levels can.

    Args:
      image: uint8[h, w, 3].
    """
    counts = _histograms(image)
    before = tf.cumsum(counts, axis=1, exclusive=True)
    # Pixels per output level, not counting the brightest input level.
    brightest = tf.gather(counts, LEVELS - 1 - _first(counts[:, ::-1] > 0), batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1, keepdims=True) - brightest) // 255
    flat = (before + step // 2) // tf.maximum(step, 1)
    identity = tf.range(LEVELS)[None]
    return _look_up(image, tf.where(step > 0, flat, identity))


def rotate(image: tf.Tensor, degrees: Scalar) -> tf.Tensor:
    """Rotate about the centre, clockwise, bilinear; 0 outside.

    Args:
      image: uint8 or f32[h, w, c], static shape known; integers are rounded.
      degrees: scalar.
    """
    return _rotate(image, _float(degrees))


@compiled
def _rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    height, width, channels = image.shape
    angle = degrees * (math.pi / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # Where in the picture each new pixel looks, from the centre and then from the corner.
    y = (tf.range(height, dtype=tf.float32) - (height - 1) / 2.0)[:, None]
    x = (tf.range(width, dtype=tf.float32) - (width - 1) / 2.0)[None]
    source_y = cos * y - sin * x + (height - 1) / 2.0
    source_x = sin * y + cos * x + (width - 1) / 2.0
    # All that is a pixel or more outside sees the same: a margin of zeros, one wide before the
    # picture and two after it.
    source_y = tf.clip_by_value(source_y, -1.0, float(height))
    source_x = tf.clip_by_value(source_x, -1.0, float(width))
    top, left = tf.floor(source_y), tf.floor(source_x)
    down, right = (source_y - top)[..., None], (source_x - left)[..., None]
    row = (width + 3) * channels
    corner = (tf.cast(top, tf.int32) + 1) * row + (tf.cast(left, tf.int32) + 1) * channels
    corner = corner[..., None] + tf.range(channels)
    pixels = tf.reshape(tf.pad(image, [[1, 2], [1, 2], [0, 0]]), [-1])

    def along_x(start: tf.Tensor) -> tf.Tensor:
        near, far = (_float(tf.gather(pixels, start + step)) for step in (0, channels))
        return near * (1.0 - right) + far * right

    turned = along_x(corner) * (1.0 - down) + along_x(corner + row) * down
    return turned if image.dtype.is_floating else _round(turned)


def choose_ops(seed: tf.Tensor) -> tf.Tensor:
    """int32[3]: the three different indices into `RANDOM_OPS` that `random_ops` applies with this
    seed, in order; every ordered choice is as likely.
    """
    chances = tf.random.stateless_uniform([len(RANDOM_OPS)], tf.random.fold_in(seed, 0))
    return tf.math.top_k(chances, 3).indices


def random_ops(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Apply three different ops of the ten in random order, with random parameters.

    Args:
      image: uint8[h, w, 3], static shape known.
      seed: int32[2] or int64[2]; everything drawn is a function of it.

    Returns:
      uint8[h, w, 3].
    """
    chosen = choose_ops(seed)
    for place in range(3):
        image = _apply(chosen[place], image, tf.random.fold_in(seed, 1 + place))
    return image


@tf.function(autograph=False)  # traced once, not for each of the three places and each data set
def _apply(which: tf.Tensor, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The op with that index, with random parameters; a switch runs the chosen branch only."""
    branches = [functools.partial(op, image, seed) for op in RANDOM_OPS]
    return tf.ensure_shape(tf.switch_case(which, branches), image.shape)


def _random_gamma_contrast(image, seed):
    return gamma_contrast(image, tf.random.stateless_uniform([3], seed, 0.5, 2.0))


def _random_multiply_brightness(image, seed):
    mul, add = tf.unstack(tf.random.stateless_uniform([2], seed, [0.8, -30.0], [1.2, 30.0]))
    return multiply_brightness(image, mul, add)


def _random_sharpness(image, seed):
    return sharpness(image, tf.random.stateless_uniform([], seed, 0.0, 2.0))


def _random_hue_saturation(image, seed):
    hue, saturation = tf.unstack(_integers([2], seed, -50, 50))
    return hue_saturation(image, hue, saturation)


def _random_solarize(image, seed):
    threshold = _integers([], tf.random.fold_in(seed, 0), 32, 128)
    chance = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1))
    return tf.cond(chance < 0.5, lambda: solarize(image, threshold), lambda: image)


def _random_posterize(image, seed):
    return posterize(image, _integers([], seed, 1, 8))


def _random_invert(image, seed):
    del seed  # nothing to draw
    return invert(image)


def _random_autocontrast(image, seed):
    return autocontrast(image, _integers([], seed, 0, 20))


def _random_equalize(image, seed):
    del seed  # nothing to draw
    return equalize(image)


def _random_rotate(image, seed):
    return rotate(image, tf.random.stateless_uniform([], seed, -45.0, 45.0))


RANDOM_OPS = (
    _random_gamma_contrast,
    _random_multiply_brightness,
    _random_sharpness,
    _random_hue_saturation,
    _random_solarize,
    _random_posterize,
    _random_invert,
    _random_autocontrast,
    _random_equalize,
    _random_rotate,
)
OP_NAMES = tuple(op.__name__.removeprefix("_random_").replace("_", " ") for op in RANDOM_OPS)


def _integers(shape, seed, low: int, high: int) -> tf.Tensor:
    """int32 draws from low..high, both included."""
    return tf.random.stateless_uniform(shape, seed, low, high + 1, tf.int32)


def _float(x: Scalar) -> tf.Tensor:
    return tf.cast(x, tf.float32)


def _round(x: tf.Tensor) -> tf.Tensor:
    """Nearest grey level of values in [0, 255]."""
    return tf.cast(x + 0.5, tf.uint8)


def _to_hsv(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Hue, saturation and value, each f32[h, w] in [0, 1], in the steps of 8-bit HSV.

    Hue has 180 steps and saturation 255, as in the 8-bit pictures that the reference edits; the
    rounding shifts colours by a few grey levels.
    """
    hsv = tf.image.rgb_to_hsv(tf.cast(image, tf.float32) / 255.0)
    hue, saturation, value = tf.unstack(hsv, axis=-1)
    # Halves are frequent and go up, whichever way the compiler orders the arithmetic before.
    half = 0.5 + TINY
    return tf.floor(hue * 180.0 + half) / 180.0, tf.floor(saturation * 255.0 + half) / 255.0, value


def _from_hsv(hue: tf.Tensor, saturation: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """uint8[h, w, 3] RGB, fractions cut off, of f32[h, w] in [0, 1] each."""
    rgb = tf.image.hsv_to_rgb(tf.stack([hue, saturation, value], axis=-1))
    return tf.cast(rgb * 255.0 + TINY, tf.uint8)


def _first(flags: tf.Tensor) -> tf.Tensor:
    """int32[3, 1]: where the first true of each row of bool[3, n] is."""
    return tf.argmax(tf.cast(flags, tf.uint8), axis=1, output_type=tf.int32)[:, None]


@compiled
def _table_indices(image: tf.Tensor) -> tf.Tensor:
    """int32[h, w, 3]: where each value lies in three tables of 256 laid end to end."""
    return tf.cast(image, tf.int32) + tf.constant([0, LEVELS, 2 * LEVELS])


def _histograms(image: tf.Tensor) -> tf.Tensor:
    """int32[3, 256]: how often each channel has each level."""
    indices = tf.reshape(_table_indices(image), [-1])
    counts = tf.math.bincount(indices, minlength=3 * LEVELS, maxlength=3 * LEVELS)
    return tf.reshape(counts, [3, LEVELS])


def _look_up(image: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Map each channel through its table [3, 256], whose values are clipped and cut to uint8."""
    low, high = tf.zeros([], tables.dtype), tf.cast(255, tables.dtype)
    levels = tf.cast(tf.clip_by_value(tables, low, high), tf.uint8)
    return _gather_levels(image, tf.reshape(levels, [-1]))


@compiled
def _gather_levels(image: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
    return tf.gather(levels, _table_indices(image))
