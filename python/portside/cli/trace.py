"""``portside trace``: who closes first, live or from a capture file.

Shows the table while it grows, and at its end the table, sample closes and what they mean. Ctrl-C
ends it early, with what was seen so far. Decides nothing.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

import click

from portside import trace
from portside.cli import table
from portside.errors import ExitCode
from portside.trace import report as reports
from portside.trace import words
from portside.trace.drawing import drawings
from portside.trace.report import Report

_MOST_ROWS = 20
_PLAIN_EVERY_S = 5.0


@dataclass(frozen=True)
class Options:
    """The command line."""

    ports: Sequence[int] = (3306,)
    seconds: float = 10.0
    interface: str = ""
    read: str = ""
    samples: int = 4
    as_json: bool = False


def main(options: Options) -> int:
    """Watches or reads, and prints the report; 1 when no close was seen, or the file is damaged.

    Raises:
        TraceError: no rights, no such interface, an unreadable file.
    """
    with _stopped_by_signals() as stop, _view(options) as show:
        if options.read:
            report = trace.read(options.read, options.ports, show, stop)
        else:
            report = trace.watch(options.ports, options.seconds, options.interface, show, stop)
    with table.written():
        if options.as_json:
            click.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
        else:
            for part in parts(report, options.samples):
                table.write(part, sys.stdout)
    return ExitCode.GOOD if report.ended and not report.damage else ExitCode.NO


def parts(report: Report, samples: int) -> list[table.Part]:
    """What is printed at the end."""
    told: list[table.Part] = []
    if report.ended:
        told += [_headline(report), "", _table(report)]
        hidden = len(reports.rows(report)) - _MOST_ROWS
        if hidden > 0:
            told.append(f"and {hidden:,} more rows: --json has them all")
        for lines in drawings(report, samples):
            told += ["", *lines]
        told.append("")
    told += [*words.sentences(report), *words.remarks(report)]
    told += [f"! {text}" for text in words.doubts(report)]
    return told


def _headline(report: Report) -> str:
    return (
        f"First to close, port {', '.join(map(str, report.ports))}: {report.ended:,} closes in"
        f" {report.seconds:.1f} s, {report.packets:,} packets, {report.dropped:,} dropped,"
        f" {report.open:,} connections open"
    )


def _table(report: Report) -> table.Table:
    lines = tuple(reports.rows(report)[:_MOST_ROWS])
    return table.Table(reports.HEADS, lines, right=frozenset({2, 3, 4}))


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the watching, not the program: there is a report to print."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:  # the second time it is meant
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _view(options: Options) -> Iterator[Callable[[Report], None]]:
    """A table that changes on a terminal, elsewhere a line to standard error now and then."""
    if sys.stdout.isatty() and not options.as_json:
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        with Live(transient=True, auto_refresh=False) as live:

            def draw(report: Report) -> None:
                headline = Text(_headline(report) if report.pairs else _waiting(options))
                shown = table.as_rich(_table(report)) if report.pairs else ""
                live.update(Group(headline, shown), refresh=True)

            yield draw
        return
    last = time.monotonic()

    def line(report: Report) -> None:
        nonlocal last
        if not options.read and not report.seconds:
            click.echo(_waiting(options), err=True)
        elif time.monotonic() - last >= _PLAIN_EVERY_S:
            last = time.monotonic()
            click.echo(_headline(report), err=True)

    yield line


def _waiting(options: Options) -> str:
    where = options.interface or "every interface"
    ports = ", ".join(map(str, options.ports))
    return f"Watching port {ports} on {where} for {options.seconds:g} s; Ctrl-C ends it."
