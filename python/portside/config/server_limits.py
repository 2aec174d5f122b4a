"""Whether the servers take as many connections as pools may open there.

Pure: what the servers said comes from `portside check --connect`. It is of one Portside's part
only: several in front of one server add up, and so do clients that come around them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from portside.config.finding import Finding
from portside.config.limits import pool_max
from portside.config.model import Config
from portside.config.positions import Path

# Beside the pool's: one for KILL, one for a check.
_BESIDE: Final = 2
# Kept per connection. Source: crates/core/src/pool/statements.rs.
_STATEMENTS: Final = 64


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server takes of all its clients together; None: it did not tell."""

    max_connections: int | None
    max_prepared_statements: int | None


def doubts(config: Config, told: Mapping[str, ServerLimits]) -> Iterator[Finding]:
    """For each server that `told` its limits and whose pools may go beyond them."""
    most = pool_max(config)
    for server in config.servers:
        limits, pooled = told.get(server.name), most.get(server.name)
        if limits is None or pooled is None:
            continue
        # With a limit of its own relays' sessions are counted in it.
        wanted, path = server.max_connections or pooled, _source(config, server.name)
        its = f"server {server.name}'s"
        if limits.max_connections is not None and wanted + _BESIDE > limits.max_connections:
            yield Finding(
                path,
                f"{its} max_connections is {limits.max_connections:,}, less than the {wanted:,}"
                " that may be open and one each for KILL and a check: clients will get error 1040",
                hint=f"lower it to {max(1, limits.max_connections - _BESIDE)}, or raise"
                " max_connections there",
            )
        statements = pooled * _STATEMENTS
        prepared = limits.max_prepared_statements
        if prepared is not None and statements > prepared:
            yield Finding(
                path,
                f"{its} max_prepared_stmt_count is {prepared:,}, and {pooled:,} connections may"
                f" keep {_STATEMENTS} statements each: clients will get error 1461",
                hint=f"raise it there above {statements:,}, or lower max",
            )


def _source(config: Config, name: str) -> Path:
    """The key that says how many: the server's, else that of the service with the largest max."""
    for index, server in enumerate(config.servers):
        if server.name == name and server.max_connections is not None:
            return ("server", index, "max_connections")
    pools = [
        (service.pool.max, -index)
        for index, service in enumerate(config.services)
        if service.mode == "pool" and name in {member.name for member in service.servers}
    ]
    index = -max(pools)[1]
    is_own = "max" in config.services[index].pool.model_fields_set
    return ("service", index, "pool", "max") if is_own else ("pool", "max")
