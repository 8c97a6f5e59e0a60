"""What training changes, and how it starts."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from configs.schema import Config, ModelConfig
from diffad_jax.method.diffusion import Prior, to_network
from diffad_jax.models.layers import RandomKeys
from diffad_jax.models.segmentation import SegmentationNet
from diffad_jax.models.unet import UNet

PyTree = Any

# Every random draw folds one of these into the run's key, then a step or the number of a draw.
INIT, TRAIN, EVALUATE = range(3)


@dataclasses.dataclass(frozen=True)
class Networks:
    """The structure of both networks, without their arrays; hashable."""

    unet: nnx.GraphDef
    segmentation: nnx.GraphDef


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Variables:
    """Arrays of both networks as nested dicts; float32.

    params:      {'unet': ..., 'segmentation': ...}
    batch_stats: {'segmentation': ...}, the running statistics of its BatchNorms; of a
      preconditioned U-Net also {'pictures': {'mean': f32[s, s, 3], 'spread': f32[]}}, the mean
      training picture and the standard deviation about it, in [0, 1]
    """

    params: PyTree
    batch_stats: PyTree

    def prior(self, config: ModelConfig) -> Prior | None:
        """What the U-Net takes for granted of pictures; None where it predicts the noise."""
        if config.prediction == "epsilon":
            return None
        mean, spread = (self.batch_stats["pictures"][name] for name in ("mean", "spread"))
        width = 2.0 if config.image_range == "signed" else 1.0
        return Prior(to_network(mean[None], config), width * spread)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a checkpoint holds. `step` counts the updates made so far.

    `ema` is the exponential moving average of `variables`; evaluation reads it. The running
    statistics are averaged with the parameters, because those of the last few batches do not fit
    averaged parameters.
    """

    step: PyTree  # i32[]; unchecked, because trees of shapes and shardings are TrainStates too
    variables: Variables
    opt_state: PyTree
    ema: Variables


@functools.cache  # tracing both takes seconds
def define(config: ModelConfig) -> Networks:
    """Structure of the networks; allocates nothing."""
    unet = nnx.eval_shape(lambda: UNet(config, rngs=RandomKeys(0)))
    segmentation = nnx.eval_shape(lambda: SegmentationNet(config, rngs=RandomKeys(0)))
    return Networks(nnx.graphdef(unet), nnx.graphdef(segmentation))


def init_variables(config: ModelConfig, key: Array) -> Variables:
    """Freshly initialised arrays of both networks."""
    keys = jax.random.split(jax.random.fold_in(key, INIT))
    unet = nnx.state(UNet(config, rngs=RandomKeys(keys[0])), nnx.Param)
    segmentation = SegmentationNet(config, rngs=RandomKeys(keys[1]))
    params, batch_stats = nnx.state(segmentation, nnx.Param, nnx.BatchStat)
    statistics = {"segmentation": nnx.to_pure_dict(batch_stats)}
    if config.prediction == "preconditioned":
        size = config.image_size
        statistics["pictures"] = {"mean": jnp.full((size, size, 3), 0.5), "spread": jnp.ones(())}
    return Variables(
        {"unet": nnx.to_pure_dict(unet), "segmentation": nnx.to_pure_dict(params)}, statistics
    )


def start(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """The state at step 0; the average starts as a copy."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=optimizer.init(variables.params),
        ema=jax.tree.map(jnp.copy, variables),
    )


def init(
    config: Config,
    optimizer: optax.GradientTransformation,
    key: Array,
    pictures: Mapping[str, Array] | None = None,
) -> TrainState:
    """A run's state at step 0, a function of the key alone.

    `pictures`, of a preconditioned U-Net, replaces `Variables.batch_stats['pictures']`.
    """
    variables = init_variables(config.model, key)
    if pictures is not None:
        statistics = {**variables.batch_stats, "pictures": dict(pictures)}
        variables = Variables(variables.params, statistics)
    return start(variables, optimizer)
