"""From which score on a picture is called defective: found once, stored with the model.

A picture is defective where its score >= `image`, a pixel where its value in the map >= `pixel`.
Where good and defective pictures are known, both thresholds are those of the best F1. Where only
good ones are, they are a quantile of what good pictures reach that the model was not trained on.

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
from etils import epath
from jaxtyping import Float

from configs.errors import UserError
from diffad_jax.runs import files
from diffad_jax.scoring.identity import Identity
from diffad_jax.scoring.ranking import between

logger = logging.getLogger(__name__)
MARGIN = 1e-6  # scores agree to that between batch sizes and devices


class Good(NamedTuple):
    """Good pictures: their scores, and the largest value of each one's map."""

    scores: Float[np.ndarray, " n"]
    peaks: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Two thresholds and where they come from.

    image, pixel: on the image score and on the anomaly map, both in [0, 1] or a little above.
    source: of the image threshold: 'f1_max' of labelled pictures, or a 'quantile' of good ones.
    quantile: the configured one; None for f1_max.
    pictures: how many pictures the image threshold was found with.
    false_alarm_rate: share of the good test pictures that it calls defective (where there are none,
      of the held-out ones). With f1_max, or without test pictures, it was found with these very
      pictures: expect somewhat more false alarms on new ones.
    identity: of the scores it was found on; it fits no others.
    """

    image: float
    pixel: float
    source: str
    quantile: float | None
    pictures: int
    false_alarm_rate: float
    identity: Identity


def choose(
    values: Mapping[str, float],
    labelled: int,
    test: Good,
    held_out: Good,
    quantile: float,
    identity: Identity,
) -> Threshold | None:
    """The threshold of a checkpoint, with a word on where it comes from.

    Args:
      values: image_f1_threshold and, where masks are known, pixel_f1_threshold; NaN where a class
        is empty.
      labelled: how many pictures image_f1_threshold was found with.
      test: the good test pictures.
      held_out: good training pictures kept out of training; where there are some, the quantile is
        theirs, else that of `test`.
      quantile: share of the good pictures that may be called good, in (0, 1).
      identity: of the scores.

    Returns:
      None where there is no F1 and no good picture.
    """
    image, pixel = values["image_f1_threshold"], values.get("pixel_f1_threshold", math.nan)
    good, name = (held_out, "held-out") if held_out.scores.size else (test, "test")
    by_f1 = not math.isnan(image)
    if not by_f1 and not good.scores.size:
        logger.warning("no good pictures, so no threshold: raise data.holdout")
        return None
    if not by_f1:
        image = above(good.scores, quantile)
    if math.isnan(pixel) and good.peaks.size:
        pixel = above(good.peaks, quantile)
    judged, of = (test, "test") if test.scores.size else (held_out, "held-out")
    rate = float(np.mean(judged.scores >= image))
    count = labelled if by_f1 else good.scores.size
    origin = f"best F1 on {count} labelled" if by_f1 else f"quantile {quantile} of {count} {name}"
    logger.info(
        "threshold %.4g (%s pictures): false-alarm rate %.3f on %d good %s pictures",
        image,
        origin,
        rate,
        judged.scores.size,
        of,
    )
    if not by_f1 and quantile > 1 - 1 / count:
        logger.warning(
            "from %d good pictures no quantile above %.3f can be estimated, and %.3f was asked "
            "for: the threshold is just above their highest score, and new good pictures may "
            "exceed it; hold more out (data.holdout)",
            count,
            1 - 1 / count,
            quantile,
        )
    return Threshold(
        image=float(image),
        pixel=float(pixel),
        source="f1_max" if by_f1 else "quantile",
        quantile=None if by_f1 else quantile,
        pictures=int(count),
        false_alarm_rate=rate,
        identity=identity,
    )


def above(values: Float[np.ndarray, " n"], quantile: float) -> float:
    """A threshold that at most the share 1 - quantile of the values reaches, and no lower one.

    It lies midway to the next higher value, or a hair above the highest.
    """
    allowed = math.floor((1 - quantile) * values.size + 1e-9)
    highest_good = np.sort(values)[values.size - 1 - allowed]
    higher = values[values > highest_good]
    if higher.size:
        return float(between(higher.min(), highest_good))
    return float(highest_good + MARGIN)


def path(workdir: epath.PathLike) -> epath.Path:
    """Where a run keeps its threshold."""
    return epath.Path(workdir) / "threshold.json"


def write(workdir: epath.PathLike, threshold: Threshold) -> None:
    """Write WORKDIR/threshold.json; a NaN becomes null, which JSON can hold."""
    values = dataclasses.asdict(threshold)
    for name in ("image", "pixel", "false_alarm_rate"):
        values[name] = None if math.isnan(values[name]) else values[name]
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
        for name in ("image", "pixel", "false_alarm_rate"):
            values[name] = math.nan if values[name] is None else float(values[name])
        return Threshold(**values | {"identity": Identity.from_dict(values["identity"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{file} is not a threshold of this version ({error}): --mode evaluate finds it anew"
        ) from error
