"""The normalisation's own gradient against the one JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffad_jax.models import norms

C = 64


def derived_group(x, scale, bias):
    """Flax's GroupNorm, differentiated by JAX."""
    norm = nnx.GroupNorm(C, 32, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    norm.scale, norm.bias = nnx.Param(scale), nnx.Param(bias)
    return norm(x)


def derived_batch(x, scale, bias):
    """BatchNorm written down."""
    axes = (0, 1, 2)
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    gain, bias = (jnp.expand_dims(v, axes) for v in (scale, bias))
    return (x - mean) / jnp.sqrt(var + 1e-5) * gain + bias


@pytest.mark.parametrize("name", ["group", "batch"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_values_and_gradients_are_those_that_jax_derives(name, offset):
    pool, derived = {
        "group": (norms.group_means, derived_group),
        "batch": (norms.batch_means, derived_batch),
    }[name]
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        x = jax.random.normal(keys[0], (3, 4, 5, C), jnp.float64) + offset
        scale, bias = (jax.random.normal(key, (C,), jnp.float64) for key in keys[1:3])
        weight = jax.random.normal(keys[3], x.shape, jnp.float64)

        def total(function):
            return lambda *arguments: jnp.sum(weight * jnp.sin(function(*arguments)))

        def ours(x, scale, bias):
            return norms.normalise(x, (x,), None, scale, bias, pool)[0]

        np.testing.assert_allclose(ours(x, scale, bias), derived(x, scale, bias), atol=1e-10)
        gradients = [jax.grad(total(f), argnums=(0, 1, 2))(x, scale, bias) for f in (ours, derived)]
        for a, b in zip(*gradients, strict=True):
            assert a.dtype == np.float64
            np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize(("pool", "rows"), [(norms.group_means, 3), (norms.batch_means, 1)])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_a_shift_is_as_if_it_had_been_added_before(pool, rows, dtype):
    """A convolution's bias, and a time step's: their gradient needs no sum over the pixels.

    The means are taken of two parts.
    """
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 5)
        x = jax.random.normal(keys[0], (3, 16, 16, C), jnp.float64).astype(dtype)
        x, shift = x.astype(jnp.float64), jax.random.normal(keys[1], (rows, C), jnp.float64)
        scale, bias = (jax.random.normal(key, (C,), jnp.float64) for key in keys[2:4])
        weight = jax.random.normal(keys[4], x.shape, jnp.float64)

        def halves(x):
            return x[..., : C // 2], x[..., C // 2 :]

        def ours(x, shift):
            narrow = norms.normalise(
                x.astype(dtype), halves(x.astype(dtype)), shift, scale, bias, pool
            )
            return jax.tree.map(lambda a: a.astype(jnp.float64), narrow)

        def added(x, shift):
            return norms.normalise(
                x + shift[:, None, None], (x + shift[:, None, None],), None, scale, bias, pool
            )

        tolerance = {"atol": 1e-10} if dtype == jnp.float64 else {"atol": 0.02, "rtol": 0.02}
        for a, b in zip(ours(x, shift), added(x, shift), strict=True):
            np.testing.assert_allclose(a, b, **tolerance)

        def gradients(f):
            return jax.grad(lambda *v: jnp.sum(weight * jnp.sin(f(*v)[0])), argnums=(0, 1))(
                x, shift
            )

        for a, b in zip(gradients(ours), gradients(added), strict=True):
            size = 1 if dtype == jnp.float64 else float(jnp.abs(b).max()) + 1
            np.testing.assert_allclose(a / size, b / size, atol=max(tolerance["atol"], 1e-10))


def test_bfloat16_is_normalised_in_float32():
    x = (jax.random.normal(jax.random.key(0), (2, 8, 8, C)) + 50).astype(jnp.bfloat16)
    scale, bias = jnp.ones((C,)), jnp.zeros((C,))

    def loss(x, scale, bias):
        y, mean, var = norms.normalise(x, (x,), None, scale, bias, norms.group_means)
        assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
        return jnp.sum(y.astype(jnp.float32) ** 3)

    wide = x.astype(jnp.float32)
    whole = norms.normalise(wide, (wide,), None, scale, bias, norms.group_means)
    half = norms.normalise(x, (x,), None, scale, bias, norms.group_means)
    np.testing.assert_allclose(half[2], whole[2], rtol=1e-3)  # one pass over x instead of two
    np.testing.assert_allclose(half[0].astype(jnp.float32), whole[0], rtol=2**-7, atol=1e-3)
    dtypes = [g.dtype for g in jax.grad(loss, argnums=(0, 1, 2))(x, scale, bias)]
    assert dtypes == [jnp.bfloat16, jnp.float32, jnp.float32]
