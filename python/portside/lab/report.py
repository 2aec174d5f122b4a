"""What the lab says: results in, table, three sentences and JSON out. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from portside.lab.run import Progress, Result
from portside.lab.scale import Scale
from portside.lab.strategies import By, Ports

_WORDS = {
    "eof": "closed on them",
    "reset": "reset",
    "timeout": "no answer",
    "protocol": "garbled",
}


@dataclass(frozen=True)
class About:
    """Where and how a run was made: the footer of everything.

    Attributes:
        command: as it was typed.
        kernel: its release.
        versions: program to version, as each says it.
        server: "sink" or "mariadb".
    """

    command: str
    kernel: str
    versions: Mapping[str, str]
    server: str

    @property
    def footer(self) -> str:
        """One line."""
        programs = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"Linux {self.kernel}; {programs}; {self.command}"


def failure_text(result: Result) -> str:
    """``1,200 EADDRNOTAVAIL``: the failures and the most frequent reason; "0" without any."""
    if not result.failed or not result.errors:
        return f"{result.failed:,}"
    first = result.errors[0]
    kind, number = str(first["kind"]), int(first["errno"])
    if kind == "server":
        word = f"ERR {number}"
    elif number:
        word = errno.errorcode.get(number, f"errno {number}")
    else:
        word = _WORDS.get(kind, kind)
    return f"{result.failed:,} {word}"


def path_text(result: Result) -> str:
    """``0.50 ms, TUN line``: round trip between proxy and database, and what makes it."""
    if not result.delay_us:
        return "no delay" if result.path == "cable" else f"no delay, {result.path}"
    return f"{2 * result.delay_us / 1000:.2f} ms, {result.path}"


_COLUMNS = (
    "strategy",
    "done",
    "failed",
    "per s",
    "web",
    "proxy",
    "db",
    "aborted",
    "CPU us",
    "p50 ms",
    "p99 ms",
    "path (round trip)",
)


def cells(result: Result) -> list[str]:
    """One row of the table, in the order of its headings."""
    return [
        result.strategy.title,
        f"{result.done:,}",
        failure_text(result),
        f"{result.done / result.seconds:,.0f}" if result.seconds else "",
        *(f"{result.peak(host):,}" for host in ("web", "proxy", "db")),
        f"{result.aborted:,}",
        "" if result.cpu_us is None else f"{result.cpu_us:.0f}",
        f"{result.p50_us / 1000:.1f}",
        f"{result.p99_us / 1000:.1f}",
        path_text(result),
    ]


def table(results: Iterable[Result], scale: Scale) -> Table:
    """The table at the end."""
    made = Table(
        title=f"portside lab ({scale.name}); web, proxy, db: most TIME_WAITs at a time there",
        title_justify="left",
    )
    for heading in _COLUMNS:
        left = heading in ("strategy", "failed", "path (round trip)")
        made.add_column(heading, justify="left" if left else "right", overflow="fold")
    for result in results:
        made.add_row(*cells(result), style="green" if result.strategy.is_ours else None)
    return made


def html_rows(results: Iterable[Result]) -> tuple[Sequence[str], list[list[str]]]:
    """Headings and rows for the page."""
    return _COLUMNS, [cells(result) for result in results]


def live_line(progress: Progress, number: int, of: int) -> str:
    """What is known of the strategy that runs."""
    last = progress.samples[-1] if progress.samples else None
    waits = f"{last.web:,} / {last.proxy:,} / {last.db:,}" if last else "-"
    return (
        f"[{number}/{of}] {progress.strategy.title}: {progress.done:,} done,"
        f" {progress.failed:,} failed, TIME_WAIT web/proxy/db {waits}"
    )


def sentences(results: Sequence[Result], scale: Scale) -> list[str]:
    """What the table means, in three sentences; they say what was measured, also when it is bad."""
    return [_wall(results, scale), _more_ports(results), _ours(results)]


def _wall(results: Sequence[Result], scale: Scale) -> str:
    """The ways with one address and the kernel's ports."""
    first = [
        result
        for result in results
        if result.strategy.close == "fin"
        and not result.strategy.addresses
        and not result.strategy.wide
    ]
    if not first:
        return "The wall was not shown: no strategy with one address that closes first was run."
    walls = [_stopped(result) for result in first if result.failed]
    going = [_went_on(result) for result in first if not result.failed]
    parts = []
    if walls:
        parts.append(f"connections stopped for want of ports: {', '.join(walls)}")
    if going:
        parts.append(f"short of the wall when time was up: {', '.join(going)}")
    return (
        "Whoever closes first keeps a TIME_WAIT, and its port, for 60 s; with one address towards"
        f" one database and {scale.range_size:,} ports, {'; '.join(parts)}."
    )


