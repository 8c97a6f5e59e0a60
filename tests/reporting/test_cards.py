"""Which pictures a report shows, and in which order."""

import dataclasses

import numpy as np
import pytest

from diffad_jax.reporting import cards
from tests.support.evaluations import many, numbered


def test_a_large_set_shows_the_worst_and_a_sample():
    labels, defects, scores = many(5000)
    tests = dataclasses.replace(numbered(defects), scores=scores)
    groups = cards.grouped(tests, 0.5)
    rows = [row for group in groups for row in group.rows]
    assert len(rows) == len(set(rows)) == cards.MOST
    assert sum(group.total for group in groups) == 5000
    missed, alarms, found, passed = groups
    assert missed.total == ((labels == 1) & (scores < 0.5)).sum()
    worst = np.sort(scores[labels == 1])[: cards.MOST_WRONG]
    assert scores[missed.rows].tolist() == worst.tolist()
    worst = np.sort(scores[labels == 0])[::-1][: cards.MOST_WRONG]
    assert scores[alarms.rows].tolist() == worst.tolist()
    assert len(found.rows) == len(passed.rows) == 40
    assert (np.diff(scores[found.rows]) >= 0).all() and (np.diff(scores[passed.rows]) <= 0).all()
    # Not by score: a sample of the rightly judged has about their mean score.
    right = scores[(labels == 1) & (scores >= 0.5)]
    assert scores[found.rows].mean() == pytest.approx(right.mean(), abs=3 * right.std() / 40**0.5)
