"""The pooling of the segmentation network, against Flax's; its gradient needs no scatter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffad_jax.models.segmentation import SegmentationNet, max_pool
from tests.support import helpers


def theirs(x):
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


@pytest.mark.parametrize("kind", ["ties", "real", "infinite", "nan"])
def test_values_and_gradients_are_those_of_flax(kind):
    """To the last bit; of equal values, the first has the gradient, as in PyTorch."""
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 2, (3, 8, 6, 5)).astype(np.float32)
    if kind == "real":
        x = rng.standard_normal(x.shape, np.float32)
    elif kind == "infinite":
        x[rng.random(x.shape) < 0.3] = -np.inf
    elif kind == "nan":
        x[0, 1, 2, 3] = x[1, 4, 4, 0] = np.nan
    weights = jnp.asarray(rng.standard_normal((3, 4, 3, 5), np.float32))
    for own, other in zip(*(jax.vjp(f, jnp.asarray(x)) for f in (max_pool, theirs)), strict=True):
        if not callable(own):
            np.testing.assert_array_equal(own, other)
            assert np.isnan(own).sum() == (2 if kind == "nan" else 0)
        elif kind != "nan":
            np.testing.assert_array_equal(own(weights)[0], other(weights)[0])


def test_no_gradient_of_the_network_needs_a_scatter():
    """XLA has no reproducible one for GPUs where windows are selected from."""
    config = helpers.parsed().model
    network = nnx.eval_shape(lambda: SegmentationNet(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(network)

    def loss(params, x):
        return jnp.sum(nnx.merge(graph, params)(x, train=False))

    x = jax.ShapeDtypeStruct((1, 32, 32, 6), jnp.float32)
    text = jax.jit(jax.grad(loss, allow_int=True)).lower(state, x).as_text()
    assert "scatter" not in text and "gather" not in text
    wide = jax.ShapeDtypeStruct((1, 64, 64, 6), jnp.float32)
    control = jax.jit(jax.grad(lambda x: jnp.sum(theirs(x)))).lower(wide).as_text()
    assert "select_and_scatter" in control
