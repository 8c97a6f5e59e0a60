"""The diffusion U-Net: its output at a time step tells the picture without its noise. NHWC.

The lists `down`, `middle` and `up` nest as the authors' module lists do, so that `torch_weights`
can name every tensor by a table.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from configs.schema import ModelConfig
from diffad_jax.models.layers import apart, at_least_float32, compute_dtype, conv, linear, wide
from diffad_jax.models.norms import GroupNorm

PRODUCT = "product"  # what `remat = norms` keeps: results of convolutions and matrix products
# What the backward pass finds in memory instead of computing it again.
REMAT_POLICIES = {
    "norms": jax.checkpoint_policies.save_only_these_names(PRODUCT),
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


def time_features(t: Int[Array, " b"], width: int, dtype) -> Float[Array, "b {width}"]:
    """[sin(t f_i), cos(t f_i)] with f_i = exp(-i ln(10000) / half), half = width / 2.

    Args:
      t: integer time steps, 0-indexed.
      width: number of features, even.
      dtype: of the result.
    """
    half = width // 2
    frequencies = jnp.asarray(np.exp(-math.log(10000.0) / half * np.arange(half)), dtype)
    angles = t.astype(dtype)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


@jax.named_scope("resample")
def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2 x 2 average pooling."""
    wide = at_least_float32(x)
    zero, square = np.zeros((), wide.dtype), (1, 2, 2, 1)
    sums = jax.lax.reduce_window(wide, zero, jax.lax.add, square, square, "VALID")
    return (sums / 4).astype(x.dtype)


