"""Whether the sessions that a configuration promises fit the open-file limit, with the arithmetic.

`fd_need` is pure; `file_limit` asks for the limit that `portside run` will have. How many
descriptors a session, a listener and a check take is `portside.control.limits`.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from dataclasses import dataclass

from portside.config.model import Config, Service
from portside.control.limits import fitting_sessions, required


@dataclass(frozen=True, slots=True)
class FdNeed:
    """What a configuration promises, what fits, and both in words."""

    promised: int
    """Sessions at a time that explicit limits promise."""
    limit: int
    """Open files this process may have."""
    max_sessions: int
    """Sessions in force: the configured number, else what fits."""
    fits: bool
    """Whether the promised sessions and the configured maximum fit."""
    text: str
    """The arithmetic, one or two sentences."""


def file_limit() -> int:
    """RLIMIT_NOFILE's hard limit, to which `portside run` raises the soft one at its start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        return hard
    with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
        return int(file.read())


def promised_sessions(config: Config) -> int:
    """The most sessions that explicit limits promise at a time; 0 without any.

    Relays: the limits of services, and for services without one those of their servers, each
    server once; never more than all servers take together, where all of them have a limit. Pools:
    the limits of services alone, since their sessions share server connections.
    """
    relays = [service for service in config.services if service.mode == "relay"]
    pools = sum(s.max_connections or 0 for s in config.services if s.mode == "pool")
    caps = {server.name: server.max_connections for server in config.servers}
    without = [service for service in relays if service.max_connections is None]
    own = sum(service.max_connections or 0 for service in relays)
    promised = own + sum(caps[name] or 0 for name in _members(without))
    used = [caps[name] for name in _members(relays)]
    relayed = promised if None in used else min(promised, sum(cap for cap in used if cap))
    return relayed + pools


def pool_max(config: Config) -> dict[str, int]:
    """The most server connections that pools have at a time, by server: the largest `max`."""
    most: dict[str, int] = {}
    for service in config.services:
        for member in service.servers if service.mode == "pool" else ():
            most[member.name] = max(most.get(member.name, 0), service.pool.max)
    caps = {server.name: server.max_connections for server in config.servers}
    return {name: min(number, caps[name] or number) for name, number in most.items()}


def pool_open_rate(config: Config) -> dict[str, int]:
    """New server connections per second that pools may open, by server: the largest of theirs."""
    most: dict[str, int] = {}
    for service in config.services:
        for member in service.servers if service.mode == "pool" else ():
            most[member.name] = max(most.get(member.name, 0), service.pool.open_rate)
    return most


def fd_need(config: Config, limit: int) -> FdNeed:
    """The arithmetic for a limit of open files."""
    listeners = sum(len(service.listen) for service in config.services)
    destinations = sum(len(server.addresses) for server in config.servers)
    workers = config.portside.workers
    # The admin socket counts always: a program that embeds a Balancer has one descriptor too many.
    doors = 1 + (config.admin.listen is not None) + (config.metrics.listen is not None)
    fixed = (listeners, workers, destinations, doors)
    pooled = sum(pool_max(config).values())
    only_pools = all(service.mode == "pool" for service in config.services)
    fitting = fitting_sessions(limit, *fixed, pooled=pooled, only_pools=only_pools)
    promised = promised_sessions(config)
    wanted = max(promised, config.portside.max_sessions or 0)
    need = required(wanted or fitting, *fixed, pooled=pooled, only_pools=only_pools)
    fits = need.files <= limit and fitting > 0
    if fits:
        text = f"{need.text}, and the limit is {limit:,}, enough for {fitting:,} sessions"
    else:
        text = (
            f"{need.text} open files, but the limit is {limit:,}, enough for {fitting:,} sessions;"
            f" raise it (LimitNOFILE= or ulimit -Hn) to {need.files:,}, or lower max_connections"
            f"{' or [pool] max' if pooled else ''}"
        )
    return FdNeed(promised, limit, config.portside.max_sessions or fitting, fits, text)


def _members(services: Iterable[Service]) -> set[str]:
    return {member.name for service in services for member in service.servers}
