"""Thresholds against brute force over all cut points, intervals and confidences against theory."""

import dataclasses
import math

import numpy as np
import pytest

from configs.errors import UserError
from diffad_jax.scoring import threshold
from diffad_jax.scoring.identity import identify
from tests.support import helpers

IDENTITY = identify(helpers.parsed(), 7, "0123456789ab")
UNKNOWN = {"image_f1_threshold": math.nan}
NONE = np.zeros(0)
NOTHING = threshold.Good(NONE, NONE)
FOUND = threshold.Threshold(
    1 / 3, math.nan, "recall:0.99", 20, math.nan, None, 1.0, (0.83, 1.0), 4.5, IDENTITY
)


def test_what_is_written_is_read(tmp_path):
    assert threshold.read(tmp_path) is None
    threshold.write(tmp_path, FOUND)
    assert str(threshold.read(tmp_path)) == str(FOUND)  # NaN is not equal to itself
    labelled = threshold.Threshold(
        0.25, 0.5, "f1", 83, 0.05, (1 / 3, 0.5), 0.75, (0.5, 1.0), 2.0, IDENTITY
    )
    threshold.write(tmp_path, labelled)
    assert threshold.read(tmp_path) == labelled


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"image": 1, "pixel": 1, "sauce": 2}'])
def test_a_broken_file_is_named(content, tmp_path):
    (tmp_path / "threshold.json").write_text(content)
    with pytest.raises(UserError, match=r"threshold\.json is not a threshold"):
        threshold.read(tmp_path)


def test_its_numbers():
    numbers = FOUND.numbers()
    assert numbers["threshold_image"] == 1 / 3 and numbers["threshold_pictures"] == 20
    assert (numbers["threshold_recall_low"], numbers["threshold_recall_high"]) == (0.83, 1.0)
    missing = {name for name, value in numbers.items() if math.isnan(value)}
    assert missing == {
        "threshold_pixel",
        *(f"threshold_false_alarm_{name}" for name in ("rate", "low", "high")),
    }


def good(count, seed=0):
    rng = np.random.default_rng(seed)
    return threshold.Good(rng.random(count), 2 + rng.random(count))


def choose(rule, test=NOTHING, held_out=NOTHING, defective=NONE, values=UNKNOWN):
    return threshold.choose(rule, values, test, held_out, defective, IDENTITY)


def cuts(values):
    """One number in each gap between neighbouring values, and below and above all."""
    known = np.unique(values)
    return np.concatenate([[known[0] - 1], (known[1:] + known[:-1]) / 2, [known[-1] + 1]])


def ties(count, seed):
    return np.random.default_rng(seed).integers(1, 9, count) / 8


@pytest.mark.parametrize("share", (0.0, 0.001, 0.05, 0.1, 0.5, 0.99, 1 - 1e-12))
@pytest.mark.parametrize("count", (1, 2, 20, 200))
@pytest.mark.parametrize("with_ties", (False, True))
def test_a_share_of_false_alarms_by_brute_force(share, count, with_ties):
    values = ties(count, count) if with_ties else good(count).scores
    cut = threshold.above(values, share)
    allowed = [c for c in cuts(values) if np.sum(values >= c) <= share * count + 1e-9]
    if share > 1 - 1e-9:  # not all, however many they are
        allowed = [c for c in allowed if np.sum(values >= c) < count]
    called = np.sum(values >= cut)
    assert called == np.sum(values >= min(allowed))
    # A little of noise turns no verdict.
    assert np.sum(values + 4e-7 >= cut) == np.sum(values - 4e-7 >= cut) == called


@pytest.mark.parametrize("share", (1e-9, 0.01, 0.3, 0.5, 0.9, 0.95, 0.99, 1.0))
@pytest.mark.parametrize("count", (1, 2, 10, 20, 100))
@pytest.mark.parametrize("with_ties", (False, True))
def test_a_recall_by_brute_force(share, count, with_ties):
    values = ties(count, count) if with_ties else 0.2 + good(count).scores
    normal = ties(30, 7) if with_ties else good(30, seed=1).scores
    everything = np.concatenate([values, normal])
    cut = choose(f"recall:{share}", threshold.Good(normal, normal), defective=values).image
    enough = [c for c in cuts(everything) if np.sum(values >= c) >= share * count * (1 - 1e-9)]
    # The highest of them calls the fewest, among the good ones, too.
    called = np.sum(everything >= cut)
    assert called == np.sum(everything >= max(enough))
    assert np.sum(everything + 1e-12 >= cut) == np.sum(everything - 1e-12 >= cut) == called


