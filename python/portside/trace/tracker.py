"""Who closes first: TCP segments with their times in, closes per pair of hosts out.

Pure: no clock, no sockets. Bounded whatever comes: ``MOST_OPEN`` connections at a time (the one
silent for longest is forgotten and counted), ``MOST_PAIRS`` pairs (the rest are counted together),
a dozen steps of each close. In the flow: live or capture_file -> segment -> ``Tracker`` -> report.

What is told apart is what decides where the TIME_WAIT stays (docs/trace.md): whose FIN was first,
whether the FINs crossed, and whether a RST ended it. Whoever sees the other's FIN answers it with
an acknowledgement, so a FIN that does not acknowledge the other one was sent before it arrived.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from portside.trace.segment import ACK, FIN, RST, SYN, Segment

MOST_OPEN = 65_536
MOST_PAIRS = 4_096
# Remembered so that what comes after the end (a last ACK, a RST) is not a new connection.
MOST_ENDED = 8_192
MOST_STEPS = 12
_PAIRS_WITH_SAMPLES = 256
# A FIN of a connection never seen before may be the second one this soon after the start.
_UNCLEAR_S = 1.0
# So long after one FIN the other side's application is late, not the network.
_HALF_CLOSED_S = 1.0
# Two equal segments this close are one, seen at two places.
_SAME_S = 0.001


class First(enum.Enum):
    """Who closed first, and with what."""

    CLIENT_FIN = "client FIN"
    SERVER_FIN = "server FIN"
    SIMULTANEOUS = "simultaneous"
    CLIENT_RST = "client RST"
    SERVER_RST = "server RST"


class Close(NamedTuple):
    """How a connection ended: who was first, and who then sent a RST, if anybody did."""

    first: First
    reset_by: str = ""
    """"client", "server" or "": after the first FIN."""

    @property
    def time_wait_at(self) -> str:
        """Where the TIME_WAIT stays: "client", "server", "both" or "nobody".

        A RST ends FIN_WAIT, and TIME_WAIT too while tcp_rfc1337 is 0; a host that answers a FIN
        with a RST has no socket any more. Source: facts/ports.md section 5, measured.
        """
        if self.reset_by:
            return "nobody"
        return _TIME_WAIT_AT[self.first]

    @property
    def text(self) -> str:
        """Such as "server FIN, then client RST"."""
        return (
            f"{self.first.value}, then {self.reset_by} RST" if self.reset_by else self.first.value
        )


_TIME_WAIT_AT = {
    First.CLIENT_FIN: "client",
    First.SERVER_FIN: "server",
    First.SIMULTANEOUS: "both",
    First.CLIENT_RST: "nobody",
    First.SERVER_RST: "nobody",
}


class Step(NamedTuple):
    """One arrow of a close."""

    time: float
    from_client: bool
    what: str
    sequence: int


class Pair(NamedTuple):
    """A client's address and a server's address and port; empty addresses: everybody else."""

    client: bytes
    server: bytes
    port: int


class Connection:
    """One connection while it is watched, and afterwards if it serves as a sample."""

    __slots__ = (
        "answered",
        "client_port",
        "close",
        "fin_end",
        "first_fin",
        "interfaces",
        "is_unclear",
        "pair",
        "quit_end",
        "said_quit",
        "start",
        "steps",
    )

    def __init__(self, pair: Pair, client_port: int) -> None:
        self.pair = pair
        self.client_port = client_port
        self.start: int | None = None
        """The client's first sequence number, if its SYN was seen."""
        self.answered = False
        self.quit_end: int | None = None
        """The sequence number behind the client's QUIT."""
        self.fin_end: list[int | None] = [None, None]
        """The sequence number behind the FIN of (server, client)."""
        self.first_fin: First | None = None
        self.close: Close | None = None
        self.said_quit = False
        self.is_unclear = False
        self.interfaces: list[int | None] = [None, None]
        self.steps: list[Step] = []

    @property
    def has_quit(self) -> bool:
        """Whether the client's last bytes were QUIT."""
        return self.quit_end is not None


@dataclass
class Counts:
    """What was seen between one pair of hosts."""

    connections: int = 0
    closes: Counter[Close] = field(default_factory=Counter)
    quits: Counter[Close] = field(default_factory=Counter)
    """Of the closes, those with a QUIT before them."""
    refused: int = 0
    """A RST in answer to the SYN: nobody listens."""
    probes: int = 0
    """A RST of a client that sent not one byte: a health check."""
    unclear: int = 0
    """Ended as the trace began: who was first is not known."""
    samples: dict[Close, Connection] = field(default_factory=dict)


