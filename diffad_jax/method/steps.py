"""Pure training steps: arrays in, arrays out.

Pictures enter and leave in [0, 1], NHWC. Noise and time steps are arguments (`Draws`), so that a
step can be compared with another implementation and exported; `draw_training` makes them from a
key. `judging` has the evaluation.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from configs.schema import Config, DiffusionConfig
from diffad_jax.method import diffusion, losses
from diffad_jax.method.train_state import TRAIN, Networks, PyTree, TrainState, Variables

Batch = Mapping[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """The randomness of one forward pass: time steps (0-indexed) and unit normal noises."""

    t_less_noisy: Int[Array, " b"]
    t_noisier: Int[Array, " b"]
    noise_less_noisy: Float[Array, "b h w 3"]
    noise_noisier: Float[Array, "b h w 3"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Forward:
    """What the networks make of a batch; the reconstruction is in the networks' range.

    `predicted_*` is the U-Net's output at each noise level.
    """

    predicted_less_noisy: Float[Array, "b h w 3"]
    predicted_noisier: Float[Array, "b h w 3"]
    reconstruction: Float[Array, "b h w 3"]
    anomaly_map: Float[Array, "b h w 1"]
    batch_stats: PyTree


@jax.named_scope("draws")
def draw_training(
    key: Key[Array, ""], image: Float[Array, "b h w 3"], config: DiffusionConfig
) -> Draws:
    """t_s uniform in [0, train_split), t_b in [train_split, train_end), independent noises."""
    count = image.shape[0]
    keys = jax.random.split(key, 4)
    return Draws(
        jax.random.randint(keys[0], (count,), 0, config.train_split),
        jax.random.randint(keys[1], (count,), config.train_split, config.train_end),
        jax.random.normal(keys[2], image.shape, image.dtype),
        jax.random.normal(keys[3], image.shape, image.dtype),
    )


def forward(
    networks: Networks,
    variables: Variables,
    image: Float[Array, "b h w 3"],
    draws: Draws,
    config: Config,
    *,
    train: bool,
    dropout_key: Key[Array, ""] | None = None,
) -> Forward:
    """Noise, denoise at two noise levels, guide one estimate by the other, compare with the input.

    Both noise levels go through the U-Net as one batch of 2b: it has no BatchNorm, so the result is
    that of two passes.
    """
    x = diffusion.to_network(image, config.model)
    a_s = diffusion.alphas_at(config.diffusion, draws.t_less_noisy, x.dtype)
    a_b = diffusion.alphas_at(config.diffusion, draws.t_noisier, x.dtype)
    x_s = diffusion.add_noise(x, a_s, draws.noise_less_noisy)
    x_b = diffusion.add_noise(x, a_b, draws.noise_noisier)

    unet, model = nnx.merge(networks.unet, variables.params["unet"]), config.model
    prior = variables.prior(model)
    both = unet(
        jnp.concatenate(
            [diffusion.unet_input(x_s, a_s, prior), diffusion.unet_input(x_b, a_b, prior)]
        ),
        jnp.concatenate([draws.t_less_noisy, draws.t_noisier]),
        key=dropout_key,
    )
    e_s, e_b = jnp.split(both.astype(x.dtype), 2)
    reconstruction = diffusion.guide(
        diffusion.predict_start(x_s, a_s, e_s, prior),
        diffusion.predict_start(x_b, a_b, e_b, prior),
        a_s,
        config.diffusion.guidance_weight,
    )
    segmentation = nnx.merge(
        networks.segmentation,
        variables.params["segmentation"],
        variables.batch_stats["segmentation"],
        copy=True,  # the statistics are updated in place, and must not be those of an outer trace
    )
    second = model.difference * (x - reconstruction) if model.difference else reconstruction
    anomaly_map = segmentation(jnp.concatenate([x, second], axis=-1), train=train)
    statistics = nnx.to_pure_dict(nnx.state(segmentation, nnx.BatchStat))
    batch_stats = {**variables.batch_stats, "segmentation": statistics}
    return Forward(e_s, e_b, reconstruction, anomaly_map, batch_stats)


def training_loss(
    networks: Networks,
    variables: Variables,
    batch: Batch,
    draws: Draws,
    normal_count: Float[Array, ""],
    config: Config,
    dropout_key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], tuple[dict[str, Array], PyTree]]:
    """Loss of (a part of) a batch, its terms and the new running statistics.

    `normal_count` is the number of normal pictures in the whole batch. With a batch computed in
    `accumulation_steps` equal parts, the parts' losses add up to the batch's.
    """
    out = forward(
        networks, variables, batch["image"], draws, config, train=True, dropout_key=dropout_key
    )
    weights, parts = config.loss, config.train.accumulation_steps
    terms = {
        "noise_loss": noise_loss(
            out, batch, draws, normal_count, config, variables.prior(config.model)
        ),
        "focal_loss": losses.focal(out.anomaly_map, batch["mask"], weights) / parts,
        "smooth_l1_loss": losses.smooth_l1(out.anomaly_map, batch["mask"], weights.smooth_l1_beta)
        / parts,
    }
    loss = (
        terms["noise_loss"]
        + weights.focal_weight * terms["focal_loss"]
        + weights.smooth_l1_weight * terms["smooth_l1_loss"]
    )
    return loss, ({"loss": loss, **terms}, out.batch_stats)


def noise_loss(
    out: Forward,
    batch: Batch,
    draws: Draws,
    normal_count: Float[Array, ""],
    config: Config,
    prior: diffusion.Prior | None,
) -> Float[Array, ""]:
    """Error of the U-Net's outputs, the mean over those pictures that teach it: `loss.target`."""
    x = diffusion.to_network(batch["image"], config.model)
    everything = config.loss.target == "clean"
    clean = diffusion.to_network(batch["clean"], config.model) if everything else x
    errors = jnp.zeros_like(batch["label"])
    for t, noise, predicted in (
        (draws.t_less_noisy, draws.noise_less_noisy, out.predicted_less_noisy),
        (draws.t_noisier, draws.noise_noisier, out.predicted_noisier),
    ):
        a = diffusion.alphas_at(config.diffusion, t, x.dtype)
        target = diffusion.unet_target(x, clean, a, noise, prior)
        error = losses.noise_errors(predicted, target)
        if config.loss.snr_gamma:
            error *= diffusion.min_snr(a, config.loss.snr_gamma, prior).reshape(-1)
        errors += error
    if everything:
        return jnp.mean(errors) / config.train.accumulation_steps
    return losses.normal_mean(errors, batch["label"], normal_count)


