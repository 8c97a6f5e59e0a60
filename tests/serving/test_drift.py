"""Drift: streams drawn by chance, changed and unchanged, against what the docstring promises."""

import numpy as np
import pytest
from scipy import stats

from diffad_jax.scoring.appearance import STATISTICS
from diffad_jax.serving.drift import Drift

NAMES = ("score", *STATISTICS)
LIMIT = 0.001 / 6


def drawn(rng, count):
    """Values of good pictures by name."""
    return {name: rng.normal(size=count).tolist() for name in NAMES}


def feed(drift, rows, start=0.0):
    """Parts, one a second; what it said after each."""
    said = []
    for second, row in enumerate(rows):
        drift.add(dict(zip(NAMES, row, strict=True)), start + second)
        said.append(drift.state())
    return said


def test_unchanged_parts_raise_no_alarm():
    """Expected are at most 0.001 false alarms a look, here 120 looks."""
    rng = np.random.default_rng(0)
    for count in (20, 200):
        said = feed(Drift(drawn(rng, count)), rng.normal(size=(3000, 6)))
        assert all(state["since"] is None and not state["drifted"] for state in said)


def test_a_shift_is_found_named_dated_and_forgotten():
    rng = np.random.default_rng(1)
    reference, parts = drawn(rng, 50), rng.normal(size=(1000, 6))
    parts[400:700, NAMES.index("sharpness")] -= 1.5
    drift = Drift(reference)
    said = feed(drift, parts, start=1e9)
    first = next(place for place, state in enumerate(said) if state["drifted"])
    assert 400 < first < 550
    found = said[first]
    assert found["drifted"] == ["sharpness"] and found["p"]["sharpness"] < LIMIT
    assert found["since"] == 1e9 + first - 199  # the first part of that window
    assert {state["since"] for state in said[first:700]} == {found["since"]}
    assert said[-1]["since"] is None and said[-1]["drifted"] == []
    assert found["parts"] == found["window"] == 200


def test_p_is_that_of_the_last_parts():
    """Looked at every 50 parts, from the 50th on; the window has the last 200."""
    rng = np.random.default_rng(2)
    reference, parts = drawn(rng, 30), rng.normal(size=(420, 6))
    said = feed(Drift(reference), parts)
    assert set(said[48]["p"].values()) == {None}
    assert [state["parts"] for state in said[::199]] == [1, 200, 200]
    for count in (50, 199, 200, 419):
        seen = parts[: count // 50 * 50][-200:]
        for column, name in enumerate(NAMES):
            p = stats.ks_2samp(reference[name], seen[:, column]).pvalue
            assert said[count - 1]["p"][name] == pytest.approx(p, rel=1e-12), (count, name)


def test_few_reference_pictures():
    """None: no answer. One: none could be significant. Three: a change beyond all of them is."""
    far = np.full((200, 6), 9.0)
    for count, found in ((0, False), (1, False), (3, True)):
        state = feed(Drift(drawn(np.random.default_rng(3), count)), far)[-1]
        assert (set(state["p"].values()) == {None}) is not found, count
        assert state["drifted"] == (list(NAMES) if found else []), count


def test_values_that_are_all_alike():
    """A camera without colour."""
    reference = {"red": [1 / 3] * 40}
    drift = Drift(reference)
    for second in range(200):
        drift.add({"red": 1 / 3, "score": 0.5}, float(second))
    assert drift.state()["p"] == {"red": 1.0} and drift.state()["since"] is None


def test_a_smaller_window_and_another_level():
    drift = Drift({"score": [0.0, 1.0, 2.0, 3.0, 4.0]}, window=8, level=0.05)
    for second in range(8):
        drift.add({"score": 10.0}, 1e9 + second)
        # 2 / C(7, 2) = 0.095 after two parts; 2 / C(9, 4) = 0.016 after four
        assert bool(drift.state()["drifted"]) is (second >= 3)
    assert drift.state()["since"] == 1e9