def test_equal_scores_stay_together():
    values = np.array([0.1, 0.5, 0.5, 0.5, 0.9])
    assert threshold.above(values, 0.3) == pytest.approx(0.7)  # one may be called, three may not
    assert threshold.above(np.full(5, 0.5), 0.5) == pytest.approx(0.5 + 1e-6)
    assert threshold.reached(values, values, 0.4) == pytest.approx(0.3)  # two must be, so four are
    assert threshold.reached(values, values, 1.0) == pytest.approx(0.1 - 1e-6)
    assert threshold.reached(np.zeros(3), np.zeros(3), 1.0) == 0.0


def test_held_out_pictures_come_before_good_test_pictures():
    test, held_out = good(50), good(40, seed=1)
    found = choose("false_alarms:0.1", test, held_out)
    assert found.image == threshold.above(held_out.scores, 0.1)
    assert found.pixel == threshold.above(held_out.peaks, 0.1)
    alarms = int(np.sum(test.scores >= found.image))
    assert found.false_alarm_rate == alarms / 50
    assert found.false_alarm_interval == threshold.interval(alarms, 50)
    assert (found.pictures, found.identity, found.source) == (40, IDENTITY, "false_alarms:0.1")
    assert math.isnan(found.recall) and found.recall_interval is None
    alone = choose("false_alarms:0.1", test)
    assert alone.image == threshold.above(test.scores, 0.1)
    assert alone.false_alarm_rate == pytest.approx(0.1)


def test_a_rule_is_kept_where_the_best_f1_is_known():
    known = {"image_f1_threshold": 0.5, "pixel_f1_threshold": 0.25}
    test, defective = good(20), 0.5 + good(9, seed=3).scores / 2
    alarms = choose("false_alarms:0.1", test, defective=defective, values=known)
    assert (alarms.image, alarms.pixel) == (threshold.above(test.scores, 0.1), 0.25)
    assert (alarms.source, alarms.pictures) == ("false_alarms:0.1", 20)
    recall = choose("recall:0.5", test, defective=defective, values=known)
    assert (recall.source, recall.pictures, recall.recall) == ("recall:0.5", 9, 5 / 9)
    assert recall.recall_interval == threshold.interval(5, 9) and recall.pixel == 0.25
    # Where no truth of pixels is known, the pixel threshold is that of the fallback.
    blind = choose("recall:0.5", test, defective=defective)
    assert blind.pixel == threshold.above(test.peaks, 0.005)


@pytest.mark.parametrize(("count", "said"), [(199, True), (200, False)])
def test_too_few_pictures_for_the_share_are_said(count, said, caplog):
    found = choose("f1", held_out=good(count))
    assert found.source == "false_alarms:0.005" == threshold.GOOD_ONLY
    told = "from 199 good pictures no share of false alarms below 0.00503 can be estimated, and "
    assert (f"{told}0.005 was asked for" in caplog.text) == said


def test_labelled_pictures_give_the_best_f1(caplog):
    known = {"image_f1_threshold": 0.5, "pixel_f1_threshold": 0.25}
    test, defective = good(20), 0.3 + good(63, seed=2).scores
    with caplog.at_level("INFO"):
        found = choose("f1", test, good(9), defective, known)
    alarms, hits = int(np.sum(test.scores >= 0.5)), int(np.sum(defective >= 0.5))
    assert found == threshold.Threshold(
        0.5,
        0.25,
        "f1",
        83,
        alarms / 20,
        threshold.interval(alarms, 20),
        hits / 63,
        threshold.interval(hits, 63),
        found.slope,
        IDENTITY,
    )
    (told,) = caplog.messages  # nothing to warn of
    assert "threshold 0.5 (best F1 on 83 labelled pictures): " in told
    shown = "{} of {} {} called defective, 95 % interval {:.1f} to {:.1f} %"
    ends = [[100 * end for end in found.false_alarm_interval]]
    ends.append([100 * end for end in found.recall_interval])
    assert shown.format(alarms, 20, "good test pictures", *ends[0]) in told
    assert shown.format(hits, 63, "defective ones", *ends[1]) in told


def tail(hits, count, share):
    """The chance of `hits` or more of `count`."""
    return sum(
        math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(hits, count + 1)
    )


