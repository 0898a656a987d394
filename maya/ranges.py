"""Allowed values of configuration fields, declared with the type:

    lr: PosFloat = 1e-3
    dropout: Annotated[float, Range(min=0, below=1)] = 0.1
    durations: tuple[Count, ...] = (0, 1, 2)

`maya.config` checks them whenever a field is assigned: in Python, by an override or from JSON.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

INF = math.inf


@runtime_checkable
class Constraint(Protocol):
    """A rule that `Annotated` attaches to the type of a field."""

    def allows(self, value: Any) -> bool:
        """Whether the field may hold this value of the right type."""
        ...

    def __str__(self) -> str:
        """The rule, to follow "must be"."""
        ...


@dataclass(frozen=True, slots=True)
class Range:
    """Finite numbers from `min` to `max` (both included), above `above` and below `below`.

    odd: odd numbers only. also: further values with a special meaning, such as -1 for all frames or infinity
    for no limit.
    """

    min: float = -INF
    max: float = INF
    above: float = -INF
    below: float = INF
    odd: bool = False
    also: tuple[float, ...] = ()

    def allows(self, value: float) -> bool:
        if value in self.also:
            return True
        inside = self.min <= value <= self.max and self.above < value < self.below
        is_finite = isinstance(value, int) or math.isfinite(value)
        return is_finite and inside and not (self.odd and value % 2 == 0)

    def __str__(self) -> str:
        low, high = self.min > -INF, self.max < INF
        parts = ["odd"] if self.odd else []
        if low and high:
            parts.append(f"from {_number(self.min)} to {_number(self.max)}")
        elif low and self.below < INF:
            parts.append(f"from {_number(self.min)} up to but below {_number(self.below)}")
        elif self.above > -INF:
            parts.append(f"above {_number(self.above)}")
        elif low:
            parts.append(f"{_number(self.min)} or more")
        if high and not low:
            parts.append(f"{_number(self.max)} or less")
        if self.below < INF and not low:
            parts.append(f"below {_number(self.below)}")
        text = " and ".join(parts) or "a finite number"
        return " or ".join([text, *map(_number, self.also)])


@dataclass(frozen=True, slots=True)
class Distinct:
    """Lists without repeated items. empty: whether the list may be empty."""

    empty: bool = True

    def allows(self, value: Iterable[Hashable]) -> bool:
        items = list(value)
        return len(set(items)) == len(items) and (self.empty or bool(items))

    def __str__(self) -> str:
        return "a list without repetition" + (" and not empty" if not self.empty else "")


@dataclass(frozen=True, slots=True)
class Ascending:
    """Pairs (low, high) with low <= high."""

    def allows(self, value: tuple[float, float]) -> bool:
        return value[0] <= value[1]

    def __str__(self) -> str:
        return "a range from low to high"


@dataclass(frozen=True, slots=True)
class NotEmpty:
    """Lists with at least one item."""

    def allows(self, value: tuple[Any, ...]) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return "a list of one item or more"


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"


Count = Annotated[int, Range(min=0)]
PosInt = Annotated[int, Range(min=1)]
OddInt = Annotated[int, Range(min=1, odd=True)]  # for kernels with a centre
Seed = Annotated[int, Range(min=0, max=2**32 - 1)]  # accepted by every random number generator
Finite = Annotated[float, Range()]
NonNegFloat = Annotated[float, Range(min=0)]
PosFloat = Annotated[float, Range(above=0)]
Limit = Annotated[float, Range(above=0, also=(INF,))]  # inf: no limit
Share = Annotated[float, Range(min=0, max=1)]  # or a probability
ContextFrames = Annotated[int, Range(min=0, also=(-1,))]  # -1: all frames
ChunkFrames = Annotated[int, Range(min=1, also=(-1,))]  # -1: all frames
BelowOne = Annotated[float, Range(min=0, below=1)]  # for dropout: at 1 nothing would pass
