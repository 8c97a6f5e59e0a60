"""What both networks share: PyTorch's initial values and "in at least float32"."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from configs.schema import ModelConfig

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}  # None: that of inputs and parameters


def compute_dtype(config: ModelConfig):
    """The dtype that convolutions and linear layers compute in; None: that of their inputs."""
    return DTYPES[config.compute_dtype]


def wide(dtype):
    """float32, or `dtype` where that is wider (float64 tests stay float64)."""
    # NumPy's rule: JAX's refuses to answer where implicit promotion is switched off.
    return np.promote_types(dtype, np.float32)


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` in float32, or as it is where it is wider."""
    return x.astype(wide(x.dtype))


class _Stream(nnx.RngStream):
    """Counts by a value of its own, where Flax's counts in place.

    That asks a traced count for its sharding, and each time JAX searches the whole program for the
    words of its refusal: a third of the time that a training step took to trace.
    """

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self.count[...])
        self.count.set_value(self.count[...] + 1)
        return key


class RandomKeys(nnx.Rngs):
    """`nnx.Rngs(seed)`, key by key the same, to build a network with; under a trace, too."""

    def __init__(self, seed: jax.Array | int):
        super().__init__()
        self.default = _Stream(seed, tag="default")


def conv(inputs: int, outputs: int, size: int, *, dtype, zero: bool = False, rngs) -> nnx.Conv:
    """A `size` x `size` convolution that keeps height and width.

    It starts as PyTorch's does, weights and biases uniform within 1/sqrt(fan_in), or at zero.
    """
    init = _initial(inputs * size * size, zero)
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        dtype=dtype,
        kernel_init=init,
        bias_init=init,
        rngs=rngs,
    )


def apart(
    layer: nnx.Conv, x: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b h w c2"], Float[Array, "1 c2"]]:
    """A convolution made by `conv`, and its bias, which the norm after it adds: its `shift`."""
    x, kernel = layer.promote_dtype((x, layer.kernel[...]), dtype=layer.dtype)
    product = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return product, jnp.expand_dims(cast(nnx.Param, layer.bias)[...], 0)


def linear(inputs: int, outputs: int, *, dtype, zero: bool = False, rngs) -> nnx.Linear:
    """A linear layer over the last axis, with the initial values of `conv`."""
    init = _initial(inputs, zero)
    return nnx.Linear(inputs, outputs, dtype=dtype, kernel_init=init, bias_init=init, rngs=rngs)


def _initial(fan_in: int, zero: bool):
    """Initializer for the kernel and the bias of a layer with `fan_in` inputs an output."""
    if zero:
        return nnx.initializers.zeros_init()
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32, **_):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
