"""What the two networks promise: precision, memory, draws, initial values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import schema, test
from diffad_jax.models.layers import RandomKeys
from diffad_jax.models.segmentation import DoubleConv, SegmentationNet, double_aligned
from diffad_jax.models.unet import Attention, UNet
from tests.support.networks import assert_close, graph

pytestmark = pytest.mark.usefixtures("fast_compiles")

SMALL = schema.parse(test.get_config()).model
CUDNN = dataclasses.replace(SMALL, attention="cudnn")


def random_weights(network, config, seed: int = 0):
    """(params, stats) as pure dicts; no weight is zero, so every path carries a signal."""
    params, stats = nnx.state(
        nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0))), nnx.Param, nnx.BatchStat
    )
    generator = np.random.default_rng(seed)

    def draw(leaf):
        values = generator.standard_normal(leaf.shape).astype(np.float32)
        return (
            values / np.float32(np.prod(leaf.shape[:-1])) ** 0.5
            if leaf.ndim > 1
            else 1 + values / 10
        )

    params = jax.tree.map(draw, nnx.to_pure_dict(params))
    stats = jax.tree.map(draw, nnx.to_pure_dict(stats))
    return params, stats


def test_double_aligned_maps_corners_to_corners():
    """A linear ramp stays one, between the same end values, whatever the size."""
    rows, columns = np.linspace(0, 1, 5), np.linspace(-2, 3, 3)
    ramp = jnp.asarray(rows[:, None] + columns[None, :], jnp.float32)[None, :, :, None]
    expected = np.linspace(0, 1, 10)[:, None] + np.linspace(-2, 3, 6)[None, :]
    np.testing.assert_allclose(double_aligned(ramp)[0, :, :, 0], expected, atol=1e-6)


UNET_GRAPH = graph(UNet, SMALL)
PICTURES = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))
STEPS = jnp.array([5, 700], jnp.int32)


def unet_loss(graphdef):
    def loss(params, x, t, key):
        return jnp.mean(jnp.square(nnx.merge(graphdef, params)(x, t, key=key)))

    return jax.jit(jax.value_and_grad(loss))


@pytest.fixture(scope="module")
def unet_params():
    return random_weights(UNet, SMALL)[0]


@pytest.fixture(scope="module")
def plain(unet_params):
    """Loss and gradient of the small U-Net."""
    return unet_loss(UNET_GRAPH)(unet_params, PICTURES, STEPS, None)


@pytest.mark.parametrize("remat", ["norms", "blocks"])
def test_rematerialisation_changes_no_gradient(unet_params, plain, remat):
    function = unet_loss(graph(UNet, dataclasses.replace(SMALL, remat=remat)))
    value, gradient = function(unet_params, PICTURES, STEPS, None)
    np.testing.assert_allclose(value, plain[0], rtol=1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain[1]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest),
        gradient,
        plain[1],
    )


def test_rematerialisation_keeps_less(unet_params):
    """Numbers of feature maps and attention that the forward pass leaves for the backward pass."""

    def kept(remat):
        graphdef = graph(UNet, dataclasses.replace(SMALL, remat=remat))

        def backward(params, x):
            return jax.vjp(lambda p: nnx.merge(graphdef, p)(x, STEPS), params)[1]

        residuals = jax.tree.leaves(jax.eval_shape(backward, unet_params, PICTURES))
        return sum(x.size for x in residuals if x.ndim >= 3 and x.shape[0] == len(PICTURES))

    none, norms, blocks = (kept(remat) for remat in ("none", "norms", "blocks"))
    assert blocks < 0.7 * norms and norms < 0.4 * none, (none, norms, blocks)


def test_fused_attention_gets_the_same_queries(monkeypatch):
    """cuDNN needs a GPU; here the same call runs in XLA, which proves layout and scale."""
    fused = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *qkv, implementation: fused(*qkv))
    plain = Attention(64, SMALL, rngs=nnx.Rngs(0))
    plain.projection.kernel[...] = jnp.eye(64)
    graphdef, params = nnx.split(plain)
    cudnn = graph(lambda config, rngs: Attention(64, config, rngs=rngs), CUDNN)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 64)), jnp.float32)
    expected = nnx.merge(graphdef, params)(x)
    np.testing.assert_allclose(nnx.merge(cudnn, params)(x), expected, atol=1e-5)
    assert float(jnp.abs(expected - x).max()) > 0.1


def test_dropout_follows_the_key(unet_params):
    graphdef = graph(UNet, dataclasses.replace(SMALL, dropout=0.5))

    def predict(key):
        return nnx.merge(graphdef, unet_params)(PICTURES, STEPS, key=key)

    compiled = jax.jit(predict)
    first, again, other = (np.asarray(compiled(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    # Blocks of one shape draw different masks; without a key nothing is drawn.
    blocks = 2 + 1 + 2 + 2 * 2 + 1
    assert str(jax.make_jaxpr(predict)(jax.random.key(1))).count("random_fold_in") == blocks
    assert "random" not in str(jax.make_jaxpr(lambda: predict(None))())


def test_float64_stays_float64(unet_params):
    """Wider parameters and inputs are computed wide throughout: no float32 digit is lost."""
    segmentation, stats = random_weights(SegmentationNet, SMALL)
    seg_graph = graph(SegmentationNet, SMALL)
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, (unet_params, segmentation, stats))
        unet_jaxpr = jax.make_jaxpr(lambda p, x, t: nnx.merge(UNET_GRAPH, p)(x, t))(
            wide[0], np.float64(PICTURES), STEPS
        )
        seg_jaxpr = jax.make_jaxpr(lambda p, s, x: nnx.merge(seg_graph, p, s)(x, train=False))(
            *wide[1:], np.zeros((2, 32, 32, 6))
        )
    for jaxpr in (unet_jaxpr, seg_jaxpr):
        assert "f64" in str(jaxpr)
        assert "f32" not in str(jaxpr)


def test_strict_dtypes_hold_for_both_precisions(unet_params):
    """No implicit promotion of two different dtypes, in float32 or in bfloat16."""
    segmentation, stats = random_weights(SegmentationNet, SMALL)
    with jax.numpy_dtype_promotion("strict"):
        for dtype in ("float32", "bfloat16"):
            config = dataclasses.replace(SMALL, compute_dtype=dtype)
            unet, seg = graph(UNet, config), graph(SegmentationNet, config)
            e = jax.eval_shape(
                lambda p, unet=unet: nnx.merge(unet, p)(PICTURES, STEPS), unet_params
            )
            y = jax.eval_shape(
                lambda p, s, seg=seg: nnx.merge(seg, p, s, copy=True)(
                    jnp.zeros((2, 32, 32, 6)), train=True
                ),
                segmentation,
                stats,
            )
            assert (e.dtype, y.dtype) == (jnp.float32, jnp.float32)


def test_bfloat16_is_near_float32_with_float32_parameters(unet_params):
    config = dataclasses.replace(SMALL, compute_dtype="bfloat16")
    params = nnx.state(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))), nnx.Param)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    function = unet_loss(graph(UNet, config))
    assert "bf16" in str(jax.make_jaxpr(function)(unet_params, PICTURES, STEPS, None))
    _, gradient = jax.eval_shape(function, unet_params, PICTURES, STEPS, None)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    exact, rough = (
        jax.jit(nnx.merge(graph(UNet, c), unet_params))(PICTURES, STEPS) for c in (SMALL, config)
    )
    assert rough.dtype == jnp.float32
    assert_close(rough, exact, 0.05)


def test_statistics_advance_through_scan():
    """Split outside, merged inside gradient and scan: as if PyTorch's rule were applied twice."""
    block = DoubleConv(2, 3, dtype=None, rngs=nnx.Rngs(0))
    graphdef, params, stats = nnx.split(block, nnx.Param, nnx.BatchStat)
    x = jnp.asarray(np.random.default_rng(1).random((2, 2, 4, 4, 2)), jnp.float32)

    def loss(params, stats, x):
        net = nnx.merge(graphdef, params, stats, copy=True)
        return jnp.mean(net(x, train=True)), nnx.state(net, nnx.BatchStat)

    def step(stats, x):
        gradient, stats = jax.grad(loss, has_aux=True)(params, stats, x)
        return stats, gradient

    with jax.checking_leaks():
        scanned, _ = jax.jit(lambda stats, x: jax.lax.scan(step, stats, x))(stats, x)
    first = [np.asarray(block.conv1(batch)).reshape(-1, 3) for batch in x]
    mean, var = np.zeros(3), np.ones(3)
    for values in first:
        mean = 0.9 * mean + 0.1 * values.mean(axis=0)
        var = 0.9 * var + 0.1 * values.var(axis=0, ddof=1)
    np.testing.assert_allclose(scanned["norm1"]["mean"][...], mean, rtol=1e-5)
    np.testing.assert_allclose(scanned["norm1"]["var"][...], var, rtol=1e-5)


