"""Anomaly synthesis: a good picture in, a training example with or without an anomaly out.

Everything drawn is a function of the example's seed: each draw has its own seed, folded from the
example's with one of the constants below, so that no draw depends on which others were made.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from configs.errors import UserError
from input_pipeline import augment

MAX_PERIOD_LOG2 = 5  # noise periods are 1, 2, 4, ... 32 a side
TRIES = 50  # noise draws until the mask is not empty
THRESHOLD = 0.5  # of the noise, above it lies the shape
FLAT = 2.55  # grey levels; the least spread that a source's levels are matched from
STRIPS = 8  # a side, when a picture is its own anomaly source

# What `tf.random.fold_in` folds into the example's seed.
_NORMAL, _PERIODS, _SHAPE, _SOURCE, _OPS, _COLUMNS, _ROWS, _BLEND, _MATCH = range(9)


def perlin_noise(angles: tf.Tensor, periods: tf.Tensor, size: int) -> tf.Tensor:
    """Perlin noise with one unit gradient (cos a, sin a) in (y, x) at each grid point.

    The value at a pixel is the sum over the four grid points around its upper left corner of
    fade weight times (gradient . offset), with quintic fade 6t^5 - 15t^4 + 10t^3, times sqrt(2).
    As the weights are products of one factor in y and one in x, that is four products with
    matrices of which each row has two entries; the periods may differ from call to call.

    Args:
      angles: f32[m, n] in radians; only the first periods + 1 of each axis are read.
      periods: int32[2], grid cells along y and x, each at most (m - 1, n - 1).
      size: pixels a side of the result.

    Returns:
      f32[size, size], about in [-1, 1].
    """
    rows, row_offsets = _fade_weights(periods[0], angles.shape[0], size)
    columns, column_offsets = _fade_weights(periods[1], angles.shape[1], size)
    along_y = tf.matmul(tf.matmul(row_offsets, tf.cos(angles)), columns, transpose_b=True)
    along_x = tf.matmul(tf.matmul(rows, tf.sin(angles)), column_offsets, transpose_b=True)
    return math.sqrt(2.0) * (along_y + along_x)


def _fade_weights(period: tf.Tensor, points: int, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Weight of each grid point at each pixel of one axis, and weight times offset.

    Both are f32[size, points]. The weight is 1 - fade(|d|) at an offset of d cells and 0 from one
    cell on; 1 - fade(t) = fade(1 - t) makes it right on both sides of the grid point.
    """
    position = tf.range(size, dtype=tf.float32) * tf.cast(period, tf.float32) / size
    offset = position[:, None] - tf.range(points, dtype=tf.float32)[None]
    t = tf.minimum(tf.abs(offset), 1.0)
    weight = 1.0 - t * t * t * (t * (t * 6.0 - 15.0) + 10.0)
    return weight, weight * offset


def draw_periods(seed: tf.Tensor, size: int) -> tf.Tensor:
    """int32[2]: 2^U{0..5} for y and for x independently, never above `size` (pixels)."""
    largest = min(MAX_PERIOD_LOG2, int(math.log2(size)))
    return tf.bitwise.left_shift(
        1, tf.random.stateless_uniform([2], seed, 0, largest + 1, tf.int32)
    )


def draw_shape(seed: tf.Tensor, periods: tf.Tensor, size: int) -> tf.Tensor:
    """f32[size, size, 1], 0 or 1: where noise turned by U(-90, 90) degrees is above 0.5."""
    points = 2**MAX_PERIOD_LOG2 + 1
    angles = tf.random.stateless_uniform(
        [points, points], tf.random.fold_in(seed, 0), 0.0, 2.0 * math.pi
    )
    degrees = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1), -90.0, 90.0)
    noise = perlin_noise(angles, periods, size)[..., None]
    return tf.cast(augment.rotate(noise, degrees) > THRESHOLD, tf.float32)


