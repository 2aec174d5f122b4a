"""The source ports of one address towards one destination, as a strip of characters. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class State:
    """A state of ports and how it is drawn."""

    key: str
    glyph: str
    plain: str
    """Where the terminal's encoding is not UTF-8."""
    style: str
    words: str


STATES = (
    State("in_use", "█", "#", "green", "in use"),
    State("time_wait", "▓", "T", "yellow", "TIME_WAIT"),
    State("blocked", "x", "x", "red", "blocked"),
    State("reserved", "+", "+", "blue", "for checks"),
    State("resting", "░", "-", "cyan", "resting"),
    State("free", "·", ".", "bright_black", "free"),
)
"""Those that are gone stand left, those that can be had right."""


def draw(row: Mapping[str, Any], width: int, *, ascii_only: bool = False) -> list[tuple[str, str]]:
    """Pieces of text with their styles, ``width`` characters together.

    What there is at all has a character at least, as far as they reach: 3 ports in TIME_WAIT of
    18,000 are worth a look.
    """
    counts = [max(0, int(row[state.key])) for state in STATES]
    return [
        ((state.plain if ascii_only else state.glyph) * length, state.style)
        for state, length in zip(STATES, lengths(counts, width), strict=True)
        if length
    ]


def lengths(counts: list[int], width: int) -> list[int]:
    """``width`` shared out in proportion, at least 1 for each that is not 0; all 0 without any."""
    total = sum(counts)
    if total == 0 or width <= 0:
        return [0] * len(counts)
    least = [1 if count else 0 for count in counts]
    while sum(least) > width:  # narrower than there are states: the last ones give way
        least[max(at for at, one in enumerate(least) if one)] = 0
    spare = width - sum(least)
    exact = [count * width / total for count in counts]
    wants = [max(0.0, want - one) for want, one in zip(exact, least, strict=True)]
    scale = spare / sum(wants) if sum(wants) else 0.0
    shared = [int(want * scale) for want in wants]
    rest = [want * scale - whole for want, whole in zip(wants, shared, strict=True)]
    for at in sorted(range(len(counts)), key=lambda i: -rest[i])[: spare - sum(shared)]:
        shared[at] += 1
    return [one + more for one, more in zip(least, shared, strict=True)]


def legend(*, ascii_only: bool = False) -> str:
    """What the characters mean, in one line."""
    return "  ".join(f"{s.plain if ascii_only else s.glyph} {s.words}" for s in STATES)
