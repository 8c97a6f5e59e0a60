"""The steps as they are compiled, and lowered at full size for accelerators that are not here."""

import functools
import gc
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from configs import default
from diffad_jax.method import jitted, optim, train_state
from diffad_jax.runs import checkpoint, profiling, sharding
from tests.support import helpers

PLATFORMS = ("tpu", "cuda")
CONFIG = helpers.parsed(default, model__compute_dtype="bfloat16", model__remat="norms")
EMPTY = train_state.TrainState((), train_state.Variables((), ()), (), train_state.Variables((), ()))


@pytest.fixture(scope="module")
def mesh():
    return sharding.data_mesh()


@pytest.fixture(scope="module")
def state(mesh):
    """Shapes and shardings of the full state; nothing is allocated."""
    init = functools.partial(train_state.init, CONFIG, optim.optimizer(CONFIG, 39_000))
    shapes = jax.eval_shape(init, jax.random.key(0))
    return checkpoint.abstract(shapes, sharding.replicated(mesh))


def array(mesh, *shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding.split(mesh))


def lowered(function, *arguments):
    """The program for eight devices of both platforms."""
    exported = export.export(function, platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS and exported.nr_devices == 8
    return exported


def test_training_step_lowers_for_tpu_and_cuda(mesh, state):
    b, s = CONFIG.train.batch_size, CONFIG.model.image_size
    batch = {
        "image": array(mesh, b, s, s, 3),
        "mask": array(mesh, b, s, s, 1),
        "label": array(mesh, b),
    }
    networks, optimizer = train_state.define(CONFIG.model), optim.optimizer(CONFIG, 39_000)
    step = jitted.train_step(networks, optimizer, CONFIG, mesh)
    exported = lowered(step, state, batch, jax.eval_shape(lambda: jax.random.key(0)))
    new_state, metrics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    sizes = [leaf.size for leaf in jax.tree.leaves(new_state.variables.params)]
    assert sum(sizes) == 131_654_403 + 28_373_569
    assert metrics["loss"].shape == ()


def test_inference_lowers_for_tpu_and_cuda(mesh, state):
    b, s = CONFIG.evaluate.batch_size, CONFIG.model.image_size
    step = jitted.evaluate_step(train_state.define(CONFIG.model), CONFIG, mesh)
    noises = jax.ShapeDtypeStruct((1, 2, s, s, 3), jnp.float32, sharding=sharding.replicated(mesh))
    exported = lowered(step, state.ema, array(mesh, b, s, s, 3), noises)
    shapes = {result.shape for result in exported.out_avals}
    assert shapes == {(b,), (b, s, s, 1), (b, s, s, 3)}  # scores, maps, reconstructions


def test_an_option_that_xla_no_longer_has_is_not_given():
    nothing = {"xla_cpu_of_another_time": "ON"}
    assert jitted.known(nothing) is None
    with mock.patch.object(jitted, "STEPS", nothing | jitted.ONCE):
        config = helpers.parsed()
        assert jitted.compiler_options(config.train, sharding.data_mesh()) == jitted.ONCE


@pytest.mark.parametrize("peak", [None, 1e12])
def test_operations_are_counted_where_there_is_a_peak_to_compare_with(mesh, monkeypatch, peak):
    seen = []

    @jax.jit
    def step(state, batch, key):
        seen.append(gc.isenabled())
        return state, {"loss": batch["image"].sum() + jax.random.uniform(key)}

    config, key = helpers.parsed(train__batch_size=8), jax.random.key(0)
    monkeypatch.setattr(profiling, "peak_flops", lambda kind: peak)
    monkeypatch.setattr(jitted, "step_flops", lambda of: 42.0 if of is config else None)
    compiled, flops = jitted.compile_step(step, config, EMPTY, key, mesh)
    assert flops == (None if peak is None else 42.0)
    shapes = jitted.batch_shapes(config).items()
    batch = {name: sharding.share(np.zeros(shape, np.float32), mesh) for name, shape in shapes}
    assert compiled(EMPTY, batch, key)[1]["loss"] == jax.random.uniform(key)
    assert seen == [False] and gc.isenabled()


def test_garbage_is_looked_for_again_after_a_step_that_cannot_be_compiled(mesh):
    def step(state, batch, key):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        jitted.compile_step(jax.jit(step), helpers.parsed(), EMPTY, jax.random.key(0), mesh)
    assert gc.isenabled()


def test_nothing_asks_a_traced_value_for_its_sharding(mesh, monkeypatch):
    """Each time, JAX would search the whole program for where the value is from."""

    def asked(self):
        raise AssertionError

    monkeypatch.setattr(jax.core.Tracer, "sharding", property(asked))
    config = helpers.parsed(train__batch_size=8)
    train_state.define.cache_clear()
    jitted.lower_train_step(optim.optimizer(config, 9), config, mesh)
