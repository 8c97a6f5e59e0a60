"""How well scores separate defective from good: AUROC, AP, F1-max and AUPRO.

Every measure follows from one small table, `Ranking`: for each distinct score of a defective item
(picture or pixel), how many defective and how many good items reach it. Only the defective scores
matter as thresholds, because between two of them nothing but the false positives grows. So the many
good pixels need a plain sort, and every distinct score still counts as a threshold.

Here the table is exact and made from arrays; `streaming` makes nearly the same one in bounded
memory. A higher score means more anomalous; an item is called defective where score >= threshold.
"""

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int

_LOG = logging.getLogger(__name__)

# Within one picture all eight neighbours touch; the previous and next picture do not.
_EIGHT_CONNECTED = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])

# What papers report, and what `mean` averages over categories.
IMAGE_MEASURES = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_MEASURES = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_30", "aupro_05")

RESAMPLES = 2000  # of the bootstrap: the ends of a 95 % interval then rest on 50 of them each
_RESAMPLES_AT_ONCE = 50  # bounds the memory; divides RESAMPLES


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """Counts at the k distinct scores of the defective items, the highest score first.

    below is the next lower score of any item, -inf where there is none. hits and false_alarms count
    the items that reach the score; false_alarms_above leaves out the good items that tie with it.
    recall is the weighted share of the defective items found, which ends at 1. Where a class is
    empty, the arrays are too (k = 0).
    """

    scores: Float[np.ndarray, " k"]
    below: Float[np.ndarray, " k"]
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
    return _auroc(rank_items(labels, scores, "items"))


def average_precision(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> float:
    """Average precision: sum of precision times gain in recall over the distinct scores.

    Arguments, range and errors as `auroc`.
    """
    return _average_precision(rank_items(labels, scores, "items"))


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
      ValueError: NaN scores, shapes that differ, or an impossible limit.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"the false-positive rate limit must be in (0, 1], got {limit}")
    return _area_to_limit(rank_pixels(masks, maps), limit)


def evaluate(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
    image_scores: Float[np.ndarray, " n"],
    masks: Bool[np.ndarray, "n h w"] | None,
    maps: Float[np.ndarray, "n h w"],
) -> dict[str, float]:
    """All measures of one category: `of_images`, and with masks (True where defective) `of_pixels`.

    Raises:
      ValueError: NaN scores, labels other than 0 and 1, or shapes that differ.
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
    return _summary("image", rank_items(labels, scores, "pictures")) | {
        f"image_{name}_{end}": value
        for name, interval in bootstrap(labels, scores).items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }


def of_pixels(ranking: Ranking) -> dict[str, float]:
    """pixel_auroc, pixel_ap, pixel_f1_max, pixel_f1_threshold, aupro_30 and aupro_05.

    All are NaN where a class is empty. The ranking is that of `rank_pixels` or of
    `streaming.Pixels`.
    """
    return _summary("pixel", ranking) | {
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
    defective, good = _classes(labels, scores, "pictures")
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
    """The mean row of a table: each of IMAGE_MEASURES and PIXEL_MEASURES over the categories.

    A category whose measure is not defined (NaN, None or not there) is left out of that measure's
    mean, and a warning names it. A measure that no category has is NaN.
    """
    result = {}
    for measure in IMAGE_MEASURES + PIXEL_MEASURES:
        values = {name: found.get(measure) for name, found in categories.items()}
        defined = [v for v in values.values() if v is not None and not np.isnan(v)]
        if 0 < len(defined) < len(values):
            without = [n for n, v in values.items() if v is None or np.isnan(v)]
            _LOG.warning("the mean %s leaves out %s: not defined", measure, ", ".join(without))
        result[measure] = float(np.mean(defined)) if defined else float("nan")
    return result


def _summary(prefix: str, ranking: Ranking) -> dict[str, float]:
    """The measures that pictures and pixels share."""
    f1, threshold = _f1_max(ranking)
    return {
        f"{prefix}_auroc": _auroc(ranking),
        f"{prefix}_ap": _average_precision(ranking),
        f"{prefix}_f1_max": f1,
        f"{prefix}_f1_threshold": threshold,
    }


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


def between(score: np.floating, below: np.floating) -> np.floating:
    """The threshold midway between `score`, still called defective, and `below`, called good.

    In their own precision; `score` itself where no number lies between them or `below` is -inf.
    """
    if np.isinf(below):
        return score
    middle = below + (score - below) / 2
    return middle if below < middle < score else score


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


def rank_pixels(masks: Bool[np.ndarray, "n h w"], maps: Float[np.ndarray, "n h w"]) -> Ranking:
    """The ranking of all pixels, each defective one weighing 1 / its region's size.

    The weights touch recall only, so recall is the mean overlap over the regions (PRO), while hits
    stay plain counts.

    Raises:
      ValueError: NaN scores, or shapes that differ.
    """
    return _rank(*split_pixels(masks, maps), "pixels")


def split_pixels(
    masks: Bool[np.ndarray, "n h w"], maps: Float[np.ndarray, "n h w"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " g"], Float[np.ndarray, " d"]]:
    """Scores of the defective and of the good pixels, and 1 / region size of the defective ones.

    Raises:
      ValueError: NaN scores, or shapes that differ.
    """
    if masks.shape != maps.shape:
        raise ValueError(f"masks of shape {masks.shape} but maps of shape {maps.shape}")
    defective, good = _checked(maps[masks], maps[~masks], "pixels")
    regions, _ = scipy.ndimage.label(masks, structure=_EIGHT_CONNECTED)
    region = regions[masks]
    return defective, good, 1.0 / np.bincount(region)[region]


def rank_items(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    what: str,
) -> Ranking:
    """The ranking of items of equal weight; `what` they are, for messages. Errors as `auroc`."""
    defective, good = _classes(labels, scores, what)
    return _rank(defective, good, np.ones(defective.size), what)


def _classes(labels: np.ndarray, scores: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the defective and of the good items."""
    if labels.shape != scores.shape:
        raise ValueError(f"{labels.size} labels but {scores.size} scores")
    odd = labels[(labels != 0) & (labels != 1)]
    if odd.size:
        raise ValueError(f"labels must be 0 (good) or 1 (defective), got {odd[0]}")
    defective = labels.astype(bool)
    return _checked(scores[defective], scores[~defective], what)


