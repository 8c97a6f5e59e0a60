"""Every draw of training, of evaluation and of the initial weights, by its statistics.

Nothing here knows how keys are split: a draw has its range and its distribution, and no two draws
of a step, of two steps, of two pictures or of two seeds have anything to do with each other.
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import nnx

from diffad_jax.method import judging, steps, train_state
from tests.method import toys
from tests.support import helpers

COUNT = 4000  # steps
SMALL = {"diffusion__train_split": 8, "diffusion__train_end": 16}
PICTURES = (2, 2, 2, 3)


@pytest.fixture(scope="module", autouse=True)
def fast_compiles():
    """No program here needs to be fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def compiled_draws(**changes):
    """A function of a key and steps: what `train_step` draws, and what its dropout key gives."""
    seen, config = {}, helpers.parsed(**changes)
    variables, networks, optimizer = toys.variables(), toys.networks(), optax.identity()
    batch = {"image": jnp.zeros(PICTURES)}

    def update(state, batch, draws, networks, optimizer, config, dropout_key=None):
        seen["draws"] = draws
        seen["dropout"] = None if dropout_key is None else jax.random.normal(dropout_key, (6,))
        return state, {}

    def at(key, step):
        state = train_state.TrainState(step, variables, optax.EmptyState(), variables)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "update", update)
            steps.train_step(state, batch, key, networks, optimizer, config)
        return vars(seen["draws"]), seen["dropout"]

    return jax.jit(jax.vmap(at, in_axes=(None, 0)))


def step_draws(seed=0, start=0, **changes):
    """Those of 4000 steps from `start` on."""
    steps_drawn = jnp.arange(start, start + COUNT)
    drawn = compiled_draws(**changes)(jax.random.key(seed), steps_drawn)
    draws, dropout = jax.tree.map(np.asarray, drawn)
    return types.SimpleNamespace(**draws), dropout


def columns(draws, dropout=None) -> np.ndarray:
    """[steps, numbers]: everything drawn in a step, one column for each number."""
    parts = [draws.t_less_noisy, draws.t_noisier, draws.noise_less_noisy, draws.noise_noisier]
    parts += [] if dropout is None else [dropout]
    return np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1).astype(np.float64)


def assert_uncorrelated(a, b=None):
    """No column with another (of `b`): 5.5 standard deviations of a chance correlation."""
    matrix = np.corrcoef(a, b, rowvar=False)
    matrix = matrix - np.eye(len(matrix)) if b is None else matrix[: a.shape[1], a.shape[1] :]
    assert np.abs(matrix).max() < 5.5 / np.sqrt(len(a))


def assert_independent(a, b):
    """Two sequences of small whole numbers, by the chi-square test of their table."""
    table = np.histogram2d(a, b, bins=(len(set(a)), len(set(b))))[0]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


@pytest.fixture(scope="module")
def drawn():
    """The draws of 4000 steps, with a dropout key, of eight time steps for each noise level."""
    return step_draws(model__dropout=0.5, **SMALL)


def test_time_steps_fill_their_ranges_evenly(drawn):
    draws, _ = drawn
    for t, first in ((draws.t_less_noisy, 0), (draws.t_noisier, 8)):
        values, counts = np.unique(t, return_counts=True)
        assert values.tolist() == list(range(first, first + 8))
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(("split", "end"), [(300, 1000), (1, 2)])
def test_time_steps_of_other_ranges(split, end):
    changes = {"diffusion__train_split": split, "diffusion__train_end": end}
    draws, _ = step_draws(**changes)
    for t, low, high in ((draws.t_less_noisy, 0, split), (draws.t_noisier, split, end)):
        span = high - low
        assert low <= t.min() <= low + 0.01 * span and high - 0.01 * span - 1 <= t.max() < high
        assert abs(t.mean() - (low + high - 1) / 2) < 0.02 * span


def test_noises_are_unit_normal(drawn):
    draws, _ = drawn
    for noise in (draws.noise_less_noisy, draws.noise_noisier):
        assert noise.shape == (COUNT, *PICTURES)
        assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
        assert abs(noise).max() > 4


def test_all_that_a_step_draws_is_independent(drawn):
    draws, dropout = drawn
    assert_uncorrelated(columns(draws, dropout))
    steps_drawn = np.concatenate([draws.t_less_noisy, draws.t_noisier], axis=1)
    for i in range(4):
        for j in range(i):
            assert_independent(steps_drawn[:, i], steps_drawn[:, j])


def test_steps_and_seeds_are_independent(drawn):
    here = columns(*drawn)
    assert_uncorrelated(here[1:], here[:-1])
    assert_uncorrelated(here[2:], here[:-2])
    assert_uncorrelated(here, columns(*step_draws(seed=1, model__dropout=0.5, **SMALL)))


