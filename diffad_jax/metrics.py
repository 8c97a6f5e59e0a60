"""How well scores separate defective from good: AUROC, AP, F1-max and AUPRO, exactly.

Every measure follows from one small table, `_Ranking`: for each distinct score of a defective item
(picture or pixel), how many defective and how many good items reach it. Only the defective scores
matter as thresholds, because between two of them nothing but the false positives grows. So the many
good pixels need a plain sort, and every distinct score still counts as a threshold.

A higher score means more anomalous; an item is called defective where score >= threshold.
"""

import dataclasses
import logging

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int

_LOG = logging.getLogger(__name__)

# Within one picture all eight neighbours touch; the previous and next picture do not.
_EIGHT_CONNECTED = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


@dataclasses.dataclass(frozen=True, eq=False)
class _Ranking:
    """Counts at the k distinct scores of the defective items, the highest score first.

    hits and false_alarms count the items that reach the score; false_alarms_above leaves out the
    good items that tie with it. recall is the weighted share of the defective items found, which
    ends at 1. Where a class is empty, the arrays are too (k = 0).
    """

    scores: Float[np.ndarray, " k"]
    hits: Int[np.ndarray, " k"]
    false_alarms: Int[np.ndarray, " k"]
    false_alarms_above: Int[np.ndarray, " k"]
    recall: Float[np.ndarray, " k"]
    defective: int
    good: int


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
      ValueError: NaN scores, labels other than 0 and 1, or lengths that differ.
    """
    return _auroc(_rank_items(labels, scores, "items"))


def average_precision(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> float:
    """Average precision: sum of precision times gain in recall over the distinct scores.

    Arguments, range and errors as `auroc`.
    """
    return _average_precision(_rank_items(labels, scores, "items"))


def f1_max(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """The best F1 over all thresholds, and the highest threshold that reaches it.

    Arguments and errors as `auroc`; both results are NaN where a class is empty.
    """
    return _f1_max(_rank_items(labels, scores, "items"))


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
      ValueError: NaN scores, shapes that differ, or an impossible limit.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"the false-positive rate limit must be in (0, 1], got {limit}")
    return _area_to_limit(_rank_pixels(masks, maps), limit)


def evaluate(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
    image_scores: Float[np.ndarray, " n"],
    masks: Bool[np.ndarray, "n h w"] | None,
    maps: Float[np.ndarray, "n h w"],
) -> dict[str, float]:
    """All measures of one category.

    Args:
      labels: 1 or True for a defective picture.
      image_scores: one score a picture.
      masks: True where defective; None where the truth is not known pixel by pixel.
      maps: anomaly maps.

    Returns:
      image_auroc, image_ap, image_f1_max and image_f1_threshold; with masks also pixel_auroc,
      pixel_ap, pixel_f1_max, pixel_f1_threshold, aupro_30 and aupro_05. A measure that an empty
      class leaves undefined is NaN.

    Raises:
      ValueError: NaN scores, labels other than 0 and 1, or shapes that differ.
    """
    results = _summary("image", _rank_items(labels, image_scores, "pictures"))
    if masks is not None:
        ranking = _rank_pixels(masks, maps)
        results |= _summary("pixel", ranking)
        results["aupro_30"] = _area_to_limit(ranking, 0.30)
        results["aupro_05"] = _area_to_limit(ranking, 0.05)
    return results


def _summary(prefix: str, ranking: _Ranking) -> dict[str, float]:
    """The measures that pictures and pixels share."""
    f1, threshold = _f1_max(ranking)
    return {
        f"{prefix}_auroc": _auroc(ranking),
        f"{prefix}_ap": _average_precision(ranking),
        f"{prefix}_f1_max": f1,
        f"{prefix}_f1_threshold": threshold,
    }


def _auroc(ranking: _Ranking) -> float:
    if not ranking.scores.size:
        return float("nan")
    # A defective item beats the good ones below it and half of those it ties with. Doubled, the
    # sum is one of integers: 2 * defective * good stays below 2**63 for 10^9 pixels.
    found = np.diff(ranking.hits, prepend=0)
    doubled = found @ (2 * ranking.good - ranking.false_alarms - ranking.false_alarms_above)
    return float(doubled / (2 * ranking.defective * ranking.good))


def _average_precision(ranking: _Ranking) -> float:
    if not ranking.scores.size:
        return float("nan")
    precision = ranking.hits / (ranking.hits + ranking.false_alarms)
    return float(np.diff(ranking.hits, prepend=0) @ precision / ranking.defective)


def _f1_max(ranking: _Ranking) -> tuple[float, float]:
    if not ranking.scores.size:
        return float("nan"), float("nan")
    f1 = 2 * ranking.hits / (ranking.hits + ranking.false_alarms + ranking.defective)
    best = int(np.argmax(f1))  # the first of equals has the highest threshold
    return float(f1[best]), float(ranking.scores[best])


def _area_to_limit(ranking: _Ranking, limit: float) -> float:
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


def _rank_items(labels: np.ndarray, scores: np.ndarray, what: str) -> _Ranking:
    """The ranking of items of equal weight."""
    if labels.shape != scores.shape:
        raise ValueError(f"{labels.size} labels but {scores.size} scores")
    odd = labels[(labels != 0) & (labels != 1)]
    if odd.size:
        raise ValueError(f"labels must be 0 (good) or 1 (defective), got {odd[0]}")
    defective = labels.astype(bool)
    weights = np.ones(int(defective.sum()))
    return _rank(scores[defective], scores[~defective], weights, what)


def _rank_pixels(masks: np.ndarray, maps: np.ndarray) -> _Ranking:
    """The ranking of all pixels, each defective one weighing 1 / its region's size.

    The weights touch recall only, so recall is the mean overlap over the regions (PRO), while hits
    stay plain counts.
    """
    if masks.shape != maps.shape:
        raise ValueError(f"masks of shape {masks.shape} but maps of shape {maps.shape}")
    regions, _ = scipy.ndimage.label(masks, structure=_EIGHT_CONNECTED)
    region = regions[masks]
    weights = 1.0 / np.bincount(region)[region]
    return _rank(maps[masks], maps[~masks], weights, "pixels")


def _rank(defective: np.ndarray, good: np.ndarray, weights: np.ndarray, what: str) -> _Ranking:
    """Count both classes at the distinct defective scores; `weights` belong to `defective`."""
    if np.isnan(defective).any() or np.isnan(good).any():
        wrong = int(np.isnan(defective).sum() + np.isnan(good).sum())
        raise ValueError(f"{wrong} of {defective.size + good.size} scores of {what} are NaN")
    sizes = {"defective": defective.size, "good": good.size}
    if not all(sizes.values()):
        empty = " and ".join(name for name, size in sizes.items() if not size)
        _LOG.warning("no %s %s: their measures are not defined (NaN)", empty, what)
        defective, good, weights = defective[:0], good[:0], weights[:0]
    order = np.argsort(-defective)
    scores, weights = defective[order], weights[order]
    last = np.flatnonzero(scores[1:] != scores[:-1])  # of each run of equal scores
    last = np.append(last, scores.size - 1) if scores.size else last
    scores, good = scores[last], np.sort(good)
    recall = np.cumsum(weights, dtype=np.float64)[last]
    return _Ranking(
        scores=scores,
        hits=last + 1,
        false_alarms=good.size - np.searchsorted(good, scores, side="left"),
        false_alarms_above=good.size - np.searchsorted(good, scores, side="right"),
        recall=recall / recall[-1] if recall.size else recall,
        **sizes,
    )
