"""Bounds that stand in the type of a setting: `Annotated[int, Range(1)]`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``low <= x <= high``, or ``low < x`` where `open_low`."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            low = f"above {self.low:g} and up to" if self.open_low else f"from {self.low:g} to"
            return f"{low} {self.high:g}"
        if math.isfinite(self.low):
            return f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        return f"of at most {self.high:g}" if math.isfinite(self.high) else ""


@dataclass(frozen=True)
class Matches:
    """A pattern that a text has to match as a whole, and what it means in words."""

    pattern: str
    words: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words
