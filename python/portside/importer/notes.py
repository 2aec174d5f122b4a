"""What became of each line of the file that is imported, in words that a reader can act on.

A line may have several fates at once (`server` carries its address and loses its cookie), so each
line collects parts; the worst one is the line's outcome. Nothing here knows a configuration
language: HAProxy's and ProxySQL's readers both write here, `write` and the report read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from portside.errors import Problem


class Outcome(Enum):
    """What happened to a line or a part of it; the value is the word that the report prints."""

    CARRIED = "carried"
    """The result means the same."""
    CHANGED = "changed"
    """It is in the result, with another meaning: the note says which."""
    DROPPED = "dropped"
    """It is not in the result: the note says why, and the nearest way."""
    STAYS = "stays"
    """It is no business of a MySQL balancer: it stays where it is."""


_WORST: Final = (Outcome.DROPPED, Outcome.CHANGED, Outcome.STAYS, Outcome.CARRIED)


@dataclass(frozen=True, slots=True)
class Part:
    """One fate of one line.

    A note that begins with `ATTENTION` is about safety: it is said at once, not only in the report.
    """

    outcome: Outcome
    what: str
    """The words of the line that it is about; "" for the whole line."""
    note: str
    """What it became, or why not and what to do instead."""


@dataclass(eq=False, slots=True)
class Line:
    """One line of the file; compared by identity.

    Shape: `number` counts from 1; `text` is the line without its indent, secrets already hidden.
    """

    file: str
    number: int
    text: str
    parts: list[Part] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome | None:
        """The worst of its parts; None while nobody has looked at it."""
        found = {part.outcome for part in self.parts}
        return next((outcome for outcome in _WORST if outcome in found), None)

    def carried(self, note: str = "", what: str = "") -> None:
        """It means the same in the result."""
        self._add(Part(Outcome.CARRIED, what, note))

    def changed(self, note: str, what: str = "") -> None:
        """It is in the result and means something else."""
        self._add(Part(Outcome.CHANGED, what, note))

    def dropped(self, note: str, what: str = "") -> None:
        """It is not in the result."""
        self._add(Part(Outcome.DROPPED, what, note))

    def stays(self, note: str) -> None:
        """It stays where it is."""
        self._add(Part(Outcome.STAYS, "", note))

    def problem(self, message: str, hint: str = "") -> Problem:
        """A mistake in this line."""
        return Problem(self.file, self.number, 1, "", "", message, hint=hint)

    def _add(self, part: Part) -> None:
        if part not in self.parts:
            self.parts.append(part)


def counts(lines: Iterable[Line]) -> dict[Outcome, int]:
    """How many lines came to which outcome, every outcome present."""
    found = dict.fromkeys(Outcome, 0)
    for line in lines:
        if line.outcome is not None:
            found[line.outcome] += 1
    return found


SECRET: Final = re.compile(
    r"passw|passphrase|credential|secret|token|sign-pass|api[-_]?key|authorization", re.IGNORECASE
)
"""What the name of a secret holds, in HAProxy's language and ProxySQL's."""
HIDDEN: Final = "***"
"""What stands in place of a secret. Hiding too much costs nothing."""

# A comment of TOML holds no control character but tab, and a terminal should get none.
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def printable(text: str) -> str:
    """A text without control characters; a tab is a blank."""
    return text.expandtabs(1).translate(_CONTROL)
