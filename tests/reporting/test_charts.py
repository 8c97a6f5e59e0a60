"""Curves against scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics

from diffad_jax.reporting import charts
from diffad_jax.scoring import ranking


@pytest.mark.parametrize("seed", range(3))
def test_curve_against_sklearn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(labels, 1.0), 1)  # with ties
    line = charts.curve(ranking.rank_items(labels, scores, "items"))
    x, y = line.roc.T
    assert np.trapezoid(y, x) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
    x, y = line.precision_recall.T
    average = sklearn.metrics.average_precision_score(labels, scores)
    assert np.trapezoid(y, x) == pytest.approx(average)


def test_many_points_are_thinned_but_stay_true():
    rng = np.random.default_rng(0)
    labels = (np.arange(100_000) % 50 == 0).astype(int)
    scores = rng.normal(2.0 * labels, 1.0)
    line = charts.curve(ranking.rank_items(labels, scores, "items"))
    assert len(line.roc) <= 4 * charts.POINTS + 2
    x, y = line.roc.T
    assert np.trapezoid(y, x) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, scores), abs=1e-4
    )
    exact = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    assert set(zip(*line.roc.T, strict=True)) <= set(zip(*exact[:2], strict=True))
