"""An evaluation averaged over several draws of the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffad_jax.method import judging, train_state
from diffad_jax.scoring import scorer
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
    index = jnp.asarray(scorer.noise_index(images))
    keys = [jax.random.fold_in(key, 2)]
    keys += [jax.random.fold_in(jax.random.fold_in(key, 3), j) for j in (1, 2)]
    judge = jax.jit(
        lambda key: judging.evaluate(
            variables,
            image,
            judging.draw_evaluation(key, index, image, config.evaluate),
            network,
            config,
        )
    )
    each = [judge(key).anomaly_map[..., 0] for key in keys]
    assert np.abs(each[0] - each[1]).max() > 1e-3 and np.abs(each[1] - each[2]).max() > 1e-3
    mean = np.mean(each, axis=0)
    top = np.sort(mean.reshape(2, -1), axis=1)[:, -config.evaluate.top_pixels :]
    averaged = jax.jit(
        lambda image: judging.evaluate_step(variables, image, index, key, network, config)
    )(image)
    np.testing.assert_allclose(averaged.anomaly_map[..., 0], mean, atol=1e-6)
    np.testing.assert_allclose(averaged.score, top.mean(1), atol=1e-6)