def draw_mask(seed: tf.Tensor, foreground: tf.Tensor) -> tf.Tensor:
    """A random shape times the foreground, drawn again until it is not empty.

    The periods stay the same for all draws. After 50 empty ones the mask is empty.

    Args:
      seed: int[2].
      foreground: f32[s, s, 1] in [0, 1].

    Returns:
      f32[s, s, 1] in [0, 1].
    """
    size = foreground.shape[0]
    periods = draw_periods(tf.random.fold_in(seed, _PERIODS), size)
    shape_seed = tf.random.fold_in(seed, _SHAPE)

    def draw(attempt, mask):
        shape = draw_shape(tf.random.fold_in(shape_seed, attempt), periods, size)
        return attempt + 1, tf.ensure_shape(shape * foreground, mask.shape)

    _, mask = tf.while_loop(
        lambda attempt, mask: tf.logical_not(_has_anomaly(mask)),
        draw,
        (tf.constant(0), tf.zeros_like(foreground)),
        maximum_iterations=TRIES,
        parallel_iterations=1,
    )
    return mask


def rearrange_strips(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Rearrange a picture's 8 column strips, then the result's 8 row strips.

    From left to right come the strips 0, 2, 4, 6 in random order, then 1, 3, 5, 7 in random
    order (so that neighbours are parted); the row strips come in any order.

    Args:
      image: [s, s, c], s divisible by 8.
      seed: int[2].
    """
    height, width, channels = image.shape
    if height % STRIPS or width % STRIPS:
        raise UserError(f"picture of {height}x{width} px does not divide into {STRIPS} strips")
    evens, odds = tf.unstack(
        tf.argsort(tf.random.stateless_uniform([2, STRIPS // 2], tf.random.fold_in(seed, _COLUMNS)))
    )
    columns = tf.concat([2 * evens, 2 * odds + 1], axis=0)
    rows = tf.argsort(tf.random.stateless_uniform([STRIPS], tf.random.fold_in(seed, _ROWS)))
    strips = tf.reshape(image, [height, STRIPS, width // STRIPS, channels])
    strips = tf.gather(strips, columns, axis=1)
    strips = tf.reshape(strips, [STRIPS, height // STRIPS, width, channels])
    return tf.reshape(tf.gather(strips, rows), image.shape)


@augment.compiled
def match_levels(image: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Give each channel the mean and the standard deviation that it has in another picture.

    As Reinhard et al. (2001, "Color transfer between images") do, but in RGB. What leaves 0..255
    is clipped; a spread below `FLAT` counts as that, so that no grain is blown up.

    Args:
      image: uint8[h, w, 3].
      like: uint8[h, w, 3], the other picture.
    """
    image, like = tf.cast(image, tf.float32), tf.cast(like, tf.float32)
    mean, variance = tf.nn.moments(image, [0, 1])
    to_mean, to_variance = tf.nn.moments(like, [0, 1])
    scale = tf.sqrt(to_variance / tf.maximum(variance, FLAT**2))
    return tf.cast(tf.clip_by_value((image - mean) * scale + to_mean, 0.0, 255.0) + 0.5, tf.uint8)


def draw_source(
    image: tf.Tensor, texture: Callable[[], tf.Tensor], seed: tf.Tensor, own_share: float
) -> tf.Tensor:
    """What fills the anomaly: a changed texture picture, or the picture's own changed pieces.

    Three random ops change the picture that serves as source. If it is the image itself, its
    strips are then rearranged.

    Args:
      image: uint8[s, s, 3].
      texture: gives uint8[s, s, 3]; called where it is needed only, as it may have to be read.
      seed: int[2].
      own_share: probability in [0, 1] of the image itself.

    Returns:
      uint8[s, s, 3].
    """
    own = _is_own(seed, own_share)
    source = tf.cond(own, lambda: image, texture)
    source = augment.random_ops(tf.ensure_shape(source, image.shape), _fold(seed, _OPS))
    return tf.cond(own, lambda: rearrange_strips(source, seed), lambda: source)


def origin(
    seed: tf.Tensor, *, own_share: float, matched_share: float, blend_min: float, blend_max: float
) -> dict[str, tf.Tensor]:
    """What the anomaly of `synthesize` is made of, should this seed have one.

    Returns:
      own: bool[], whether by self-augmentation; ops: int32[3], indices into
      `augment.RANDOM_OPS` in the order they are applied; matched: bool[], whether the source then
      took the picture's levels; blend: f32[], the picture's share b.
    """
    return {
        "own": _is_own(seed, own_share),
        "ops": augment.choose_ops(_fold(seed, _OPS)),
        "matched": _is_matched(seed, matched_share),
        "blend": _draw_blend(seed, blend_min, blend_max),
    }


def synthesize(
    image: tf.Tensor,
    foreground: Callable[[], tf.Tensor],
    texture: Callable[[], tf.Tensor],
    seed: tf.Tensor,
    *,
    own_share: float,
    matched_share: float,
    normal_share: float,
    blend_min: float,
    blend_max: float,
    with_clean: bool = False,
) -> dict[str, tf.Tensor]:
    """A training example: x' = (1 - m) x + m ((1 - b) source + b x), b ~ U(blend_min, blend_max).

    With probability `normal_share`, and where 50 draws find no mask inside the foreground, the
    picture stays as it is.

    Args:
      image: uint8[s, s, 3], s divisible by 8, static.
      foreground: gives f32[s, s, 1] in [0, 1], where anomalies may be painted and how strongly;
        like `texture`, called only where the example needs it.
      texture: gives uint8[s, s, 3], an anomaly source.
      seed: int64[2]; the example is a function of it and the pictures.
      own_share: probability in [0, 1] of self-augmentation: the picture itself is the source, its
        strips rearranged.
      matched_share: probability in [0, 1] that the source takes the picture's levels
        (`match_levels`), so that a dark picture's anomalies are not all bright.
      normal_share: probability in [0, 1].
      blend_min: least share of the picture that shows through the anomaly, in [0, 1].
      blend_max: largest share, in [blend_min, 1].
      with_clean: also return the picture without the anomaly.

    Returns:
      image: f32[s, s, 3] in [0, 1]; mask: f32[s, s, 1] in [0, 1]; label: f32[], 1 exactly where
      the mask is not empty. With `with_clean`, clean: f32[s, s, 3] in [0, 1].
    """
    clean, empty = unit(image), tf.zeros([*image.shape[:2], 1])

    def paint(mask: tf.Tensor) -> tf.Tensor:
        b = _draw_blend(seed, blend_min, blend_max)
        source = draw_source(image, texture, seed, own_share)
        matched = _is_matched(seed, matched_share)
        source = tf.cond(matched, lambda: match_levels(source, image), lambda: source)
        return blend(clean, mask, source, b)

    normal = tf.random.stateless_uniform([], _fold(seed, _NORMAL)) < normal_share
    mask = tf.cond(normal, lambda: empty, lambda: draw_mask(seed, foreground()))
    anomalous = _has_anomaly(mask)
    painted = tf.cond(anomalous, lambda: paint(mask), lambda: clean)
    example = {
        "image": tf.ensure_shape(painted, image.shape),
        "mask": tf.ensure_shape(mask, empty.shape),
        "label": tf.cast(anomalous, tf.float32),
    }
    return example | ({"clean": clean} if with_clean else {})


@augment.compiled
def blend(clean: tf.Tensor, mask: tf.Tensor, source: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """f32[s, s, 3]: (1 - m) x + m ((1 - b) source + b x); exactly x where m = 0.

    Args:
      clean: x, f32[s, s, 3] in [0, 1].
      mask: m, f32[s, s, 1] in [0, 1].
      source: uint8[s, s, 3].
      b: f32[] in [0, 1], the share of the picture that shows through.
    """
    return clean + (1.0 - b) * mask * (unit(source) - clean)


def _fold(seed: tf.Tensor, stream: int) -> tf.Tensor:
    """The seed of one of the draws."""
    return tf.random.fold_in(seed, stream)


def _is_own(seed: tf.Tensor, own_share: float) -> tf.Tensor:
    """bool[]: whether the picture is its own anomaly source."""
    return tf.random.stateless_uniform([], _fold(seed, _SOURCE)) < own_share


def _is_matched(seed: tf.Tensor, matched_share: float) -> tf.Tensor:
    """bool[]: whether the anomaly source takes the picture's levels."""
    return tf.random.stateless_uniform([], _fold(seed, _MATCH)) < matched_share


def _draw_blend(seed: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """f32[]: the share of the picture that shows through its anomaly."""
    return tf.random.stateless_uniform([], _fold(seed, _BLEND), low, high)


def unit(image: tf.Tensor) -> tf.Tensor:
    """uint8 to f32 in [0, 1]."""
    return tf.cast(image, tf.float32) / 255.0


def _has_anomaly(mask: tf.Tensor) -> tf.Tensor:
    """bool[]: whether any pixel of the mask is above 0."""
    return tf.reduce_max(mask) > 0.0
