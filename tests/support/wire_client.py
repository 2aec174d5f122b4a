"""A client that records every packet of a reply, with any flags, in both protocols.

For comparing two ways to one server packet for packet: nothing is decoded but what finds the end of
a reply. Shapes of replies: MySQL "Client/Server Protocol", MariaDB "Clientserver Protocol".
"""

from __future__ import annotations

import hashlib
import socket
import struct
from enum import Enum
from types import TracebackType
from typing import NamedTuple

from tests.support.raw_client import packet

FLAGS = {
    "FOUND_ROWS": 1 << 1,
    "LONG_FLAG": 1 << 2,
    "NO_SCHEMA": 1 << 4,
    "ODBC": 1 << 6,
    "LOCAL_FILES": 1 << 7,
    "IGNORE_SPACE": 1 << 8,
    "INTERACTIVE": 1 << 10,
    "TRANSACTIONS": 1 << 13,
    "MULTI_STATEMENTS": 1 << 16,
    "MULTI_RESULTS": 1 << 17,
    "PS_MULTI_RESULTS": 1 << 18,
    "SESSION_TRACK": 1 << 23,
    "DEPRECATE_EOF": 1 << 24,
    "OPTIONAL_RESULTSET_METADATA": 1 << 25,
    "QUERY_ATTRIBUTES": 1 << 27,
    # MariaDB's own, in the upper half.
    "PROGRESS": 1 << 32,
    "BULK": 1 << 34,
    "EXTENDED_METADATA": 1 << 35,
    "BULK_UNIT_RESULTS": 1 << 37,
}
# LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH
LOGIN = 0x1 | 0x200 | 0x8000 | 0x80000
CONNECT_WITH_DB = 0x8
MORE_RESULTS = 0x8
OUT_PARAMETERS = 0x1000
# Transaction, autocommit, how strings are read: not about one statement.
LASTING = 0x1 | 0x2 | 0x200 | 0x2000 | 0x8000


class Shape(Enum):
    """What a command's reply looks like."""

    NONE = "none"
    ONE = "one"
    RESULTS = "results"
    PREPARE = "prepare"
    ROWS = "rows"


class Packet(NamedTuple):
    """One packet of a reply; those of 16 MiB and more are joined."""

    sequence: int
    payload: bytes


class LoginError(ConnectionError):
    """The server's ERR to the login."""


def native(password: bytes, salt: bytes) -> bytes:
    """mysql_native_password."""
    first = hashlib.sha1(password).digest()
    mask = hashlib.sha1(salt + hashlib.sha1(first).digest()).digest()
    return bytes(a ^ b for a, b in zip(first, mask, strict=True))


def caching_sha2(password: bytes, salt: bytes) -> bytes:
    """caching_sha2_password, the fast exchange."""
    first = hashlib.sha256(password).digest()
    mask = hashlib.sha256(hashlib.sha256(first).digest() + salt).digest()
    return bytes(a ^ b for a, b in zip(first, mask, strict=True))


PLUGINS = {b"mysql_native_password": native, b"caching_sha2_password": caching_sha2}


def lenenc(data: bytes, at: int = 0) -> tuple[int, int]:
    """A length-encoded number and where it ends."""
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(data[at], 0)
    if size == 0:
        return data[at], at + 1
    return int.from_bytes(data[at + 1 : at + 1 + size], "little"), at + 1 + size


