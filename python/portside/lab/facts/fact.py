"""A fact, what came out here, and whether that is the same. Pure: it knows no sockets.

An ``Outcome`` has a value, which is compared, and a detail, which is only shown: "33 us, then
2,966" is never the same twice, "cliff at half" is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from portside.errors import PortsideError

if TYPE_CHECKING:
    from portside.lab.facts.stage import Stage


class CannotMeasureError(PortsideError):
    """The experiment cannot be made here; the text says why, without a full stop."""


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to.

    Attributes:
        value: words or a number; this is what must be the same.
        detail: figures behind it, for the reader.
    """

    value: str | float
    detail: str = ""

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:,g}"
        return f"{value} ({self.detail})" if self.detail else value


class Verdict(Enum):
    """Whether this kernel does as 6.18 did."""

    DIFFERS = "differs"
    UNMEASURED = "not measured"
    SAME = "same"


@dataclass(frozen=True)
class Fact:
    """One measurement of the tables.

    Attributes:
        id: group and row, "5/S9b".
        says: the experiment in plain words.
        measured: what came out on Linux 6.18.
        measure: makes the experiment; called on a thread inside the proxy's namespace. Raises
            CannotMeasureError.
        means: what it means for a Portside on this kernel when the outcome is another.
        tolerance: of a number, relative; words must be equal.
        delay: over the line with 5 ms each way; else over a cable.
        quick: in the subset of ``--quick`` too.
    """

    id: str
    says: str
    measured: Outcome
    measure: Callable[[Stage], Outcome]
    means: str
    tolerance: float = 0.0
    delay: bool = False
    quick: bool = False

    @property
    def group(self) -> str:
        """The part before the slash."""
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class Result:
    """A fact and what came out here.

    Attributes:
        fact: the fact.
        here: None when it could not be measured.
        why: why not; "" when it could.
    """

    fact: Fact
    here: Outcome | None
    why: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether it is the same here."""
        if self.here is None:
            return Verdict.UNMEASURED
        same = is_same(self.fact.measured.value, self.here.value, self.fact.tolerance)
        return Verdict.SAME if same else Verdict.DIFFERS


def is_same(measured: str | float, here: str | float, tolerance: float) -> bool:
    """Equal words, or numbers within ``tolerance`` (relative to what was measured)."""
    if isinstance(measured, str) or isinstance(here, str):
        return measured == here
    return abs(here - measured) <= tolerance * abs(measured)
