"""Steps of a program in both protocols, played on one connection, and neighbours who poison a pool.

What must differ is made equal: ids of statements are the program's own, the value of
``CONNECTION_ID()`` is checked against the greeting. Everything else is compared byte for byte.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.support.wire_client import LoginError, Packet, Shape, WireClient, first_value

NULL = 6


class Parameter(NamedTuple):
    """A value of the binary protocol; ``data`` None is NULL."""

    type: int
    data: bytes | None
    unsigned: bool = False


class Query(NamedTuple):
    """COM_QUERY."""

    text: bytes


class OwnId(NamedTuple):
    """``SELECT CONNECTION_ID()``: the greeting's."""


class Command(NamedTuple):
    """Any command with one packet as its reply."""

    code: int
    argument: bytes = b""


class Prepare(NamedTuple):
    """COM_STMT_PREPARE into a slot."""

    slot: int
    text: bytes


class Execute(NamedTuple):
    """COM_STMT_EXECUTE; without ``types`` the server must know them from before."""

    slot: int
    parameters: tuple[Parameter, ...] = ()
    types: bool = True
    cursor: bool = False


class OfStatement(NamedTuple):
    """RESET (26), CLOSE (25), FETCH (28) of a slot."""

    slot: int
    code: int
    rows: int = 1


class LongData(NamedTuple):
    """COM_STMT_SEND_LONG_DATA."""

    slot: int
    parameter: int
    data: bytes


Step = Query | OwnId | Command | Prepare | Execute | OfStatement | LongData

_NUMBER = re.compile(rb"(?<=statement )\(\d+\)")
_UNKNOWN_STATEMENT = b"\xff" + (1243).to_bytes(2, "little")
_GTID = re.compile(rb".\x00.\tlast_gtid.0-\d+-\d+", re.DOTALL)
_SHAPES = {25: Shape.NONE, 26: Shape.ONE, 28: Shape.ROWS}


def _alike(payload: bytes) -> bytes:
    """A packet without the position in the binary log (session track) and ids in texts."""
    if payload.startswith(_UNKNOWN_STATEMENT):
        return payload[:9]
    return _GTID.sub(b"<gtid>", payload)


class Player:
    """Plays steps on a connection. A slot that holds no statement sends an id that nobody has."""

    def __init__(self, client: WireClient) -> None:
        self.client = client
        self._ids: dict[int, int] = {}

    def _id(self, slot: int) -> bytes:
        return struct.pack("<I", self._ids.get(slot, 0x7FFFFF00 + slot))

    def play(self, step: Step) -> list[Packet]:
        """The reply's packets, without what must differ."""
        return [packet._replace(payload=_alike(packet.payload)) for packet in self._play(step)]

    def _play(self, step: Step) -> list[Packet]:
        client = self.client
        match step:
            case Query(text):
                return client.query(text)
            case OwnId():
                return self._own_id(client.query("SELECT CONNECTION_ID()"))
            case Command(code, argument):
                return client.command(bytes([code]) + argument, Shape.ONE)
            case Prepare(slot, text):
                return self._prepared(slot, client.command(b"\x16" + text, Shape.PREPARE))
            case Execute(slot, parameters, types, cursor):
                named = client.has("QUERY_ATTRIBUTES")
                head = b"\x17" + self._id(slot) + bytes([cursor | named << 3])
                tail = values(parameters, types, named)
                return client.command(head + struct.pack("<I", 1) + tail)
            case LongData(slot, parameter, data):
                head = b"\x18" + self._id(slot) + struct.pack("<H", parameter)
                return client.command(head + data, Shape.NONE)
            case OfStatement(slot, code, rows):
                tail = struct.pack("<I", rows) if code == 28 else b""
                reply = client.command(bytes([code]) + self._id(slot) + tail, _SHAPES[code])
                # An error names the statement by the server's number.
                reply = [p._replace(payload=_NUMBER.sub(b"(own)", p.payload)) for p in reply]
                if code == 25:
                    self._ids.pop(slot, None)
                return reply

    def _own_id(self, reply: list[Packet]) -> list[Packet]:
        own = str(self.client.thread_id).encode()
        if len(reply) > 1:
            assert first_value(reply, self.client.flags) == own
        return [p._replace(payload=b"<own id>") if p.payload[1:] == own else p for p in reply]

    def _prepared(self, slot: int, reply: list[Packet]) -> list[Packet]:
        first = reply[0].payload
        if first[0] == 0xFF:
            return reply
        (self._ids[slot],) = struct.unpack_from("<I", first, 1)
        own = first[:1] + struct.pack("<I", slot) + first[5:]
        return [reply[0]._replace(payload=own), *reply[1:]]


def values(parameters: Sequence[Parameter], types: bool, named: bool) -> bytes:
    """NULL bitmap, types (and names) where they are sent, values."""
    count = bytes([len(parameters)]) if named else b""
    if not parameters:
        return count
    bitmap = bytearray((len(parameters) + 7) // 8)
    for number, parameter in enumerate(parameters):
        if parameter.data is None:
            bitmap[number // 8] |= 1 << number % 8
    out = count + bytes(bitmap) + bytes([types])
    if types:
        name = b"\0" if named else b""
        out += b"".join(bytes([p.type, 0x80 if p.unsigned else 0]) + name for p in parameters)
    return out + b"".join(p.data for p in parameters if p.data is not None)


class Neighbour:
    """Another client of the pool: says a burst of poison when told so, and leaves.

    In a thread of its own: while the tested client keeps the only connection the burst waits, and
    the tested client waits while a burst runs.
    """

    def __init__(self, connect: Callable[[], WireClient], bursts: Sequence[Sequence[str]]) -> None:
        self._connect, self._bursts = connect, bursts
        self._go, self._idle = threading.Semaphore(0), threading.Event()
        self._over, self._told = False, 0
        self.done = 0
        self.failures: list[str] = []
        self._idle.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def poison(self, wait_s: float) -> bool:
        """Lets it say its next burst, after the last; whether it is over by then."""
        if not self._idle.is_set():
            return False
        self._idle.clear()
        self._go.release()
        return self._idle.wait(wait_s)

    def _run(self) -> None:
        while True:
            self._go.acquire()
            if self._over:
                return
            self._burst(self._bursts[self._told % len(self._bursts)])
            self._told += 1
            self._idle.set()

    def _burst(self, statements: Sequence[str]) -> None:
        try:
            client = self._connect()
            for statement in statements:
                client.query(statement)
            if self._told % 3:
                client.quit()
            else:
                client.reset()
            self.done += 1
        except (LoginError, ConnectionError, OSError) as error:
            self.failures.append(repr(error))

    def end(self) -> None:
        """Ends the thread after its burst."""
        self._over = True
        self._go.release()
        self._thread.join()
