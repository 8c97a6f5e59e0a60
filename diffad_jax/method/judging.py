"""The evaluation step: pictures in, image scores, anomaly maps and reconstructions out.

Pictures enter and leave in [0, 1], NHWC. The noise is an argument, which `draw_evaluation` makes
from a key.
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
from diffad_jax.method.train_state import EVALUATE, Networks, Variables


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Judgement:
    """Evaluation of a batch: image scores, anomaly maps and reconstructions, all in [0, 1]."""

    score: Float[Array, " b"]
    anomaly_map: Float[Array, "b h w 1"]
    reconstruction: Float[Array, "b h w 3"]


@jax.named_scope("draws")
def draw_evaluation(
    key: Key[Array, ""], config: EvaluateConfig, size: int
) -> Float[Array, "k 2 {size} {size} 3"]:
    """The noises of an evaluation, the same for every picture: `evaluate.draws` pairs, less noisy
    first.

    One noise for all leaves nothing to chance between two pictures. (A noise of its own for each
    picture, as the authors draw, is no better: benchmarks/ARMS.md.) More draws begin with the
    same pair.
    """
    streams = jax.random.fold_in(key, EVALUATE)

    def pair(draw: Int[Array, ""]) -> Float[Array, "2 s s 3"]:
        return jax.random.normal(jax.random.fold_in(streams, draw), (2, size, size, 3))

    return jax.vmap(pair)(jnp.arange(config.draws))


def at_fixed_steps(
    pair: Float[Array, "2 s s 3"], image: Float[Array, "b s s 3"], config: EvaluateConfig
) -> Draws:
    """What `evaluate` takes for a batch: the configured time steps, one pair of noises for all."""
    count = image.shape[0]
    return Draws(
        jnp.full(count, config.less_noisy),
        jnp.full(count, config.noisier),
        *(jnp.broadcast_to(noise.astype(image.dtype), image.shape) for noise in pair),
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
    image: Float[Array, "b s s 3"],
    noises: Float[Array, "k 2 s s 3"],
    networks: Networks,
    config: Config,
) -> Judgement:
    """`evaluate` at the configured time steps, with noises as `draw_evaluation` gives them.

    Of several pairs map and reconstruction are means; the score is that of the mean map.
    """

    def judge(pair: Float[Array, "2 s s 3"]) -> Judgement:
        draws = at_fixed_steps(pair, image, config.evaluate)
        return evaluate(variables, image, draws, networks, config)

    if noises.shape[0] == 1:
        return judge(noises[0])

    def pictures(pair: Float[Array, "2 s s 3"]) -> tuple[Array, Array]:
        judged = judge(pair)
        return judged.anomaly_map, judged.reconstruction

    each = jax.lax.map(pictures, noises)
    anomaly_map, reconstruction = (jnp.mean(x, axis=0) for x in each)
    return Judgement(image_score(anomaly_map, config), anomaly_map, reconstruction)
