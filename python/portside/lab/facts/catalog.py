"""Every fact, in the order of the tables, and the choice of ``--quick``."""

from __future__ import annotations

from collections.abc import Sequence

from portside.lab.facts import capacity, cliff, closes, memory, reuse, settings, sharing
from portside.lab.facts.fact import Fact

GROUPS = {
    "2": "capacity",
    "3": "CPU as the range fills",
    "4": "reuse settings",
    "5": "close orders",
    "6": "reuse of a tuple",
    "7": "memory",
    "8": "who blocks whom",
}

FACTS: Sequence[Fact] = (
    *capacity.FACTS,
    *cliff.FACTS,
    *settings.FACTS,
    *closes.FACTS,
    *reuse.FACTS,
    *memory.FACTS,
    *sharing.FACTS,
)


def choose(quick: bool) -> Sequence[Fact]:
    """All, or the subset."""
    return [fact for fact in FACTS if fact.quick or not quick]