def test_initial_values():
    """Uniform within 1/sqrt(fan_in), biases too; what the method starts at zero is zero."""

    @jax.jit
    def init(key):
        unet = nnx.to_pure_dict(nnx.state(UNet(SMALL, rngs=nnx.Rngs(key))))
        block, attention = unet["middle"][0], unet["middle"][1]
        zero = (block["conv2"], attention["projection"], unet["out_conv"])
        return zero, (block["conv1"], unet["time2"], attention["qkv"])

    zero, uniform = init(jax.random.key(0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(zero))
    for layer, fan_in in zip(uniform, (9 * 32, 128, 32), strict=True):
        for values in layer.values():
            largest = float(jnp.abs(values).max()) * np.sqrt(fan_in)
            assert 0.8 < largest <= 1.0
        np.testing.assert_allclose(float(layer["kernel"].std()), (3 * fan_in) ** -0.5, rtol=0.03)


@pytest.mark.parametrize("seed", [7, jax.random.key(7)])
def test_networks_are_built_with_the_keys_that_flax_would_give(seed):
    def drawn(kind, seed):
        rngs = kind(seed)
        return [jax.random.key_data(key) for key in (rngs.params(), rngs(), rngs.params())]

    expected = drawn(nnx.Rngs, seed)
    np.testing.assert_array_equal(drawn(RandomKeys, seed), expected)
    traced = jax.jit(functools.partial(drawn, RandomKeys))(jax.random.key(7))
    np.testing.assert_array_equal(traced, expected)
