"""Pixel-level measures of any number of pictures in bounded memory, within 5e-4 of the exact.

Scores are kept as `Points`: distinct float32 scores with what lies on each. Nothing is lost until
there are more than `PENDING` pixels; then neighbouring scores are joined (a q-digest, Shrivastava
et al., SenSys 2004, over the bits of the score). Scores are joined that share their leading bits,
and only where together they weigh at most `SHARE` of all that scores higher. So at every score the
share of the pixels above it is known to a relative SHARE or so, whether the scores are spread over
many decades, crowd together, or tie; and exactly for the highest 1 / SHARE pixels of each class,
which decide precision where defects are small. What lies on points does not depend on how many
pictures came before, so two hosts' points can be joined.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt32

from diffad_jax.scoring.ranking import Ranking, next_lower, split_pixels, warn_of_empty

PENDING = 2**20  # pixels kept as they are before neighbours are joined
SHARE = 2.0**-13
_BITS = 4  # that one level of joining takes off the score
_SIGN = np.uint32(0x80000000)


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Distinct scores as `order_key`s, rising, and in each column of `masses` what lies on them."""

    keys: UInt32[np.ndarray, " k"]
    masses: Float[np.ndarray, "m k"]

    def join(self) -> "Points":
        """Fewer points, the mass of neighbours on the lowest of them; see the top of the file."""
        upto = np.pad(np.cumsum(self.masses, axis=1), ((0, 0), (1, 0)))
        split = np.append(_SIGN | 1, self.keys[1:] ^ self.keys[:-1])  # bits that tell neighbours
        left, starts = np.arange(self.keys.size), []  # points that are not in a group yet
        for shift in range(32 - _BITS, -1, -_BITS):
            first = np.flatnonzero(split[left] >> np.uint32(shift))
            sizes = np.diff(first, append=left.size)
            start = left[first]
            end = start + sizes
            light = upto[:, end] - upto[:, start] <= SHARE * (upto[:, -1:] - upto[:, end])
            done = light.all(0) | (sizes == 1)
            starts.append(start[done])
            left = left[np.repeat(~done, sizes)]
        start = np.sort(np.concatenate(starts))
        return Points(self.keys[start], np.add.reduceat(self.masses, start, axis=1))


class Pixels:
    """Collects masks and maps, batch by batch; gives the ranking that `metrics.of_pixels` takes."""

    def __init__(self):
        # Defective pixels count, and weigh 1 / their region's size; good ones count.
        self._defective, self._good = _Class(2), _Class(1)

    def add(self, masks: Bool[np.ndarray, "n h w"], maps: Float[np.ndarray, "n h w"]) -> None:
        """Take in n pictures; masks are True where defective. Scores count in float32.

        Raises:
          UserError: NaN scores, or shapes that differ.
        """
        rows = max(1, PENDING // max(1, maps[0].size)) if len(maps) else 1
        for start in range(0, len(maps), rows):
            part = slice(start, start + rows)
            defective, good, weights = split_pixels(masks[part], maps[part])
            self._defective.add(order_key(defective), np.stack([np.ones(weights.size), weights]))
            self._good.add(order_key(good), None)

    def merge(self, other: "Pixels") -> None:
        """Take in what `other` collected."""
        self._defective.merge(other._defective.points())
        self._good.merge(other._good.points())

    def ranking(self) -> Ranking:
        """Counts at the scores of the defective pixels collected so far."""
        defective, good = self._defective.points(), self._good.points()
        sizes = {
            "defective": int(defective.masses[0].sum()),
            "good": int(good.masses[0].sum()),
        }
        if warn_of_empty("pixels", **sizes):
            defective = good = Points(np.zeros(0, np.uint32), np.zeros((2, 0)))
        scores, good_scores = from_order_key(defective.keys[::-1]), from_order_key(good.keys)
        hits, recall = np.cumsum(defective.masses[:, ::-1], axis=1)
        upto = np.append(0.0, np.cumsum(good.masses[0]))
        start = np.searchsorted(good_scores, scores, side="left")
        above = np.searchsorted(good_scores, scores, side="right")
        return Ranking(
            scores=scores,
            below=next_lower(scores, good_scores, start),
            hits=np.rint(hits).astype(np.int64),
            false_alarms=np.rint(upto[-1] - upto[start]).astype(np.int64),
            false_alarms_above=np.rint(upto[-1] - upto[above]).astype(np.int64),
            recall=recall / recall[-1] if recall.size else recall,
            **sizes,
        )


class _Class:
    """The points of one class of pixels, and pixels that are not among them yet."""

    def __init__(self, columns: int):
        self._points = Points(np.zeros(0, np.uint32), np.zeros((columns, 0)))
        self._pending: list[tuple[np.ndarray, np.ndarray | None]] = []
        self._count = 0

    def add(self, keys: np.ndarray, masses: np.ndarray | None) -> None:
        """Pixels in any order; without masses each counts one."""
        self._pending.append((keys, masses))
        self._count += keys.size
        if self._count > PENDING:
            self._points = self.points().join()
            self._pending, self._count = [], 0

    def merge(self, points: Points) -> None:
        self.add(points.keys, points.masses)

    def points(self) -> Points:
        """All of them, those pending among them."""
        plain = [keys for keys, masses in self._pending if masses is None]
        parts = [counted(np.concatenate(plain))] if plain else []
        parts += [Points(keys, masses) for keys, masses in self._pending if masses is not None]
        return summed([self._points, *parts])


def counted(keys: UInt32[np.ndarray, " n"]) -> Points:
    """Each key once, with the number of times it occurs."""
    keys = np.sort(keys)  # in place of np.unique: NumPy sorts 32-bit integers with vector units
    start = _runs(keys)
    return Points(keys[start], np.diff(start, append=keys.size).astype(np.float64)[None])


def summed(parts: list[Points]) -> Points:
    """The points of all parts; keys may come in any order and more than once."""
    keys = np.concatenate([part.keys for part in parts])
    order = np.argsort(keys, kind="stable")
    keys, masses = keys[order], np.concatenate([p.masses for p in parts], axis=1)[:, order]
    start = _runs(keys)
    if not keys.size:
        return Points(keys, masses)
    return Points(keys[start], np.add.reduceat(masses, start, axis=1))


def _runs(keys: np.ndarray) -> np.ndarray:
    """Where runs of equal keys start."""
    return np.flatnonzero(np.append(keys[:1] == keys[:1], keys[1:] != keys[:-1]))


def order_key(scores: Float[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """32 bits that compare as the scores do in float32; 0.0 and -0.0 have the same."""
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def from_order_key(keys: UInt32[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The scores that `order_key` was made from."""
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float32)
