"""What a trace found: a tracker's counts in; the report, its table and its JSON out. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from portside.trace import words
from portside.trace.tracker import Close, Connection, Counts, First, Pair, Tracker
from portside.trace.words import percent


@dataclass(frozen=True)
class PairReport:
    """One client's address and one server's address and port.

    Attributes:
        client: an address; "others" where there were too many pairs to tell apart.
        server: "ip:port", "[ip6]:port", or "others".
        connections: begun or met while the trace ran.
        closes: how they ended, with the count of each; sums up to ``ended``.
        quits: of these, those whose client said QUIT; TLS hides it.
        refused: RST in answer to the SYN.
        probes: RST of a client that had sent nothing: health checks.
        unclear: ended as the trace began; left out of ``closes``.
        samples: one connection for each way of ending.
    """

    client: str
    server: str
    connections: int
    closes: dict[Close, int]
    quits: dict[Close, int]
    refused: int
    probes: int
    unclear: int
    samples: dict[Close, Connection]

    @property
    def ended(self) -> int:
        """Connections whose end was seen."""
        return sum(self.closes.values())

    @property
    def ways(self) -> list[tuple[Close, int]]:
        """Closes with their counts, the most frequent first."""
        return sorted(self.closes.items(), key=lambda way: (-way[1], way[0].text))

    @property
    def with_quit(self) -> int:
        """Closes whose client said QUIT before."""
        return sum(self.quits.values())

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
        damage: where the file breaks, in a sentence; what came before is told. "": it does not.
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
    damage: str = ""

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
            "sentences": words.sentences(self),
            "doubts": words.doubts(self),
            "remarks": words.remarks(self),
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


HEADS = ("CLIENT", "SERVER", "CLOSES", "SHARE", "QUIT", "TIME_WAIT", "FIRST, THEN")


def rows(report: Report) -> list[tuple[str, ...]]:
    """The table, in the order of ``HEADS``: a row for each way of closing of each pair."""
    return [
        (
            pair.client,
            pair.server,
            f"{count:,}",
            percent(count, pair.ended),
            percent(pair.quits.get(close, 0), count),
            close.time_wait_at,
            close.text,
        )
        for pair in report.pairs
        for close, count in pair.ways
    ]


def _pair(pair: Pair, counts: Counts) -> PairReport:
    return PairReport(
        client=_address(pair.client),
        server=_with_port(pair.server, pair.port),
        connections=counts.connections,
        closes={close: count for close, count in counts.closes.items() if count},
        quits=dict(counts.quits),
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
                "with_quit": pair.quits.get(close, 0),
                "time_wait_at": close.time_wait_at,
                "sample": _sample_json(pair.samples.get(close)),
            }
            for close, count in pair.ways
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
