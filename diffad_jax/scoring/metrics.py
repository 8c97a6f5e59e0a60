"""How well scores separate defective from good: AUROC, AP, F1-max and AUPRO.

AUROC and AP of arrays, such as the scores of a test set's pictures, are scikit-learn's. Those of
pixels, and F1-max and AUPRO, which it lacks, come from one table made here, the `Ranking`:

- One pass over the pixels serves all five pixel measures and the threshold; scikit-learn sorts
  anew for each. 83 maps of 256 px: 0.10 s of CPU time for all five, against 2.4 s, 23 times as
  much, for scikit-learn's AUROC and AP, with equal results (`python -m benchmarks.metrics`).
- Every distinct score is a threshold, and ties count as ties: the curve of AUPRO is the
  definition's, cut at its limit exactly, not one over a grid of thresholds.
- `pixel_sketch` makes the same table in bounded memory, for test sets whose pixels do not fit.

A higher score means more anomalous; an item is called defective where score >= threshold.
"""

import logging
from collections.abc import Callable, Mapping

import numpy as np
import sklearn.metrics
from jaxtyping import Bool, Float, Int

from configs.errors import UserError
from configs.schema import MEASURES
from diffad_jax.scoring.ranking import Ranking, between, classes, rank_items, rank_pixels

logger = logging.getLogger(__name__)

IMAGE_MEASURES = tuple(name for name in MEASURES if name.startswith("image_"))
PIXEL_MEASURES = tuple(name for name in MEASURES if not name.startswith("image_"))

RESAMPLES = 2000  # of the bootstrap: the ends of a 95 % interval then rest on 50 of them each
_RESAMPLES_AT_ONCE = 50  # bounds the memory; divides RESAMPLES