class Tracker:
    """Takes segments in the order of their time."""

    def __init__(self, ports: Collection[int], most_open: int = MOST_OPEN) -> None:
        """Args: ports: where servers listen; most_open: connections remembered at a time."""
        self.ports = frozenset(ports)
        self.pairs: dict[Pair, Counts] = {}
        self.forgotten = 0
        """Connections forgotten before their end, for want of room."""
        self.segments = 0
        self.began: float | None = None
        self.ended: float | None = None
        self._most_open = most_open
        self._open: OrderedDict[tuple[bytes, int, bytes, int], Connection] = OrderedDict()
        self._done: OrderedDict[tuple[bytes, int, bytes, int], Connection] = OrderedDict()

    @property
    def open(self) -> int:
        """Connections known and not ended."""
        return len(self._open)

    @property
    def half_closed(self) -> int:
        """Of these, those with a FIN of one side only, for more than a second."""
        now = self.ended or 0.0
        return sum(
            one.first_fin is not None and now - one.steps[-1].time > _HALF_CLOSED_S
            for one in self._open.values()
        )

    def add(self, segment: Segment) -> None:
        """Takes one segment. O(1)."""
        from_client = segment.target_port in self.ports
        key = (segment.source, segment.source_port, segment.target, segment.target_port)
        if segment.source_port in self.ports:
            reply = (segment.target, segment.target_port, segment.source, segment.source_port)
            # A client may have a server's port number: then whoever sent the SYN is the client.
            if not from_client or reply in self._open or reply in self._done:
                from_client, key = False, reply
        elif not from_client:
            return
        self._look_at_the_time(segment.time)
        connection = self._open.get(key)
        if connection is not None:
            self._open.move_to_end(key)
        else:
            connection = self._done.get(key)
        flags = segment.flags
        if flags & SYN:
            if connection is None or _is_new(connection, segment, from_client):
                connection = self._begin(key)
            _open_by(connection, segment, from_client)
            return
        if connection is None:
            if not flags & (FIN | RST) and not (segment.has_quit and from_client):
                return
            connection = self._begin(key)
            connection.answered = True
            is_early = segment.time - (self.began or 0.0) < _UNCLEAR_S
            connection.is_unclear = is_early and not segment.has_quit
        side = int(from_client)
        if connection.interfaces[side] is None:
            connection.interfaces[side] = segment.interface
        elif connection.interfaces[side] != segment.interface:
            return  # the same packet on its way through this host
        self._follow(key, connection, segment, from_client)

    def _look_at_the_time(self, time: float) -> None:
        self.segments += 1
        if self.began is None:
            self.began = time
        self.ended = time

    def _begin(self, key: tuple[bytes, int, bytes, int]) -> Connection:
        self._open.pop(key, None)
        self._done.pop(key, None)
        client, client_port, server, port = key
        pair = Pair(client, server, port)
        if pair not in self.pairs:
            if len(self.pairs) >= MOST_PAIRS:
                pair = Pair(b"", b"", 0)
            self.pairs.setdefault(pair, Counts())
        self.pairs[pair].connections += 1
        connection = Connection(pair, client_port)
        self._open[key] = connection
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)
            self.forgotten += 1
        return connection

    def _follow(
        self,
        key: tuple[bytes, int, bytes, int],
        connection: Connection,
        segment: Segment,
        from_client: bool,
    ) -> None:
        flags, side = segment.flags, int(from_client)
        end = segment.sequence + segment.size & 0xFFFFFFFF
        if from_client and segment.has_quit:
            connection.quit_end = end
        elif from_client:
            _doubt_quit(connection, segment.sequence if flags & RST else end)
        acknowledges_fin = _acknowledges_fin(connection, segment, side)
        _draw(connection, segment, from_client, acknowledges_fin)
        if flags & FIN and connection.fin_end[side] is None:
            connection.fin_end[side] = end + 1 & 0xFFFFFFFF
            if connection.first_fin is None:
                connection.first_fin = First.CLIENT_FIN if from_client else First.SERVER_FIN
            else:
                if not acknowledges_fin:
                    connection.first_fin = First.SIMULTANEOUS
                self._count(key, connection, Close(connection.first_fin))
        if flags & RST:
            self._reset(key, connection, segment, from_client)

    def _reset(
        self,
        key: tuple[bytes, int, bytes, int],
        connection: Connection,
        segment: Segment,
        from_client: bool,
    ) -> None:
        by = "client" if from_client else "server"
        if connection.first_fin is not None:
            if connection.close is None or not connection.close.reset_by:
                self._count(key, connection, Close(connection.first_fin, by))
            return
        if connection.close is not None:
            return  # the same RST again, or the other side's
        counts = self.pairs[connection.pair]
        if connection.start is not None and not from_client and not connection.answered:
            counts.refused += 1
        elif connection.start is not None and from_client and _sent_nothing(connection, segment):
            counts.probes += 1
        else:
            first = First.CLIENT_RST if from_client else First.SERVER_RST
            self._count(key, connection, Close(first))
            return
        self._end(key, connection)

    def _count(
        self, key: tuple[bytes, int, bytes, int], connection: Connection, close: Close
    ) -> None:
        """Counts an end, or corrects it: a RST may follow the second FIN."""
        counts = self.pairs[connection.pair]
        before, connection.close = connection.close, close
        if connection.is_unclear:
            counts.unclear += before is None
        else:
            if before is None:
                connection.said_quit = connection.has_quit
            else:
                counts.closes[before] -= 1
                counts.quits[before] -= connection.said_quit
                if counts.samples.get(before) is connection:
                    del counts.samples[before]
            counts.closes[close] += 1
            counts.quits[close] += connection.said_quit
            if len(self.pairs) <= _PAIRS_WITH_SAMPLES:
                _keep_sample(counts, connection, close)
        if before is None:
            self._end(key, connection)

    def _end(self, key: tuple[bytes, int, bytes, int], connection: Connection) -> None:
        self._open.pop(key, None)
        self._done[key] = connection
        if len(self._done) > MOST_ENDED:
            self._done.popitem(last=False)


