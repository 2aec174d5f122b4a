"""Link headers, VLAN tags, extension headers; and any bytes at all."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portside.trace.segment import Link, Segment, from_ip, from_link

from tests.support.packets import CLIENT, FIN, QUIT, SERVER, ethernet, tcp

FOUR = tcp(CLIENT, 50000, SERVER, 3306, FIN, 7, 9, QUIT)
SIX = tcp("fd00::7", 50000, "fd00::11", 3306, FIN, 7, 9, QUIT)


def cooked(packet: bytes, kind: int = 0, hardware: int = 1) -> bytes:
    return struct.pack(">HHH8sH", kind, hardware, 6, bytes(8), 0x0800) + packet


def cooked2(packet: bytes, kind: int = 0, hardware: int = 1, proto: int = 0x0800) -> bytes:
    return struct.pack(">HHIHBB8s", proto, 0, 4, hardware, kind, 6, bytes(8)) + packet


@pytest.mark.parametrize(
    ("link", "data"),
    [
        (Link.ETHERNET, ethernet(FOUR)),
        (Link.ETHERNET, ethernet(SIX)),
        (Link.ETHERNET, ethernet(FOUR, 0x8100)),
        (Link.ETHERNET, ethernet(SIX, 0x88A8, 0x8100)),
        (Link.ETHERNET, ethernet(FOUR) + bytes(6)),  # padded to the least length
        (Link.RAW, FOUR),
        (Link.IP4, FOUR),
        (Link.IP6, SIX),
        (Link.NULL, b"\x02\x00\x00\x00" + FOUR),
        (Link.LOOP, b"\x00\x00\x00\x02" + FOUR),
        (Link.COOKED, cooked(FOUR)),
        (Link.COOKED, cooked(FOUR, kind=0, hardware=772)),
        (Link.COOKED2, cooked2(FOUR)),
        (Link.COOKED2, cooked2(struct.pack(">HH", 10, 0x0800) + FOUR, proto=0x8100)),
    ],
)
def test_every_link_gives_the_same_segment(link: Link, data: bytes):
    found = from_link(link, data, 1.5)
    assert found is not None
    assert (found.source_port, found.target_port, found.flags) == (50000, 3306, FIN)
    assert (found.sequence, found.acknowledged, found.size, found.has_quit) == (7, 9, 5, True)


def test_the_second_copy_on_loopback_is_left_out():
    assert from_link(Link.COOKED, cooked(FOUR, kind=4, hardware=772), 0.0) is None
    assert from_link(Link.COOKED2, cooked2(FOUR, kind=4, hardware=772), 0.0) is None
    assert from_link(Link.COOKED, cooked(FOUR, kind=4, hardware=1), 0.0) is not None


def test_options_of_ip_and_tcp_are_skipped():
    with_options = tcp(CLIENT, 1, SERVER, 2, payload=QUIT, options=bytes(12))
    assert from_ip(with_options, 0.0) == Segment(
        0.0, bytes([10, 0, 1, 7]), 1, bytes([10, 0, 0, 11]), 2, 0x10, 0, 0, 5, True
    )
    hop_by_hop = SIX[:6] + b"\x00" + SIX[7:40] + b"\x06\x00" + bytes(6) + SIX[40:]
    longer = hop_by_hop[:4] + struct.pack(">H", len(hop_by_hop) - 40) + hop_by_hop[6:]
    found = from_ip(longer, 0.0)
    assert found is not None and found.has_quit and found.size == 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        FOUR[:19],
        FOUR[:39],  # no whole TCP header
        FOUR[:6] + b"\x00\x10" + FOUR[8:],  # a later fragment
        FOUR[:9] + b"\x11" + FOUR[10:],  # UDP
        b"\x41" + FOUR[1:],  # a header of 4 bytes
        FOUR[:2] + b"\x00\x14" + FOUR[4:],  # shorter than its own headers
        FOUR[:32] + b"\x00" + FOUR[33:],  # a TCP header of 0 bytes
        SIX[:6] + b"\x00" + SIX[7:],  # extension headers without end
        b"\x75" + FOUR[1:],
    ],
)
def test_what_is_no_segment_is_none(data: bytes):
    assert from_ip(data, 0.0) is None


def test_a_quit_that_was_not_captured_is_none():
    found = from_ip(FOUR[:-1], 0.0)
    assert found is not None and not found.has_quit


@settings(deadline=None)
@given(st.sampled_from([*Link, 147]), st.binary(max_size=200))
def test_any_bytes(link: int, data: bytes):
    found = from_link(link, data, 0.0)
    assert found is None or 0 <= found.size < 1 << 17


@settings(deadline=None)
@given(st.integers(0, len(SIX)), st.binary(max_size=20), st.booleans())
def test_any_damage(at: int, damage: bytes, is_six: bool):
    packet = SIX if is_six else FOUR
    found = from_ip(packet[:at] + damage + packet[at + len(damage) :], 0.0)
    assert found is None or len(found.source) in (4, 16)
