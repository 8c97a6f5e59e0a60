"""The table that every measure follows from: how many items reach each score of a defective one.

`Ranking` counts, for each distinct score of a defective item (picture or pixel), how many defective
and how many good items reach it. Only the defective scores matter as thresholds, because between
two of them nothing but the false positives grows. So the many good pixels need a plain sort, and
every distinct score still counts as a threshold.

Here the table is exact and made from arrays; `pixel_sketch` makes nearly the same one in bounded
memory. A higher score means more anomalous; an item is called defective where score >= threshold.
"""

import dataclasses
import logging

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int

from configs.errors import UserError

logger = logging.getLogger(__name__)

# Within one picture all eight neighbours touch; the previous and next picture do not.
MARGIN = 1e-6  # scores agree to that between batch sizes, devices and backends
_EIGHT_CONNECTED = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


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


def rank_pixels(masks: Bool[np.ndarray, "n h w"], maps: Float[np.ndarray, "n h w"]) -> Ranking:
    """The ranking of all pixels, each defective one weighing 1 / its region's size.

    The weights touch recall only, so recall is the mean overlap over the regions (PRO), while hits
    stay plain counts.

    Raises:
      UserError: NaN scores, or shapes that differ.
    """
    return _rank(*split_pixels(masks, maps), "pixels")


def split_pixels(
    masks: Bool[np.ndarray, "n h w"], maps: Float[np.ndarray, "n h w"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " g"], Float[np.ndarray, " d"]]:
    """Scores of the defective and of the good pixels, and 1 / region size of the defective ones.

    Raises:
      UserError: NaN scores, or shapes that differ.
    """
    if masks.shape != maps.shape:
        raise UserError(f"masks of shape {masks.shape} but maps of shape {maps.shape}")
    defective, good = _checked(maps[masks], maps[~masks], "pixels")
    regions, _ = scipy.ndimage.label(masks, structure=_EIGHT_CONNECTED)
    region = regions[masks]
    return defective, good, 1.0 / np.bincount(region)[region]


def rank_items(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    what: str,
) -> Ranking:
    """The ranking of items of equal weight; `what` they are, for messages. Errors as `classes`."""
    defective, good = classes(labels, scores, what)
    return _rank(defective, good, np.ones(defective.size), what)


def classes(
    labels: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    what: str,
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " g"]]:
    """Scores of the defective and of the good items; `what` they are, for messages.

    Args:
      labels: 1 or True where defective.
      scores: any finite or infinite numbers.
      what: such as 'pictures'.

    Raises:
      UserError: NaN scores, labels other than 0 and 1, or lengths that differ.
    """
    if labels.shape != scores.shape:
        raise UserError(f"{labels.size} labels but {scores.size} scores")
    odd = labels[(labels != 0) & (labels != 1)]
    if odd.size:
        raise UserError(f"labels must be 0 (good) or 1 (defective), got {odd[0]}")
    defective = labels.astype(bool)
    return _checked(scores[defective], scores[~defective], what)


def _checked(defective: np.ndarray, good: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Both, or a UserError where a score is NaN."""
    wrong = sum(int(np.isnan(scores).sum()) for scores in (defective, good))
    if wrong:
        raise UserError(f"{wrong} of {defective.size + good.size} scores of {what} are NaN")
    return defective, good


def warn_of_empty(what: str, defective: int, good: int) -> bool:
    """Whether a class is empty, with a warning that says which."""
    empty = [name for name, n in (("defective", defective), ("good", good)) if not n]
    if empty:
        logger.warning("no %s %s: their measures are not defined (NaN)", " and ".join(empty), what)
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


def between(score: np.floating, below: np.floating) -> np.floating:
    """The threshold midway between `score`, still called defective, and `below`, called good.

    In their own precision; `score` itself where no number lies between them. Where `below` is
    -inf, a hair (MARGIN) below `score`, but on the same side of 0.
    """
    if np.isinf(below):
        lowest = float(score)
        return type(score)(lowest - min(MARGIN, abs(lowest) / 2))
    middle = below + (score - below) / 2
    return middle if below < middle < score else score
