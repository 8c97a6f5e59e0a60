"""A picture has one score, whatever comes with it; batches; weights."""

import dataclasses

import jax
import numpy as np
import pytest

from diffad_jax.method import train_state
from diffad_jax.runs import sharding
from diffad_jax.scoring import scorer
from tests.runs.test_sharding import configured
from tests.support import helpers
from tests.support.judged import pictures_of, toy_scorer, toy_step, with_images


def state(config, mesh):
    """Random weights on the devices; the average is another object of the same values."""
    variables = jax.device_put(helpers.random_variables(config), sharding.replicated(mesh))
    zero = jax.device_put(np.zeros((), np.int32), sharding.replicated(mesh))
    return train_state.TrainState(zero, variables, (), jax.tree.map(lambda x: x + 0, variables))


@pytest.fixture(scope="module")
def judge():
    """(devices, batch size, pictures) -> evaluation; each kind of batch is compiled once."""
    jax.config.update("jax_disable_most_optimizations", True)  # a third of the time
    compiled = {}

    def run(devices, batch_size, pictures):
        config = configured(evaluate__batch_size=batch_size, evaluate__top_pixels=7)
        mesh = sharding.data_mesh(jax.devices()[:devices])
        if (devices, batch_size) not in compiled:
            compiled[devices, batch_size] = scorer.fresh(config, mesh, state(config, mesh))
        model = compiled[devices, batch_size]
        with jax.transfer_guard("disallow"):
            result = model.judge(pictures)
        assert model.judge_batch._cache_size() == 1
        return result

    yield run
    jax.config.update("jax_disable_most_optimizations", False)


def test_scores_depend_on_the_picture_alone(judge):
    pictures = pictures_of(np.arange(10) % 2)
    one = judge(1, 7, pictures)
    top = np.sort(one.maps.reshape(10, -1), axis=1)[:, -7:]
    np.testing.assert_allclose(one.scores, top.mean(1), rtol=1e-6)
    assert np.ptp(one.scores) > 1e-3 and one.names == pictures.names

    for devices, batch_size in ((1, 12), (8, 7)):
        other = judge(devices, batch_size, pictures)
        np.testing.assert_allclose(other.scores, one.scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(other.maps, one.maps, rtol=0, atol=1e-6)
        again = judge(devices, batch_size, pictures)
        for field in ("scores", "maps", "reconstructions"):
            np.testing.assert_array_equal(getattr(again, field), getattr(other, field))

    # Another order and other neighbours: the same scores.
    images = np.concatenate([pictures.images[::-1], pictures_of([0] * 8, seed=6).images])
    moved = judge(1, 7, with_images(pictures_of([0] * 18), images))
    np.testing.assert_allclose(moved.scores[9::-1], one.scores, rtol=0, atol=1e-6)
    alone = judge(1, 7, with_images(pictures_of([0]), pictures.images[4:5]))
    np.testing.assert_allclose(alone.scores, one.scores[4:5], rtol=0, atol=1e-6)
    # The noise is that of every picture: what is the same twice has the same score twice.
    twice = with_images(pictures_of([0] * 2), pictures.images[[4, 4]])
    assert np.ptp(judge(1, 7, twice).scores) <= 1e-6


def test_batches_are_padded_with_the_last_picture():
    seen = []

    def step(variables, image, noises):
        seen.append(np.asarray(image))
        return toy_step(variables, image, noises)

    mesh = sharding.data_mesh(jax.devices()[:2])
    model = toy_scorer(helpers.parsed(evaluate__batch_size=3))
    model = dataclasses.replace(model, mesh=mesh, judge_batch=step)
    pictures = pictures_of([0] * 10)
    assert [len(judged.score) for judged in model.stream(pictures.images)] == [4, 4, 2]
    assert [len(image) for image in seen] == [4, 4, 4]
    last = pictures.images[[8, 9, 9, 9]] / np.float32(255)
    np.testing.assert_array_equal(seen[-1], last)


def test_a_state_in_training_is_scored_with_the_weights_that_are_asked_for():
    config = configured(evaluate__weights="raw")
    mesh = sharding.data_mesh(jax.devices()[:1])
    now = state(config, mesh)
    model = scorer.fresh(config, mesh, now)
    assert model.variables is now.variables and model.step == 0
    later = dataclasses.replace(now, step=now.step + 5, variables=now.ema)
    assert model.holding(later).variables is now.ema and model.holding(later).step == 5
    averaged = helpers.parsed(evaluate__weights="ema")
    assert scorer.weights(now, averaged) is now.ema


def test_attention_of_cudnn_is_left_out_where_there_is_no_gpu():
    config = configured(model__attention="cudnn", model__compute_dtype="bfloat16")
    mesh = sharding.data_mesh(jax.devices()[:1])
    model = scorer.fresh(config, mesh, state(config, mesh))
    assert model.config.model.attention == "xla"
    assert model.config.model.compute_dtype == "bfloat16"


def test_a_full_disk_is_an_error_that_says_so(monkeypatch):
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(scorer.tempfile, "TemporaryFile", lambda: full)
        with pytest.raises(OSError, match="No space left"):
            scorer.Rows((4,), np.float32, in_memory=False).append(np.zeros((2, 4)))
