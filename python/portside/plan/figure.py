"""One number of a plan, with everything a reader needs to doubt it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        key: how programs call it; fixed.
        name: how people do.
        value: the number, not rounded.
        unit: of the value, such as "connections/s"; "" for a mere ratio.
        formula: with the numbers in it, such as "28,232 / 60 s".
        assumption: what must be true for it.
        source: who says so.
    """

    key: str
    name: str
    value: float
    unit: str
    formula: str
    assumption: str
    source: str

    @property
    def text(self) -> str:
        """The value for people: whole, and rounded down, since ports do not come in parts.

        Ports needed are rounded up: one that is needed half of the time is needed.
        """
        if self.key == "needed":
            return f"{math.ceil(self.value):,}"
        if self.value < 10 and self.value != int(self.value):
            return f"{self.value:.2f}"
        return f"{int(self.value):,}"
