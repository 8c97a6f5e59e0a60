"""The evaluation step: pictures in, image scores, anomaly maps and reconstructions out.

Pictures enter and leave in [0, 1], NHWC. `evaluate` takes its noise as an argument, which
`draw_evaluation` makes from a key.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from scipy import ndimage

from configs.schema import Config, EvaluateConfig
from diffad_jax.method import diffusion
from diffad_jax.method.steps import Draws, forward
from diffad_jax.method.train_state import EVALUATE, MORE_DRAWS, Networks, Variables


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Judgement:
    """Evaluation of a batch: image scores, anomaly maps and reconstructions, all in [0, 1]."""

    score: Float[Array, " b"]
    anomaly_map: Float[Array, "b h w 1"]
    reconstruction: Float[Array, "b h w 3"]


@jax.named_scope("draws")
def draw_evaluation(
    key: Key[Array, ""],
    index: Int[Array, " b"],
    image: Float[Array, "b h w 3"],
    config: EvaluateConfig,
) -> Draws:
    """Fixed time steps, and noises that depend on (key, index) alone, not on the batch.

    As index, `scorer.noise_index` gives a hash of the picture.
    """
    shape = image.shape[1:]

    def noises(i):
        return jax.random.normal(jax.random.fold_in(key, i), (2, *shape), image.dtype)

    pair = jax.vmap(noises)(index)
    return Draws(
        jnp.full_like(index, config.less_noisy),
        jnp.full_like(index, config.noisier),
        pair[:, 0],
        pair[:, 1],
    )


def evaluate(
    variables: Variables,
    image: Float[Array, "b h w 3"],
    draws: Draws,
    networks: Networks,
    config: Config,
) -> Judgement:
    """Anomaly maps, and each one's `image_score`.

    A map is the segmentation network's, times the mean over channels of |picture - reconstruction|
    to the power of `evaluate.residual` (0: as it is), then `smooth`. The network knows what
    synthetic anomalies look like; the residual is large where a picture is not as good ones are.
    """
    out = forward(networks, variables, image, draws, config, train=False)
    reconstruction = diffusion.from_network(out.reconstruction, config.model)
    anomaly_map = out.anomaly_map
    if config.evaluate.residual:
        residual = jnp.mean(jnp.abs(image - reconstruction), axis=-1, keepdims=True)
        anomaly_map *= residual**config.evaluate.residual
    anomaly_map = smooth(anomaly_map, config.evaluate.smoothing)
    return Judgement(image_score(anomaly_map, config), anomaly_map, reconstruction)


def smooth(anomaly_map: Float[Array, "b s s 1"], sigma: float) -> Float[Array, "b s s 1"]:
    """Every map under a Gaussian of `sigma` px, mirrored at the borders, cut off at 4 sigma; 0: as
    it is.

    Each row of a matrix has the weights of one pixel, for rows and columns alike.
    """
    if not sigma:
        return anomaly_map
    weights = ndimage.gaussian_filter1d(np.eye(anomaly_map.shape[1]), sigma, axis=0)
    along = jnp.asarray(weights, anomaly_map.dtype)
    return jnp.einsum(
        "ij,bjkc,lk->bilc", along, anomaly_map, along, precision=jax.lax.Precision.HIGHEST
    )


def image_score(anomaly_map: Float[Array, "b h w 1"], config: Config) -> Float[Array, " b"]:
    """The mean of each map's `evaluate.top_pixels` largest values."""
    flat = anomaly_map.reshape(anomaly_map.shape[0], -1)
    top, _ = jax.lax.top_k(flat, config.evaluate.top_pixels)
    return jnp.mean(top, axis=1)


def evaluate_step(
    variables: Variables,
    image: Float[Array, "b h w 3"],
    index: Int[Array, " b"],
    key: Key[Array, ""],
    networks: Networks,
    config: Config,
) -> Judgement:
    """`evaluate` with the noises that belong to (key, index); see `draw_evaluation`.

    With `evaluate.draws` > 1 map and reconstruction are means over that many independent noises,
    the first of them the one that a single draw has; the score is that of the mean map.
    """

    def judge(key: Key[Array, ""]) -> Judgement:
        draws = draw_evaluation(key, index, image, config.evaluate)
        return evaluate(variables, image, draws, networks, config)

    first, count = jax.random.fold_in(key, EVALUATE), config.evaluate.draws
    if count == 1:
        return judge(first)
    more = [jax.random.fold_in(jax.random.fold_in(key, MORE_DRAWS), j) for j in range(1, count)]

    def pictures(key: Key[Array, ""]) -> tuple[Array, Array]:
        judged = judge(key)
        return judged.anomaly_map, judged.reconstruction

    each = jax.lax.map(pictures, jnp.stack([first, *more]))
    anomaly_map, reconstruction = (jnp.mean(x, axis=0) for x in each)
    return Judgement(image_score(anomaly_map, config), anomaly_map, reconstruction)
