"""Whether the parts of today look like the good pictures that the model was evaluated on."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

LOOKS = 4  # in the time in which the window is filled anew


class Drift:
    """Compares the last `window` parts judged good with the evaluation's good pictures.

    Each value by itself, by a two-sample Kolmogorov-Smirnov test, after every window / LOOKS parts.
    Looks share parts, and all of them the reference; whatever depends on what, the expected number
    of false alarms is at most `level` (of all values together, Bonferroni) times the number of
    looks: 0.2 in 10,000 parts with the defaults. So much for parts as if drawn by chance: where
    they come in groups (a lamp warms up each morning), groups are found, and rightly.

    Few reference pictures tell large changes only. Nine full windows in ten show a shift of 2.1
    standard deviations with 10 pictures, 1.5 with 20, 1.0 with 50, 0.6 with 200. A value that could
    not be significant whatever the parts (one picture) has no p.
    """

    def __init__(self, reference: Mapping[str, Sequence[float]], window=200, level=0.001):
        """Begin with no parts; `reference` as `appearance.of_good` gives it."""
        self._reference = {name: list(values) for name, values in reference.items()}
        self._window, self._level = window, level / max(1, len(self._reference))
        self._parts: collections.deque = collections.deque(maxlen=window)
        self._count, self._since = 0, None
        self._p: dict[str, float | None] = dict.fromkeys(self._reference)

    def add(self, values: Mapping[str, float], time: float) -> None:
        """Take one part that was judged good: its values by name, and when it was (unix s)."""
        self._parts.append((time, values))
        self._count += 1
        if self._count % max(1, self._window // LOOKS) == 0:
            self._p = {name: self._look(name) for name in self._reference}
            since = self._since or self._parts[0][0]
            self._since = since if self._drifted() else None

    def state(self) -> dict[str, Any]:
        """Parts in the window; since is the time of the first part of the first one with drift."""
        about = {"parts": len(self._parts), "window": self._window, "since": self._since}
        return about | {"drifted": self._drifted(), "p": dict(self._p)}

    def _drifted(self) -> list[str]:
        return [name for name, p in self._p.items() if p is not None and p < self._level]

    def _look(self, name: str) -> float | None:
        known, found = self._reference[name], [values[name] for _, values in self._parts]
        if 2 / math.comb(len(known) + len(found), len(known)) >= self._level:
            return None  # so large is p at least, that of samples which do not overlap
        return float(stats.ks_2samp(known, found).pvalue)
