"""From which score on a picture is called defective: found once, stored with the model.

A picture is defective where its score >= `image`, a pixel where its value in the map >= `pixel`.
`evaluate.threshold` says how the first is chosen: the best F1 where good and defective pictures are
known; at most a share of false alarms among good pictures that the model was not trained on; or at
least a share of the known defects found.

A threshold lies midway between the lowest value called defective and the highest called good. On
one of them, a difference in the last digit, as between two kinds of device, would turn a verdict.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
from etils import epath
from jaxtyping import Float

from configs.errors import UserError
from configs.rules import threshold_rule
from diffad_jax.runs import files
from diffad_jax.scoring.identity import Identity
from diffad_jax.scoring.ranking import MARGIN, between

logger = logging.getLogger(__name__)
GOOD_ONLY = "false_alarms:0.005"  # the rule where no best F1 is known
SLOPES = 0.1, 100.0  # the flattest and the steepest that are fitted
FARTHEST = math.log(1000)  # a score further from the threshold says no more about the slope
Interval = tuple[float, float]


class Good(NamedTuple):
    """Good pictures: their scores, and the largest value of each one's map."""

    scores: Float[np.ndarray, " n"]
    peaks: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Two thresholds, where they come from, and what to expect of the first.

    image, pixel: on the image score and on the anomaly map, both in [0, 1] or a little above.
    source: how the image threshold was chosen, as `evaluate.threshold` has it, such as
      'false_alarms:0.01'; GOOD_ONLY where 'f1' was asked for and one class was not known.
    pictures: how many pictures the image threshold was found with.
    false_alarm_rate: share of the good test pictures that it calls defective (where there are none,
      of the held-out ones); NaN where no good one is known.
    recall: share of the defective test pictures that it calls so; NaN where none is known.
    false_alarm_interval, recall_interval: their 95 % intervals, see `interval`; None where the
      share is NaN. Where the threshold was found with these very pictures, expect somewhat more
      mistakes on new ones than they say.
    slope: of `confidence`, see `fit_slope`.
    identity: of the scores it was found on; it fits no others.
    """

    image: float
    pixel: float
    source: str
    pictures: int
    false_alarm_rate: float
    false_alarm_interval: Interval | None
    recall: float
    recall_interval: Interval | None
    slope: float
    identity: Identity

    def numbers(self) -> dict[str, float]:
        """All but source and identity, for metrics.json: an interval as _low and _high."""
        names = ("image", "pixel", "pictures", "false_alarm_rate", "recall", "slope")
        values = {f"threshold_{name}": float(getattr(self, name)) for name in names}
        for name in ("false_alarm", "recall"):
            ends = getattr(self, f"{name}_interval") or (math.nan, math.nan)
            values |= zip((f"threshold_{name}_low", f"threshold_{name}_high"), ends, strict=True)
        return values


def choose(
    rule: str,
    values: Mapping[str, float],
    test: Good,
    held_out: Good,
    defective: Float[np.ndarray, " d"],
    identity: Identity,
) -> Threshold | None:
    """The threshold of a checkpoint, with a word on where it comes from.

    Args:
      rule: `evaluate.threshold`.
      values: image_f1_threshold and, where masks are known, pixel_f1_threshold; NaN where a class
        is empty.
      test: the good test pictures.
      held_out: good training pictures kept out of training; where there are some, a share of false
        alarms is theirs, else that of `test`.
      defective: scores of the defective test pictures; some where the rule is a recall.
      identity: of the scores.

    Returns:
      None where the rule needs good pictures and there is none.
    """
    f1, pixel = values["image_f1_threshold"], values.get("pixel_f1_threshold", math.nan)
    good, name = (held_out, "held-out") if held_out.scores.size else (test, "test")
    rule = GOOD_ONLY if rule == "f1" and math.isnan(f1) else rule
    kind, share = threshold_rule(rule)
    if kind == "false_alarms" and not good.scores.size:
        logger.warning("no good pictures, so no threshold: raise data.holdout")
        return None
    if kind == "f1":
        image, count = f1, test.scores.size + defective.size
        origin = f"best F1 on {count} labelled"
    elif kind == "recall":
        everything = np.concatenate([defective, test.scores])
        image, count = reached(defective, everything, share), defective.size
        origin = f"recall of at least {share:g} on {count} defective"
    else:
        image, count = above(good.scores, share), good.scores.size
        origin = f"false alarms of at most {share:g} on {count} {name}"
        if share < 1 / count:
            logger.warning(
                "from %d good pictures no share of false alarms below %.3g can be estimated, and "
                "%g was asked for: the threshold is just above their highest score, and new good "
                "pictures may exceed it; hold more out (data.holdout)",
                count,
                1 / count,
                share,
            )
    if math.isnan(pixel) and good.peaks.size:
        allowed = share if kind == "false_alarms" else threshold_rule(GOOD_ONLY)[1]
        pixel = above(good.peaks, allowed)
    judged, of = (test, "test") if test.scores.size else (held_out, "held-out")
    alarms, found = (int(np.sum(scores >= image)) for scores in (judged.scores, defective))
    told = [
        f"{hits} of {scores.size} {what} called defective, {in_words(interval(hits, scores.size))}"
        for hits, scores, what in (
            (alarms, judged.scores, f"good {of} pictures"),
            (found, defective, "defective ones"),
        )
        if scores.size
    ]
    logger.info("threshold %.4g (%s pictures): %s", image, origin, "; ".join(told))
    return Threshold(
        image=float(image),
        pixel=float(pixel),
        source=rule,
        pictures=int(count),
        false_alarm_rate=_share(alarms, judged.scores.size),
        false_alarm_interval=interval(alarms, judged.scores.size),
        recall=_share(found, defective.size),
        recall_interval=interval(found, defective.size),
        slope=fit_slope(np.concatenate([test.scores, held_out.scores]), defective, float(image)),
        identity=identity,
    )


def above(values: Float[np.ndarray, " n"], share: float) -> float:
    """A threshold that at most this share, in [0, 1), of the values reaches, and no lower one.

    It lies midway to the next higher value, or a hair above the highest.
    """
    allowed = min(math.floor(share * values.size + 1e-9), values.size - 1)
    highest_good = np.sort(values)[values.size - 1 - allowed]
    higher = values[values > highest_good]
    if higher.size:
        return float(between(higher.min(), highest_good))
    return float(highest_good + MARGIN)


def reached(
    values: Float[np.ndarray, " d"], everything: Float[np.ndarray, " n"], share: float
) -> float:
    """A threshold that at least this share, in (0, 1], of the values reaches, and no higher one.

    It lies midway to the next lower value of `everything`, which holds `values`; see `between`.
    """
    needed = max(math.ceil(share * values.size - 1e-9), 1)
    lowest = np.sort(values)[values.size - needed]
    lower = everything[everything < lowest]
    return float(between(lowest, np.max(lower, initial=-np.inf)))


def interval(hits: int, count: int) -> Interval | None:
    """95 % confidence interval of a share of which `hits` of `count` were seen; None of none.

    Clopper and Pearson, Biometrika 1934: each end leaves a chance of 2.5 % to so many hits or more
    (fewer), by the binomial distribution itself. It covers the true share in 95 % of all samples or
    more, however small they are.
    """
    if not count:
        return None
    low = scipy.special.betaincinv(hits, count - hits + 1, 0.025) if hits else 0.0
    high = scipy.special.betaincinv(hits + 1, count - hits, 0.975) if hits < count else 1.0
    return float(low), float(high)


def in_words(ends: Interval | None) -> str:
    """An interval of shares, as '95 % interval 1.2 to 31.7 %'; '' where there is none."""
    return "" if ends is None else f"95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"


def confidence(
    scores: Float[np.ndarray, "*shape"] | float, image: float, slope: float
) -> Float[np.ndarray, "*shape"]:
    """How sure it is that a picture is defective: 1 / (1 + (image / score)^slope), in [0, 1].

    0.5 at the threshold, 0 at score 0, and the nearer to 1 the higher the score. With the slope of
    `fit_slope` it is calibrated on the pictures that this was fitted to: of those given 0.9, about
    nine in ten are defective, where defects are as frequent as among them.

    Args:
      scores: >= 0.
      image: the threshold, >= 0.
      slope: > 0.
    """
    return np.asarray(scipy.special.expit(slope * _log_ratio(scores, image)))


def fit_slope(
    good: Float[np.ndarray, " g"], defective: Float[np.ndarray, " d"], image: float
) -> float:
    """The slope of `confidence` that is the most likely, with 0.5 kept at the threshold.

    That is Platt's method ('Probabilistic outputs for support vector machines', 1999) with one free
    parameter: a logistic function of log(score / image) without a constant, fitted by maximum
    likelihood to targets that are a little less than certain, (d + 1) / (d + 2) for the d defective
    pictures and 1 / (g + 2) for the g good ones, so that classes that do not overlap give a finite
    slope. Of one class alone it says how fast that class leaves the threshold.

    Args:
      good: scores of good pictures, >= 0.
      defective: those of defective ones; not both are empty.
      image: the threshold, >= 0.

    Returns:
      A number in SLOPES.
    """
    distances = _log_ratio(np.concatenate([good, defective]), image)
    distances = np.clip(distances, -FARTHEST, FARTHEST)
    targets = np.repeat(
        [1 / (good.size + 2), (defective.size + 1) / (defective.size + 2)],
        [good.size, defective.size],
    )

    def loss(log_slope: float) -> float:
        logits = math.exp(log_slope) * distances
        return float(np.sum(np.logaddexp(0, logits) - targets * logits))

    bounds = tuple(map(math.log, SLOPES))
    return math.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x)


def _log_ratio(scores: Float[np.ndarray, "*shape"] | float, image: float) -> np.ndarray:
    """log(score / image), finite for a threshold above 0; -inf where a score is 0."""
    scores, least = np.asarray(scores, np.float64), np.finfo(np.float64).tiny
    logs = np.log(np.maximum(scores, least)) - math.log(max(image, least))
    return np.where(scores > 0, logs, -np.inf)


def _share(hits: int, count: int) -> float:
    return hits / count if count else math.nan


def path(workdir: epath.PathLike) -> epath.Path:
    """Where a run keeps its threshold."""
    return epath.Path(workdir) / "threshold.json"


def write(workdir: epath.PathLike, threshold: Threshold) -> None:
    """Write WORKDIR/threshold.json; a NaN becomes null, which JSON can hold."""
    values = dataclasses.asdict(threshold)
    values |= {k: None for k, v in values.items() if isinstance(v, float) and math.isnan(v)}
    files.write(path(workdir), json.dumps(values, indent=2, allow_nan=False) + "\n")


def read(workdir: epath.PathLike) -> Threshold | None:
    """What `write` wrote, to the last bit; None where there is no such file.

    Raises:
      UserError: the file is not a threshold; names it.
    """
    file = path(workdir)
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text())
        for name in ("image", "pixel", "false_alarm_rate", "recall", "slope"):
            values[name] = math.nan if values[name] is None else float(values[name])
        for name in ("false_alarm_interval", "recall_interval"):
            ends = values[name]
            values[name] = None if ends is None else (float(ends[0]), float(ends[1]))
        return Threshold(**values | {"identity": Identity.from_dict(values["identity"])})
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(
            f"{file} is not a threshold of this version ({error}): --mode evaluate finds it anew"
        ) from error
