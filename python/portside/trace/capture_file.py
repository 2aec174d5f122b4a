"""Capture files, pcap and pcapng, packet by packet: the bytes of each, its link type, its time.

A stream of any length takes the memory of one packet. Files are hostile: a length is checked
before it is read, and blocks that mean nothing to us are skipped in pieces. A file that ends in the
middle of a packet is what a killed tcpdump leaves: everything before counts, and ``cut_off`` says
so. Knows nothing of what is inside a packet.

Source: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from typing import BinaryIO, NamedTuple

from portside.trace.errors import TraceError

# libpcap's MAXIMUM_SNAPLEN: no packet is longer.
MOST_PACKET_BYTES = 262_144
_MOST_BLOCK_BYTES = 16 << 20  # libpcap's own limit (MAX_BLOCKSIZE)
_MOST_INTERFACES = 65_536
_PIECE_BYTES = 65_536

# Magic number -> byte order, fractions per second.
_PCAP = {
    b"\xa1\xb2\xc3\xd4": (">", 10**6),
    b"\xd4\xc3\xb2\xa1": ("<", 10**6),
    b"\xa1\xb2\x3c\x4d": (">", 10**9),
    b"\x4d\x3c\xb2\xa1": ("<", 10**9),
}
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_SECTION_BYTES = b"\x0a\x0d\x0d\x0a"
_BYTE_ORDER = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_TIME_RESOLUTION, _TIME_OFFSET = 9, 14


class Packet(NamedTuple):
    """One captured packet; ``interface`` tells those of one pcapng file apart."""

    time: float
    link: int
    data: bytes
    interface: int


class _Interface(NamedTuple):
    link: int
    snap: int
    per_second: int
    offset_s: int


class CaptureFile:
    """Iterates over the packets of one stream.

    Attributes:
        cut_off: the stream ended in the middle of a packet.
        position: bytes read so far.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        """Reads the first bytes.

        Args:
            stream: opened for reading bytes.
            name: what errors call it.

        Raises:
            TraceError: the stream is no capture.
        """
        self.cut_off = False
        self.position = 0
        self._stream = stream
        self._name = name
        magic = self._take(4)
        if magic == _SECTION_BYTES:
            self._packets = self._pcapng()
        elif magic in _PCAP:
            self._packets = self._pcap(*_PCAP[magic])
        else:
            seen = "it is empty" if not magic else f"it begins with {magic.hex(' ')}"
            raise TraceError(
                f"{name} is no capture file: expected pcap or pcapng, as tcpdump -w and dumpcap"
                f" write them, but {seen}{_hint(magic)}."
            )

    def __iter__(self) -> Iterator[Packet]:
        """Every packet, in the file's order.

        Raises:
            TraceError: a length that cannot be; the text has the place.
        """
        return self._packets

    def _pcap(self, order: str, per_second: int) -> Iterator[Packet]:
        # After the magic: version, time zone, accuracy, snap length, link type.
        header = self._take(20)
        if len(header) < 20:
            raise self._broken("the file header is cut off")
        # The upper half holds the length of a checksum, which is not ours.
        link = int(struct.unpack(f"{order}I", header[16:20])[0]) & 0xFFFF
        record = struct.Struct(f"{order}IIII")
        while True:
            head = self._take(record.size)
            if len(head) < record.size:
                self.cut_off = bool(head)
                return
            seconds, fraction, captured, _ = record.unpack(head)
            data = self._packet_bytes(captured)
            if data is None:
                return
            yield Packet(seconds + fraction / per_second, link, data, 0)

    def _pcapng(self) -> Iterator[Packet]:
        """One section after the other; each has its own byte order and interfaces."""
        order, kind_bytes = "<", _SECTION_BYTES
        interfaces: list[_Interface] = []
        while kind_bytes:
            if kind_bytes == _SECTION_BYTES:  # the same in both byte orders
                found = self._section()
                if found is None:
                    return
                order, interfaces = found, []
            elif not (yield from self._block(order, kind_bytes, interfaces)):
                return
            kind_bytes = self._take(4)
            if 0 < len(kind_bytes) < 4:
                self.cut_off = True
                return

    def _section(self) -> str | None:
        """The byte order of a section; None when the stream ends in its header."""
        rest = self._take(8)
        if len(rest) < 8:
            self.cut_off = True
            return None
        order = _BYTE_ORDER.get(rest[4:8])
        if order is None:
            raise self._broken("a section without a byte order")
        (length,) = struct.unpack(f"{order}I", rest[:4])
        return order if self._skip(self._body_length(length, 28) - 4) else None

    def _block(
        self, order: str, kind_bytes: bytes, interfaces: list[_Interface]
    ) -> Generator[Packet, None, bool]:
        """Yields a block's packet, if it has one; returns whether the stream goes on."""
        (kind,) = struct.unpack(f"{order}I", kind_bytes)
        head = self._take(4)
        if len(head) < 4:
            self.cut_off = True
            return False
        body = self._body_length(struct.unpack(f"{order}I", head)[0], 12)
        if kind not in (_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET):
            return self._skip(body)
        data = self._take(body)
        if len(data) < body:
            self.cut_off = True
            return False
        body_bytes = data[:-4]  # without the length that is repeated at the end
        if kind == _INTERFACE:
            if len(interfaces) >= _MOST_INTERFACES:
                raise self._broken(f"more than {_MOST_INTERFACES:,} interfaces")
            interfaces.append(self._interface(order, body_bytes))
        else:
            yield self._packet(order, kind, body_bytes, interfaces)
        return True

    def _interface(self, order: str, body: bytes) -> _Interface:
        if len(body) < 8:
            raise self._broken("an interface block that is too short")
        link, _, snap = struct.unpack_from(f"{order}HHI", body)
        per_second, offset_s = 10**6, 0
        for code, value in _options(order, body, 8):
            if code == _TIME_RESOLUTION and value:
                power = value[0] & 0x7F
                per_second = (2 if value[0] & 0x80 else 10) ** power
            elif code == _TIME_OFFSET and len(value) == 8:
                (offset_s,) = struct.unpack(f"{order}q", value)
        return _Interface(link, snap, per_second, offset_s)

    def _packet(self, order: str, kind: int, body: bytes, interfaces: list[_Interface]) -> Packet:
        form = {_PACKET: "IIIII", _OLD_PACKET: "HHIIII", _SIMPLE_PACKET: "I"}[kind]
        layout = struct.Struct(order + form)
        if len(body) < layout.size:
            raise self._broken("a packet block that is too short")
        fields = layout.unpack_from(body)
        number = 0 if kind == _SIMPLE_PACKET else fields[0]
        if number >= len(interfaces):
            raise self._broken(f"a packet of interface {number}, which the file does not describe")
        interface = interfaces[number]
        if kind == _SIMPLE_PACKET:  # no time; as much as the snap length lets through
            captured = min(fields[0], interface.snap or fields[0], len(body) - layout.size)
            time = float(interface.offset_s)
        else:
            high, low, captured = fields[-4:-1]
            time = interface.offset_s + (high << 32 | low) / interface.per_second
        if captured > len(body) - layout.size:
            raise self._broken(f"a packet of {captured:,} bytes in a block of {len(body):,}")
        data = body[layout.size : layout.size + captured]
        return Packet(time, interface.link, data, number)

    def _packet_bytes(self, length: int) -> bytes | None:
        """None when the stream ends before."""
        if length > MOST_PACKET_BYTES:
            raise self._broken(
                f"a packet of {length:,} bytes; the largest there is has {MOST_PACKET_BYTES:,}"
            )
        data = self._take(length)
        if len(data) < length:
            self.cut_off = True
            return None
        return data

    def _body_length(self, total: int, least: int) -> int:
        """Bytes of a block behind its type and length."""
        if total < least or total % 4 or total > _MOST_BLOCK_BYTES:
            raise self._broken(f"a block of {total:,} bytes")
        return total - 8

    def _skip(self, length: int) -> bool:
        while length > 0:
            got = len(self._take(min(length, _PIECE_BYTES)))
            if got == 0:
                self.cut_off = True
                return False
            length -= got
        return True

    def _take(self, length: int) -> bytes:
        """As many bytes as there are, up to ``length``."""
        try:
            data = self._stream.read(length)
        except OSError as error:
            raise TraceError(f"{self._name} cannot be read: {error.strerror or error}.") from None
        self.position += len(data)
        return data

    def _broken(self, what: str) -> TraceError:
        return TraceError(
            f"{self._name} is damaged near byte {self.position:,}: {what}. Everything before it can"
            " be saved with editcap."
        )


def _options(order: str, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Code and value of each option of a block; ends at what is cut off."""
    while at + 4 <= len(body):
        code, length = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == 0 or len(value) < length:
            return
        yield code, value
        at += 4 + (length + 3 & ~3)


def _hint(magic: bytes) -> str:
    if magic[:2] == b"\x1f\x8b":
        return " (gzip: zcat FILE | portside trace --read -)"
    return ""