def _keep_sample(counts: Counts, connection: Connection, close: Close) -> None:
    """The first, unless a later one shows more of it."""
    kept = counts.samples.get(close)
    if kept is None or (connection.has_quit and not kept.has_quit):
        counts.samples[close] = connection


def _is_new(connection: Connection, segment: Segment, from_client: bool) -> bool:
    """Whether a SYN begins another connection on a tuple that we know."""
    if not from_client:
        return connection.close is not None
    return connection.start != segment.sequence


def _open_by(connection: Connection, segment: Segment, from_client: bool) -> None:
    if from_client and not segment.flags & ACK:
        connection.start = segment.sequence
    elif not from_client:
        connection.answered = True
    side = int(from_client)
    if connection.interfaces[side] is None:
        connection.interfaces[side] = segment.interface


def _sent_nothing(connection: Connection, segment: Segment) -> bool:
    return segment.sequence == ((connection.start or 0) + 1) & 0xFFFFFFFF


def _doubt_quit(connection: Connection, end: int) -> None:
    """More bytes behind what looked like a QUIT: it was the end of something else."""
    # The FIN takes a number of its own, which is none of a byte.
    if connection.quit_end is None or connection.fin_end[1] == end:
        return
    if _is_after(end, connection.quit_end):
        connection.quit_end = None


def _is_after(number: int, other: int) -> bool:
    """Whether a sequence number comes behind another; they wrap around."""
    return 0 < (number - other & 0xFFFFFFFF) < 1 << 31


def _acknowledges_fin(connection: Connection, segment: Segment, side: int) -> bool:
    """Whether it says that its sender has the other side's FIN."""
    theirs = connection.fin_end[1 - side]
    if theirs is None or not segment.flags & ACK:
        return False
    return not _is_after(theirs, segment.acknowledged)


def _draw(
    connection: Connection, segment: Segment, from_client: bool, acknowledges_fin: bool
) -> None:
    """Keeps the steps from the QUIT, or the first FIN or RST, on."""
    flags = segment.flags
    words = []
    if segment.has_quit and from_client:
        words.append("QUIT")
    if flags & FIN:
        words.append("FIN")
    if flags & RST:
        words.append("RST")
    if flags & ACK and not flags & RST and (acknowledges_fin or not words):
        words.append("ACK")
    steps = connection.steps
    if not steps and words == ["ACK"]:
        return  # nothing of a close yet
    what = " ".join(words)
    for step in reversed(steps):
        if step[1:] == (from_client, what, segment.sequence):
            if segment.time - step.time < _SAME_S:
                return
            what += " again" if what != "ACK" else ""
            break
    if what and len(steps) < MOST_STEPS:
        steps.append(Step(segment.time, from_client, what, segment.sequence))
