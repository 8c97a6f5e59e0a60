"""The three terms of the training loss. Everything in at least float32."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from configs.schema import LossConfig
from diffad_jax.models.layers import at_least_float32

LOG_FLOOR = -100.0  # PyTorch's binary cross entropy clamps its logarithms there


def noise_errors(
    predicted: Float[Array, "b h w c"], target: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """Mean squared error of the U-Net's output for each picture."""
    error = at_least_float32(predicted) - at_least_float32(target)
    return jnp.mean(jnp.square(error), axis=(1, 2, 3))


def normal_mean(
    errors: Float[Array, " b"], label: Float[Array, " b"], count: Float[Array, ""]
) -> Float[Array, ""]:
    """Mean of `errors` over the normal pictures (label 0): sum((1 - label) errors) / max(count, 1).

    `count` is the number of normal pictures of the whole batch, given apart from `label` because a
    batch may be computed in parts. Zero when there is none; a NaN error stays a NaN.
    """
    normal = jnp.where(label > 0, jnp.zeros_like(errors), errors)
    return jnp.sum(normal) / jnp.maximum(count, 1)


def focal(
    probability: Float[Array, "b h w 1"], mask: Float[Array, "b h w 1"], config: LossConfig
) -> Float[Array, ""]:
    """Mean of alpha (1 - exp(-l))^gamma l with l the binary cross entropy of each pixel.

    alpha is a plain factor (not a class weight). Lin et al. 2017, with soft masks allowed.
    """
    p, y = at_least_float32(probability), at_least_float32(mask)
    entropy = -(y * _log(p) + (1 - y) * _log(1 - p))
    missed = 1 - jnp.exp(-entropy)
    # At 0 a power below 1 has no finite slope: with gamma 0, a NaN for a right answer.
    safe = jnp.where(missed > 0, missed, jnp.ones_like(missed))
    power = jnp.where(missed > 0, safe**config.focal_gamma, 0.0**config.focal_gamma)
    return jnp.mean(config.focal_alpha * power * entropy)


def smooth_l1(
    probability: Float[Array, "b h w 1"], mask: Float[Array, "b h w 1"], beta: float
) -> Float[Array, ""]:
    """Mean Huber-like loss: d^2 / (2 beta) where |d| < beta, else |d| - beta / 2."""
    distance = jnp.abs(at_least_float32(probability) - at_least_float32(mask))
    squared = 0.5 * jnp.square(distance) / beta
    return jnp.mean(jnp.where(distance < beta, squared, distance - 0.5 * beta))


def _log(p: Array) -> Array:
    """log(p), at least -100, with a zero gradient (not a NaN) where it is clamped."""
    safe = jnp.where(p > 0, p, jnp.ones_like(p))
    return jnp.where(p > 0, jnp.maximum(jnp.log(safe), LOG_FLOOR), LOG_FLOOR)
