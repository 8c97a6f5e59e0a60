"""The order of the pictures by its statistics: no place, picture or epoch is like another."""

import itertools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from input_pipeline import pipeline

N, EPOCHS = 5, 1200


@pytest.fixture(scope="module")
def orders():
    """[seeds, epochs, places]: which picture stands there."""

    def of_run(seed):
        at = tf.autograph.experimental.do_not_convert(lambda p: pipeline.picture_index(p, N, seed))
        order = tf.data.Dataset.range(N * EPOCHS).map(at).batch(N * EPOCHS)
        return next(iter(order.as_numpy_iterator())).reshape(EPOCHS, N)

    return np.stack([of_run(0), of_run(1)])


def assert_independent(a, b):
    table = np.zeros((N, N))
    np.add.at(table, (a, b), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


def test_every_place_shows_every_picture_as_often(orders):
    for place in range(N):
        assert scipy.stats.chisquare(np.bincount(orders[0, :, place])).pvalue > 1e-4


def test_every_two_neighbours_are_as_likely(orders):
    for first, second in itertools.pairwise(range(N)):
        pairs = orders[0, :, first] * N + orders[0, :, second]
        counts = np.bincount(pairs, minlength=N * N)[~np.eye(N, dtype=bool).ravel()]
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_epochs_and_seeds_are_independent(orders):
    for place in range(N):
        run, other = orders[:, :, place]
        assert_independent(run[1:], run[:-1])
        assert_independent(run[2:], run[:-2])
        assert_independent(run, other)
