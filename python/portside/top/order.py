"""Lines of a board: sorted, filtered, and fitted to a width. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Draw = Callable[[int], list[tuple[str, str]]]
GAP = 1
"""Blanks between columns."""


@dataclass(frozen=True, slots=True)
class Field:
    """One cell: its text, its style, and what it is sorted by when that is not its text."""

    text: str
    style: str = ""
    by: float | None = None
    draw: Draw | None = None
    """Draws it at a given width in place of ``text``."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column; those of a higher ``rank`` are left out first when the screen is narrow.

    ``grows``: takes the room that is left, and at least ``least``.
    """

    head: str
    rank: int = 0
    right: bool = False
    grows: bool = False
    least: int = 8


@dataclass(frozen=True, slots=True)
class Line:
    """One line and what it stands for, so that a key knows what it acts upon."""

    key: str
    fields: tuple[Field, ...]
    detail: str = ""
    """Everything that may not fit, in sentences."""
    parent: str = ""
    """The key of the line that it belongs below."""
    service: str = ""
    server: str = ""
    session: int | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """One view: columns and lines."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    empty: str = "Nothing to show."


@dataclass(frozen=True, slots=True)
class Order:
    """How a view is sorted and filtered; ``column`` None: as the instance tells it."""

    column: int | None = None
    descending: bool = False
    words: str = ""

    def next_column(self, count: int) -> Order:
        """The same by the next column; after the last as it came."""
        at = 0 if self.column is None else self.column + 1
        return Order(None if at >= count else at, self.descending, self.words)


def arrange(board: Board, order: Order) -> list[Line]:
    """Lines that hold every word of the filter, in order; each below the one it belongs to.

    A line stays when its parent or one of its children holds the words.
    """
    words = order.words.lower().split()

    def holds(line: Line) -> bool:
        text = " ".join((*(each.text for each in line.fields), line.detail)).lower()
        return all(word in text for word in words)

    found = {line.key for line in board.lines if holds(line)}
    parents = {line.parent for line in board.lines if line.key in found}
    kept = [x for x in board.lines if x.key in found or x.key in parents or x.parent in found]
    groups: dict[str, list[Line]] = {}
    for line in kept:
        groups.setdefault(line.parent, []).append(line)
    result: list[Line] = []
    for line in _sorted(groups.get("", []), order):
        result.append(line)
        result += _sorted(groups.get(line.key, []), order)
    return result


def _sorted(lines: list[Line], order: Order) -> list[Line]:
    at = order.column
    if at is None:
        return lines[::-1] if order.descending else lines

    def key(line: Line) -> tuple[bool, float, str]:
        cell = line.fields[at]
        return cell.by is None, cell.by or 0.0, cell.text.lower()

    return sorted(lines, key=key, reverse=order.descending)


def fit(board: Board, width: int) -> dict[int, int]:
    """Widths of the columns that a screen of ``width`` has room for; always the first one."""
    natural = {
        at: column.least
        if column.grows
        else max([len(column.head) + 1, *(len(line.fields[at].text) for line in board.lines)])
        for at, column in enumerate(board.columns)
    }
    shown = sorted(natural, key=lambda at: (board.columns[at].rank, at))
    while len(shown) > 1 and sum(natural[at] + GAP for at in shown) - GAP > width:
        shown.pop()
    spare = width - sum(natural[at] + GAP for at in shown) + GAP
    growing = [at for at in shown if board.columns[at].grows]
    for at in growing:
        natural[at] += max(0, spare) // len(growing)
    return {at: min(natural[at], max(1, width)) for at in sorted(shown)}


def clip(text: str, width: int, *, right: bool = False) -> str:
    """``text`` at exactly this width, with an ellipsis where it is cut."""
    if len(text) > width:
        return text[: max(0, width - 1)] + "…" if width > 1 else text[:width]
    return text.rjust(width) if right else text.ljust(width)


def head_of(columns: Sequence[Column], at: int, order: Order, width: int) -> str:
    """A heading, with an arrow when the view is sorted by it."""
    column = columns[at]
    arrow = "" if at != order.column else "▼" if order.descending else "▲"
    return clip(column.head[: max(1, width - len(arrow))] + arrow, width, right=column.right)
