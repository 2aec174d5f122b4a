"""``portside top``: a running instance live, or on a page when nobody watches.

The first look is made here, so that a missing instance, a missing right or another version's
instance is one sentence and an exit code, and no screen that flashes up.
"""

from __future__ import annotations

import locale
import os
import sys
import time

from pydantic_core import PydanticCustomError

from portside.admin.client import AdminClient
from portside.cli import table
from portside.config.units import parse_duration
from portside.errors import ExitCode, PortsideError
from portside.top import boards, order
from portside.top.feed import look
from portside.top.frames import Frame, Rates, rates

TIMEOUT_S = 5.0
"""For one answer: a screen that is silent for longer should say so."""
LEAST_S = 0.2
STRIP = 24
"""Characters of a strip on a page."""


def main(admin: str | None, delay: str, once: bool) -> int:
    """Shows the instance at ``admin``; ``delay`` is the time between two looks.

    Raises:
        NoInstance: nothing answers there, or we may not ask.
        PortsideError: it is another version's, or ``delay`` is not a time.
    """
    every_s = read_delay(delay)
    client = AdminClient(admin, timeout_s=TIMEOUT_S)
    if once or not _is_screen():
        first = look(client, "status")
        time.sleep(every_s)
        last = look(client, "all")
        for part in page(last, rates(first, last), ascii_only=not _has_blocks(sys.stdout.encoding)):
            table.write(part, sys.stdout)
        return ExitCode.GOOD
    first = look(client, "services")
    from portside.top.app import Top

    app = Top(client, first, every_s, ascii_only=not _has_blocks(locale.getencoding()))
    app.run()
    return app.return_code or ExitCode.GOOD


def _is_screen() -> bool:
    # Textual draws on standard error, so that must be one, too.
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return all(each.isatty() for each in streams) and os.environ.get("TERM", "dumb") != "dumb"


def _has_blocks(encoding: str) -> bool:
    return "utf" in encoding.lower()


def read_delay(text: str) -> float:
    """Seconds of "2s" or "500ms".

    Raises:
        PortsideError: it is something else, or less than is good for anybody.
    """
    try:
        found = parse_duration(text)
    except PydanticCustomError:
        found = 0.0
    if found < LEAST_S:
        raise PortsideError(f'"{text}" is no delay: expected a time from "200ms", such as "2s".')
    return found


def page(frame: Frame, speed: Rates, *, ascii_only: bool = False) -> list[table.Part]:
    """Every view below the other; plain, for pipes and terminals that cannot do more."""
    parts: list[table.Part] = [boards.headline(frame.status, speed)]
    parts += [f"! {alert}" for alert in frame.status["alerts"]]
    for name, make in boards.views(ascii_only=ascii_only).items():
        board = make(frame, speed)
        parts += ["", name.upper()]
        parts.append(_table(board) if board.lines else board.empty)
    return parts


def _table(board: order.Board) -> table.Table:
    rows = tuple(tuple(_cell(field) for field in line.fields) for line in board.lines)
    right = frozenset(at for at, column in enumerate(board.columns) if column.right)
    return table.Table(tuple(column.head for column in board.columns), rows, right)


def _cell(field: order.Field) -> table.Cell:
    if field.draw is not None:
        return table.Cell("".join(text for text, _ in field.draw(STRIP)))
    return table.Cell(field.text, field.style)
