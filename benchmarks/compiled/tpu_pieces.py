"""Compile pieces of the training step for one TPU chip that is not there, one at a time.

python -m benchmarks.compiled.tpu_pieces --pieces 'conv 16x256 128>128,res 16x256 128>128'

conv NxS I>O      3 x 3 convolution of N feature maps of S px, I to O channels, bfloat16:
                  forward / by the picture / by the weights
grouped NxS I>O   the same, two pictures side by side in the channels, a group each
diagonal NxS I>O  the same, as one convolution whose weights between the two are zero
res NxS I>O       a res block of the U-Net, forward and backward; I may be A+B, a concatenation
double NxS I>O    a double convolution of the segmentation network, forward and backward

The compiler chooses layouts at the borders. A row has the compiler's estimate, and what the matrix
unit takes by the data sheet. --chip is v5e, v5p or v6e. Needs what `tpu_compile` needs.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from flax import nnx
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from benchmarks.compiled import hlo, tpu_compile
from configs import default
from diffad_jax.models.segmentation import DoubleConv
from diffad_jax.models.unet import ResBlock
from diffad_jax.runs import profiling

# A topology with the chip, and its clock in GHz. Those of v5p and v6e are inferred: with them the
# estimates of the widest convolutions are what the matrix unit takes by the data sheet.
CHIPS = {"v5e": ("v5e:2x4", 1.5), "v5p": ("v5p:2x2x1", 1.75), "v6e": ("v6e:2x4", 1.75)}
DTYPE = jnp.bfloat16
PIECES = (
    *("conv 16x256 128>128", "conv 16x256 256>128", "conv 16x128 128>128", "conv 16x128 256>128"),
    *("conv 16x64 256>256", "conv 16x64 512>256", "conv 16x16 512>512", "conv 8x256 64>64"),
    *("conv 8x256 128>64", "conv 16x256 3>128", "conv 16x256 128>3", "conv 8x256 6>64"),
    *("grouped 8x256 64>64", "diagonal 8x256 64>64", "res 16x256 128>128"),
    *("res 16x256 128+128>128", "double 8x256 6>64", "double 8x256 128>64"),
)
Part = tuple[Callable[..., Any], tuple[Any, ...]]  # a function, and the shapes of what it is given


def main(_) -> None:
    """Print a Markdown table."""
    jax.config.update("jax_platforms", "cpu")
    print("| piece | estimate, ms | matrix unit, ms |\n| --- | --- | --- |")
    topology, ghz = CHIPS[flags.FLAGS.chip]
    device = topologies.get_topology_desc(topology, platform="tpu").devices[0]
    peak = profiling.peak_flops(device.device_kind)
    for piece in flags.FLAGS.pieces:
        kind, n, s, inputs, outputs = parse(piece)
        unit = 2 * 9 * n * s * s * sum(inputs) * outputs / peak * 1e3
        each = [mcycles(device, *part) / ghz for part in KINDS[kind](n, s, inputs, outputs)]
        cost = f"{unit:.2f} each" if len(each) > 1 else ""
        print(f"| {piece} | {' / '.join(f'{ms:.2f}' for ms in each)} | {cost} |", flush=True)


def parse(piece: str) -> tuple[str, int, int, tuple[int, ...], int]:
    """Kind, pictures, px, input channels (of each part of a concatenation), output channels."""
    found = re.fullmatch(r"(\w+) (\d+)x(\d+) ([\d+]+)>(\d+)", piece.strip())
    if not found or found[1] not in KINDS:
        raise app.UsageError(f"no piece {piece!r}: as {PIECES[0]!r}, kinds {sorted(KINDS)}")
    parts = tuple(map(int, found[4].split("+")))
    return found[1], int(found[2]), int(found[3]), parts, int(found[5])


def mcycles(device: jax.Device, function: Callable[..., Any], shapes: tuple[Any, ...]) -> float:
    """The compiler's estimate of a function on one chip, million cycles."""
    free = Format(Layout.AUTO, SingleDeviceSharding(device))
    compiled = jax.jit(function, in_shardings=free, out_shardings=free).lower(*shapes).compile()
    return sum(tpu_compile.estimate(hlo.parse(compiled.as_text())).values())


def array(*shape: int) -> jax.ShapeDtypeStruct:
    """A shape of bfloat16."""
    return jax.ShapeDtypeStruct(shape, DTYPE)


def conv(n: int, s: int, inputs: Sequence[int], o: int, *, groups: int = 1) -> Iterator[Part]:
    """Forward, and the gradients by the picture and by the weights."""
    (i,) = inputs

    def product(x, kernel):
        return jax.lax.conv_general_dilated(
            *(x, kernel, (1, 1), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    x, y, kernel = array(n, s, s, i), array(n, s, s, o), array(3, 3, i // groups, o)
    yield product, (x, kernel)
    yield lambda k, g: jax.linear_transpose(lambda x_: product(x_, k), x)(g), (kernel, y)
    yield lambda x_, g: jax.linear_transpose(lambda k: product(x_, k), kernel)(g), (x, y)


def grouped(n: int, s: int, inputs: Sequence[int], o: int) -> Iterator[Part]:
    """Two pictures side by side in the channels, a group each."""
    return conv(n // 2, s, [2 * inputs[0]], 2 * o, groups=2)


def diagonal(n: int, s: int, inputs: Sequence[int], o: int) -> Iterator[Part]:
    """Two pictures side by side in the channels; the weights between them are zero."""
    return conv(n // 2, s, [2 * inputs[0]], 2 * o)


def res(n: int, s: int, inputs: Sequence[int], o: int) -> Iterator[Part]:
    """A res block with the gradients of everything it is given."""
    config = default.get_config().model
    config.compute_dtype = "bfloat16"
    graph, state = split(lambda: ResBlock(sum(inputs), o, config, rngs=nnx.Rngs(0)))

    def both(state, gradient, parts, embedding):
        def call(state, parts, embedding):
            # What the network puts before and after a block is fused with it.
            return nnx.merge(graph, state)(tuple(2 * part for part in parts), embedding)

        y, transpose = jax.vjp(call, state, parts, embedding)
        return y, transpose(2 * gradient)

    parts = tuple(array(n, s, s, i) for i in inputs)
    yield both, (state, array(n, s, s, o), parts, array(n, 4 * config.unet_base))


def double(n: int, s: int, inputs: Sequence[int], o: int) -> Iterator[Part]:
    """A double convolution with the gradients of everything it is given."""
    graph, state = split(lambda: DoubleConv(*inputs, o, dtype=DTYPE, rngs=nnx.Rngs(0)))
    params, statistics = nnx.split_state(state, nnx.Param, nnx.BatchStat)

    def both(params, statistics, gradient, x):
        def call(params, x):
            block = nnx.merge(graph, params, statistics, copy=True)
            return block(2 * x, train=True), nnx.state(block, nnx.BatchStat)

        y, transpose, updated = jax.vjp(call, params, x, has_aux=True)
        return y, updated, transpose(2 * gradient)

    yield both, (params, statistics, array(n, s, s, o), array(n, s, s, *inputs))


def split(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, nnx.State]:
    """A module's structure and the shapes of its arrays, without making them."""
    return nnx.split(nnx.eval_shape(build))


KINDS = {"conv": conv, "grouped": grouped, "diagonal": diagonal, "res": res, "double": double}


if __name__ == "__main__":
    flags.DEFINE_enum("chip", "v5e", list(CHIPS), "What to compile for.")
    flags.DEFINE_list("pieces", list(PIECES), "What to compile, each KIND NxS I>O.")
    app.run(main)
