"""The state of source ports in sentences: why it is so, and what to do. Pure.

Takes the rows of ``portside show ports`` and speaks of each destination once, whatever the number
of our addresses towards it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from portside.admin.views import PortView

NONE_OF_OURS = (
    "The kernel chooses the source ports of every server: [source] ports is not set."
    ' With ports = "auto" Portside does (docs/ports.md).'
)
_MANY = 0.05  # a share of the tuples that deserves a sentence
_TRIES_WORTH_A_WORD = 100


@dataclass(frozen=True, slots=True)
class _Sum:
    """All rows of one destination."""

    name: str
    server: str
    sources: int
    size: int
    usable: int
    in_use: int
    blocked: int
    time_wait: int
    wasted_probes: int
    exhausted_in_s: float | None
    peer_timestamps: bool | None
    resets_lost: bool


def sentences(rows: Sequence[PortView]) -> list[str]:
    """One or more sentences per destination, in the order of the rows."""
    if not rows:
        return [NONE_OF_OURS]
    said: list[str] = []
    for total in _sums(rows):
        said += [f"{total.name}: {text}" for text in _about(total)]
    return said


def alerts(rows: Sequence[PortView]) -> list[str]:
    """What of it needs a person now: ports that are gone or going, and lost resets."""
    said = []
    for total in _sums(rows):
        if total.usable == 0 or total.exhausted_in_s is not None:
            text = _about(total)[0].partition(". ")[0]
            said.append(f"server {total.name}: {text}: portside show ports {total.server}")
        if total.resets_lost:
            said.append(
                f"server {total.name}: the path swallows resets, so our FIN answers the server's:"
                f" portside show ports {total.server}"
            )
    return said


def closes(rows: Iterable[PortView]) -> str:
    """The closes of the last minute by outcome, the most frequent first."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.closes)
    if not counts:
        return "Closes of the last minute: none."
    told = ", ".join(f"{how} {count:,}" for how, count in counts.most_common())
    return f"Closes of the last minute: {told} (portside explain OUTCOME)."


def _sums(rows: Sequence[PortView]) -> list[_Sum]:
    groups = groupby(rows, lambda row: (row.server, row.destination))
    return [_sum(list(group)) for _, group in groups]


def _sum(rows: list[PortView]) -> _Sum:
    first = rows[0]
    # The ledger goes over to another address when one has nothing left: only all of them count.
    times = [row.exhausted_in_s for row in rows]
    known = [time for time in times if time is not None]
    return _Sum(
        name=f"{first.server}, {first.destination}",
        server=first.server,
        sources=len(rows),
        size=sum(row.size for row in rows),
        usable=sum(row.free + row.resting for row in rows),
        in_use=sum(row.in_use for row in rows),
        blocked=sum(row.blocked for row in rows),
        time_wait=sum(row.time_wait for row in rows),
        wasted_probes=sum(row.wasted_probes for row in rows),
        exhausted_in_s=max(known) if len(known) == len(times) else None,
        peer_timestamps=first.peer_timestamps,
        resets_lost=first.resets_lost,
    )


def _about(total: _Sum) -> list[str]:
    said = []
    if total.usable == 0:
        text = f"no source port is left, of {total.size:,}. This is not the database. "
        said.append(text + _cause_and_cure(total))
    elif total.exhausted_in_s is not None:
        text = f"no source port will be left in {_time(total.exhausted_in_s)} at this rate. "
        said.append(text + _cause_and_cure(total))
    elif total.blocked >= total.size * _MANY or total.time_wait >= total.size * _MANY:
        said.append(f"{total.usable:,} of {total.size:,} are usable. {_cause_and_cure(total)}")
    else:
        said.append(
            f"{total.usable:,} of {total.size:,} source ports are usable, and they come back as"
            " fast as they are taken."
        )
    if total.resets_lost:
        said.append(
            "something on the way swallows our resets (a firewall that drops RST, most likely), so"
            " for now our FIN answers the server's, which keeps the TIME_WAIT, and ports rest 60 s."
            ' Let RST pass, or make it lasting: close = { to_server = "eof" } for server'
            f" {total.server}."
        )
    if total.wasted_probes >= _TRIES_WORTH_A_WORD:
        said.append(
            f"{total.wasted_probes:,} tries since the start met a port that another program had."
            " portside check says whether the range lies inside the kernel's own."
        )
    return said


def _cause_and_cure(total: _Sum) -> str:
    causes = {"in_use": total.in_use, "time_wait": total.time_wait, "blocked": total.blocked}
    worst = max(causes, key=lambda name: causes[name])
    if worst == "in_use":
        each = total.size // total.sources
        return (
            f"{total.in_use:,} sessions are open at the same time: that is load, not leftovers. Add"
            f" an address to source.addresses ({each:,} more ports each) or widen source.ports; or"
            f" limit max_connections of server {total.server} if the sessions hang."
        )
    if worst == "time_wait":
        return f"{total.time_wait:,} are in TIME_WAIT, 60 s each: {_why_time_wait(total)}"
    return (
        f"{total.blocked:,} are blocked: another program has the port, or the address is not on"
        " this host, or the server refuses it. Look at portside show events and ss -tan; keep"
        " source.ports out of net.ipv4.ip_local_port_range (portside check has the line)."
    )


def _why_time_wait(total: _Sum) -> str:
    if total.peer_timestamps:
        return (
            "they were in that state when we tried them, or an earlier process left them. With"
            " timestamps at both ends they come back at once after a close of ours; see the closes."
        )
    return (
        'our FIN was first and a TCP end has no timestamps. Set close = { to_server = "eof-reset" }'
        " so that the server closes first, or net.ipv4.tcp_timestamps = 1 at both ends."
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
