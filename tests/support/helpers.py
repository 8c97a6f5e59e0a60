"""Small configurations and reference weights, shared by the tests."""

import functools

import jax
import numpy as np

from configs import default, schema, test
from diffad_jax.method import train_state
from diffad_jax.models import torch_weights
from tests.support import goldens_io


def parsed(source=test, **changes) -> schema.Config:
    """A configuration file's Config with changes: `train__steps=3` sets train.steps."""
    config = source.get_config()
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    return schema.parse(config)


@functools.cache  # tracing takes seconds
def shapes(model: schema.ModelConfig) -> train_state.Variables:
    """Shapes and dtypes of a model's arrays."""
    return jax.eval_shape(lambda: train_state.init_variables(model, jax.random.key(0)))


def random_variables(config, dtype=np.float32):
    """Weights with no zeros among them, so that every part of the networks matters."""
    rng = np.random.default_rng(0)

    def fill(path, shape):
        z = rng.standard_normal(shape.shape)
        if len(shape.shape) > 1:
            return (z / np.sqrt(np.prod(shape.shape[:-1]))).astype(dtype)
        one = path[-1].key in ("scale", "var")
        return (1 + 0.1 * abs(z) if one else 0.1 * z).astype(dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes(config.model))


def golden_config(case: str, **changes) -> schema.Config:
    """The configuration that a golden case was computed with."""
    meta = goldens_io.META[case]
    return parsed(
        default,
        model__image_size=meta["img_size"],
        model__unet_base=meta["base_channels"],
        model__unet_multipliers=tuple(meta["channel_mults"]),
        model__attention_widths=tuple(int(w) for w in meta["attention_resolutions"].split(",")),
        model__heads=meta["num_heads"],
        model__segmentation_base=meta["seg_base_channels"],
        diffusion__guidance_weight=float(meta["guidance_weight"]),
        **changes,
    )


def golden_variables(case: str, config: schema.Config, dtype) -> train_state.Variables:
    """The golden weights of a case, in `dtype`."""
    meta = goldens_io.META[case]
    unet, segmentation = meta.get("unet_manifest"), meta.get("seg_manifest")
    if unet is None:  # this case's manifest is not stored: `convert` is proved by those that are
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(config.model))
        states = torch_weights.to_torch(zeros.params, zeros.batch_stats, config.model)
        unet, segmentation = ({k: v.shape for k, v in state.items()} for state in states)
    params, batch_stats = torch_weights.from_torch(
        goldens_io.weights("unet", unet), goldens_io.weights("seg", segmentation), config.model
    )
    variables = train_state.Variables(params, batch_stats)
    return jax.tree.map(lambda x: jax.numpy.asarray(x, dtype), variables)


def to_nhwc(x: np.ndarray) -> np.ndarray:
    """NCHW to NHWC."""
    return np.moveaxis(x, 1, -1)
