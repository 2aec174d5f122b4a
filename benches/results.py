"""Rows of a benchmark, measured on every way in turn, and the table that they become.

Runs alternate, so that a machine that slows down hits everybody; medians with the lowest and
highest are printed. Only ratios within one run of a program mean something.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from ways import Way


@dataclass
class Row:
    """One thing that is measured: on which ways, in which unit.

    ``ours`` names our way, ``ratio`` the beginning of the name of the way that ours is divided by;
    ``values`` are per way, in the order of the runs.
    """

    name: str
    unit: str
    measure: Callable[[Way], float]
    ways: Sequence[Way]
    ours: str = ""
    ratio: str = ""
    target: str = ""
    values: dict[str, list[float]] = field(default_factory=dict)

    def run(self, way: Way) -> float:
        """Measures once more."""
        value = self.measure(way)
        self.note(way.name, value)
        return value

    def note(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def ratios(self) -> list[float]:
        """Ours through theirs, run by run."""
        theirs = next((n for n in self.values if n.startswith(self.ratio)), "")
        if not self.ratio or not theirs or self.ours not in self.values:
            return []
        pairs = zip(self.values[self.ours], self.values[theirs], strict=True)
        return [ours / other for ours, other in pairs if other]


def measure(rows: Sequence[Row], runs: int) -> None:
    """Every row on every way, ``runs`` times over; says each value."""
    for number in range(runs):
        for row in rows:
            for way in row.ways:
                value = row.run(way)
                name = f"run {number + 1}/{runs}, {row.name}"
                print(f"{name}: {way.name} {value:,.1f} {row.unit}", flush=True)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, lowest and highest; "" of nothing."""
    if not any(values):
        return ""
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def show(rows: Sequence[Row]) -> None:
    """Prints the table and what machine it was."""
    names = [way.name for way in max(rows, key=lambda row: len(row.ways)).ways]
    table = Table(title="median (lowest-highest) of the runs", title_justify="left")
    for heading in ("what", *names, "Portside / its peer", "target: at most"):
        table.add_column(heading)
    for row in rows:
        cells = [spread(row.values.get(name, [])) for name in names]
        ratio = spread(row.ratios(), 2)
        if ratio:
            ratio = f"{ratio} {row.ratio}"
        table.add_row(f"{row.name}, {row.unit}", *cells, ratio, row.target)
    wide = Console() if sys.stdout.isatty() else Console(width=200)
    wide.print(table)
    print(f"{host()}; backend, load and proxies share them.")


def host() -> str:
    return f"{os.cpu_count()} CPUs, Linux {platform.release()}"
