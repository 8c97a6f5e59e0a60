"""Both networks as ONNX operators, read off their modules. NCHW; heights equal widths.

What does not depend on the picture is computed here: the embedding of the time steps, and the
running statistics of BatchNorm, which become part of the convolution before them.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx

from configs.rules import GROUPS
from diffad_jax.exporting.graph import Graph
from diffad_jax.models import norms
from diffad_jax.models.segmentation import DoubleConv, SegmentationNet, UpConv
from diffad_jax.models.unet import Attention, ResBlock, UNet, double, halve, time_features


@dataclasses.dataclass(frozen=True, eq=False)
class Layers:
    """The layers that both networks are made of, added to a graph.

    half: convolutions compute in float16; all between them stays float32.
    """

    graph: Graph
    half: bool = False

    def conv(
        self,
        x: str,
        layer: nnx.Conv,
        norm: norms.BatchNorm | None = None,
        shift: np.ndarray | None = None,
    ) -> str:
        """A convolution that keeps height and width.

        Args:
          x: f32[n, inputs, h, w].
          layer: of its weights.
          norm: BatchNorm that follows, with its running statistics.
          shift: f32[outputs], added to the result.
        """
        kernel, bias = _array(layer.kernel), _array(layer.bias)
        if norm is not None:
            gain = _array(norm.scale) / np.sqrt(_array(norm.var) + norms.EPSILON)
            kernel, bias = kernel * gain, (bias - _array(norm.mean)) * gain + _array(norm.bias)
        return self._convolved(x, kernel, bias if shift is None else bias + shift)

    def linear(self, x: str, layer: nnx.Linear) -> str:
        """A linear layer over the channels."""
        return self._convolved(x, _array(layer.kernel)[None, None], _array(layer.bias))

    def _convolved(self, x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        """`kernel`: [h, w, inputs, outputs], as Flax keeps it."""
        dtype, border = np.float16 if self.half else np.float32, kernel.shape[0] // 2
        weight = self.graph.constant(np.transpose(kernel, (3, 2, 0, 1)), dtype)
        if self.half:
            x = self.graph.add("Cast", x, to=onnx.TensorProto.FLOAT16)
        y = self.graph.add("Conv", x, weight, self.graph.constant(bias, dtype), pads=[border] * 4)
        return self.graph.add("Cast", y, to=onnx.TensorProto.FLOAT) if self.half else y

    def group_norm(self, x: str, norm: norms.GroupNorm, size: int) -> str:
        """GroupNorm: a group's channels are laid end to end and normalised as one."""
        ones, zeros = (self.graph.constant(make(GROUPS)) for make in (np.ones, np.zeros))
        grouped = self.graph.shaped(x, 0, GROUPS, -1)
        z = self.graph.add("InstanceNormalization", grouped, ones, zeros, epsilon=norms.EPSILON)
        scale, bias = (_array(p).reshape(-1, 1, 1) for p in (norm.scale, norm.bias))
        z = self.graph.shaped(z, -1, scale.size, size, size)
        z = self.graph.add("Mul", z, self.graph.constant(scale))
        return self.graph.add("Add", z, self.graph.constant(bias))

    def silu(self, x: str) -> str:
        """SiLU: x sigmoid(x)."""
        return self.graph.add("Mul", x, self.graph.add("Sigmoid", x))


def unet(layers: Layers, module: UNet, x: str, time: int, size: int) -> str:
    """The U-Net's answer, of the shape of x.

    Args:
      layers: of the graph.
      module: the network.
      x: f32[n, 3, size, size].
      time: time step of all pictures.
      size: height and width, px.
    """
    features = time_features(jnp.asarray([time]), module.base, jnp.float32)
    embedding = module.time2(nnx.silu(module.time1(features)))
    writer = _UNetWriter(layers, np.asarray(nnx.silu(embedding))[0])
    h, skips = x, []
    for stage in module.down:
        h, size = writer.stage(stage, h, size)
        skips.append(h)
    h, size = writer.stage(module.middle, h, size)
    for stage in module.up:
        h, size = writer.stage(stage, layers.graph.add("Concat", h, skips.pop(), axis=1), size)
    h = layers.silu(layers.group_norm(h, module.out_norm, size))
    return layers.conv(h, module.out_conv)


