"""A configuration of Portside as situations: one for each address of each server.

Pure. The rate is spread as the configuration would: services that require a writable server get the
writes, members their weights; a backup is planned for the day on which it carries the service.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from portside.plan.situation import Chooser, PlanError, Situation, ToServer

if TYPE_CHECKING:
    from portside.config.addresses import Address
    from portside.config.model import Config, Server, Service

_NEVER_S = 1e8


def need_package(what: str) -> None:
    """Refuses ``what`` where only the single file doctor.pyz is there.

    Raises:
        PlanError: configurations cannot be read here.
    """
    parts = ("pydantic", "portside.config", "portside.admin")
    if sys.version_info < (3, 11) or not all(map(_is_there, parts)):
        raise PlanError(
            f"{what} needs the installed package portside, with Python 3.11 or newer; without it"
            " give the figures as options (portside plan --help)."
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def situations(config: Config, base: Situation) -> tuple[Situation, ...]:
    """One per address of a server that is reached over TCP, in the file's order.

    Args:
        config: resolved, as ``portside.load`` returns it.
        base: what the file does not say: rate, hold, writes, and the kernel's ports.

    Raises:
        PlanError: every server is reached over a unix socket.
    """
    from portside.config.port_space import port_needs

    shares = _shares(config, base.writes)
    own = {(need.server, need.destination): need for need in port_needs(config, _no_memory)}
    found = []
    for server in config.servers:
        services = [s for s in config.services if any(m.name == server.name for m in s.servers)]
        addresses = [address for address in server.addresses if address.kind != "unix"]
        share = shares.get(server.name, 0.0) / max(1, len(addresses))
        if not share:
            continue  # no service uses it
        for address in addresses:
            need = own.get((server.name, str(address)))
            found.append(
                replace(
                    base,
                    name=f"{server.name}, {address}",
                    share=share,
                    destinations=1,
                    addresses=need.sources if need else _sources(server, address),
                    # What is kept for checks is not for sessions.
                    ports=(need.tuples - need.reserved) // need.sources if need else base.ports,
                    chooser=Chooser.OWN if need else Chooser.CONNECT,
                    close=_close(server, services),
                    **_pool(services),
                )
            )
    if not found:
        raise PlanError(
            "no service has a server that is reached over TCP: unix sockets need no source ports."
        )
    return tuple(found)


def _no_memory(*_: int) -> int:
    """The ledger's memory is not asked here."""
    return 0


def _shares(config: Config, writes: float | None) -> dict[str, float]:
    """Server to its part of the whole rate; backups as if they had taken over."""
    parts: dict[str, float] = {}
    for service in config.services:
        whole = _part_of(config, service, writes)
        active = [m for m in service.servers if not m.backup and m.weight]
        total = sum(member.weight for member in active)
        for member in active:
            parts[member.name] = parts.get(member.name, 0.0) + whole * member.weight / total
        for member in service.servers:
            if member.backup:
                parts[member.name] = parts.get(member.name, 0.0) + whole
    return {name: min(1.0, part) for name, part in parts.items()}


def _part_of(config: Config, service: Service, writes: float | None) -> float:
    """A service's part of the rate: evenly, or by the share of writes."""
    writing = [one for one in config.services if one.require == "writable"]
    others = len(config.services) - len(writing)
    if writes is None or not writing or not others:
        return 1 / len(config.services)
    return writes / len(writing) if service in writing else (1 - writes) / others


def _sources(server: Server, address: Address) -> int:
    """Our addresses of the destination's family; 1 where the route decides."""
    ips = server.source.ips
    if address.ip is None:
        return len(ips) or 1
    return sum(ipaddress.ip_address(ip).version == address.ip.version for ip in ips) or 1


def _close(server: Server, services: list[Service]) -> ToServer:
    """The worst of what its services do."""
    from portside.config.model import member_close

    closes = [ToServer(member_close(service, server).to_server) for service in services]
    return ToServer.FIN if ToServer.FIN in closes else closes[0]


def _pool(services: list[Service]) -> dict[str, Any]:
    """Shared connections, if every service of the server shares them."""
    if not all(service.mode == "pool" for service in services):
        return {"pool": None}
    lifetimes = [service.pool.max_lifetime_s or _NEVER_S for service in services]
    return {
        "pool": max(service.pool.max for service in services),
        "pool_lifetime_s": min(lifetimes),
    }