def _stopped(result: Result) -> str:
    return f"{result.strategy.title} after {result.done:,}"


def _went_on(result: Result) -> str:
    return f"{result.strategy.title} at {result.done:,} after {result.seconds:.0f} s"


def _more_ports(results: Sequence[Result]) -> str:
    more = [
        result
        for result in results
        if result.strategy.close == "fin" and (result.strategy.addresses or result.strategy.wide)
    ]
    if not more:
        return "Whether more ports help was not shown: no strategy with more of them was run."
    parts = ", ".join(
        f"{result.strategy.title} kept {result.peak('proxy'):,} TIME_WAITs"
        + (" and then failed" if result.failed else "")
        for result in more
    )
    return f"More ports only move the wall: {parts}."


def _ours(results: Sequence[Result]) -> str:
    ours = [result for result in results if result.strategy.is_ours]
    if not ours:
        return "Portside's close was not run."
    done = sum(result.done for result in ours)
    worst = max(result.peak(host) for result in ours for host in ("web", "proxy", "db"))
    failed = sum(result.failed for result in ours)
    aborted = sum(result.aborted for result in ours)
    left = "no TIME_WAIT on any host" if not worst else f"at most {worst:,} TIME_WAITs on a host"
    text = f"Portside's close left {left} over {done:,} connections"
    text += f", {failed or 'none'} failed, {aborted or 'none'} aborted on the database"
    one = [result for result in ours if result.strategy.ports is Ports.ONE]
    if one:
        text += (
            f"; {one[0].done:,} of them went over one single source port, one after the other,"
            f" in {one[0].seconds:.1f} s"
        )
    return f"{text}."


def notes(results: Sequence[Result], scale: Scale) -> list[str]:
    """What a reader must know to read the figures right."""
    said = []
    if scale.port_range is not None:
        said.append(
            f"The port ranges are narrowed ({scale.range_size:,} for the kernel,"
            f" {scale.ring_size:,} per address for the balancers), so that the wall stands where a"
            " short run reaches it; portside lab without --quick has the real ones."
        )
    if any(result.strategy.by is not By.NOBODY for result in results):
        said.append(
            "Behind a proxy the web host has 16 addresses and a wide range: it stands for many web"
            " servers and is not what runs out. p50 and p99 are from connect() to the answer."
        )
    if any(not result.strategy.has_delay for result in results):
        said.append(
            "No delay where connections follow each other over one port, or where a minute must"
            " fill every port of four addresses."
        )
    filtered = [result for result in results if result.strategy.eats_resets]
    if filtered:
        seen = (
            "noticed it (resets_lost) and closes with FIN there, so the database keeps TIME_WAITs"
            if filtered[0].resets_lost
            else "did not notice it yet"
        )
        said.append(f"Where resets are filtered, Portside {seen}.")
    return said


def as_json(results: Sequence[Result], scale: Scale, about: About) -> dict[str, Any]:
    """Everything, for --json."""
    return {
        "about": asdict(about),
        "scale": asdict(scale),
        "sentences": sentences(results, scale),
        "notes": notes(results, scale),
        "strategies": [_one_json(result) for result in results],
    }


def _one_json(result: Result) -> dict[str, Any]:
    return {
        "key": result.strategy.key,
        "title": result.strategy.title,
        "done": result.done,
        "failed": result.failed,
        "errors": list(result.errors),
        "seconds": round(result.seconds, 3),
        "time_wait_peak": {host: result.peak(host) for host in ("web", "proxy", "db")},
        "aborted": result.aborted,
        "cpu_us": None if result.cpu_us is None else round(result.cpu_us, 1),
        "p50_us": result.p50_us,
        "p99_us": result.p99_us,
        "path": result.path,
        "delay_us": result.delay_us,
        "resets_lost": result.resets_lost,
        "samples": [asdict(sample) for sample in result.samples],
    }