@dataclasses.dataclass(frozen=True, eq=False)
class _UNetWriter:
    """Writes the U-Net's blocks for one time step, whose embedding f32[e] has passed its SiLU."""

    layers: Layers
    embedding: np.ndarray

    def stage(self, stage: Iterable[nnx.Module], x: str, size: int) -> tuple[str, int]:
        """One stage's layers; the result, and its height."""
        for layer in stage:
            if isinstance(layer, ResBlock):
                x, size = self._res_block(layer, x, size)
            elif isinstance(layer, Attention):
                x = self._attention(layer, x, size)
            else:
                assert isinstance(layer, nnx.Conv)
                x = self.layers.conv(x, layer)
        return x, size

    def _res_block(self, block: ResBlock, x: str, size: int) -> tuple[str, int]:
        layers, graph = self.layers, self.layers.graph
        h = layers.silu(layers.group_norm(x, block.norm1, size))
        if block.resample is not None:
            h, x = self._resampled(h, block), self._resampled(x, block)
            size = size // 2 if block.resample is halve else 2 * size
        shift = self.embedding @ _array(block.embed.kernel) + _array(block.embed.bias)
        h = layers.conv(h, block.conv1, shift=shift)
        h = layers.conv(layers.silu(layers.group_norm(h, block.norm2, size)), block.conv2)
        shortcut = x if block.shortcut is None else layers.conv(x, block.shortcut)
        return graph.add("Add", h, shortcut), size

    def _resampled(self, x: str, block: ResBlock) -> str:
        graph = self.layers.graph
        if block.resample is halve:
            return graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        assert block.resample is double
        return _doubled(graph, x, mode="nearest", coordinate_transformation_mode="asymmetric")

    def _attention(self, layer: Attention, x: str, size: int) -> str:
        layers, graph = self.layers, self.layers.graph
        qkv = layers.linear(layers.group_norm(x, layer.norm, size), layer.qkv)
        width = layer.qkv.out_features // 3 // layer.heads
        # The channels of qkv lie as [head][q, k, v][channels of a head].
        qkv = graph.shaped(qkv, -1, layer.heads, 3 * width, size * size)
        q, k, v = graph.add("Split", qkv, outputs=3, axis=2, num_outputs=3)
        scale = graph.constant(width**-0.5)
        logits = graph.add("MatMul", graph.add("Transpose", q, perm=[0, 1, 3, 2]), k)
        weights = graph.add("Softmax", graph.add("Mul", logits, scale), axis=-1)
        y = graph.add("MatMul", v, graph.add("Transpose", weights, perm=[0, 1, 3, 2]))
        y = graph.shaped(y, -1, layer.heads * width, size, size)
        return graph.add("Add", x, layers.linear(y, layer.projection))


def segmentation(layers: Layers, module: SegmentationNet, x: str) -> str:
    """The anomaly map f32[n, 1, s, s] in [0, 1] from f32[n, 6, s, s]."""
    graph, skips = layers.graph, []

    def twice(block: DoubleConv, x: str) -> str:
        x = graph.add("Relu", layers.conv(x, block.conv1, block.norm1))
        return graph.add("Relu", layers.conv(x, block.conv2, block.norm2))

    def grown(block: UpConv, x: str) -> str:
        x = _doubled(graph, x, mode="linear", coordinate_transformation_mode="align_corners")
        return graph.add("Relu", layers.conv(x, block.conv, block.norm))

    for depth, block in enumerate(module.encoder):
        if depth:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = twice(block, x)
        skips.append(x)
    skips.pop()
    for up, block in zip(module.up, module.decoder, strict=True):
        x = twice(block, graph.add("Concat", grown(up, x), skips.pop(), axis=1))
    return graph.add("Sigmoid", layers.conv(x, module.out))


def _doubled(graph: Graph, x: str, **attributes: Any) -> str:
    return graph.add("Resize", x, "", graph.constant([1, 1, 2, 2]), **attributes)


def _array(parameter: nnx.Variable | None) -> np.ndarray:
    assert parameter is not None
    return np.asarray(parameter[...], np.float32)
