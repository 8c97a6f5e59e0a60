"""An evaluation averaged over several draws of the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffad_jax.method import judging, steps, train_state
from tests.support import helpers, toy_model


@pytest.fixture
def toy(monkeypatch):
    """The step's own keys and means, without the networks."""
    monkeypatch.setattr(judging, "evaluate", toy_model.toy_evaluate)


def test_the_mean_over_draws(toy):
    """Against each draw computed on its own, its key made here."""
    config = helpers.parsed(evaluate__draws=3)
    variables = toy_model.toy_init(None, optax.identity(), None).ema
    network, key = train_state.define(config.model), jax.random.key(config.seed)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    image = jnp.asarray(images.astype(np.float32) / 255)
    keys = [jax.random.fold_in(jax.random.fold_in(key, 2), j) for j in range(3)]

    @jax.jit
    def judge(key):
        pair = jax.random.normal(key, (2, 32, 32, 3))
        draws = steps.Draws(
            jnp.full(2, config.evaluate.less_noisy),
            jnp.full(2, config.evaluate.noisier),
            *(jnp.stack([noise, noise]) for noise in pair),
        )
        return judging.evaluate(variables, image, draws, network, config)

    each = [judge(key).anomaly_map[..., 0] for key in keys]
    assert np.abs(each[0] - each[1]).max() > 1e-3 and np.abs(each[1] - each[2]).max() > 1e-3
    mean = np.mean(each, axis=0)
    top = np.sort(mean.reshape(2, -1), axis=1)[:, -config.evaluate.top_pixels :]
    noises = judging.draw_evaluation(key, config.evaluate, 32)
    averaged = jax.jit(
        lambda image: judging.evaluate_step(variables, image, noises, network, config)
    )(image)
    np.testing.assert_allclose(averaged.anomaly_map[..., 0], mean, atol=1e-6)
    np.testing.assert_allclose(averaged.score, top.mean(1), atol=1e-6)
