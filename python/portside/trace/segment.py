"""Bytes of a packet in, one TCP segment out: what the tracker needs of it, and no more.

Pure. It must not know where the bytes come from, nor what a connection is. Packets are hostile:
every length is checked against what is there, nothing is allocated by a length that a packet
claims, and whatever is no whole TCP header is None, never an error.

Source: RFC 791, 8200, 9293; LINKTYPE_ values of tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

QUIT = b"\x01\x00\x00\x00\x01"
"""COM_QUIT as it stands on the wire: length 1, sequence 0, payload 01.

Source: MySQL protocol, "Protocol::Packet", COM_QUIT. It ends the payload under compression too,
where a packet this short is stored as it is; under TLS it cannot be seen.
"""

_TCP = 6
_TCP_HEADER = struct.Struct(">HHIIBB")  # ports, sequence, acknowledgement, offset, flags
_IP4, _IP6 = 0x0800, 0x86DD
_TAGS = frozenset({0x8100, 0x88A8, 0x9100})  # 802.1Q, 802.1ad, and what came before it
_MOST_TAGS = 4
# Hop-by-hop, routing, destination options; fragments have no length of their own.
_IP6_OPTIONS = frozenset({0, 43, 60})
_IP6_FRAGMENT = 44
_MOST_OPTIONS = 8
_LOOPBACK_HARDWARE = 772  # ARPHRD_LOOPBACK, linux/if_arp.h
_OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h


class Link(IntEnum):
    """What stands before the IP header; the number is the capture file's."""

    NULL = 0
    ETHERNET = 1
    RAW_BSD = 12
    RAW_OPENBSD = 14
    RAW = 101
    LOOP = 108
    COOKED = 113
    IP4 = 228
    IP6 = 229
    COOKED2 = 276


class Segment(NamedTuple):
    """One TCP segment.

    ``source`` and ``target`` are packed addresses, 4 or 16 bytes; ``size`` counts payload bytes as
    the IP header says them; ``has_quit`` needs the payload's end to have been captured.
    """

    time: float
    source: bytes
    source_port: int
    target: bytes
    target_port: int
    flags: int
    sequence: int
    acknowledged: int
    size: int
    has_quit: bool
    interface: int = 0


def from_link(link: int, data: bytes, time: float, interface: int = 0) -> Segment | None:
    """The segment of a packet with its link header; None for anything else."""
    start = _network_start(link, data)
    if link == Link.COOKED2:  # the header names the interface: a router sees each packet twice
        interface = int.from_bytes(data[4:8], "big")
    return None if start is None else from_ip(data[start:], time, interface)


def from_ip(data: bytes, time: float, interface: int = 0) -> Segment | None:
    """The segment of a packet that begins with its IP header; None for anything else."""
    if len(data) < 20:
        return None
    version = data[0] >> 4
    if version == 4:
        start = (data[0] & 15) * 4
        end = data[2] << 8 | data[3]
        is_later_fragment = (data[6] << 8 | data[7]) & 0x1FFF
        if data[9] != _TCP or start < 20 or is_later_fragment:
            return None
        source, target = data[12:16], data[16:20]
    elif version == 6:
        found = _ip6_payload(data)
        if found is None:
            return None
        start, end = found, 40 + (data[4] << 8 | data[5])
        source, target = data[8:24], data[24:40]
    else:
        return None
    if len(data) < start + 20:
        return None
    source_port, target_port, sequence, acknowledged, offset, flags = _TCP_HEADER.unpack_from(
        data, start
    )
    begin = start + (offset >> 4) * 4
    size = end - begin
    if begin < start + 20 or size < 0:
        return None
    has_quit = size >= len(QUIT) and data[begin:end].endswith(QUIT) and len(data) >= end
    return Segment(
        time,
        source,
        source_port,
        target,
        target_port,
        flags,
        sequence,
        acknowledged,
        size,
        has_quit,
        interface,
    )


def _ip6_payload(data: bytes) -> int | None:
    """Where TCP begins behind the extension headers."""
    if len(data) < 40:
        return None
    following, at = data[6], 40
    for _ in range(_MOST_OPTIONS):
        if following == _TCP:
            return at
        if len(data) < at + 8:
            return None
        if following in _IP6_OPTIONS:
            following, at = data[at], at + (data[at + 1] + 1) * 8
        elif following == _IP6_FRAGMENT:
            if (data[at + 2] << 8 | data[at + 3]) & 0xFFF8:
                return None  # a later fragment: no TCP header in it
            following, at = data[at], at + 8
        else:
            return None
    return None


def _network_start(link: int, data: bytes) -> int | None:
    if link == Link.ETHERNET:
        return _behind_tags(data, 12)
    if link in (Link.RAW, Link.RAW_BSD, Link.RAW_OPENBSD, Link.IP4, Link.IP6):
        return 0
    if link in (Link.NULL, Link.LOOP):
        return 4  # the address family; the IP header says its version itself
    if link == Link.COOKED:
        return None if _is_second_copy(data, 2, 0) else _behind_tags(data, 14)
    if link == Link.COOKED2:
        if _is_second_copy(data, 8, 10):
            return None
        kind = data[0:2]
        return 20 if kind in (b"\x08\x00", b"\x86\xdd") else _tagged_cooked2(data)
    return None


def _behind_tags(data: bytes, at: int) -> int | None:
    """Where IP begins, given where the EtherType stands."""
    for _ in range(_MOST_TAGS):
        kind = int.from_bytes(data[at : at + 2], "big")
        if kind in (_IP4, _IP6):
            return at + 2
        if kind not in _TAGS:
            return None
        at += 4
    return None


def _tagged_cooked2(data: bytes) -> int | None:
    # The tag's second half and the inner EtherType follow the header.
    is_tag = int.from_bytes(data[0:2], "big") in _TAGS
    return _behind_tags(data, 22) if is_tag else None


def _is_second_copy(data: bytes, hardware_at: int, kind_at: int) -> bool:
    """Loopback shows each packet twice, going out and coming in; one of them is enough."""
    hardware = int.from_bytes(data[hardware_at : hardware_at + 2], "big")
    if hardware != _LOOPBACK_HARDWARE:
        return False
    if kind_at == 0:
        return int.from_bytes(data[0:2], "big") == _OUTGOING
    return len(data) > kind_at and data[kind_at] == _OUTGOING
