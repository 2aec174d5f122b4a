"""How many source ports a configuration has towards each destination, and whose they are besides.

`port_needs` and `overlap` are pure; `kernel_range` and `reserved_ports` ask this network namespace.
What the ledger does with them is docs/internals/ports.md.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portside.config.addresses import Address
from portside.config.model import Config, Server

_SYSCTLS: Final = Path("/proc/sys/net/ipv4")
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PortNeed:
    """The source ports towards one destination."""

    server: str
    destination: str
    sources: int
    """Our addresses towards it; 1 where the route chooses."""
    ports: str
    """The range, "lo-hi"."""
    tuples: int
    """Connections at a time, checks included; listeners inside the range are left out."""
    left_out: tuple[str, ...]
    """Our listeners inside the range."""
    reserved: int
    """Of the tuples, those kept for checks."""
    memory_bytes: int
    """Memory of the ledger once every tuple has been used."""


def port_needs(
    config: Config, ledger_bytes: Callable[[int, int, int, int], int]
) -> tuple[PortNeed, ...]:
    """One row per destination whose ports are ours, in the file's order.

    Args:
        config: resolved.
        ledger_bytes: ``_core.ledger_bytes``, so that the arithmetic stands in one place.
    """
    rows = []
    for server in config.servers:
        for address in server.addresses:
            if server.source.ports is not None and address.kind != "unix":
                rows.append(_need(config, server, address, ledger_bytes))
    return tuple(rows)


def _need(
    config: Config,
    server: Server,
    address: Address,
    ledger_bytes: Callable[[int, int, int, int], int],
) -> PortNeed:
    ports = server.source.ports or (0, 0)
    lo, hi = ports
    ours = _sources(server, address)
    left_out = list(_listeners_inside(config, ports, ours))
    width, count = hi - lo + 1, len(ours) or 1
    # A listener on every address takes its port from each of them.
    lost = {(ip, a.port) for a in left_out for ip in (ours or ("",)) if str(a.ip) == ip or _any(a)}
    return PortNeed(
        server=server.name,
        destination=str(address),
        sources=count,
        ports=f"{lo}-{hi}",
        tuples=count * width - len(lost),
        left_out=tuple(map(str, left_out)),
        reserved=count * min(server.source.reserve, width // 2),
        memory_bytes=ledger_bytes(count, lo, hi, config.portside.workers),
    )


def _sources(server: Server, address: Address) -> tuple[str, ...]:
    """Our addresses of the destination's family; () where the route decides."""
    ips = server.source.ips
    if address.ip is None:
        return ips
    return tuple(ip for ip in ips if ipaddress.ip_address(ip).version == address.ip.version)


def _listeners_inside(config: Config, ports: Range, ours: tuple[str, ...]) -> Iterator[Address]:
    for service in config.services:
        for listen in service.listen:
            address = listen.address
            is_ours = _any(address) or (address.ip is not None and str(address.ip) in ours)
            if is_ours and ports[0] <= address.port <= ports[1]:
                yield address


def _any(address: Address) -> bool:
    return address.ip is not None and address.ip.is_unspecified


def overlap(ports: Range, kernel: Range, reserved: str) -> Range | None:
    """The part of ``ports`` that the kernel gives to others, from its first to its last port.

    ``reserved`` is ip_local_reserved_ports: what the kernel leaves alone.
    """
    kept = set(_expand(reserved))
    shared = [
        port
        for port in range(max(ports[0], kernel[0]), min(ports[1], kernel[1]) + 1)
        if port not in kept
    ]
    return (shared[0], shared[-1]) if shared else None


def _expand(reserved: str) -> Iterator[int]:
    for part in filter(None, reserved.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def reserving(shared: Iterable[Range], reserved: str) -> str:
    """The sysctl line that keeps ``shared`` for explicit binds, and what was reserved before."""
    parts = dict.fromkeys([*filter(None, reserved.split(",")), *(f"{a}-{b}" for a, b in shared)])
    return f"net.ipv4.ip_local_reserved_ports = {','.join(parts)}"


def kernel_range() -> Range | None:
    """net.ipv4.ip_local_port_range; None where it cannot be read."""
    try:
        lo, hi = (_SYSCTLS / "ip_local_port_range").read_text("ascii").split()
    except (OSError, ValueError):
        return None
    return int(lo), int(hi)


def reserved_ports() -> str:
    """net.ipv4.ip_local_reserved_ports, a list such as "8080,9000-9010"."""
    try:
        return (_SYSCTLS / "ip_local_reserved_ports").read_text("ascii").strip()
    except OSError:
        return ""
