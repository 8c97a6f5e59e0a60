"""What a value of a configuration must satisfy beside its type."""

import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

GROUPS = 32  # groups of every GroupNorm in the U-Net


class Rule(NamedTuple):
    """What a value must satisfy beside its type; `words` complete 'KEY=VALUE must be ...'."""

    holds: Callable[[Any], bool]
    words: str


def at_least(low: int, unit: str = "") -> Rule:
    """`low` or more, of a unit such as 'steps'."""
    return Rule(lambda v: v >= low, f"at least {low} {unit}".rstrip())


def within(low: float, high: float, ends: str = "[]") -> Rule:
    """Between both; a round bracket in `ends` leaves that end out."""
    left, right = (operator.le if end in "[]" else operator.lt for end in ends)
    words = f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
    return Rule(lambda v: left(low, v) and right(v, high), words)


def one_of(choices: Sequence[str]) -> Rule:
    """One of these words."""
    return Rule(lambda v: v in choices, f"one of {', '.join(map(repr, choices))}")


ABOVE_0 = Rule(lambda v: v > 0, "above 0")
Steps = Annotated[int, at_least(1, "step")]
StepsOr0 = Annotated[int, at_least(0, "steps")]
Share = Annotated[float, within(0, 1)]
Weight = Annotated[float, at_least(0)]
WHOLE_GROUPS = Rule(lambda v: v > 0 and v % GROUPS == 0, f"a multiple of {GROUPS} channels")
SPAN = Rule(lambda v: not v or (len(v) == 2 and 1 <= v[0] <= v[1]), "() or (first, last), from 1")
