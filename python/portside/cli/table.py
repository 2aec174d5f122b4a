"""Columns for people and for pipes: one description, two ways to write it.

On a terminal: rich, fitted to its width, long texts folded. Elsewhere: plain text, every value in
full, columns apart by two blanks, so that grep and awk work.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, Union

from portside.errors import PortsideError

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Cell:
    """A text with a style that only a terminal shows."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Headings and rows; ``right`` are the columns that hold numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    right: frozenset[int] = frozenset()


Part = Union[Table, str]  # Python 3.9: doctor.pyz


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Around everything that writes a report to standard output.

    Raises:
        PortsideError: it cannot be written, say for want of room.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise PortsideError(f"cannot write the report: {error.strerror}") from None


def write(part: Part, stream: TextIO) -> None:
    """Writes a line or a table to ``stream``."""
    if stream.isatty():
        _write_rich(part, stream)
    elif isinstance(part, str):
        stream.write(part + "\n")
    else:
        stream.write(plain(part))


def plain(table: Table) -> str:
    """The table as aligned text; columns that hold nothing are left out."""
    rows = [tuple(_text(cell) for cell in row) for row in table.rows]
    kept = [at for at in range(len(table.heads)) if not rows or any(row[at] for row in rows)]
    lines = [table.heads, *rows]
    widths = {at: max(len(line[at]) for line in lines) for at in kept}
    text = []
    for line in lines:
        cells = (
            line[at].rjust(widths[at]) if at in table.right else line[at].ljust(widths[at])
            for at in kept
        )
        text.append("  ".join(cells).rstrip())
    return "\n".join(text) + "\n"


def _text(cell: Cell | str) -> str:
    return cell if isinstance(cell, str) else cell.text


def as_rich(part: Table) -> RichTable:
    """The table for a terminal; columns that hold nothing are left out."""
    from rich.table import Table as RichTable
    from rich.text import Text

    kept = [at for at in range(len(part.heads)) if any(_text(row[at]) for row in part.rows)]
    shown = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at in kept or range(len(part.heads)):
        last = at == (kept or range(len(part.heads)))[-1]
        # Only the last column may fold: names and numbers that break are misread.
        shown.add_column(
            part.heads[at],
            justify="right" if at in part.right else "left",
            no_wrap=not last,
            overflow="fold" if last else "ellipsis",
        )
    for row in part.rows:
        cells = (row[at] for at in kept)
        shown.add_row(
            *(Text(c) if isinstance(c, str) else Text(c.text, style=c.style) for c in cells)
        )
    return shown


def _write_rich(part: Part, stream: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, no_color="NO_COLOR" in os.environ)
    if isinstance(part, str):
        style = "bold yellow" if part.startswith("! ") else ""
        console.print(Text(part, style=style))
    else:
        console.print(as_rich(part))
