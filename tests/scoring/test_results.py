"""What was judged, and which of it is shown."""

import dataclasses
import math

import pytest

from configs.errors import UserError
from diffad_jax.scoring import results
from tests.support.evaluations import IDENTITY, evaluated, judged, numbered


def test_rows_cover_every_type_evenly():
    tests = numbered(["good"] * 20 + ["hole"] * 30 + ["dent"] * 2)
    assert results.choose_rows(tests, 8) == [3, 10, 16, 50, 51, 25, 35, 45]
    assert results.choose_rows(tests, 2) == [10, 51]
    assert sorted(results.choose_rows(tests, 99)) == list(range(52))
    assert results.choose_rows(numbered(["good"] * 3), 2) == [0, 2]
    with pytest.raises(UserError, match="at least 1 row, got 0"):
        results.choose_rows(tests, 0)


def test_a_judged_set_must_be_of_one_length():
    with pytest.raises(UserError, match="6 names but 1 defects"):
        judged(defects=["good"])


def test_the_truth_of_a_picture():
    tests = judged()
    assert not tests.truth(0).any()  # a good picture needs no mask
    assert tests.truth(2).sum() == 64
    assert tests.truth(3) is None


def test_an_evaluation_says_what_it_is_of():
    identity = dataclasses.replace(IDENTITY, category="screw", step=300)
    assert evaluated(identity=identity).title == "screw, step 300"
    assert evaluated().cut == 0.6
    assert math.isnan(evaluated(threshold=None).cut)


def test_verdicts():
    assert results.verdict(0.5, 0.5) == "defective"
    assert results.verdict(0.49, 0.5) == "good"
    assert results.verdict(0.5, math.nan) == ""
