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

from tests.support.wire_client import LoginError, Packet, Shape, WireClient

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
    """A statement whose first column is ``CONNECTION_ID()``: the greeting's."""

    text: bytes = b"SELECT CONNECTION_ID()"
    is_prepared: bool = False


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


class Again(NamedTuple):
    """The client leaves, and another one comes."""


Step = Query | OwnId | Command | Prepare | Execute | OfStatement | LongData | Again

# A burst of a neighbour that has a connection, on the busiest machine.
_BURST_S = 20.0
# No program uses it.
_OWN_SLOT = 9
# An error names a statement by the server's number. In SHOW WARNINGS a length stands before it.
_NUMBER = re.compile(rb".?(The|Unknown prepared) (statement|statement handler) \(\d+\)", re.DOTALL)
_GTID = re.compile(rb".\x00.\tlast_gtid.0-\d+-\d+", re.DOTALL)
_SHAPES = {25: Shape.NONE, 26: Shape.ONE, 28: Shape.ROWS}


def _alike(payload: bytes) -> bytes:
    """A packet without the position in the binary log (session track) and ids in texts."""
    return _NUMBER.sub(rb"<\1>", _GTID.sub(b"<gtid>", payload))


class Player:
    """Plays steps on a connection. A slot that holds no statement sends an id that nobody has.

    Args:
        connect: makes a connection.
        is_gone: waits until nothing is left of the connection with this id.
    """

    def __init__(
        self, connect: Callable[[], WireClient], is_gone: Callable[[int], object] = bool
    ) -> None:
        self._connect, self._is_gone = connect, is_gone
        self._begin()

    def _begin(self) -> None:
        self.client = self._connect()
        self._is_mariadb = "MariaDB" in self.client.version
        self._ids: dict[int, int] = {}
        self._with_cursor: set[int] = set()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

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
            case OwnId(text, is_prepared):
                return self._own_id(text, is_prepared)
            case Command(code, argument):
                return client.command(bytes([code]) + argument, Shape.ONE)
            case Prepare(slot, text):
                return self._prepared(slot, client.command(b"\x16" + text, Shape.PREPARE))
            case Execute(slot, parameters, types, cursor):
                named = client.has("QUERY_ATTRIBUTES")
                if cursor and not self._is_mariadb:
                    self._with_cursor.add(slot)
                # Without one MySQL 9.7 answers with a broken result once the statement had one.
                cursor = cursor or slot in self._with_cursor
                head = b"\x17" + self._id(slot) + bytes([cursor | named << 3])
                tail = values(parameters, types, named)
                return client.command(head + struct.pack("<I", 1) + tail)
            case Again():
                self.client.quit()
                self._is_gone(self.client.thread_id)
                self._begin()
                return []
            case LongData(slot, parameter, data):
                head = b"\x18" + self._id(slot) + struct.pack("<H", parameter)
                return client.command(head + data, Shape.NONE)
            case OfStatement(slot, code, rows):
                tail = struct.pack("<I", rows) if code == 28 else b""
                reply = client.command(bytes([code]) + self._id(slot) + tail, _SHAPES[code])
                if code == 25:
                    self._ids.pop(slot, None)
                    self._with_cursor.discard(slot)
                return reply

    def _own_id(self, text: bytes, is_prepared: bool) -> list[Packet]:
        if is_prepared:
            prepared = self._play(Prepare(_OWN_SLOT, text))
            if len(prepared) == 1:
                return prepared
            own = b"\x00\x00" + struct.pack("<I", self.client.thread_id)
            reply = [*prepared, *self._play(Execute(_OWN_SLOT))]
            self._play(OfStatement(_OWN_SLOT, 25))
        else:
            number = str(self.client.thread_id).encode()
            own, reply = bytes([len(number)]) + number, self.client.query(text)
        return [
            p._replace(payload=b"<own id>" + p.payload.removeprefix(own))
            if p.payload.startswith(own)
            else p
            for p in reply
        ]

    def _prepared(self, slot: int, reply: list[Packet]) -> list[Packet]:
        first = reply[0].payload
        if first[0] == 0xFF:
            return reply
        (self._ids[slot],) = struct.unpack_from("<I", first, 1)
        self._with_cursor.discard(slot)
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
    """Another client of the pool: takes a connection, says a burst of poison, and leaves.

    In a thread of its own: while the tested client keeps the only connection the burst waits, and
    the tested client waits while a burst runs.
    """

    def __init__(self, connect: Callable[[], WireClient], bursts: Sequence[Sequence[str]]) -> None:
        self._connect, self._bursts = connect, bursts
        self._go = threading.Semaphore(0)
        self._over, self._told = False, 0
        self.idle, self.holds, self.may_go = (threading.Event() for _ in range(3))
        self.failures: list[str] = []
        self.idle.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def begin(self) -> None:
        """Takes a connection for its next burst, and keeps it until ``may_go``."""
        for event in (self.idle, self.holds, self.may_go):
            event.clear()
        self._go.release()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            if self._over:
                return
            self._burst(self._bursts[self._told % len(self._bursts)])
            self._told += 1
            self.idle.set()

    def _burst(self, statements: Sequence[str]) -> None:
        try:
            client = self._connect()
            client.query("BEGIN")
            self.holds.set()
            self.may_go.wait()
            for statement in ("COMMIT", *statements):
                client.query(statement)
            if self._told % 3:
                client.quit()
            else:
                client.reset()
        except (LoginError, ConnectionError, OSError) as error:
            self.failures.append(repr(error))

    def end(self) -> None:
        """Ends the thread after its burst."""
        self._over = True
        self.may_go.set()
        self._go.release()
        self._thread.join()


def poison(neighbours: Sequence[Neighbour], wait_s: float) -> bool:
    """As many neighbours as the pool has connections say a burst each.

    Returns:
        Whether they held all of its connections at one time, the tested client none, and are over.
    """
    if not all(neighbour.idle.wait(wait_s) for neighbour in neighbours):
        return False
    for neighbour in neighbours:
        neighbour.begin()
    held_all = all(neighbour.holds.wait(wait_s) for neighbour in neighbours)
    for neighbour in neighbours:
        neighbour.may_go.set()
    return held_all and all(neighbour.idle.wait(_BURST_S) for neighbour in neighbours)
