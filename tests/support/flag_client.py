"""A client that logs in with exactly these capability flags, and keeps every packet of a reply.

For comparing what a pool answers with what the server answers, byte by byte. MariaDB's own flags
are the upper half of 64 bits. Methods: mysql_native_password, and the fast exchange of
caching_sha2_password (so log in once with another client before).
"""

from __future__ import annotations

import hashlib
import struct

from tests.support.raw_client import RawClient, packet

PROTOCOL_41, LOCAL_FILES = 1 << 9, 1 << 7
CONNECT_WITH_DB, MULTI_STATEMENTS, MULTI_RESULTS = 1 << 3, 1 << 16, 1 << 17
PS_MULTI_RESULTS, SESSION_TRACK, DEPRECATE_EOF = 1 << 18, 1 << 23, 1 << 24
OPTIONAL_METADATA, QUERY_ATTRIBUTES = 1 << 25, 1 << 27
PROGRESS, BULK, EXTENDED_METADATA, CACHE_METADATA = 1 << 32, 1 << 34, 1 << 35, 1 << 36

# Besides: LONG_PASSWORD, LONG_FLAG, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH, LENENC_DATA.
BASE = 1 | 1 << 2 | PROTOCOL_41 | 1 << 13 | 1 << 15 | 1 << 19 | 1 << 21

MORE_RESULTS, CURSOR_EXISTS = 8, 64


def lenenc(data: bytes) -> tuple[int, bytes]:
    """A length-encoded number from the front, and the rest."""
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(data[0])
    if width is None:
        return data[0], data[1:]
    return int.from_bytes(data[1 : 1 + width], "little"), data[1 + width :]


def put_lenenc(data: bytes) -> bytes:
    """A short string behind its length."""
    assert len(data) < 251
    return bytes([len(data)]) + data


