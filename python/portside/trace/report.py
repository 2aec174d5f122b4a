"""What a trace says: a tracker's counts in; rows, drawings, sentences and JSON out. Pure.

The sentences follow from where the TIME_WAIT stays, since that decides who loses a source port:
only the side that chose the port, which is the client's. Figures of time and ports are Linux's
defaults and are said to be.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from portside.trace.tracker import Close, Connection, Counts, First, Pair, Tracker

TIME_WAIT_S = 60
"""TCP_TIMEWAIT_LEN, include/net/tcp.h; not tunable."""
DEFAULT_PORTS = 28_232
"""net.ipv4.ip_local_port_range as Linux has it, 32768-60999."""
_MOST_DRAWINGS = 4
# A share of the closes that is not worth a change.
_FEW = 0.01


@dataclass(frozen=True)
class PairReport:
    """One client's address and one server's address and port.

    Attributes:
        client: an address; "others" where there were too many pairs to tell apart.
        server: "ip:port", "[ip6]:port", or "others".
        connections: begun or met while the trace ran.
        closes: how they ended, with the count of each; sums up to ``ended``.
        with_quit: of the ended ones, those whose client said QUIT; TLS hides it.
        refused: RST in answer to the SYN.
        probes: RST of a client that had sent nothing: health checks.
        unclear: ended as the trace began; left out of ``closes``.
        samples: one connection for each way of ending.
    """

    client: str
    server: str
    connections: int
    closes: dict[Close, int]
    with_quit: int
    refused: int
    probes: int
    unclear: int
    samples: dict[Close, Connection]

    @property
    def ended(self) -> int:
        """Connections whose end was seen."""
        return sum(self.closes.values())

    def first(self, what: First) -> int:
        """Closes that began so."""
        return sum(count for close, count in self.closes.items() if close.first is what)

    def resets(self, by: str) -> int:
        """Closes in which the "client" or the "server" sent a RST."""
        begun = First.CLIENT_RST if by == "client" else First.SERVER_RST
        return sum(
            count
            for close, count in self.closes.items()
            if close.reset_by == by or close.first is begun
        )

    def time_waits(self, at: str) -> int:
        """TIME_WAITs that stay on the "client" or on the "server"; both, if the FINs crossed."""
        return sum(
            count for close, count in self.closes.items() if close.time_wait_at in (at, "both")
        )


@dataclass(frozen=True)
class Report:
    """A whole trace.

    Attributes:
        ports: where servers listen.
        seconds: how long it watched; of a file, from its first to its last packet.
        packets: TCP segments looked at.
        dropped: packets lost before we saw them.
        open: connections still open at the end.
        half_closed: of these, closed by one side only, for more than a second.
        forgotten: given up for want of room; their ends are missing.
        pairs: the one with the most closes first.
        notes: what a reader must know besides, such as a file that was cut off.
    """

    ports: tuple[int, ...]
    seconds: float
    packets: int
    dropped: int
    open: int
    half_closed: int
    forgotten: int
    pairs: tuple[PairReport, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def ended(self) -> int:
        """Closes seen."""
        return sum(pair.ended for pair in self.pairs)

    def as_json(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return {
            "ports": list(self.ports),
            "seconds": round(self.seconds, 3),
            "packets": self.packets,
            "dropped": self.dropped,
            "open": self.open,
            "half_closed": self.half_closed,
            "forgotten": self.forgotten,
            "closes": self.ended,
            "pairs": [_pair_json(pair) for pair in self.pairs],
            "sentences": sentences(self),
            "doubts": doubts(self),
            "remarks": remarks(self),
        }


def make(
    tracker: Tracker, seconds: float | None = None, dropped: int = 0, notes: Sequence[str] = ()
) -> Report:
    """The report of what a tracker knows now; ``seconds`` None: from its own packets."""
    if seconds is None:
        seconds = max(0.0, (tracker.ended or 0.0) - (tracker.began or 0.0))
    pairs = [_pair(pair, counts) for pair, counts in tracker.pairs.items()]
    return Report(
        ports=tuple(sorted(tracker.ports)),
        seconds=seconds,
        packets=tracker.segments,
        dropped=dropped,
        open=tracker.open,
        half_closed=tracker.half_closed,
        forgotten=tracker.forgotten,
        pairs=tuple(sorted(pairs, key=lambda pair: (-pair.ended, pair.client, pair.server))),
        notes=tuple(notes),
    )


HEADS = (
    "CLIENT",
    "SERVER",
    "CLOSES",
    "CLIENT FIN",
    "SERVER FIN",
    "BOTH AT ONCE",
    "CLIENT RST",
    "SERVER RST",
    "THEN RST BY",
    "QUIT",
    "TIME_WAIT CLIENT / SERVER",
)


def rows(report: Report, most: int) -> list[tuple[str, ...]]:
    """The table, in the order of ``HEADS``; "" where nothing was seen, no row without a close."""
    return [_row(pair) for pair in report.pairs[:most] if pair.ended]


def _row(pair: PairReport) -> tuple[str, ...]:
    then = Counter[str]()
    for close, count in pair.closes.items():
        then[close.reset_by] += count
    then.pop("", None)
    return (
        pair.client,
        pair.server,
        f"{pair.ended:,}",
        *(_share(pair.first(what), pair.ended) for what in First),
        ", ".join(f"{by} {_percent(count, pair.ended)}" for by, count in then.most_common()),
        _percent(pair.with_quit, pair.ended) if pair.ended else "",
        f"{pair.time_waits('client'):,} / {pair.time_waits('server'):,}",
    )


def _share(count: int, total: int) -> str:
    return f"{count:,} ({_percent(count, total)})" if count else ""


def _percent(count: int, total: int) -> str:
    """Never 0 % of something, nor 100 % of not all."""
    if not total:
        return ""
    share = 100 * count / total
    if 0 < share < 0.1:
        return "<0.1%"
    if 99.9 < share < 100:
        return ">99.9%"
    return f"{share:.0f}%" if share in (0, 100) else f"{share:.1f}%"


def drawings(report: Report, most: int = _MOST_DRAWINGS) -> list[list[str]]:
    """Sample closes as lines, the most frequent kinds first; the same arrows only once."""
    kinds = sorted(
        (
            (count, pair, close)
            for pair in report.pairs
            for close, count in pair.closes.items()
            if close in pair.samples
        ),
        key=lambda kind: -kind[0],
    )
    seen: set[tuple[tuple[bool, str], ...]] = set()
    drawn: list[list[str]] = []
    for count, pair, close in kinds:
        shape = tuple((step.from_client, step.what) for step in pair.samples[close].steps)
        if shape in seen or not shape:
            continue
        if len(drawn) == most:
            break
        seen.add(shape)
        drawn.append(_drawing(pair, close, count))
    return drawn


def _drawing(pair: PairReport, close: Close, count: int) -> list[str]:
    sample = pair.samples[close]
    lines = [
        f"{pair.client} port {sample.client_port} and {pair.server}: {close.text}"
        f" ({count:,} of {pair.ended:,} closes)"
    ]
    width = max(len(step.what) for step in sample.steps)
    before = sample.steps[0].time
    for number, step in enumerate(sample.steps):
        gap = f"+{1000 * (step.time - before):.2f} ms" if number else ""
        arrow = "==>" if step.from_client else "<=="
        lines.append(f"  {gap:>12}  client {arrow} {step.what:^{width}} {arrow} server")
        before = step.time
    lines.append(f"  {'':>12}  TIME_WAIT: {_STAYS[close.time_wait_at]}")
    return lines


_STAYS = {
    "client": "stays at the client, with its source port, for 60 s",
    "server": "stays at the server, which costs no source port",
    "both": "stays at both ends; the client's costs it a source port for 60 s",
    "nobody": "stays nowhere",
}


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
        f"Nobody closed a connection to TCP port {ports} in {report.seconds:.1f} s;"
        f" {report.open:,} are open. Connections that stay open cost one port each and no"
        " TIME_WAIT."
    )


def _who_closes(report: Report) -> str:
    counts = Counter[First]()
    for pair in report.pairs:
        for close, count in pair.closes.items():
            counts[close.first] += count
    parts = [f"{what.value} in {_percent(n, report.ended)}" for what, n in counts.most_common()]
    rate = f", {report.ended / report.seconds:,.0f} a second" if report.seconds >= 1 else ""
    return f"First to close, of {report.ended:,}{rate}: {', '.join(parts)}."


def _lost_ports(report: Report, loser: PairReport) -> list[str]:
    count = loser.time_waits("client")
    text = (
        f"{loser.client} keeps a TIME_WAIT, and a source port towards {loser.server}, for"
        f" {_percent(count, loser.ended)} of its closes"
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
    said = list(report.notes)
    if report.dropped:
        share = _percent(report.dropped, report.dropped + report.packets)
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


def _pair(pair: Pair, counts: Counts) -> PairReport:
    return PairReport(
        client=_address(pair.client),
        server=_with_port(pair.server, pair.port),
        connections=counts.connections,
        closes={close: count for close, count in counts.closes.items() if count},
        with_quit=counts.with_quit,
        refused=counts.refused,
        probes=counts.probes,
        unclear=counts.unclear,
        samples=dict(counts.samples),
    )


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed)) if packed else "others"


def _with_port(packed: bytes, port: int) -> str:
    if not packed:
        return "others"
    return f"{_address(packed)}:{port}" if len(packed) == 4 else f"[{_address(packed)}]:{port}"


def _pair_json(pair: PairReport) -> dict[str, Any]:
    return {
        "client": pair.client,
        "server": pair.server,
        "connections": pair.connections,
        "closes": pair.ended,
        "first": {
            what.name.lower(): {
                "count": pair.first(what),
                "percent": round(100 * pair.first(what) / pair.ended, 2) if pair.ended else 0.0,
            }
            for what in First
        },
        "resets": {by: pair.resets(by) for by in ("client", "server")},
        "time_wait": {at: pair.time_waits(at) for at in ("client", "server")},
        "with_quit": pair.with_quit,
        "refused": pair.refused,
        "probes": pair.probes,
        "unclear": pair.unclear,
        "ways": [
            {
                "close": close.text,
                "count": count,
                "time_wait_at": close.time_wait_at,
                "sample": _sample_json(pair.samples.get(close)),
            }
            for close, count in sorted(pair.closes.items(), key=lambda item: -item[1])
        ],
    }


def _sample_json(sample: Connection | None) -> list[dict[str, Any]]:
    if sample is None or not sample.steps:
        return []
    began = sample.steps[0].time
    return [
        {
            "ms": round(1000 * (step.time - began), 3),
            "from": "client" if step.from_client else "server",
            "what": step.what,
        }
        for step in sample.steps
    ]
