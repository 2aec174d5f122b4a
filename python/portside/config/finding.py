"""What the rules of a configuration find, before it has a place in a file."""

from __future__ import annotations

from dataclasses import dataclass

from portside.config.positions import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong or doubtful.

    `path` is to blame; `needs` are the other paths that were relied on, so that a key that is
    itself wrong does not cause a second, misleading message.
    """

    path: Path
    message: str
    value: str = ""
    expected: str = ""
    hint: str = ""
    needs: tuple[Path, ...] = ()
