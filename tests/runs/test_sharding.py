"""Batches on several devices, and in several parts; the steps that test_processes compares."""

import functools

import jax
import numpy as np
import optax
import pytest

from configs.errors import UserError
from diffad_jax.method import optim, steps, train_state
from diffad_jax.runs import sharding
from tests.method import toys
from tests.support import helpers


def random_batch(i, dtype, count=8):
    rng = np.random.default_rng(100 + i)
    image = rng.random((count, 32, 32, 3))
    label = np.array([1, 0, 0, 0, 1, 1, 0, 0][:count])
    mask = (rng.random((count, 32, 32, 1)) > 0.8) * label[:, None, None, None]
    return {k: v.astype(dtype) for k, v in (("image", image), ("mask", mask), ("label", label))}


def train(devices, config, dtype, count):
    """States (the initial one too) and losses of `count` steps on a mesh of `devices`."""
    mesh = sharding.data_mesh(devices)
    everywhere = sharding.replicated(mesh)
    networks, optimizer = train_state.define(config.model), optim.optimizer(config, 9)
    state = jax.device_get(train_state.start(helpers.random_variables(config, dtype), optimizer))
    states, losses = [state], []
    step = jax.jit(
        functools.partial(steps.train_step, networks=networks, optimizer=optimizer, config=config),
        in_shardings=(everywhere, sharding.split(mesh), everywhere),
        out_shardings=everywhere,
    )
    state = jax.device_put(state, everywhere)
    key = jax.jit(lambda: jax.random.key(3), out_shardings=everywhere)()
    for i in range(count):
        batch = {k: sharding.share(v, mesh) for k, v in random_batch(i, dtype).items()}
        assert len(batch["image"].sharding.device_set) == len(devices)
        state, metrics = step(state, batch, key)
        states.append(jax.device_get(state))
        losses.append(jax.device_get(metrics))
    return states, losses


@functools.cache
def float64_steps(devices):
    """Three steps of the real networks on the first devices; x64 must be on."""
    return train(jax.devices()[:devices], configured(), np.float64, 3)


def gap(a, b, floor):
    """Largest difference between two trees, relative to each array's scale (or `floor`)."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(abs(x - y).max() / max(abs(x).max(), floor) for x, y in pairs if x.size)


def configured(**changes):
    """One level of the U-Net: resampling mixes no pictures, and compiling takes its time."""
    settled = {
        "model__unet_multipliers": (1,),
        "model__attention_widths": (),
        "train__batch_size": 8,
        # Adam makes steps of rounding noise where a gradient is all but zero: keep the rate low.
        "unet_optim__warmup_steps": 10,
        "segmentation_optim__warmup_steps": 10,
    }
    return helpers.parsed(**settled | changes)


def test_parts_of_a_batch_add_up(float64):
    """Only the noise loss counts, so the running mean, which sees smaller batches, does not.

    Plain descent at rate 1 makes the difference of the parameters the gradient.
    """
    results = []
    for parts in (1, 2):
        config = configured(
            train__accumulation_steps=parts,
            loss__focal_weight=0.0,
            loss__smooth_l1_weight=0.0,
        )
        networks, optimizer = toys.networks(), optax.sgd(1.0)
        start = train_state.start(toys.variables(np.float64), optimizer)
        batch = jax.device_put(random_batch(0, np.float64))
        draws = steps.draw_training(jax.random.key(1), batch["image"], config.diffusion)
        update = functools.partial(
            steps.update, networks=networks, optimizer=optimizer, config=config
        )
        end, metrics = jax.device_get(jax.jit(update)(start, batch, draws))
        gradient = jax.tree.map(lambda a, b: np.asarray(a) - b, start.variables, end.variables)
        results.append((gradient.params["unet"], metrics["loss"], metrics["unet_gradient_norm"]))
    whole, split = results
    assert abs(whole[1]) > 0.1 and whole[2] > 0.1
    assert gap(whole, split, 1e-3) < 1e-9


def test_check_batch_names_both_numbers():
    with pytest.raises(UserError, match=r"^x=12 is not divisible by the 8 devices$"):
        sharding.check_batch(12, sharding.data_mesh(), "x")


def test_a_split_batch_is_gathered_without_the_host():
    mesh = sharding.data_mesh()
    batch = {"a": np.arange(24.0).reshape(8, 3), "b": np.arange(16, dtype=np.int32)}
    parts = {name: sharding.share(array, mesh) for name, array in batch.items()}
    with jax.transfer_guard("disallow"):
        whole = sharding.gather(parts, mesh)
    for name, array in batch.items():
        assert whole[name].sharding.is_fully_replicated and len(whole[name].devices()) == 8
        np.testing.assert_array_equal(jax.device_get(whole[name]), array)
    assert sharding._identity(mesh) is sharding._identity(sharding.data_mesh())
