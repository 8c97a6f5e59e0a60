"""What a value of a configuration must satisfy beside its type."""

import operator
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

GROUPS = 32  # groups of every GroupNorm in the U-Net


class Rule(NamedTuple):
    """What a value must satisfy beside its type; `words` complete 'KEY=VALUE must be ...'.

    `plain` brings a value that satisfies it to its one form.
    """

    holds: Callable[[Any], bool]
    words: str
    plain: Callable[[Any], Any] = lambda value: value


def at_least(low: int, unit: str = "") -> Rule:
    """`low` or more, of a unit such as 'steps'."""
    return Rule(lambda v: v >= low, f"at least {low} {unit}".rstrip())


def within(low: float, high: float, ends: str = "[]") -> Rule:
    """Between both; a round bracket in `ends` leaves that end out."""
    left, right = (operator.le if end in "[]" else operator.lt for end in ends)
    words = f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
    return Rule(lambda v: left(low, v) and right(v, high), words)


def plain_names(names: str) -> str:
    """Names of folders with commas between, as the file system knows them: 'a/, ./b' is 'a,b'."""
    each = (name.strip() for name in names.split(","))
    return ",".join(pathlib.PurePath(name).as_posix() for name in each if name)


def threshold_rule(rule: str) -> tuple[str, float]:
    """How a threshold is chosen, 'f1', 'false_alarms:0.01' or 'recall:0.99', as (name, share).

    The share is that of the good pictures that may reach the threshold, in [0, 1), or of the
    defective ones that must, in (0, 1]; 0 for f1.

    Raises:
      ValueError: another word, or a share out of its range.
    """
    name, colon, number = rule.partition(":")
    share = float(number) if colon else 0.0
    ranges = {"false_alarms": 0 <= share < 1, "recall": 0 < share <= 1}
    if not (ranges.get(name, False) if colon else name == "f1"):
        raise ValueError(rule)
    return name, share


def _is_threshold(rule: str) -> bool:
    try:
        return bool(threshold_rule(rule))
    except ValueError:
        return False


def _plain_threshold(rule: str) -> str:
    """'false_alarms:0.010' is 'false_alarms:0.01'."""
    name, share = threshold_rule(rule)
    return name if name == "f1" else f"{name}:{abs(share)!r}".removesuffix(".0")


def one_of(choices: Sequence[str]) -> Rule:
    """One of these words."""
    return Rule(lambda v: v in choices, f"one of {', '.join(map(repr, choices))}")


# A smaller number is 0 to a device, which computes in float32; a larger one is infinite.
SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
WHOLE = 2**32  # whole numbers stay below: seeds and step counters have 32 bits
ABOVE_0 = Rule(lambda v: v >= SMALLEST, "above 0 (1.2e-38 or more, as float32 has it)")
SEED = Rule(lambda v: 0 <= v < WHOLE, f"in [0, {WHOLE - 1}]")
# The linear schedule's last noise variance is 20 / timesteps, and must leave some of the picture.
TIMESTEPS = Rule(lambda v: v > 20, "at least 21 steps: the last one's noise variance is 20 / steps")
CATEGORY = Rule(lambda v: bool(v.strip("/, ")), "the name of a category's folder", plain_names)
FILLED = Rule(lambda v: bool(v.strip()), "the path of a folder")
LOCAL = Rule(lambda v: "://" not in v, "local: pictures on object stores are not trained with")
Steps = Annotated[int, at_least(1, "step")]
StepsOr0 = Annotated[int, at_least(0, "steps")]
Share = Annotated[float, within(0, 1)]
Weight = Annotated[float, at_least(0)]
THRESHOLD = Rule(
    _is_threshold,
    "f1, false_alarms:X with X in [0, 1), or recall:Y with Y in (0, 1]",
    _plain_threshold,
)
WHOLE_GROUPS = Rule(lambda v: v > 0 and v % GROUPS == 0, f"a multiple of {GROUPS} channels")
SPAN = Rule(lambda v: not v or (len(v) == 2 and 1 <= v[0] <= v[1]), "() or (first, last), from 1")
