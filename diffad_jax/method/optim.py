"""Adam for each network, with its own learning rate schedule."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from configs.schema import Config, OptimConfig


def learning_rate(config: OptimConfig, total_steps: int) -> optax.Schedule:
    """Learning rate by step (0-indexed), after a linear warm-up from 0 to the peak.

    constant:    the peak
    cosine:      half a cosine from the peak to 0 at `total_steps`
    oscillating: peak * (1 + cos(pi step / half_period)) / 2, for ever: what the authors' code does
                 by stepping an epoch scheduler every iteration
    """
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0 if config.warmup_steps else config.rate,
            config.rate,
            config.warmup_steps,
            # optax counts the warm-up in, and needs at least one step of decay
            max(total_steps, config.warmup_steps + 1),
        )

    def oscillating(step):
        return config.rate * (1 + jnp.cos(jnp.pi * step / config.half_period)) / 2

    constant = optax.constant_schedule(config.rate)
    main = oscillating if config.schedule == "oscillating" else constant
    if not config.warmup_steps:
        return main
    warmup = optax.linear_schedule(0.0, config.rate, config.warmup_steps)
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def learning_rates(config: Config, step: int, total_steps: int) -> dict[str, float]:
    """What `step` (1-indexed, as in the log) was made with: unet_rate and segmentation_rate."""
    sections = (config.unet_optim, config.segmentation_optim)
    with jax.transfer_guard("allow"):  # scalars of a schedule, while the loop forbids transfers
        unet, segmentation = (float(_rate(s, total_steps, step - 1)) for s in sections)
    return {"unet_rate": unet, "segmentation_rate": segmentation}


@functools.partial(jax.jit, static_argnums=(0, 1))  # one small program, not one an operation
def _rate(config: OptimConfig, total_steps: int, step: Int[Array, ""] | int) -> Float[Array, ""]:
    return jnp.asarray(learning_rate(config, total_steps)(step), jnp.float32)


def changed_rates(config: Config, step: int, planned: int, total_steps: int) -> list[str]:
    """Where a run planned for `planned` steps goes on to `total_steps`: what that changes.

    A sentence for each network whose learning rate at `step` is another than it would have been.
    """
    lines = []
    for name in ("unet_optim", "segmentation_optim") if planned != total_steps else ():
        section = getattr(config, name)
        before, now = (
            float(learning_rate(section, steps)(step)) for steps in (planned, total_steps)
        )
        if not math.isclose(before, now, rel_tol=1e-3, abs_tol=1e-6 * section.rate):
            lines.append(
                f"{name}.schedule={section.schedule}: of {total_steps} steps instead of {planned} "
                f"the learning rate at step {step} is {now:.3g} instead of {before:.3g}"
            )
    return lines


def optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """One transformation over {'unet': ..., 'segmentation': ...}."""
    networks = {"unet": config.unet_optim, "segmentation": config.segmentation_optim}
    transforms = {name: _adam(optim, total_steps) for name, optim in networks.items()}
    return optax.partition(transforms, {name: name for name in networks})


def _adam(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    rate = learning_rate(config, total_steps)
    if config.weight_decay:
        return optax.adamw(rate, weight_decay=config.weight_decay)
    return optax.adam(rate)