def test_a_step_draws_what_it_drew_before(drawn):
    """The same for (seed, step), whatever ran before; with and without dropout."""
    for dropout in (0.0, 0.5):
        again = step_draws(start=37, model__dropout=dropout, **SMALL)
        assert (again[1] is None) == (dropout == 0)
        np.testing.assert_array_equal(columns(again[0])[:-37], columns(drawn[0])[37:])


def test_training_and_evaluation_draw_apart(drawn):
    config = helpers.parsed(evaluate__draws=COUNT).evaluate
    draw = jax.jit(judging.draw_evaluation, static_argnums=(1, 2))
    noise = np.reshape(draw(jax.random.key(0), config, 2), (COUNT, -1))
    assert_uncorrelated(noise)  # among the pixels of both noises
    assert_uncorrelated(noise[1:], noise[:-1])  # between draws
    assert_uncorrelated(noise, columns(*drawn))
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    few = draw(jax.random.key(0), dataclasses.replace(config, draws=3), 2)
    np.testing.assert_array_equal(few, np.reshape(noise[:3], few.shape))


@pytest.mark.parametrize("levels", [(200, 400), (5, 999)])
def test_every_picture_is_judged_at_the_same_steps_with_the_same_noise(levels):
    changes = dict(zip(("evaluate__less_noisy", "evaluate__noisier"), levels, strict=True))
    config = helpers.parsed(**changes).evaluate
    pair = judging.draw_evaluation(jax.random.key(3), config, 4)[0]
    draws = judging.at_fixed_steps(pair, jnp.zeros((5, 4, 4, 3)), config)
    assert draws.t_less_noisy.tolist() == [levels[0]] * 5
    assert draws.t_noisier.tolist() == [levels[1]] * 5
    for noise, of_all in zip((draws.noise_less_noisy, draws.noise_noisier), pair, strict=True):
        np.testing.assert_array_equal(noise, np.stack([of_all] * 5))
    other = judging.draw_evaluation(jax.random.key(4), config, 4)[0]
    assert np.abs(other - pair).min() > 1e-6


@pytest.mark.parametrize("count", [1, 3])
def test_draws_are_averaged(monkeypatch, count):
    """The variance of a mean of n unit normals is 1 / n."""

    def show(variables, image, draws, networks, config):
        noise = jnp.concatenate([draws.noise_less_noisy, draws.noise_noisier], axis=-1)
        return judging.Judgement(jnp.mean(noise, axis=(1, 2, 3)), noise[..., :1], noise[..., 2:5])

    monkeypatch.setattr(judging, "evaluate", show)
    config = helpers.parsed(evaluate__draws=count)
    image = jnp.zeros((2, 96, 96, 3))
    noises = judging.draw_evaluation(jax.random.key(0), config.evaluate, 96)
    networks = toys.networks()
    judged = jax.jit(lambda *args: judging.evaluate_step(*args, networks, config))(
        toys.variables(), image, noises
    )
    for shown in (judged.anomaly_map, judged.reconstruction):
        np.testing.assert_allclose(np.var(shown), 1 / count, rtol=0.05)
        assert abs(np.mean(shown)) < 0.05


class Recorder(nnx.Module):
    """A network of 2000 numbers drawn by its own key."""

    def __init__(self, config, *, rngs):
        self.drawn = nnx.Param(jax.random.normal(rngs.params(), (2000,)))
        self.mean = nnx.BatchStat(jnp.zeros(1))


def test_initial_weights_follow_the_key_and_nothing_else(monkeypatch):
    monkeypatch.setattr(train_state, "UNet", Recorder)
    monkeypatch.setattr(train_state, "SegmentationNet", Recorder)
    config = helpers.parsed()

    def weights(seed):
        params = train_state.init_variables(config.model, jax.random.key(seed)).params
        assert list(params) == ["unet", "segmentation"]
        return [np.asarray(params[name]["drawn"]) for name in params]

    first, again, other = weights(0), weights(0), weights(1)
    np.testing.assert_array_equal(first, again)
    noise = steps.draw_training(
        jax.random.key(0), jnp.zeros((2, 20, 20, 5))[..., :3], config.diffusion
    )
    numbers = [*first, *other, np.ravel(noise.noise_less_noisy)[:2000]]
    assert_uncorrelated(np.stack(numbers, axis=1))


def test_a_run_starts_with_the_average_at_its_weights():
    optimizer = optax.adam(1e-3)
    state = train_state.start(toys.variables(), optimizer)
    assert state.step == 0 and state.step.dtype == jnp.int32
    for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.variables), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a is not b  # both are donated to the step
    moments = jax.tree.leaves(state.opt_state)
    assert len(moments) == 1 + 2 * 3 and not any(np.any(m) for m in moments)


def test_streams_have_names_of_their_own():
    streams = (train_state.INIT, train_state.TRAIN, train_state.EVALUATE)
    assert len(set(streams)) == 3
