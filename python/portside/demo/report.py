"""What the demo shows: the live view and the table at its end. Figures in, rich objects out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from portside.demo.client import Figures


@dataclass(frozen=True)
class ServiceResult:
    """One service over one path.

    Attributes:
        service: "read" or "write".
        figures: what its clients saw.
        shares: server name to sessions answered.
        weights: server name to the weight it should have had; empty when nobody balances.
    """

    service: str
    figures: Figures
    shares: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PathResult:
    """One way to the databases: direct, through Portside (relay, pool), through HAProxy.

    Attributes:
        name: how the table calls it.
        services: read and write.
        aborted_clients: growth of Aborted_clients over the three servers.
        time_waits: growth of TIME_WAIT per host, None where hosts are not told apart.
    """

    name: str
    services: Sequence[ServiceResult]
    aborted_clients: int
    time_waits: Mapping[str, int] | None


def share_text(result: ServiceResult) -> str:
    """``db1 4.8 % (4.8)``: the share that was seen, and by its weight the share it should be."""
    total, weights = sum(result.shares.values()), sum(result.weights.values())
    parts = []
    for name in sorted({*result.shares, *result.weights}):
        seen = 100 * result.shares.get(name, 0) / total if total else 0.0
        wanted = f" ({100 * result.weights.get(name, 0) / weights:.1f})" if weights else ""
        parts.append(f"{name} {seen:.1f}%{wanted}")
    return "  ".join(parts)


def error_text(figures: Figures) -> list[str]:
    """One sentence per kind of error, most frequent first."""
    return [
        f"{error['count']:,} x {error['kind']}"
        + (f" {error['errno']}" if error["errno"] else "")
        + f": {error['text']}"
        for error in figures.errors
    ]


def live_table(name: str, services: Sequence[ServiceResult], left_s: float) -> Table:
    """The view while a path is under load."""
    table = Table(title=f"{name}: {max(0.0, left_s):.0f} s left", title_justify="left")
    for column in ("service", "connections/s", "errors", "p50 ms", "p99 ms", "answered by"):
        table.add_column(
            column, justify="left" if column in ("service", "answered by") else "right"
        )
    for result in services:
        table.add_row(result.service, *_numbers(result.figures), share_text(result))
    return table


def final_table(paths: Sequence[PathResult]) -> Table:
    """The table at the end."""
    has_hosts = any(path.time_waits is not None for path in paths)
    table = Table(
        title="PHP-like load: connect, log in, one query, QUIT, close", title_justify="left"
    )
    headings = ["path", "service", "connections/s", "errors", "p50 ms", "p99 ms"]
    headings += ["share % (by weight)", "Aborted_clients"]
    if has_hosts:
        headings.append("TIME_WAIT web / proxy / db")
    for heading in headings:
        left = heading in ("path", "service", "share % (by weight)")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for path in paths:
        for number, result in enumerate(path.services):
            first = number == 0
            row = [path.name if first else "", result.service, *_numbers(result.figures)]
            row += [share_text(result), f"+{path.aborted_clients}" if first else ""]
            if has_hosts:
                waits = path.time_waits or {}
                row.append(" / ".join(f"{count:,}" for count in waits.values()) if first else "")
            table.add_row(*row, end_section=number == len(path.services) - 1)
    return table


def plain_line(name: str, services: Sequence[ServiceResult]) -> str:
    """The live view where there is no terminal."""
    parts = [
        f"{result.service} {result.figures.sessions_per_s:,.0f}/s,"
        f" {result.figures.sessions_failed:,} errors"
        for result in services
    ]
    return f"{name}: {'; '.join(parts)}"


def _numbers(figures: Figures) -> tuple[str, str, str, str]:
    return (
        f"{figures.sessions_per_s:,.0f}",
        f"{figures.sessions_failed:,}",
        f"{figures.p50_us / 1000:.1f}",
        f"{figures.p99_us / 1000:.1f}",
    )