def auroc(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> float:
    """Area under the ROC curve: P(defective scores above good), a tie counting one half.

    Args:
      labels: 1 or True where defective.
      scores: any finite or infinite numbers.

    Returns:
      A number in [0, 1]; NaN where a class is empty.

    Raises:
      UserError: NaN scores, labels other than 0 and 1, or lengths that differ.
    """
    return _area(sklearn.metrics.roc_auc_score, labels, scores, "items")


def average_precision(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> float:
    """Average precision: sum of precision times gain in recall over the distinct scores.

    Arguments, range and errors as `auroc`.
    """
    return _area(sklearn.metrics.average_precision_score, labels, scores, "items")


def f1_max(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """The best F1 over all thresholds, and the threshold that reaches it.

    The threshold lies midway between the lowest score called defective and the next lower one, so
    that a score that differs in its last digits stays on its side. (Of several best ones it is the
    highest.) Arguments and errors as `auroc`; both results are NaN where a class is empty.
    """
    return _f1_max(rank_items(labels, scores, "items"))


def aupro(
    masks: Bool[np.ndarray, "n h w"], maps: Float[np.ndarray, "n h w"], limit: float = 0.3
) -> float:
    """Area under the per-region-overlap curve up to a false-positive rate, divided by that rate.

    Bergmann et al., IJCV 2021: the overlap is the mean over all regions (8-connected components of
    a picture's mask, pooled over all pictures) of the share of the region found; the false-positive
    rate is over all good pixels, those of defective pictures included. Every distinct score is a
    threshold; the curve is linear between thresholds and cut at `limit` exactly.

    Args:
      masks: True where defective.
      maps: scores, higher where more anomalous.
      limit: false-positive rate in (0, 1].

    Returns:
      A number in [0, 1]; NaN where no pixel is defective or none is good.

    Raises:
      UserError: NaN scores, shapes that differ, or an impossible limit.
    """
    if not 0 < limit <= 1:
        raise UserError(f"the false-positive rate limit must be in (0, 1], got {limit}")
    return _area_to_limit(rank_pixels(masks, maps), limit)


def evaluate(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
    image_scores: Float[np.ndarray, " n"],
    masks: Bool[np.ndarray, "n h w"] | None,
    maps: Float[np.ndarray, "n h w"],
) -> dict[str, float]:
    """All measures of one category: `of_images`, and with masks (True where defective) `of_pixels`.

    Raises:
      UserError: NaN scores, labels other than 0 and 1, or shapes that differ.
    """
    results = of_images(labels, image_scores)
    return results if masks is None else results | of_pixels(rank_pixels(masks, maps))


def of_images(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> dict[str, float]:
    """image_auroc, image_ap, image_f1_max, each with _low and _high, and image_f1_threshold.

    _low and _high are the ends of the 95 % interval of `bootstrap`. All are NaN where a class is
    empty. Arguments and errors as `auroc`.
    """
    f1, threshold = _f1_max(rank_items(labels, scores, "pictures"))
    values = {
        "image_auroc": _area(sklearn.metrics.roc_auc_score, labels, scores, "pictures"),
        "image_ap": _area(sklearn.metrics.average_precision_score, labels, scores, "pictures"),
        "image_f1_max": f1,
        "image_f1_threshold": threshold,
    }
    for name, interval in bootstrap(labels, scores).items():
        values |= zip((f"image_{name}_low", f"image_{name}_high"), interval, strict=True)
    return values


def of_pixels(ranking: Ranking) -> dict[str, float]:
    """pixel_auroc, pixel_ap, pixel_f1_max, pixel_f1_threshold, aupro_30 and aupro_05.

    All are NaN where a class is empty. The ranking is that of `ranking.rank_pixels` or of
    `pixel_sketch.Pixels`.
    """
    f1, threshold = _f1_max(ranking)
    return {
        "pixel_auroc": _auroc(ranking),
        "pixel_ap": _average_precision(ranking),
        "pixel_f1_max": f1,
        "pixel_f1_threshold": threshold,
        "aupro_30": _area_to_limit(ranking, 0.30),
        "aupro_05": _area_to_limit(ranking, 0.05),
    }


def bootstrap(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of auroc, ap and f1_max over `RESAMPLES` resampled test sets.

    Good and defective pictures are drawn apart, with replacement, as many of each as there are: how
    many defects a test set holds is its maker's choice, not chance, and no resample lacks a class.
    The intervals say how far the measure depends on which pictures are in the test set; they know
    nothing of another training run. Where the classes do not overlap, no resample does either, and
    the interval is the single point 1.

    Returns:
      Lower and upper ends; NaN where a class is empty. Errors as `auroc`.
    """
    defective, good = classes(labels, scores, "pictures")
    names = ("auroc", "ap", "f1_max")
    if not (defective.size and good.size):
        return dict.fromkeys(names, (float("nan"), float("nan")))
    falling = np.unique(-np.concatenate([defective, good]))
    counts = [
        np.bincount(np.searchsorted(falling, -part), minlength=falling.size)
        for part in (defective, good)
    ]
    rng, results = np.random.default_rng(seed), []
    for _ in range(0, RESAMPLES, _RESAMPLES_AT_ONCE):
        drawn = (rng.multinomial(c.sum(), c / c.sum(), _RESAMPLES_AT_ONCE) for c in counts)
        results.append(_resampled(*drawn))
    low, high = np.percentile(np.concatenate(results, axis=1), (2.5, 97.5), axis=1)
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _resampled(
    found: Int[np.ndarray, "r k"], wrong: Int[np.ndarray, "r k"]
) -> Float[np.ndarray, "3 r"]:
    """AUROC, AP and F1-max of r test sets.

    Args:
      found: defective pictures of each at the k distinct scores, the highest first.
      wrong: good pictures of each there.
    """
    hits, alarms = found.cumsum(1), wrong.cumsum(1)
    defective, good = hits[:, -1], alarms[:, -1]
    auroc = (found * (2 * good[:, None] - 2 * alarms + wrong)).sum(1) / (2 * defective * good)
    precision = hits / np.maximum(hits + alarms, 1)
    f1 = 2 * hits / (hits + alarms + defective[:, None])
    return np.stack([auroc, (found * precision).sum(1) / defective, f1.max(1)])


def mean(categories: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """The mean row of a table: each of MEASURES over the categories.

    A category whose measure is not defined (NaN, None or not there) is left out of that measure's
    mean, and a warning names it. A measure that no category has is NaN.
    """
    result = {}
    for measure in MEASURES:
        values = {name: found.get(measure) for name, found in categories.items()}
        defined = [v for v in values.values() if v is not None and not np.isnan(v)]
        if 0 < len(defined) < len(values):
            without = [n for n, v in values.items() if v is None or np.isnan(v)]
            logger.warning("the mean %s leaves out %s: not defined", measure, ", ".join(without))
        result[measure] = float(np.mean(defined)) if defined else float("nan")
    return result


def _area(
    measure: Callable[..., float],
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    what: str,
) -> float:
    """What a function of scikit-learn says; NaN where a class is empty. Errors as `auroc`."""
    defective, good = classes(labels, scores, what)
    if not (defective.size and good.size):
        return float("nan")
    # scikit-learn refuses infinite scores, and only their order matters.
    _, order = np.unique(scores, return_inverse=True)
    return float(measure(labels, order))


def _auroc(ranking: Ranking) -> float:
    if not ranking.scores.size:
        return float("nan")
    # A defective item beats the good ones below it and half of those it ties with. Doubled, the
    # sum is one of integers: 2 * defective * good stays below 2**63 for 10^9 pixels.
    found = np.diff(ranking.hits, prepend=0)
    doubled = found @ (2 * ranking.good - ranking.false_alarms - ranking.false_alarms_above)
    return float(doubled / (2 * ranking.defective * ranking.good))


def _average_precision(ranking: Ranking) -> float:
    if not ranking.scores.size:
        return float("nan")
    precision = ranking.hits / (ranking.hits + ranking.false_alarms)
    return float(np.diff(ranking.hits, prepend=0) @ precision / ranking.defective)


def _f1_max(ranking: Ranking) -> tuple[float, float]:
    if not ranking.scores.size:
        return float("nan"), float("nan")
    f1 = 2 * ranking.hits / (ranking.hits + ranking.false_alarms + ranking.defective)
    best = int(np.argmax(f1))  # the first of equals has the highest threshold
    return float(f1[best]), float(between(ranking.scores[best], ranking.below[best]))


def _area_to_limit(ranking: Ranking, limit: float) -> float:
    """Area under recall over false-positive rate from 0 to `limit`, divided by `limit`."""
    if not ranking.scores.size:
        return float("nan")
    # On the way to a defective score only false alarms grow (a level piece); at the score, recall
    # grows, together with the good items that tie with it (an upright or a slanting piece).
    alarms = np.stack([ranking.false_alarms_above, ranking.false_alarms], axis=1).ravel()
    rate = np.concatenate([[0.0], alarms / ranking.good, [1.0]])
    before = np.concatenate([[0.0], ranking.recall[:-1]])
    steps = np.stack([before, ranking.recall], axis=1).ravel()
    recall = np.concatenate([[0.0], steps, ranking.recall[-1:]])
    end = int(np.searchsorted(rate, limit))  # rate[end - 1] < limit <= rate[end]
    share = (limit - rate[end - 1]) / (rate[end] - rate[end - 1])
    cut = recall[end - 1] + share * (recall[end] - recall[end - 1])
    rate, recall = np.append(rate[:end], limit), np.append(recall[:end], cut)
    return float(np.trapezoid(recall, rate) / limit)
