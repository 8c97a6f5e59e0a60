"""Networks without weights, and comparison relative to the largest value."""

import numpy as np
from flax import nnx


def graph(network, config) -> nnx.GraphDef:
    """The structure of a network class; nothing is computed."""
    return nnx.graphdef(nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0))))


def assert_close(actual, expected, relative: float) -> None:
    """Within `relative` of the largest expected value."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=relative * scale)