class WireClient:
    """One connection. ``offered``: the greeting's flags; ``thread_id``: the greeting's."""

    def __init__(
        self,
        address: tuple[str, int],
        user: str,
        password: str,
        *,
        flags: int = 0,
        database: str | None = None,
        collation: int = 45,
        timeout_s: float = 30.0,
    ) -> None:
        self.socket = socket.create_connection(address, timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb", buffering=65536)
        self.flags = flags
        try:
            self._login(user.encode(), password.encode(), database, collation)
        except BaseException:
            self.close()
            raise

    def _login(self, user: bytes, password: bytes, database: str | None, collation: int) -> None:
        salt, plugin = self._greeting(self.read().payload)
        self.flags &= self.offered
        flags = self.flags | LOGIN | (CONNECT_WITH_DB if database is not None else 0)
        if self.flags >> 32:
            flags &= ~1  # a client of MariaDB, not of MySQL
        answer = PLUGINS[plugin](password, salt)
        schema = b"" if database is None else database.encode() + b"\0"
        self.socket.sendall(
            packet(
                1,
                struct.pack("<IIB19xI", flags & 0xFFFFFFFF, 1 << 30, collation, flags >> 32)
                + user
                + b"\0"
                + bytes([len(answer)])
                + answer
                + schema
                + plugin
                + b"\0",
            )
        )
        while True:
            reply = self.read()
            match reply.payload[0]:
                case 0x00:
                    self.welcome = reply
                    return
                case 0xFF:
                    raise LoginError(reply.payload)
                case 0xFE:
                    name, _, salt = reply.payload[1:].partition(b"\0")
                    answer = PLUGINS[name](password, salt.rstrip(b"\0"))
                    self.socket.sendall(packet(reply.sequence + 1, answer))
                case 0x01 if reply.payload[1] == 4:
                    raise LoginError(b"the server's cache does not have this account yet")

    def _greeting(self, payload: bytes) -> tuple[bytes, bytes]:
        if payload[0] != 10:
            raise LoginError(payload)
        end = payload.index(b"\0")
        self.version = payload[1:end].decode()
        (self.thread_id,) = struct.unpack_from("<I", payload, end + 1)
        low, _, _, high = struct.unpack_from("<HBHH", payload, end + 14)
        self.offered: int = low | high << 16
        if not low & 1:
            self.offered |= int.from_bytes(payload[end + 28 : end + 32], "little") << 32
        salt = payload[end + 5 : end + 13] + payload[end + 32 : end + 44]
        return salt, payload[end + 45 :].rstrip(b"\0")

    # ---- packets

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ConnectionError(f"closed after {len(data)} of {size} bytes")
        return data

    def read(self) -> Packet:
        """The next packet, whole."""
        parts, size = [], 0xFFFFFF
        while size == 0xFFFFFF:
            header = self._exactly(4)
            size = int.from_bytes(header[:3], "little")
            parts.append(self._exactly(size))
        return Packet(header[3], b"".join(parts))

    def send(self, payload: bytes) -> None:
        """One command, in as many packets as it takes."""
        sequence = 0
        while True:
            part, payload = payload[:0xFFFFFF], payload[0xFFFFFF:]
            self.socket.sendall(packet(sequence & 0xFF, part))
            sequence += 1
            if len(part) < 0xFFFFFF:
                return

    def command(self, payload: bytes, shape: Shape = Shape.RESULTS) -> list[Packet]:
        """Sends a command and reads all of its reply."""
        self.send(payload)
        return self.reply(shape)

    def query(self, text: str | bytes) -> list[Packet]:
        """COM_QUERY."""
        attributes = b"\x00\x01" if self.has("QUERY_ATTRIBUTES") else b""
        sql = text if isinstance(text, bytes) else text.encode()
        return self.command(b"\x03" + attributes + sql)

    def reply(self, shape: Shape) -> list[Packet]:
        """All packets of one reply."""
        seen: list[Packet] = []
        match shape:
            case Shape.NONE:
                pass
            case Shape.ONE:
                self._take(seen)
            case Shape.PREPARE:
                self._prepared(seen)
            case Shape.ROWS:
                self._rows(seen)
            case Shape.RESULTS:
                while self._result(seen):
                    pass
        return seen

    def _take(self, seen: list[Packet]) -> bytes:
        seen.append(self.read())
        return seen[-1].payload

    def has(self, name: str) -> bool:
        """Whether this flag was agreed on."""
        return self.flags & FLAGS[name] != 0

    def _result(self, seen: list[Packet]) -> bool:
        """Reads one result; whether another follows."""
        first = self._take(seen)
        if first[0] == 0xFF:
            return False
        if first[0] == 0x00:
            return status(first) & MORE_RESULTS != 0
        if first[0] == 0xFB:
            self.socket.sendall(packet(seen[-1].sequence + 1, b""))
            return self._result(seen)
        count, at = lenenc(first)
        has_metadata = not self.has("OPTIONAL_RESULTSET_METADATA") or first[at] == 1
        if has_metadata:
            for _ in range(count):
                self._take(seen)
        if not self.has("DEPRECATE_EOF"):
            end = self._take(seen)
            # MySQL may fail to open a cursor; else its rows are fetched.
            if end[0] == 0xFF or eof_status(end) & 0x40:
                return False
            if eof_status(end) & OUT_PARAMETERS:
                # An OK follows, of which MySQL's EOF behind them says nothing.
                self._rows(seen)
                return True
        return self._rows(seen) & MORE_RESULTS != 0

    def _rows(self, seen: list[Packet]) -> int:
        """Reads rows up to their end; its status flags."""
        while True:
            row = self._take(seen)
            if row[:1] == b"\xff":
                return 0
            if row[:1] == b"\xfe" and len(row) < (0xFFFFFF if self.has("DEPRECATE_EOF") else 9):
                return status(row) if self.has("DEPRECATE_EOF") else eof_status(row)

    def _prepared(self, seen: list[Packet]) -> None:
        first = self._take(seen)
        if first[0] == 0xFF:
            return
        columns, parameters = struct.unpack_from("<HH", first, 5)
        with_metadata = not self.has("OPTIONAL_RESULTSET_METADATA") or first[12:13] == b"\x01"
        for count in (parameters, columns) if with_metadata else ():
            for _ in range(count):
                self._take(seen)
            if count and not self.has("DEPRECATE_EOF"):
                self._take(seen)

    # ---- the end

    def reset(self) -> None:
        """RST, without good-bye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._file.close()
        self.socket.close()

    def close(self) -> None:
        """FIN."""
        self._file.close()
        self.socket.close()

    def quit(self) -> None:
        """COM_QUIT, then FIN."""
        self.socket.sendall(packet(0, b"\x01"))
        self.close()

    def __enter__(self) -> WireClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def status(ok: bytes) -> int:
    """Status flags of an OK packet."""
    _, at = lenenc(ok, 1)
    _, at = lenenc(ok, at)
    return int.from_bytes(ok[at : at + 2], "little")


def eof_status(eof: bytes) -> int:
    """Status flags of an EOF packet."""
    return int.from_bytes(eof[3:5], "little")


def first_value(reply: list[Packet], flags: int) -> bytes:
    """The first value of a text result with one column."""
    row = reply[2 if flags & FLAGS["DEPRECATE_EOF"] else 3].payload
    size, at = lenenc(row)
    return row[at : at + size]


def masked(reply: list[Packet]) -> list[Packet]:
    """A reply whose EOFs behind definitions have only flags of the session, and no warnings.

    Where Portside puts one in, it knows no more.
    """
    seen, is_first = [], True
    for one in reply:
        if len(one.payload) == 5 and one.payload[0] == 0xFE:
            if is_first and not eof_status(one.payload) & 0x48:
                flags = eof_status(one.payload) & LASTING
                one = one._replace(payload=b"\xfe\0\0" + flags.to_bytes(2, "little"))
            is_first = not is_first
        seen.append(one)
    return seen