@jax.named_scope("resample")
def double(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Every pixel becomes 2 x 2 equal ones.

    As sums over 2 x 2 windows of the picture with zeros between its pixels, each of which holds one
    pixel. A broadcast and a reshape would split the axes that a TPU tiles, which takes it longer.
    """
    zero, square, border = np.zeros((), x.dtype), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(
        x, zero, jax.lax.add, square, (1, 1, 1, 1), border, base_dilation=square
    )


class ResBlock(nnx.Module):
    """norm - SiLU - (resample) - conv - add time - norm - SiLU - dropout - conv, and a shortcut."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        config: ModelConfig,
        *,
        resample=None,
        rngs: nnx.Rngs,
    ):
        dtype = compute_dtype(config)
        self.resample = resample  # halve, double or None; of the branch and of the shortcut
        self.norm1 = GroupNorm(inputs)
        self.conv1 = conv(inputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.embed = linear(4 * config.unet_base, outputs, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(outputs)
        self.dropout = nnx.Dropout(config.dropout)
        self.conv2 = conv(outputs, outputs, 3, dtype=dtype, zero=True, rngs=rngs)
        self.shortcut = (
            nnx.data(None)
            if inputs == outputs
            else conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)
        )

    def __call__(
        self, parts: tuple[Float[Array, "b h w _"], ...], embedding: Float[Array, "b e"], key=None
    ) -> Float[Array, "b h2 w2 c2"]:
        """`parts`: to be concatenated. `key`: a jax key for the dropout; none, no dropout."""
        x = jnp.concatenate(parts, axis=-1)
        h = nnx.silu(self.norm1(x, parts=parts))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h, bias = apart(self.conv1, h)
        shift = bias + at_least_float32(self.embed(nnx.silu(embedding)))
        h = nnx.silu(self.norm2(checkpoint_name(h, PRODUCT), shift=shift))
        h = self.dropout(h, deterministic=key is None, rngs=key)
        h = self.conv2(h)
        return h + (x if self.shortcut is None else self.shortcut(x))


class Attention(nnx.Module):
    """Self-attention over the pixels of a feature map, with a residual."""

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        dtype = compute_dtype(config)
        self.heads = channels // config.head_channels if config.head_channels > 0 else config.heads
        self.implementation = config.attention
        self.norm = GroupNorm(channels)
        self.qkv = linear(channels, 3 * channels, dtype=dtype, rngs=rngs)
        self.projection = linear(channels, channels, dtype=dtype, zero=True, rngs=rngs)

    @jax.named_scope("attention")
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Every pixel attends to every pixel of its picture; softmax in at least float32."""
        b, h, w, c = x.shape
        qkv = checkpoint_name(self.qkv(self.norm(x)), PRODUCT)
        # The channels of qkv lie as [head][q, k, v][c / heads].
        qkv = qkv.reshape(b, h * w, self.heads, 3, c // self.heads)
        q, k, v = qkv[..., 0, :], qkv[..., 1, :], qkv[..., 2, :]
        if self.implementation == "cudnn":
            y = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
        else:
            # Not that function's own XLA form: its softmax is float32 for float64 inputs too.
            scale = (c // self.heads) ** -0.25  # on each of the two: safer in bfloat16 than on one
            logits = jnp.einsum("bqhc,bkhc->bhqk", q * scale, k * scale)
            weights = nnx.softmax(at_least_float32(logits), axis=-1).astype(v.dtype)
            y = jnp.einsum("bhqk,bkhc->bqhc", weights, v)
        return x + self.projection(y.reshape(b, h, w, c))


class UNet(nnx.Module):
    """F = U(x, t), of which `diffusion.predict_start` makes a picture. Only `nnx.Param`."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        base, dtype = config.unet_base, compute_dtype(config)
        self.base = base
        self.remat = config.remat
        self.time1 = linear(base, 4 * base, dtype=dtype, rngs=rngs)
        self.time2 = linear(4 * base, 4 * base, dtype=dtype, rngs=rngs)
        down, skips = _down(config, rngs)
        channels = skips[-1]
        self.down = nnx.List(nnx.List(layers) for layers in down)
        self.middle = nnx.List(
            [
                ResBlock(channels, channels, config, rngs=rngs),
                Attention(channels, config, rngs=rngs),
                ResBlock(channels, channels, config, rngs=rngs),
            ]
        )
        self.up = nnx.List(nnx.List(layers) for layers in _up(config, skips, rngs))
        self.out_norm = GroupNorm(config.level_channels[0])
        self.out_conv = conv(config.level_channels[0], 3, 3, dtype=dtype, zero=True, rngs=rngs)

    @jax.named_scope("unet")
    def __call__(
        self, x: Float[Array, "b h w 3"], t: Int[Array, " b"], *, key=None
    ) -> Float[Array, "b h w 3"]:
        """What `diffusion.predict_start` calls F: the noise (epsilon), or the preconditioned form.

        Args:
          x: `diffusion.unet_input` of noised pictures, NHWC; height and width divisible by
            2^(levels - 1).
          t: 0-indexed time steps.
          key: a jax key for the dropout of the res blocks; none, no dropout.

        Returns:
          F, in at least float32.
        """
        features = time_features(t, self.base, wide(x.dtype))
        embedding = self.time2(nnx.silu(self.time1(features)))
        blocks = 0

        def run(layers, *parts):
            nonlocal blocks
            for layer in layers:
                call = layer
                if self.remat != "none" and isinstance(layer, ResBlock | Attention):
                    call = _rematerialised(layer, self.remat)
                if isinstance(layer, ResBlock):
                    block_key = None if key is None else jax.random.fold_in(key, blocks)
                    blocks += 1
                    parts = (call(parts, embedding, block_key),)
                else:
                    parts = (call(*parts),)
            return parts[0]

        h, skips = x, []
        for layers in self.down:
            h = run(layers, h)
            skips.append(h)
        h = run(self.middle, h)
        for layers in self.up:
            h = run(layers, h, skips.pop())
        h = self.out_conv(nnx.silu(self.out_norm(h)))
        return h.astype(features.dtype)


def _down(config: ModelConfig, rngs: nnx.Rngs) -> tuple[list[list[nnx.Module]], list[int]]:
    """Stages of the way down, and the channels of what each leaves on the skip stack."""
    base = config.unet_base
    stages: list[list[nnx.Module]] = [[conv(3, base, 3, dtype=compute_dtype(config), rngs=rngs)]]
    skips = [base]
    for level, width in enumerate(config.level_channels):
        if level > 0:
            halving = ResBlock(skips[-1], skips[-1], config, resample=halve, rngs=rngs)
            stages.append([halving])
            skips.append(skips[-1])
        for _ in range(config.res_blocks):
            stages.append(_stage(skips[-1], width, level, config, rngs))
            skips.append(width)
    return stages, skips


def _up(config: ModelConfig, skips: list[int], rngs: nnx.Rngs) -> list[list[nnx.Module]]:
    """Stages of the way up; each is fed concat(h, popped skip)."""
    stages, channels, skips = [], skips[-1], list(skips)
    for level, width in reversed(list(enumerate(config.level_channels))):
        for _ in range(config.res_blocks + 1):
            stages.append(_stage(channels + skips.pop(), width, level, config, rngs))
            channels = width
        if level > 0:
            stages[-1].append(ResBlock(width, width, config, resample=double, rngs=rngs))
    return stages


def _stage(
    inputs: int, outputs: int, level: int, config: ModelConfig, rngs: nnx.Rngs
) -> list[nnx.Module]:
    """A res block, and attention where the level's feature map has one of the listed widths."""
    layers: list[nnx.Module] = [ResBlock(inputs, outputs, config, rngs=rngs)]
    if config.image_size / 2**level in config.attention_widths:
        layers.append(Attention(outputs, config, rngs=rngs))
    return layers


def _rematerialised(layer: ResBlock | Attention, remat: str):
    """The layer's call, of which the backward pass computes again what `remat` does not keep."""
    graphdef, params = nnx.split(layer)
    function = jax.checkpoint(
        lambda params, *arrays: nnx.merge(graphdef, params)(*arrays),
        policy=REMAT_POLICIES[remat],
    )
    return lambda *arrays: function(params, *arrays)