@pytest.mark.parametrize("count", (1, 2, 7, 20, 150))
def test_the_ends_of_an_interval_leave_a_chance_of_a_fortieth(count):
    for hits in sorted({0, 1, count // 3, count - 1, count}):
        low, high = threshold.interval(hits, count)
        assert low == 0 if not hits else tail(hits, count, low) == pytest.approx(0.025, rel=1e-6)
        fewer = 1 - tail(hits + 1, count, high)
        assert high == 1 if hits == count else fewer == pytest.approx(0.025, rel=1e-6)
        assert low <= hits / count <= high
    assert threshold.in_words(threshold.interval(2, 20)) == "95 % interval 1.2 to 31.7 %"
    assert threshold.interval(0, 0) is None and threshold.in_words(None) == ""


@pytest.mark.parametrize("slope", (0.1, 3.0, 100.0))
@pytest.mark.parametrize("image", (1e-9, 0.3, 1.0))
def test_a_confidence_is_half_at_the_threshold(image, slope):
    scores = image * np.geomspace(0.3, 3, 101)
    sure = threshold.confidence(scores, image, slope)
    np.testing.assert_allclose(sure, 1 / (1 + (image / scores) ** slope), rtol=1e-9)
    assert (np.diff(sure) >= 0).all() and sure[0] < 0.5 < sure[-1]
    assert float(threshold.confidence(image, image, slope)) == 0.5
    ends = threshold.confidence(np.array([0.0, 5e-324, 1e-300, 1e300]), image, slope)
    assert ends[0] == 0 and np.isfinite(ends).all() and ends[3] > 0.999
    assert float(threshold.confidence(0.5, 0.0, slope)) == 1  # all are called defective


def simulated(slope, image, count, seed=0):
    """Scores of good and of defective pictures of a known confidence."""
    rng = np.random.default_rng(seed)
    scores = image * np.exp(rng.uniform(-2, 2, count))
    bad = rng.random(count) < 1 / (1 + (image / scores) ** slope)
    return scores, bad


@pytest.mark.parametrize("slope", (0.5, 2.0, 8.0))
def test_the_slope_of_a_known_logistic_is_found(slope):
    scores, bad = simulated(slope, 0.02, 40_000)
    found = threshold.fit_slope(scores[~bad], scores[bad], 0.02)
    assert found == pytest.approx(slope, rel=0.05)
    # On new pictures, so many in a hundred are defective as the confidence says.
    scores, bad = simulated(slope, 0.02, 40_000, seed=1)
    sure = threshold.confidence(scores, 0.02, found)
    for low in np.arange(0, 1, 0.1):
        some = (sure >= low) & (sure < low + 0.1)
        if some.sum() > 300:
            assert bad[some].mean() == pytest.approx(sure[some].mean(), abs=0.08)


@pytest.mark.parametrize("classes", ("both", "good", "defective"))
def test_the_slope_is_the_most_likely(classes):
    """Against a fine grid of slopes, with Platt's targets."""
    scores, bad = simulated(3.0, 0.4, 30)
    normal = scores[~bad] if classes != "defective" else NONE
    defective = scores[bad] if classes != "good" else NONE
    fitted = threshold.fit_slope(normal, defective, 0.4)
    grid = np.geomspace(0.1, 100, 20_001)[:, None]
    likelihood = 0.0
    for some, target in (
        (normal, 1 / (normal.size + 2)),
        (defective, (defective.size + 1) / (defective.size + 2)),
    ):
        sure = 1 / (1 + (0.4 / some) ** grid)
        sure = np.clip(sure, 1e-300, 1 - 1e-16)
        likelihood += (target * np.log(sure) + (1 - target) * np.log(1 - sure)).sum(1)
    assert fitted == pytest.approx(grid[np.argmax(likelihood), 0], rel=2e-3)


def test_extreme_scores_give_a_finite_slope():
    for normal, defective in (
        (np.zeros(5), NONE),
        (np.zeros(5), np.ones(5)),
        (np.full(5, 1e-300), np.full(1, 0.5)),
        (np.full(5, 0.5), np.full(5, 0.5)),
    ):
        slope = threshold.fit_slope(normal, defective, 0.5)
        assert 0.1 <= slope <= 100
    # A single picture of score 0 does not decide.
    scores, bad = simulated(3.0, 0.4, 300)
    without = threshold.fit_slope(scores[~bad], scores[bad], 0.4)
    with_one = threshold.fit_slope(np.append(scores[~bad], 0.0), scores[bad], 0.4)
    assert with_one == pytest.approx(without, rel=0.2)


def test_defective_pictures_get_the_higher_confidences():
    test, defective = good(40), 0.6 + good(30, seed=5).scores
    found = choose("f1", test, defective=defective, values={"image_f1_threshold": 0.8})
    assert found.slope == threshold.fit_slope(test.scores, defective, 0.8)
    sure = [threshold.confidence(s, found.image, found.slope) for s in (test.scores, defective)]
    assert sure[1].mean() > 0.5 > sure[0].mean()
    held = choose("f1", test, good(9, seed=9), defective, {"image_f1_threshold": 0.8})
    assert held.slope != found.slope  # all that is judged counts
    assert dataclasses.replace(held, slope=found.slope) == dataclasses.replace(
        found, pixel=held.pixel
    )
