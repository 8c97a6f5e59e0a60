"""The noise schedule and norm-guided one-step denoising (arXiv 2303.08730).

a_t is the cumulative product of (1 - beta); time steps are 0-indexed. Pictures are in the networks'
own range (`ModelConfig.image_range`), NHWC.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from configs.schema import DiffusionConfig, ModelConfig
from diffad_jax.models.layers import wide

COSINE_OFFSET = 0.008
MAX_BETA = 0.999


def betas(config: DiffusionConfig) -> Float[np.ndarray, " t"]:
    """Noise variances, float64.

    linear: 1e-4 .. 2e-2 scaled by 1000/T (Ho et al. 2020).
    cosine: 1 - f(t+1)/f(t) with f = cos^2 of Nichol and Dhariwal 2021, at most 0.999.
    """
    steps = config.timesteps
    if config.schedule == "linear":
        scale = 1000 / steps
        return np.linspace(scale * 1e-4, scale * 2e-2, steps, dtype=np.float64)
    time = np.arange(steps + 1, dtype=np.float64) / steps
    f = np.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], MAX_BETA)


def cumulative_alphas(config: DiffusionConfig) -> Float[np.ndarray, " t"]:
    """a_t for every time step, float64, falling from nearly 1 to nearly 0."""
    return np.cumprod(1 - betas(config))


def alphas_at(config: DiffusionConfig, t: Int[Array, " b"], dtype) -> Float[Array, "b 1 1 1"]:
    """a_t of each picture's time step, ready to broadcast over NHWC."""
    table = jnp.asarray(cumulative_alphas(config), wide(dtype))
    return table[t][:, None, None, None]


def add_noise(
    x: Float[Array, "b h w c"], a: Float[Array, "b 1 1 1"], noise: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """x_t = sqrt(a) x + sqrt(1 - a) noise."""
    return jnp.sqrt(a) * x + jnp.sqrt(1 - a) * noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prior:
    """What a preconditioned U-Net takes for granted of pictures, in the networks' range."""

    mean: Float[Array, "1 h w c"]  # the mean training picture
    spread: Float[Array, ""]  # s, standard deviation about it


def unet_input(
    x_t: Float[Array, "b h w c"], a: Float[Array, "b 1 1 1"], prior: Prior | None
) -> Float[Array, "b h w c"]:
    """What the U-Net sees of x_t.

    Without a prior (epsilon): x_t itself. With one (preconditioned): x' / sqrt(sigma^2 + s^2), of
    variance 1 for such pictures, with x' = x_t / sqrt(a) - mean and sigma^2 = (1 - a) / a (Karras
    et al. 2022, table 1, of the difference to the mean).
    """
    if prior is None:
        return x_t
    return (x_t - jnp.sqrt(a) * prior.mean) / jnp.sqrt(_variance(a, prior))


def predict_start(
    x_t: Float[Array, "b h w c"],
    a: Float[Array, "b 1 1 1"],
    output: Float[Array, "b h w c"],
    prior: Prior | None,
) -> Float[Array, "b h w c"]:
    """x_0 from the U-Net's output F, not clamped.

    epsilon: F is the noise and x_0 = x_t / sqrt(a) - sqrt(1/a - 1) F: `add_noise` solved for x.
    preconditioned: x_0 = mean + s^2 / (sigma^2 + s^2) x' + sigma s / sqrt(sigma^2 + s^2) F; see
    `unet_input`. F = 0 is the best answer for pictures that are as the prior says.
    """
    if prior is None:
        return x_t / jnp.sqrt(a) - jnp.sqrt(1 / a - 1) * output
    s, variance = prior.spread, _variance(a, prior)
    centred = x_t - jnp.sqrt(a) * prior.mean
    known = prior.mean + s**2 * jnp.sqrt(a) / variance * centred
    return known + s * jnp.sqrt((1 - a) / variance) * output


def unet_target(
    x: Float[Array, "b h w c"],
    clean: Float[Array, "b h w c"],
    a: Float[Array, "b 1 1 1"],
    noise: Float[Array, "b h w c"],
    prior: Prior | None,
) -> Float[Array, "b h w c"]:
    """The output F from which `predict_start` makes `clean` where x_t = add_noise(x, a, noise).

    With x = clean it is the noise (epsilon), or (sqrt(1 - a) (x - mean) / s - sqrt(a) s noise) /
    sqrt(1 - a + a s^2) (preconditioned). The square of F's error is that of the estimate of
    `clean`, weighted by a / (1 - a) (epsilon) or (sigma^2 + s^2) / (sigma s)^2 (preconditioned).
    """
    change = x - clean  # what the estimate has to take out of the picture besides the noise
    if prior is None:
        return noise + jnp.sqrt(a / (1 - a)) * change
    s, variance, centred = prior.spread, _variance(a, prior), x - prior.mean
    unchanged = (jnp.sqrt(1 - a) / s * centred - jnp.sqrt(a) * s * noise) / jnp.sqrt(variance)
    return unchanged - jnp.sqrt(variance / (1 - a)) / s * change


def min_snr(
    a: Float[Array, "b 1 1 1"], gamma: float, prior: Prior | None
) -> Float[Array, "b 1 1 1"]:
    """Factor of the squared error of the U-Net's output that limits what little noise weighs.

    That error is the estimate's, weighted (see `unet_target`) by what grows with the
    signal-to-noise ratio, without bounds as t goes to 0; here the ratio counts as at most `gamma`
    (Hang et al. 2023). Without a prior (epsilon) ratio and weight are a / (1 - a), the factor is
    min(snr, gamma) / snr. Preconditioned the ratio is s^2 / sigma^2, of what the prior leaves open,
    the weight (1 + snr) / s^2 and the factor (1 + min(snr, gamma)) / (1 + snr).
    """
    if prior is None:
        snr = a / (1 - a)
        return jnp.minimum(snr, gamma) / snr
    snr = a / (1 - a) * prior.spread**2
    return (1 + jnp.minimum(snr, gamma)) / (1 + snr)


def _variance(a: Float[Array, "b 1 1 1"], prior: Prior) -> Float[Array, "b 1 1 1"]:
    """Variance of x_t for pictures as the prior says: a (sigma^2 + s^2)."""
    return 1 - a + a * prior.spread**2


def guide(
    x0_less_noisy: Float[Array, "b h w c"],
    x0_noisier: Float[Array, "b h w c"],
    a_less_noisy: Float[Array, "b 1 1 1"],
    weight: float,
) -> Float[Array, "b h w c"]:
    """Norm-guided reconstruction: clamp(x0_s + w (1 - a_s) (clamp(x0_b) - x0_s)).

    The less noisy estimate keeps detail but also traces of the anomaly; the noisier one has
    repainted it. Both clamps are to [-1, 1], for unit-range pictures too, as the authors do. The
    closed form equals their detour through re-noising x0_s towards x0_b.
    """
    noisier = jnp.clip(x0_noisier, -1.0, 1.0)
    correction = weight * (1 - a_less_noisy) * (noisier - x0_less_noisy)
    return jnp.clip(x0_less_noisy + correction, -1.0, 1.0)


def to_network(image: Float[Array, "b h w 3"], model: ModelConfig) -> Float[Array, "b h w 3"]:
    """[0, 1] to the networks' range."""
    return image * 2 - 1 if model.image_range == "signed" else image


def from_network(x: Float[Array, "b h w 3"], model: ModelConfig) -> Float[Array, "b h w 3"]:
    """The networks' range to [0, 1], clipped."""
    return jnp.clip((x + 1) / 2 if model.image_range == "signed" else x, 0.0, 1.0)
