"""Both ends of every whole-numbered parameter, and parameters that are independent."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from input_pipeline import augment

COUNT = 3000
PICTURE = tf.zeros([3, 3, 3], tf.uint8)


def drawn(monkeypatch, op):
    """[draws, numbers]: the parameters that random pictures get of an op, and their seeds."""

    def parameters(i):
        seen = [tf.constant(np.nan)]  # where the op is not applied

        def record(image, *values):
            seen.extend(tf.reshape(tf.cast(v, tf.float32), [-1]) for v in values)
            return image

        monkeypatch.setattr(augment, op, record)
        monkeypatch.setattr(tf, "cond", lambda condition, yes, no: (yes(), condition)[0])
        getattr(augment, f"_random_{op}")(PICTURE, tf.stack([i, tf.constant(5, tf.int64)]))
        monkeypatch.undo()
        return tf.concat(seen[1:], 0)

    one = tf.autograph.experimental.do_not_convert(parameters)
    rows = tf.data.Dataset.range(COUNT).map(one).batch(COUNT)
    return next(iter(rows.as_numpy_iterator()))


@pytest.mark.parametrize(
    ("op", "low", "high"),
    [
        ("hue_saturation", -50, 50),
        ("solarize", 32, 128),
        ("posterize", 1, 8),
        ("autocontrast", 0, 20),
    ],
)
def test_whole_numbers_reach_both_ends_evenly(monkeypatch, op, low, high):
    for values in drawn(monkeypatch, op).T:
        counts = np.bincount((values - low).astype(int), minlength=high - low + 1)
        assert values.min() == low and values.max() == high and (values % 1 == 0).all()
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(
    ("op", "ends"),
    [
        ("gamma_contrast", [(0.5, 2.0)] * 3),
        ("multiply_brightness", [(0.8, 1.2), (-30, 30)]),
        ("sharpness", [(0, 2)]),
        ("rotate", [(-45, 45)]),
    ],
)
def test_numbers_are_uniform_between_their_ends(monkeypatch, op, ends):
    values = drawn(monkeypatch, op)
    assert values.shape == (COUNT, len(ends))
    for column, (low, high) in zip(values.T, ends, strict=True):
        assert scipy.stats.kstest((column - low) / (high - low), "uniform").pvalue > 1e-4
        assert column.min() < low + 0.005 * (high - low) and column.min() >= low
        assert column.max() > high - 0.005 * (high - low) and column.max() <= high


@pytest.mark.parametrize("op", ["gamma_contrast", "multiply_brightness", "hue_saturation"])
def test_parameters_of_an_op_are_independent(monkeypatch, op):
    values = drawn(monkeypatch, op)
    related = np.corrcoef(values.T) - np.eye(values.shape[1])
    assert np.abs(related).max() < 5.5 / np.sqrt(COUNT)
    again = np.corrcoef(values[1:].T, values[:-1].T)[: values.shape[1], values.shape[1] :]
    assert np.abs(again).max() < 5.5 / np.sqrt(COUNT)


def test_a_solarized_picture_s_threshold_has_nothing_to_do_with_whether_it_is(monkeypatch):
    """White pixels turn black where it is applied; by ramps the threshold shows."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 1, 3))
    inverted = tf.data.Dataset.range(COUNT).map(
        lambda i: augment._random_solarize(tf.constant(ramp), tf.stack([i, i]))[:, 0, 0]
    )
    rows = np.stack(list(inverted.as_numpy_iterator()))
    applied = rows[:, -1] == 0
    assert abs(applied.mean() - 0.5) < 5 * 0.5 / np.sqrt(COUNT)
    threshold = (rows[applied] == np.arange(256)).sum(1)  # so many levels are as they were
    assert threshold.min() == 32 and threshold.max() == 128
    assert scipy.stats.kstest((threshold - 32 + 0.5) / 97, "uniform").pvalue > 1e-4