def update(
    state: TrainState,
    batch: Batch,
    draws: Draws,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    config: Config,
    dropout_key: Key[Array, ""] | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """One step of both optimizers: the new state, and the losses and gradient norms."""
    gradients, metrics, batch_stats = _gradients(
        state.variables, batch, draws, networks, config, dropout_key
    )
    with jax.named_scope("optimizer"):
        for name, gradient in gradients.items():
            metrics[f"{name}_gradient_norm"] = optax.tree.norm(gradient)
        params = state.variables.params
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        variables = Variables(optax.apply_updates(params, updates), batch_stats)
        ema = _average(state, variables, config.train.ema_decay)
    return TrainState(state.step + 1, variables, opt_state, ema), metrics


def _average(state: TrainState, variables: Variables, decay: float) -> Variables:
    """The moving average after a step that ends at `variables`."""
    # A young average forgets faster, else it would keep the initialisation for 1/(1-decay) steps.
    kept = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(
        lambda old, new: (kept * old + (1 - kept) * new).astype(old.dtype), state.ema, variables
    )


def _gradients(variables, batch, draws, networks, config, dropout_key):
    """Gradients, loss terms and running statistics of a batch, in one part or in several."""
    parts = config.train.accumulation_steps
    normal_count = jnp.sum(1 - batch["label"])

    def loss(params, batch_stats, batch, draws, key):
        part = Variables(params, batch_stats)
        return training_loss(networks, part, batch, draws, normal_count, config, key)

    gradient = jax.grad(loss, has_aux=True)
    if parts == 1:
        grads, (metrics, batch_stats) = gradient(
            variables.params, variables.batch_stats, batch, draws, dropout_key
        )
        return grads, metrics, batch_stats

    # Part i takes every parts-th picture, so that each part lies on all devices.
    leaves, structure = jax.tree.flatten((dict(batch), draws))
    strided = [jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1) for x in leaves]

    def accumulate(carry, inputs):
        total, batch_stats = carry
        part, part_leaves = inputs
        part_batch, part_draws = jax.tree.unflatten(structure, part_leaves)
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, part)
        grads, (metrics, batch_stats) = gradient(
            variables.params, batch_stats, part_batch, part_draws, key
        )
        return (jax.tree.map(jnp.add, total, (grads, metrics)), batch_stats), None

    dtype = batch["image"].dtype
    names = ("loss", "noise_loss", "focal_loss", "smooth_l1_loss")
    zero = (
        jax.tree.map(jnp.zeros_like, variables.params),
        {name: jnp.zeros((), dtype) for name in names},
    )
    (total, batch_stats), _ = jax.lax.scan(
        accumulate, (zero, variables.batch_stats), (jnp.arange(parts), strided)
    )
    return *total, batch_stats


def train_step(
    state: TrainState,
    batch: Batch,
    key: Key[Array, ""],
    networks: Networks,
    optimizer: optax.GradientTransformation,
    config: Config,
) -> tuple[TrainState, dict[str, Array]]:
    """`update` with the draws that belong to (key, step)."""
    step_key = jax.random.fold_in(jax.random.fold_in(key, TRAIN), state.step)
    draw_key, dropout_key = jax.random.split(step_key)
    draws = draw_training(draw_key, batch["image"], config.diffusion)
    if not config.model.dropout:
        dropout_key = None
    return update(state, batch, draws, networks, optimizer, config, dropout_key)
