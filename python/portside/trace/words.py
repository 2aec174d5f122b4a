"""What a trace means, in sentences: who keeps the TIME_WAIT, and what to change. Pure.

They follow from where the TIME_WAIT stays, since that decides who loses a source port: only the
side that chose the port, which is the client's. Figures of time and ports are Linux's defaults and
are said to be.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from portside.trace.tracker import First

if TYPE_CHECKING:
    from portside.trace.report import PairReport, Report

TIME_WAIT_S = 60
"""TCP_TIMEWAIT_LEN, include/net/tcp.h; not tunable."""
DEFAULT_PORTS = 28_232
"""net.ipv4.ip_local_port_range as Linux has it, 32768-60999."""
# A share of the closes that is not worth a change.
_FEW = 0.01


def percent(count: int, total: int) -> str:
    """Never 0 % of something, nor 100 % of not all."""
    if not total:
        return ""
    share = 100 * count / total
    if 0 < share < 0.1:
        return "<0.1%"
    if 99.9 < share < 100:
        return ">99.9%"
    return f"{share:.0f}%" if share in (0, 100) else f"{share:.1f}%"


def sentences(report: Report) -> list[str]:
    """What it means: who keeps the TIME_WAIT, and what to change."""
    if not report.ended:
        return [_nothing(report)]
    said = [_who_closes(report)]
    loser = max(report.pairs, key=lambda pair: pair.time_waits("client"))
    lost = loser.time_waits("client")
    if lost and lost < loser.ended * _FEW:
        said.append(
            f"Only {lost:,} of {loser.ended:,} closes from {loser.client} to {loser.server} left a"
            " TIME_WAIT there: too few to matter."
        )
    elif lost:
        said += _lost_ports(report, loser)
    elif any(pair.time_waits("server") for pair in report.pairs):
        said.append(
            "The TIME_WAIT stays at the server, where it costs some 400 bytes and no source port:"
            " nothing has to change for the sake of ports."
        )
    else:
        said.append("No TIME_WAIT stays anywhere, so source ports come back at once.")
    early = sum(pair.first(First.CLIENT_RST) for pair in report.pairs)
    without_quit = sum(pair.ended - pair.with_quit for pair in report.pairs)
    if early:
        said.append(
            f"{early:,} {_times(early)} the client's RST came first; where no QUIT went ahead of"
            " it, or a reply was under way, the server counts it in Aborted_clients."
        )
    elif without_quit > report.ended / 2:
        said.append(
            f"{without_quit:,} of {report.ended:,} closes had no QUIT to be seen: TLS hides it;"
            " without TLS the server counts them in Aborted_clients."
        )
    return said


def _nothing(report: Report) -> str:
    ports = " or ".join(map(str, report.ports))
    if not report.packets:
        return (
            f"No packet to or from TCP port {ports} was seen in {report.seconds:.1f} s. Is it the"
            " right port, host and network namespace? (ip netns exec NAME portside trace; a unix"
            " socket has no packets.)"
        )
    return (
        f"No connection to TCP port {ports} ended in {report.seconds:.1f} s; open now:"
        f" {report.open:,}, each with a port and without a TIME_WAIT."
    )


def _who_closes(report: Report) -> str:
    counts = Counter[First]()
    for pair in report.pairs:
        for close, count in pair.closes.items():
            counts[close.first] += count
    parts = [f"{what.value} in {percent(n, report.ended)}" for what, n in counts.most_common()]
    rate = f", {report.ended / report.seconds:,.0f} a second" if report.seconds >= 1 else ""
    return f"First to close, of {report.ended:,}{rate}: {', '.join(parts)}."


def _lost_ports(report: Report, loser: PairReport) -> list[str]:
    count = loser.time_waits("client")
    text = (
        f"{loser.client} keeps a TIME_WAIT, and a source port towards {loser.server}, for"
        f" {percent(count, loser.ended)} of its closes"
    )
    if report.seconds >= 1:
        rate = count / report.seconds
        held = rate * TIME_WAIT_S
        text += (
            f": {rate:,.0f}/s x {TIME_WAIT_S} s make {held:,.0f} at a time. Linux's default range"
            f" has {DEFAULT_PORTS:,} ports, and connect() turns slow at {DEFAULT_PORTS // 2:,}"
        )
    return [
        f"{text}.",
        "Clients that close at once after QUIT cannot be told otherwise; a proxy between can wait"
        " for the server's FIN and then reset, which leaves no TIME_WAIT (Portside does). What"
        f" wider ranges and more addresses would give: portside plan{_rate_option(report, count)}.",
    ]


def _rate_option(report: Report, count: int) -> str:
    return f" --rate {count / report.seconds:.0f}" if report.seconds >= 1 else ""


def _times(count: int) -> str:
    return "time" if count == 1 else "times"


def doubts(report: Report) -> list[str]:
    """What makes the figures less than exact, each in a sentence; empty when nothing does."""
    said = [*([report.damage] if report.damage else []), *report.notes]
    if report.dropped:
        share = percent(report.dropped, report.dropped + report.packets)
        said.append(
            f"{report.dropped:,} packets ({share}) were dropped because they came faster than this"
            " program reads them: closes are missing, and some may be told wrong."
        )
    if report.forgotten:
        said.append(
            f"{report.forgotten:,} open connections were forgotten for want of room; how they"
            " ended is missing."
        )
    unclear = sum(pair.unclear for pair in report.pairs)
    if unclear:
        said.append(
            f"{unclear:,} connections ended within the first second and their first FIN may have"
            " been missed; they are left out."
        )
    return said


def remarks(report: Report) -> list[str]:
    """What was seen besides closes."""
    said = []
    if report.half_closed:
        said.append(
            f"{report.half_closed:,} of {report.open:,} open connections are closed by one side"
            " only, for more than a second: an application that does not close leaves CLOSE_WAIT."
        )
    refused = sum(pair.refused for pair in report.pairs)
    probes = sum(pair.probes for pair in report.pairs)
    if refused:
        said.append(f"{refused:,} connections were refused: nobody listens there.")
    if probes:
        said.append(f"{probes:,} connections were reset before a byte was sent: health checks.")
    return said
