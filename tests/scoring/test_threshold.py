import math

import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax.scoring import threshold
from diffad_jax.scoring.identity import identify
from tests.support import helpers

IDENTITY = identify(helpers.parsed(), 7, "0123456789ab")
FOUND = threshold.Threshold(1 / 3, math.nan, "quantile", 0.995, 20, math.nan, IDENTITY)


def test_what_is_written_is_read(tmp_path):
    assert threshold.read(tmp_path) is None
    threshold.write(tmp_path, FOUND)
    assert str(threshold.read(tmp_path)) == str(FOUND)  # NaN is not equal to itself
    labelled = threshold.Threshold(0.25, 0.5, "f1_max", None, 83, 0.05, IDENTITY)
    threshold.write(tmp_path, labelled)
    assert threshold.read(tmp_path) == labelled


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"image": 1, "pixel": 1, "sauce": 2}'])
def test_a_broken_file_is_named(content, tmp_path):
    (tmp_path / "threshold.json").write_text(content)
    with pytest.raises(UserError, match=r"threshold\.json is not a threshold"):
        threshold.read(tmp_path)


NOTHING = threshold.Good(np.zeros(0), np.zeros(0))


def good(count, seed=0):
    rng = np.random.default_rng(seed)
    return threshold.Good(rng.random(count), 2 + rng.random(count))


@pytest.mark.parametrize("quantile", (0.5, 0.9, 0.95, 0.99, 0.995, 0.999))
@pytest.mark.parametrize("count", (1, 2, 20, 200, 201, 1000))
def test_a_quantile_lets_pass_what_it_says(quantile, count):
    values = good(count).scores
    cut = threshold.above(values, quantile)
    called = np.sum(values >= cut)
    assert called <= (1 - quantile) * count + 1e-6
    # A lower threshold would call one more than allowed.
    assert np.sum(values >= values[values < cut].max()) > (1 - quantile) * count - 1e-6
    # A little of noise turns no verdict.
    assert np.sum(values + 4e-7 >= cut) == np.sum(values - 4e-7 >= cut) == called


def test_equal_scores_stay_together():
    values = np.array([0.1, 0.5, 0.5, 0.5, 0.9])
    assert threshold.above(values, 0.7) == pytest.approx(0.7)  # one may be called, three may not
    assert threshold.above(np.full(5, 0.5), 0.5) == pytest.approx(0.5 + 1e-6)


def test_held_out_pictures_come_before_good_test_pictures():
    unknown = {"image_f1_threshold": math.nan}
    test, held_out = good(50), good(40, seed=1)
    found = threshold.choose(unknown, 50, test, held_out, 0.9, IDENTITY)
    assert found.image == threshold.above(held_out.scores, 0.9)
    assert found.pixel == threshold.above(held_out.peaks, 0.9)
    assert found.false_alarm_rate == np.mean(test.scores >= found.image)
    assert (found.pictures, found.identity, found.quantile) == (40, IDENTITY, 0.9)
    alone = threshold.choose(unknown, 50, test, NOTHING, 0.9, IDENTITY)
    assert alone.image == threshold.above(test.scores, 0.9)
    assert alone.false_alarm_rate == pytest.approx(0.1)


@pytest.mark.parametrize(("count", "said"), [(199, True), (200, False)])
def test_too_few_pictures_for_the_quantile_are_said(count, said, caplog):
    threshold.choose({"image_f1_threshold": math.nan}, 0, NOTHING, good(count), 0.995, IDENTITY)
    assert ("from 199 good pictures no quantile above 0.995" in caplog.text) == said


def test_labelled_pictures_need_no_quantile(caplog):
    known = {"image_f1_threshold": 0.5, "pixel_f1_threshold": 0.25}
    found = threshold.choose(known, 83, good(20), NOTHING, 0.995, IDENTITY)
    rate = float(np.mean(good(20).scores >= 0.5))
    assert found == threshold.Threshold(0.5, 0.25, "f1_max", None, 83, rate, IDENTITY)
    assert not caplog.text  # nothing to warn of
