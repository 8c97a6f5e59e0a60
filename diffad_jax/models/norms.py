"""GroupNorm and BatchNorm: one function, its own gradient, two ways to pool. Channels last."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from configs.schema import GROUPS
from diffad_jax.models.layers import at_least_float32

EPSILON = 1e-5  # of every norm
MOMENTUM = 0.9  # share of the old running statistics that stays; PyTorch calls it momentum 0.1


class GroupNorm(nnx.Module):
    """GroupNorm(32) computed in at least float32; the result has the input's dtype."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(
        self,
        x: Float[Array, "b *hw c"],
        *,
        parts: tuple[Float[Array, "b *hw _"], ...] = (),
        shift: Float[Array, "b c"] | None = None,
    ) -> Float[Array, "b *hw c"]:
        """Channels last; `parts` (none: x itself) and `shift` as in `normalise`."""
        return normalise(x, parts or (x,), shift, self.scale[...], self.bias[...], group_means)[0]


class BatchNorm(nnx.Module):
    """BatchNorm as PyTorch's: the running variance is unbiased, n / (n - 1), which Flax's is not.

    The statistics are plain means over the batch axis: of the global batch, under jit with a
    sharded batch. They are computed in at least float32; the result has the input's dtype.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))
        self.mean = nnx.BatchStat(jnp.zeros((channels,)))
        self.var = nnx.BatchStat(jnp.ones((channels,)))

    @jax.named_scope("norm")
    def __call__(
        self, x: Float[Array, "b h w c"], shift: Float[Array, "1 c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """`train`: normalise by the batch's statistics and update the running ones.

        `shift` as in `normalise`.
        """
        scale, bias = self.scale[...], self.bias[...]
        if train:
            y, mean, var = normalise(x, (x,), shift, scale, bias, batch_means)
            n = x.size // x.shape[-1]
            _update(self.mean, mean[0])
            _update(self.var, var[0] * (n / max(n - 1, 1)))
            return y
        gain = scale / jnp.sqrt(self.var[...] + EPSILON)
        centred = at_least_float32(x) - _to_pixels(self.mean[...][None] - shift, x)
        y = centred * _to_pixels(gain[None], x) + _to_pixels(bias[None], x)
        return y.astype(x.dtype)


def _update(running: nnx.BatchStat, value: Float[Array, " c"]) -> None:
    old = running[...]
    # Not running[...] = : Flax then asks the traced value for its sharding, and JAX searches the
    # whole program for the words of its refusal.
    running.set_value((MOMENTUM * old + (1 - MOMENTUM) * value).astype(old.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def normalise(
    x: Float[Array, "b *hw c"],
    parts: tuple[Float[Array, "b *hw _"], ...],
    shift: Float[Array, "n c"] | None,
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    pool: Callable[[Float[Array, "b c"]], Float[Array, "n c"]],
) -> tuple[Float[Array, "b *hw c"], Float[Array, "n c"], Float[Array, "n c"]]:
    """(x + shift - m) / sqrt(v + EPSILON) * scale + bias, computed in at least float32.

    With its own gradient, because the one that is derived from these lines reads the feature map
    more often and keeps more of it in memory. With r = 1 / sqrt(v + EPSILON), z = (x + shift - m)
    r, and dy the gradient of the result, it is dx = r (scale dy - M(scale dy) - z M(scale dy z)),
    where M pools as m does. The gradient of `shift` is the sum of dx over the pixels, which follows
    from the means of dy, dy z and z. A convolution's bias is better given here than added before:
    only convolutions read dx then, and XLA for TPU computes it inside them.

    Args:
      x: feature map.
      parts: x again, as what its channels were concatenated from: XLA for TPU takes the means of
        each where it computes it, but those of the whole in a pass of their own. No gradient.
      shift: what is added to x first, in at least float32: a number for each picture's channel, or
        for each channel; None: nothing.
      scale: a factor for each channel.
      bias: a summand for each channel.
      pool: makes of the means of each picture's channels the means that are subtracted:
        `group_means` or `batch_means`.

    Returns:
      The normalised feature map in the dtype of x, and the means m and variances v of x + shift,
      which have no gradient.
    """
    return _normalise(x, parts, shift, scale, bias, pool)[0]


def group_means(z: Float[Array, "b c"]) -> Float[Array, "b c"]:
    """GroupNorm: the channels of a group of one picture go together."""
    b, c = z.shape
    return jnp.repeat(z.reshape(b, GROUPS, c // GROUPS).mean(axis=-1), c // GROUPS, axis=-1)


def batch_means(z: Float[Array, "b c"]) -> Float[Array, "1 c"]:
    """BatchNorm: a channel of all pictures of the (global) batch goes together."""
    return z.mean(axis=0, keepdims=True)


@jax.named_scope("norm")
def _normalise(x, parts, shift, scale, bias, pool):
    wide = at_least_float32(x)
    channel_mean = _side_by_side(parts, at_least_float32)
    mean = pool(channel_mean if shift is None else channel_mean + shift)
    middle = mean if shift is None else mean - shift  # what x itself is centred by
    var = _variance(x, parts, channel_mean, middle, pool)
    rate = 1 / jnp.sqrt(var + EPSILON)
    y = (wide - _to_pixels(middle, x)) * _to_pixels(rate * scale[None], x)
    y += _to_pixels(bias[None], x)
    return (y.astype(x.dtype), mean, var), (x, shift, scale, channel_mean, middle, rate)


def _variance(x, parts, channel_mean, middle, pool):
    """The pooled mean square of x - middle.

    Taking `middle` off first reads x twice. The mean square of x itself needs one reading, but
    loses digits where the mean is large: of bfloat16 no more than its rounding to 8 bits has lost
    already.
    """
    wide = at_least_float32(x)
    if wide.dtype == x.dtype:
        return pool(_over_pixels(jnp.square(wide - _to_pixels(middle, x))))
    square_mean = _side_by_side(parts, lambda part: jnp.square(at_least_float32(part)))
    return jnp.maximum(pool(square_mean + middle * (middle - 2 * channel_mean)), 0)


@jax.named_scope("norm")
def _normalise_gradient(pool, kept, gradients):
    (x, shift, scale, channel_mean, middle, rate), (dy, *_) = kept, gradients
    gain = scale[None]
    z = (at_least_float32(x) - _to_pixels(middle, x)) * _to_pixels(rate, x)
    dy = at_least_float32(dy)
    dy_mean, dyz_mean = _over_pixels(dy), _over_pixels(dy * z)
    pooled_dy, pooled_dyz = pool(gain * dy_mean), pool(gain * dyz_mean)
    dx = _to_pixels(rate * gain, x) * dy
    dx -= _to_pixels(rate * pooled_dy, x)
    dx -= _to_pixels(rate * pooled_dyz, x) * z
    pixels = x.size // dy_mean.size
    sums = [(pixels * jnp.sum(m, axis=0)).astype(scale.dtype) for m in (dyz_mean, dy_mean)]
    if shift is None:
        return dx.astype(x.dtype), None, None, *sums
    z_mean = (channel_mean - middle) * rate
    dshift = pixels * rate * (gain * dy_mean - pooled_dy - pooled_dyz * z_mean)
    if len(shift) == 1:
        dshift = dshift.sum(axis=0, keepdims=True)
    return dx.astype(x.dtype), None, dshift.astype(shift.dtype), *sums


normalise.defvjp(_normalise, _normalise_gradient)


def _side_by_side(parts, function) -> Float[Array, "b c"]:
    return jnp.concatenate([_over_pixels(function(part)) for part in parts], axis=-1)


def _over_pixels(x: Float[Array, "b *hw c"]) -> Float[Array, "b c"]:
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def _to_pixels(z: Float[Array, "n c"], x: Float[Array, "b *hw c"]) -> Float[Array, "n *ones c"]:
    return jnp.expand_dims(z, tuple(range(1, x.ndim - 1)))