def attributes(**values: str) -> bytes:
    """Query attributes as COM_QUERY has them before its text."""
    head = bytes([len(values), 1])
    if not values:
        return head
    types = b"".join(b"\xfe\x00" + put_lenenc(name.encode()) for name in values)
    data = b"".join(put_lenenc(value.encode()) for value in values.values())
    return head + bytes((len(values) + 7) // 8) + b"\x01" + types + data


class FlagClient(RawClient):
    """One connection; ``flags`` besides those of every login.

    Without LONG_PASSWORD if MariaDB's are among them.
    """

    def __init__(
        self,
        address: tuple[str, int],
        user: str,
        password: str,
        flags: int = 0,
        *,
        schema: str = "",
        collation: int = 45,
        timeout_s: float = 20.0,
    ) -> None:
        super().__init__(address, timeout_s=timeout_s)
        self.sequence = 0
        greeting = self.read()
        end = greeting.index(0, 1)
        self.version, rest = greeting[1:end].decode(), greeting[end + 1 :]
        self.thread_id = int.from_bytes(rest[:4], "little")
        low, high = rest[13:15], rest[18:20]
        self.offered = int.from_bytes(low + high, "little")
        if not self.offered & 1:
            self.offered |= int.from_bytes(rest[27:31], "little") << 32
        salt, plugin = rest[4:12] + rest[31:43], rest[44:].split(b"\0")[0]
        self.flags = BASE | flags | (CONNECT_WITH_DB if schema else 0)
        if self.flags >> 32:
            self.flags &= ~1
        answer = scramble(plugin, password.encode(), salt)
        login = struct.pack(
            "<IIB19xI", self.flags & 0xFFFFFFFF, 1 << 30, collation & 0xFF, self.flags >> 32
        )
        login += user.encode() + b"\0" + put_lenenc(answer)
        if schema:
            login += schema.encode() + b"\0"
        self.write(login + plugin + b"\0")
        self.logged_in = self._authenticate(password.encode(), plugin, salt)

    def _authenticate(self, password: bytes, plugin: bytes, salt: bytes) -> bytes:
        while True:
            reply = self.read()
            if reply[0] == 0xFE:
                plugin, salt = reply[1:].split(b"\0", 1)
                self.write(scramble(plugin, password, salt[:20]))
            elif reply[0] != 1:
                assert reply[0] == 0, reply
                return reply
            else:
                assert reply == b"\x01\x03", "the server does not know the password yet"

    def write(self, payload: bytes) -> None:
        """One packet, cut where it is longer than a packet can be."""
        while len(payload) >= 0xFFFFFF:
            self.send(packet(self.sequence, payload[:0xFFFFFF]))
            payload, self.sequence = payload[0xFFFFFF:], (self.sequence + 1) % 256
        self.send(packet(self.sequence, payload))
        self.sequence = (self.sequence + 1) % 256

    def read(self) -> bytes:
        """One packet's payload; its sequence number must be the next."""
        payload = b""
        while True:
            header = self.exactly(4)
            length = int.from_bytes(header[:3], "little")
            payload += self.exactly(length)
            assert header[3] == self.sequence, (header[3], self.sequence)
            self.sequence = (header[3] + 1) % 256
            if length < 0xFFFFFF:
                return payload

    def say(self, payload: bytes) -> None:
        """A command."""
        self.sequence = 0
        self.write(payload)

    def ask(self, payload: bytes) -> list[bytes]:
        """A command, and the packets of its reply."""
        self.say(payload)
        return self.reply()

    def query(self, text: str) -> list[bytes]:
        """A text query."""
        front = attributes() if self.flags & QUERY_ATTRIBUTES else b""
        return self.ask(b"\x03" + front + text.encode())

    def prepare(self, text: str) -> tuple[int, list[bytes]]:
        """The statement's id, and the packets of the reply."""
        self.say(b"\x16" + text.encode())
        first = self.read()
        packets = [first]
        if first[0] == 0xFF:
            return 0, packets
        columns, parameters = struct.unpack("<HH", first[5:9])
        is_bare = self.flags & OPTIONAL_METADATA and first[12] == 0
        for count in (parameters, columns):
            if not count:
                continue
            end = 0 if self.flags & DEPRECATE_EOF else 1
            packets += [self.read() for _ in range((0 if is_bare else count) + end)]
        return int.from_bytes(first[1:5], "little"), packets

    def reply(self) -> list[bytes]:
        """The packets of OK, ERR or result sets."""
        packets: list[bytes] = []
        while True:
            first = self._past_reports(packets)
            packets.append(first)
            if first[0] in (0xFF, 0xFB):
                return packets
            status = self._ok_status(first) if first[0] == 0 else self._rows(first, packets)
            if status is None or not status & MORE_RESULTS:
                return packets

    def _past_reports(self, packets: list[bytes]) -> bytes:
        while (payload := self.read())[:3] == b"\xff\xff\xff" and self.flags & PROGRESS:
            packets.append(payload)
        return payload

    def _rows(self, first: bytes, packets: list[bytes]) -> int | None:
        count, rest = lenenc(first)
        has_eof = not self.flags & DEPRECATE_EOF
        if self.flags & OPTIONAL_METADATA and rest == b"\0":
            count = 0
        packets += [self.read() for _ in range(count)]
        if has_eof:
            packets.append(self.read())
            status = int.from_bytes(packets[-1][3:5], "little")
            if status & CURSOR_EXISTS:
                return status
        limit = 9 if has_eof else 0xFFFFFF
        while True:
            row = self.read()
            packets.append(row)
            if row[0] == 0xFF:
                return None
            if row[0] == 0xFE and len(row) < limit:
                return int.from_bytes(row[3:5], "little") if has_eof else self._ok_status(row)

    @staticmethod
    def _ok_status(payload: bytes) -> int:
        _, rest = lenenc(payload[1:])
        _, rest = lenenc(rest)
        return int.from_bytes(rest[:2], "little")


def scramble(plugin: bytes, password: bytes, salt: bytes) -> bytes:
    """What proves the password."""
    kind = hashlib.sha1 if plugin == b"mysql_native_password" else hashlib.sha256
    once = kind(password).digest()
    twice = kind(once).digest()
    mask = salt + twice if kind is hashlib.sha1 else twice + salt
    return bytes(a ^ b for a, b in zip(once, kind(mask).digest(), strict=True))
