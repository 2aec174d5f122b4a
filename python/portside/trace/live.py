"""A packet socket with a kernel filter and a ring: segments as they pass this network namespace.

The ring (TPACKET_V3) hands over blocks of packets, so that a thousand of them cost one system call.
What arrives while the ring is full is lost, and the kernel counts it. Needs CAP_NET_RAW. Decides
nothing.

Source: packet(7), Documentation/networking/packet_mmap.rst, linux/if_packet.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import select
import socket
import struct
from collections.abc import Iterator, Sequence

from portside.trace import filter as kernel_filter
from portside.trace.errors import TraceError
from portside.trace.segment import Segment, from_ip

_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION = 263, 5, 6, 10
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_ALL = 0x0003  # ETH_P_ALL

# 32 MiB: at 5,000 short connections a second, four seconds in which Python may get no CPU.
_BLOCK_BYTES, _BLOCKS = 1 << 20, 32
_FRAME_BYTES = 2048
_HAND_OVER_MS = 50
_OURS, _KERNELS = 1, 0  # block_status: TP_STATUS_USER, TP_STATUS_KERNEL

_BLOCK = struct.Struct("=8xIII")  # behind version and offset: status, packets, first packet
_FRAME = struct.Struct("=IIIIIIH")  # next, seconds, nanoseconds, captured, length, status, start
_INTERFACE = struct.Struct("=i")
_INTERFACE_AT = 48 + 4  # struct sockaddr_ll behind struct tpacket3_hdr: sll_ifindex


class LiveTrace:
    """``with LiveTrace(ports) as live:``; then ``live.segments(wait_s)`` again and again.

    Attributes:
        seen: packets that passed the filter, up to the last ``count``.
        dropped: of these, the ones lost because the ring was full.
    """

    def __init__(self, ports: Sequence[int], interface: str = "") -> None:
        """Begins to capture.

        Args:
            ports: TCP ports, at most ``filter.MOST_PORTS``.
            interface: only this one; "" for all.

        Raises:
            TraceError: no rights, no such interface, or a kernel that gives no ring.
        """
        self.seen = 0
        self.dropped = 0
        self._at = 0
        # On every interface from the start, or on none until it is bound to one. Between here and
        # the ring unfiltered packets may come; making the ring throws them away.
        kind = 0 if interface else socket.htons(_ALL)
        with contextlib.ExitStack() as undo:
            self._socket = undo.enter_context(_packet_socket(kind))
            _attach(self._socket, kernel_filter.program(ports))
            self._ring = undo.enter_context(_make_ring(self._socket))
            if interface:
                _bind(self._socket, interface)
            self._undo = undo.pop_all()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN | select.POLLERR)

    def segments(self, wait_s: float) -> Iterator[Segment]:
        """What has come, after waiting for something at most ``wait_s``."""
        status, packets, first = _BLOCK.unpack_from(self._ring, self._at)
        if not status & _OURS:
            self._wait(wait_s)
            status, packets, first = _BLOCK.unpack_from(self._ring, self._at)
        handled = 0
        while status & _OURS and handled < _BLOCKS:
            yield from self._block(self._at + first, packets)
            struct.pack_into("=I", self._ring, self._at + 8, _KERNELS)
            self._at = (self._at + _BLOCK_BYTES) % (_BLOCK_BYTES * _BLOCKS)
            status, packets, first = _BLOCK.unpack_from(self._ring, self._at)
            handled += 1

    def _wait(self, wait_s: float) -> None:
        for _, event in self._poll.poll(wait_s * 1000):
            if event & select.POLLERR:
                # Our interface went down. Asking clears it; the capture goes on when it is back.
                self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def count(self) -> None:
        """Brings ``seen`` and ``dropped`` up to date; the kernel's counters begin anew."""
        raw = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12)
        seen, dropped, _ = struct.unpack("=III", raw)
        self.seen += seen
        self.dropped += dropped

    def close(self) -> None:
        """Ends the capture."""
        self._undo.close()

    def __enter__(self) -> LiveTrace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _block(self, at: int, packets: int) -> Iterator[Segment]:
        ring = self._ring
        for _ in range(packets):
            step, seconds, nanoseconds, captured, _, _, start = _FRAME.unpack_from(ring, at)
            (interface,) = _INTERFACE.unpack_from(ring, at + _INTERFACE_AT)
            data = ring[at + start : at + start + captured]
            segment = from_ip(data, seconds + nanoseconds / 1e9, interface)
            if segment is not None:
                yield segment
            at += step


def interfaces() -> list[str]:
    """The names of this namespace's interfaces."""
    return [name for _, name in socket.if_nameindex()]


def _packet_socket(kind: int) -> socket.socket:
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, kind)
    except PermissionError:
        raise TraceError(
            "capturing packets needs root or CAP_NET_RAW: sudo portside trace, or tcpdump -w FILE"
            " by somebody who may, and portside trace --read FILE."
        ) from None
    except OSError as error:
        raise TraceError(f"this system gives no packet socket: {error.strerror}.") from None


def _attach(target: socket.socket, code: bytes) -> None:
    """Hands over a struct sock_fprog: how many instructions, and where they are."""
    instructions = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    try:
        target.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
    except OSError as error:
        raise TraceError(f"this kernel takes no packet filter: {error.strerror}.") from None


def _make_ring(target: socket.socket) -> mmap.mmap:
    size = _BLOCK_BYTES * _BLOCKS
    frames = size // _FRAME_BYTES
    wanted = struct.pack("=7I", _BLOCK_BYTES, _BLOCKS, _FRAME_BYTES, frames, _HAND_OVER_MS, 0, 0)
    try:
        target.setsockopt(_SOL_PACKET, _VERSION, struct.pack("=i", _TPACKET_V3))
        target.setsockopt(_SOL_PACKET, _RX_RING, wanted)
        return mmap.mmap(target.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise TraceError(
            f"this kernel gives no {size >> 20} MiB for a packet ring: {error.strerror}."
        ) from None


def _bind(target: socket.socket, interface: str) -> None:
    try:
        target.bind((interface, _ALL))
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENAMETOOLONG):
            raise TraceError(f"cannot capture on {interface}: {error.strerror}.") from None
        raise TraceError(
            f'there is no interface "{interface}" here; there are {", ".join(interfaces())}.'
        ) from None