def _checked(defective: np.ndarray, good: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Both, or a ValueError where a score is NaN."""
    wrong = sum(int(np.isnan(scores).sum()) for scores in (defective, good))
    if wrong:
        raise ValueError(f"{wrong} of {defective.size + good.size} scores of {what} are NaN")
    return defective, good


def warn_of_empty(what: str, defective: int, good: int) -> bool:
    """Whether a class is empty, with a warning that says which."""
    empty = [name for name, n in (("defective", defective), ("good", good)) if not n]
    if empty:
        _LOG.warning("no %s %s: their measures are not defined (NaN)", " and ".join(empty), what)
    return bool(empty)


def _rank(defective: np.ndarray, good: np.ndarray, weights: np.ndarray, what: str) -> Ranking:
    """Count both classes at the distinct defective scores; `weights` belong to `defective`."""
    sizes = {"defective": defective.size, "good": good.size}
    if warn_of_empty(what, **sizes):
        defective, good, weights = defective[:0], good[:0], weights[:0]
    order = np.argsort(-defective)
    scores, weights = defective[order], weights[order]
    last = np.flatnonzero(scores[1:] != scores[:-1])  # of each run of equal scores
    last = np.append(last, scores.size - 1) if scores.size else last
    scores, good = scores[last], np.sort(good)
    recall = np.cumsum(weights, dtype=np.float64)[last]
    start = np.searchsorted(good, scores, side="left")
    return Ranking(
        scores=scores,
        below=next_lower(scores, good, start),
        hits=last + 1,
        false_alarms=good.size - start,
        false_alarms_above=good.size - np.searchsorted(good, scores, side="right"),
        recall=recall / recall[-1] if recall.size else recall,
        **sizes,
    )


def next_lower(
    scores: Float[np.ndarray, " k"], good: Float[np.ndarray, " g"], start: Int[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """The next lower score of either class; `scores` fall, `good` rise from `start` on."""
    if not scores.size:
        return scores
    nearest_good = np.where(start > 0, good[np.maximum(start - 1, 0)], -np.inf)
    return np.maximum(np.append(scores[1:], -np.inf), nearest_good).astype(scores.dtype)
