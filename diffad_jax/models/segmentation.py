"""The segmentation network: picture and repaint in, anomaly map out. NHWC."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from configs.schema import ModelConfig
from diffad_jax.models.layers import apart, at_least_float32, compute_dtype, conv
from diffad_jax.models.norms import BatchNorm

ENCODER_WIDTHS = (1, 2, 4, 8, 8, 8)  # times the base width
DECODER_WIDTHS = (8, 4, 2, 1, 1)


class DoubleConv(nnx.Module):
    """conv3x3 - BatchNorm - ReLU, twice."""

    def __init__(self, inputs: int, outputs: int, *, dtype, rngs: nnx.Rngs):
        self.conv1 = conv(inputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm1 = BatchNorm(outputs)
        self.conv2 = conv(outputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm2 = BatchNorm(outputs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c2"]:
        """`train` as in `BatchNorm`."""
        x = nnx.relu(_normalised(self.conv1, self.norm1, x, train))
        return nnx.relu(_normalised(self.conv2, self.norm2, x, train))


class UpConv(nnx.Module):
    """Bilinear doubling - conv3x3 - BatchNorm - ReLU."""

    def __init__(self, inputs: int, outputs: int, *, dtype, rngs: nnx.Rngs):
        self.conv = conv(inputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(outputs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 c2"]:
        """`train` as in `BatchNorm`."""
        return nnx.relu(_normalised(self.conv, self.norm, double_aligned(x), train))


def _normalised(layer: nnx.Conv, norm: BatchNorm, x: Array, train: bool) -> Array:
    product, bias = apart(layer, x)
    return norm(product, bias, train=train)


class SegmentationNet(nnx.Module):
    """Anomaly map from concat(image, guided reconstruction). `nnx.Param` and `nnx.BatchStat`."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dtype = compute_dtype(config)
        encoder = [config.segmentation_base * width for width in ENCODER_WIDTHS]
        decoder = [config.segmentation_base * width for width in DECODER_WIDTHS]
        inputs = [6, *encoder[:-1]]
        self.encoder = nnx.List(
            DoubleConv(i, o, dtype=dtype, rngs=rngs) for i, o in zip(inputs, encoder, strict=True)
        )
        inputs = [encoder[-1], *decoder[:-1]]
        self.up = nnx.List(
            UpConv(i, o, dtype=dtype, rngs=rngs) for i, o in zip(inputs, decoder, strict=True)
        )
        inputs = [o + skip for o, skip in zip(decoder, encoder[-2::-1], strict=True)]
        self.decoder = nnx.List(
            DoubleConv(i, o, dtype=dtype, rngs=rngs) for i, o in zip(inputs, decoder, strict=True)
        )
        self.out = conv(decoder[-1], 1, 3, dtype=dtype, rngs=rngs)

    @jax.named_scope("segmentation")
    def __call__(self, x: Float[Array, "b h w 6"], *, train: bool) -> Float[Array, "b h w 1"]:
        """The anomaly map.

        Args:
          x: the picture and its guided reconstruction, concatenated over the channels, NHWC;
            height and width divisible by 32.
          train: use the batch's statistics and update the running ones.

        Returns:
          Probabilities in [0, 1], in at least float32.
        """
        skips = []
        for depth, block in enumerate(self.encoder):
            x = block(x if depth == 0 else max_pool(x), train=train)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(jnp.concatenate([up(x, train=train), skips.pop()], axis=-1), train=train)
        return nnx.sigmoid(at_least_float32(self.out(x)))


@jax.named_scope("resample")
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The largest of every 2x2 values, the first of equal ones; height and width are even.

    As `nnx.max_pool`, whose gradient XLA refuses to compile for a GPU with `train.deterministic`.
    """

    def larger(a: Array, b: Array) -> Array:
        return jnp.where((a >= b) | jnp.isnan(a), a, b)  # a NaN stays one

    corners = ((0, 0), (0, 1), (1, 0), (1, 1))
    parts = [jax.lax.slice(x, (0, i, j, 0), x.shape, (1, 2, 2, 1)) for i, j in corners]
    return functools.reduce(larger, parts)


@jax.named_scope("resample")
def double_aligned(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Bilinear doubling with aligned corners: output i reads position i (n - 1) / (2 n - 1).

    Two products with constant matrices, in full precision: exact, and unlike a gather its
    gradient needs no scatter, which is slow and on a GPU not reproducible.
    """
    rows, columns = (jnp.asarray(_interpolation(n), x.dtype) for n in x.shape[1:3])
    x = jnp.einsum("ph,bhwc->bpwc", rows, x, precision="highest")
    return jnp.einsum("qw,bpwc->bpqc", columns, x, precision="highest")


def _interpolation(n: int) -> np.ndarray:
    """[2 n, n] matrix of the linear interpolation weights."""
    position = np.arange(2 * n) * (n - 1) / (2 * n - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(n)[None, :]))
