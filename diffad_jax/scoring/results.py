"""What was judged: a set of pictures, what the model made of them, and how well it did."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from configs.errors import UserError
from diffad_jax.scoring.identity import Identity
from diffad_jax.scoring.ranking import Ranking
from diffad_jax.scoring.threshold import Threshold, confidence

_Key = tuple[int, str]  # of a group of pictures: good ones first, then by name


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """A test set and what the model made of it; n pictures of s x s pixels.

    names: file names to show, unique within the set; defects: the type of each, "good" for good
    ones; labels: 1 where defective; scores: one a picture; maps: anomaly maps, >= 0; images and
    reconstructions: RGB, 0..255; masks: defective where > 0, or None where no truth is known
    pixel by pixel; has_mask: False where a picture's mask is missing.
    """

    names: Sequence[str]
    defects: Sequence[str]
    labels: Int32[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    maps: Float[np.ndarray, "n s s"]
    images: UInt8[np.ndarray, "n s s 3"]
    reconstructions: UInt8[np.ndarray, "n s s 3"]
    masks: UInt8[np.ndarray, "n s s 1"] | None
    has_mask: Bool[np.ndarray, " n"]

    def __post_init__(self):
        count = len(self.names)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != count:
                raise UserError(f"{count} names but {len(value)} {field.name} in the judged set")

    def truth(self, row: int) -> Bool[np.ndarray, "s s"] | None:
        """Where picture `row` is defective; None where that is not known.

        A good picture needs no mask: nothing in it is defective.
        """
        if self.masks is not None and self.has_mask[row]:
            return self.masks[row, ..., 0] > 0
        return np.zeros(self.maps[row].shape, bool) if self.labels[row] == 0 else None

    @property
    def unmarked(self) -> Bool[np.ndarray, " n"]:
        """Which pictures have no `truth`; pixel-level measures leave them out."""
        return (self.labels == 1) & ~(self.has_mask & (self.masks is not None))


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A judged set, the numbers that follow from it, and what they were made with.

    values: the measures by name, as `metrics.of_images` and `of_pixels` give them, and the
    threshold's; pixels: the ranking of all pixels whose truth is known, None where no defective
    picture's is; threshold: from which score on a picture is called defective, None: no verdicts.
    """

    judged: Judged
    values: Mapping[str, float]
    pixels: Ranking | None
    threshold: Threshold | None
    identity: Identity

    @property
    def cut(self) -> float:
        """The threshold of pictures; NaN where there is none."""
        return math.nan if self.threshold is None else self.threshold.image

    @property
    def pixel_cut(self) -> float:
        """The threshold of pixels; NaN where there is none."""
        return math.nan if self.threshold is None else self.threshold.pixel

    @functools.cached_property
    def confidences(self) -> Float[np.ndarray, " n"]:
        """How sure it is that each picture is defective, in [0, 1]; NaN without a threshold."""
        if self.threshold is None:
            return np.full(len(self.judged.names), math.nan)
        return confidence(self.judged.scores, self.threshold.image, self.threshold.slope)

    @property
    def title(self) -> str:
        """What was evaluated: the category and the checkpoint's step."""
        return f"{self.identity.category}, step {self.identity.step}"


def verdict(score: float, threshold: float) -> str:
    """'defective' where score >= threshold, else 'good'; '' for a NaN threshold (not known)."""
    if math.isnan(threshold):
        return ""
    return "defective" if score >= threshold else "good"


def choose_rows(judged: Judged, count: int) -> list[int]:
    """At most `count` pictures to show: good ones first, then each type of defect by name.

    As `sample`, in the set's order: never by score, so nothing is picked for looking well, and two
    evaluations of one test set show the same pictures.

    Raises:
      UserError: a count below 1.
    """
    if count < 1:
        raise UserError(f"a grid needs at least 1 row, got {count}")
    groups: dict[tuple[int, str], list[int]] = {}
    for row, (label, defect) in enumerate(zip(judged.labels, judged.defects, strict=True)):
        groups.setdefault((int(label), defect if label else ""), []).append(row)
    return [row for rows in sample(groups, count).values() for row in rows]


def sample(groups: Mapping[_Key, Sequence[int]], count: int) -> dict[_Key, list[int]]:
    """At most `count` rows out of all groups, in the order of their keys.

    Every group gives the same number (one more for the first ones, fewer where it has no more),
    taken at even distances.
    """
    shares = dict.fromkeys(sorted(groups), 0)
    left = min(count, sum(map(len, groups.values())))
    while left:
        for key in shares:
            if left and shares[key] < len(groups[key]):
                shares[key] += 1
                left -= 1
    return {
        key: [groups[key][(2 * i + 1) * len(groups[key]) // (2 * share)] for i in range(share)]
        for key, share in shares.items()
    }
