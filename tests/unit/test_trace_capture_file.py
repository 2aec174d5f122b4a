"""pcap and pcapng: both byte orders, both clocks, damage, and any bytes at all."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.trace.capture_file import MOST_PACKET_BYTES, CaptureFile, Packet
from portside.trace.errors import TraceError

from tests.support.packets import block, enhanced, interface, pcap, section


def packets(data: bytes) -> list[Packet]:
    return list(CaptureFile(io.BytesIO(data), "a.pcap"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap(order: str, nano: bool):
    data = pcap([(1000.25, b"one"), (1001.5, b"")], 113, order, nano)
    assert packets(data) == [Packet(1000.25, 113, b"one", 0), Packet(1001.5, 113, b"", 0)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("resolution", "ticks"),
    [(None, 1_500_000), (6, 1_500_000), (9, 1_500_000_000), (3, 1500), (0x80 | 10, 1536)],
)
def test_pcapng(order: str, resolution: int | None, ticks: int):
    data = section(order) + interface(1, order, resolution) + enhanced(b"abc", ticks, 0, order)
    assert packets(data) == [Packet(1.5, 1, b"abc", 0)]


def test_pcapng_sections_interfaces_and_strangers():
    statistics, names = block(5, bytes(20)), block(4, bytes(70_000))
    data = section() + interface(1) + interface(276) + statistics + enhanced(b"b", 0, 1)
    data += names + section(">") + interface(101, ">") + enhanced(b"c", 0, 0, ">")
    assert [(p.link, p.data, p.interface) for p in packets(data)] == [
        (276, b"b", 1),
        (101, b"c", 0),
    ]


def test_pcapng_simple_and_old_packets():
    simple = block(3, b"\x03\x00\x00\x00abc")
    old = block(2, bytes(4) + bytes(4) + b"\x40\x42\x0f\x00" + b"\x02\x00\x00\x00" * 2 + b"xy")
    found = packets(section() + interface(101) + simple + old)
    assert [p.data for p in found] == [b"abc", b"xy"] and found[1].time == 1.0


@pytest.mark.parametrize(
    "data",
    [
        pcap([(1.0, b"whole"), (2.0, b"cut off")]),
        section() + interface() + enhanced(b"whole", 1) + enhanced(b"cut off", 1),
    ],
)
def test_a_file_that_was_cut_off_keeps_what_is_whole(data: bytes):
    for length in range(len(data) - 6, len(data)):
        file = CaptureFile(io.BytesIO(data[:length]), "a.pcap")
        assert [p.data for p in file] == [b"whole"] and file.cut_off


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "a.pcap is no capture file: expected pcap or pcapng, as tcpdump -w and dumpcap"
              " write them, but it is empty."),
        (b"GET / HTTP", "but it begins with 47 45 54 20."),
        (b"\x1f\x8b\x08\x00", "(gzip: zcat FILE | portside trace --read -)."),
        (b"\xd4\xc3\xb2\xa1\x02", "damaged near byte 5: the file header is cut off"),
        (pcap([])+b"\0" * 8 + b"\xff" * 8, "a packet of 4,294,967,295 bytes; the largest"),
        (section() + enhanced(b"x", 0), "a packet of interface 0, which the file does not"),
        (section() + interface() + enhanced(b"x", 0, claims=99), "a packet of 99 bytes in a"),
        (section() + block(1, b""), "an interface block that is too short"),
        (section() + interface() + block(6, b"abcd"), "a packet block that is too short"),
        (section() + b"\x06\0\0\0\x05\0\0\0", "a block of 5 bytes"),
        (section() + b"\x0a\x0a\0\0\xff\xff\xff\xfc", "a block of 4,244,635,647 bytes"),
        (section()[:8] + b"abcd" + bytes(16), "a section without a byte order"),
    ],
)  # fmt: skip
def test_damage_is_one_sentence_with_its_place(data: bytes, said: str):
    with pytest.raises(TraceError) as caught:
        packets(data)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_reader_that_fails():
    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(TraceError, match=r"^a\.pcap cannot be read: Input/output error\.$"):
        CaptureFile(Broken(), "a.pcap")


WHOLE = pcap([(n, bytes(n)) for n in range(5)])
WHOLE_NG = section() + interface() + b"".join(enhanced(bytes(n), n) for n in range(5))


@given(st.sampled_from([WHOLE[:4], WHOLE_NG[:4], b""]), st.binary(max_size=300))
def test_any_bytes(magic: bytes, rest: bytes):
    read_it(magic + rest)


@given(st.sampled_from([WHOLE, WHOLE_NG]), st.integers(4, 300), st.binary(max_size=24))
def test_any_damage(data: bytes, at: int, damage: bytes):
    read_it(data[:at] + damage + data[at + len(damage) :])


def read_it(data: bytes) -> None:
    """It ends, with packets no larger than the file, or in a sentence."""
    try:
        found = packets(data)
    except TraceError as error:
        assert "a.pcap" in str(error)
    else:
        assert sum(len(p.data) for p in found) <= len(data) <= MOST_PACKET_BYTES
