"""Whether the file descriptors of this process suffice for a configuration, with the arithmetic.

The soft limit is raised to the hard one first: the soft default of 1,024 protects programs that use
select(2), which nothing here does. ``required`` is pure.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

PER_SESSION = 2
"""A relayed session holds the client's socket and the server's. A pooled one holds the client's."""
OVERHEAD = 64
"""The interpreter, the pollers, the log, name servers, and what is being closed."""
DOOR_CONNECTIONS = 80
"""At a time, of each door: the admin socket, the admin API over TCP, the metrics. 64 of them may
follow the events; commands, scrapes and health checks take one for a moment."""


@dataclass(frozen=True, slots=True)
class Need:
    """How many descriptors a configuration wants at most, and the sum in words."""

    files: int
    sessions: int
    text: str


def required(
    sessions: int,
    listeners: int,
    workers: int,
    servers: int,
    doors: int,
    *,
    pooled: int = 0,
    only_pools: bool = False,
) -> Need:
    """The descriptors for ``sessions`` at once; every worker has its own listening sockets.

    ``pooled``: server connections that pools may have; ``only_pools``: no service is a relay.
    """
    per_session = 1 if only_pools else PER_SESSION
    listening = listeners * workers
    checks = 2 * servers  # a check running, and the one it replaces after a reload
    rest = doors * DOOR_CONNECTIONS + OVERHEAD
    files = sessions * per_session + pooled + listening + checks + rest
    shared = f"{pooled:,} pooled connections + " if pooled else ""
    return Need(
        files,
        sessions,
        f"{sessions:,} sessions x {per_session} + {shared}{listening:,} listening sockets "
        f"({listeners} x {workers} workers) + {checks:,} for checks + {rest} = {files:,}",
    )


def fitting_sessions(
    limit: int,
    listeners: int,
    workers: int,
    servers: int,
    doors: int,
    *,
    pooled: int = 0,
    only_pools: bool = False,
) -> int:
    """The most sessions that fit below ``limit`` descriptors; not below 0."""
    fixed = required(0, listeners, workers, servers, doors, pooled=pooled).files
    return max(0, (limit - fixed) // (1 if only_pools else PER_SESSION))


def raise_file_limit() -> int:
    """Raises RLIMIT_NOFILE's soft limit to the hard one; returns what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # a hard limit above fs.nr_open: keep what we have
            return soft
    return hard
