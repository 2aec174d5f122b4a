"""Puts a network namespace really into a state: TIME_WAITs, leaks, full queues. Call it inside."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ADDRESS = ("127.0.0.1", 3306)


def sysctls(values: Mapping[str, str]) -> None:
    """Sets net.ipv4 values of the namespace that the calling thread is in."""
    for key, value in values.items():
        Path("/proc/sys/net/ipv4", key).write_text(value)


def sysctl_p(file: Path) -> None:
    """What ``sysctl -p FILE`` does, which a minimal system does not have."""
    for line in file.read_text().splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition(" = ")
            Path("/proc/sys", *key.split(".")).write_text(value)


def listen(address: tuple[str, int] = ADDRESS, backlog: int = 128) -> socket.socket:
    """A listener that accepts nobody by itself."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(backlog)
    return listener


def close_first(listener: socket.socket, count: int, source: tuple[str, int] | None = None) -> None:
    """``count`` connections one after the other; the client's FIN comes first, so it keeps them."""
    for number in range(count):
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(socket.socket(listener.family))
            if source is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind((source[0], source[1] + number))
            client.connect(listener.getsockname()[:2])
            server, _ = listener.accept()
            with server:
                client.close()
                assert server.recv(1) == b""


def leak(listener: socket.socket, count: int) -> Sequence[socket.socket]:
    """``count`` clients that do not notice that the server has closed: CLOSE_WAIT."""
    clients = [socket.create_connection(listener.getsockname()) for _ in range(count)]
    for _ in clients:
        listener.accept()[0].close()
    for client in clients:
        assert client.recv(1) == b""
    return clients


def knock(listener: socket.socket, count: int) -> Sequence[socket.socket]:
    """``count`` connects that nobody accepts; those beyond the backlog stay in SYN_SENT."""
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        clients.append(client)
    return clients


def forge_syns(to: tuple[str, int], seconds: float) -> None:
    """SYNs from addresses that do not exist: they stay half open over there. Needs root."""
    target = socket.inet_aton(to[0])
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            number += 1
            source = target[:2] + struct.pack(">H", 256 + number % 60_000)
            syn = struct.pack(">HHIIHHHH", 1024 + number % 60_000, to[1], 1, 0, 0x5002, 8192, 0, 0)
            sum_over = source + target + struct.pack(">HH", socket.IPPROTO_TCP, len(syn)) + syn
            syn = syn[:16] + struct.pack(">H", _checksum(sum_over)) + syn[18:]
            # The kernel fills in the length and the sum of this header.
            head = struct.pack(">BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0)
            raw.sendto(head + source + target + syn, to)
            time.sleep(0.002)


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
