"""Packets and capture files made by hand, so that a test says byte for byte what is read."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
QUIT = b"\x01\x00\x00\x00\x01"
CLIENT, SERVER = "10.0.1.7", "10.0.0.11"


def tcp(
    source: str,
    source_port: int,
    target: str,
    target_port: int,
    flags: int = ACK,
    sequence: int = 0,
    acknowledged: int = 0,
    payload: bytes = b"",
    options: bytes = b"",
) -> bytes:
    """An IPv4 or IPv6 packet with a TCP segment; checksums are not looked at and are 0."""
    offset = (20 + len(options)) // 4 << 4
    segment = struct.pack(
        ">HHIIBBHHH", source_port, target_port, sequence, acknowledged, offset, flags, 1024, 0, 0
    )
    segment += options + payload
    ours, theirs = ipaddress.ip_address(source).packed, ipaddress.ip_address(target).packed
    if len(ours) == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28, len(segment), 6, 64)
    return head + ours + theirs + segment


def ethernet(packet: bytes, *tags: int) -> bytes:
    """With VLAN tags of these EtherTypes in front, outermost first."""
    kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    tagged = b"".join(struct.pack(">HH", tag, 10) for tag in tags)
    return bytes(12) + tagged + kind + packet


def pcap(
    packets: Iterable[tuple[float, bytes]], link: int = 101, order: str = "<", nano: bool = False
) -> bytes:
    """A pcap file."""
    per_second = 10**9 if nano else 10**6
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link)
    for time, data in packets:
        fraction = round(time % 1 * per_second)
        out += struct.pack(order + "IIII", int(time), fraction, len(data), len(data)) + data
    return out


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """One pcapng block."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int = 101, order: str = "<", resolution: int | None = None) -> bytes:
    body = struct.pack(order + "HHI", link, 0, 262144)
    if resolution is not None:
        body += struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    return block(1, body, order)


def enhanced(
    data: bytes, ticks: int, number: int = 0, order: str = "<", claims: int | None = None
) -> bytes:
    """An enhanced packet block; ``claims``: a length that it lies about."""
    length = len(data) if claims is None else claims
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, length, len(data))
    return block(6, head + data, order)


@dataclass
class Talk:
    """One connection told packet by packet: ``packets`` grows with each call.

    Sequence numbers are kept as real ends keep them: SYN and FIN count one.
    """

    client: str = CLIENT
    server: str = SERVER
    client_port: int = 50000
    port: int = 3306
    start: int = 1000
    now: float = 100.0

    def __post_init__(self) -> None:
        self.packets: list[tuple[float, bytes]] = []
        self._next = {True: self.start, False: 9000}
        self._heard = {True: 0, False: 0}

    def open(self) -> Talk:
        return self.c(SYN, ack=False).s(SYN | ACK).c(ACK)

    def c(
        self, flags: int = ACK, payload: bytes = b"", *, ack: bool = True, late: bool = False
    ) -> Talk:
        """From the client; ``late``: it has not heard the server's last segment yet."""
        return self._say(True, flags, payload, ack, late)

    def s(
        self, flags: int = ACK, payload: bytes = b"", *, ack: bool = True, late: bool = False
    ) -> Talk:
        """From the server."""
        return self._say(False, flags, payload, ack, late)

    def quit(self) -> Talk:
        return self.c(ACK | PSH, QUIT)

    def wait(self, seconds: float) -> Talk:
        self.now += seconds
        return self

    def _say(self, ours: bool, flags: int, payload: bytes, ack: bool, late: bool) -> Talk:
        if not late:
            self._heard[ours] = self._next[not ours]
        ends = (self.client, self.client_port), (self.server, self.port)
        source, target = ends if ours else ends[::-1]
        number = self._next[ours]
        acknowledged = self._heard[ours] if ack else 0
        self.packets.append(
            (self.now, tcp(*source, *target, flags, number % 2**32, acknowledged % 2**32, payload))
        )
        self._next[ours] += len(payload) + (1 if flags & (SYN | FIN) else 0)
        self.now += 0.001
        return self
