"""Configuration plus runtime state -> the snapshot that the data plane takes whole.

Pure: the same arguments give the same object. Its shape is docs/internals/architecture.md, "The
snapshot"; durations become integer milliseconds (None = never). It does not know how eligibility
was judged, how names were resolved, or when a snapshot is applied.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from portside.config import limits
from portside.config.model import Config, Listen, Member, Server, Service, User, member_close
from portside.config.secret import Secret

WEIGHT_SCALE: Final = 100
"""The data plane counts weights in hundredths, so that a slow start has steps below 1."""


@dataclass(frozen=True, slots=True)
class MemberState:
    """What is known at run time about a server's part in a service."""

    eligible: bool
    why: str = ""
    """Why it is not eligible; goes into the client's error text."""
    weight: int | None = None
    """Overrides the file's weight (`portside weight`)."""
    ramp: float = 1.0
    """Slow start: the share of the weight in force now, 0 to 1."""


UNKNOWN: Final = MemberState(False, "not checked yet")
"""For a member that `members` does not mention."""


def build(
    config: Config,
    *,
    generation: int,
    resolved: Mapping[str, tuple[str, ...]],
    members: Mapping[tuple[str, str], MemberState],
    accepting: bool,
    paused: frozenset[str] = frozenset(),
    log_path: str | None = None,
    max_sessions: int | None = None,
    listen_fds: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The snapshot as a JSON-ready object.

    Args:
        config: loaded and resolved.
        generation: larger than any before.
        resolved: server name -> destinations ("ip:port", "unix:PATH"). A server that is missing
            here has the literal addresses of its configuration.
        members: (service, server) -> its state; a missing one is not eligible.
        accepting: False while starting or draining.
        paused: services whose clients wait in the queue.
        log_path: the session log; None: the configuration's, which may be standard output.
        max_sessions: sessions in the whole process; None: what this process' file limit allows
            (the one question to the system here).
        listen_fds: descriptors inherited for a listen address (LISTEN_FDS).
    """
    servers = config.by_name
    return {
        "generation": generation,
        "workers": config.portside.workers,
        "accepting": accepting,
        "max_sessions": max_sessions or limits.fd_need(config, limits.file_limit()).max_sessions,
        "log": {
            "path": log_path or config.log.file,
            "format": config.log.format,
            "sessions": config.log.sessions,
        },
        "servers": [_server(server, resolved.get(server.name)) for server in config.servers],
        "services": [
            _service(service, servers, members, service.name in paused, listen_fds)
            for service in config.services
        ],
        "users": [account(user) for user in config.users],
    }


def account(user: User) -> dict[str, Any]:
    """An account as the data plane takes it, secrets included."""
    # The one place where an account's secrets leave their Secret: the data plane checks logins.
    return {
        "name": user.name,
        "password": _revealed(user.password),
        "password_hash": _revealed(user.password_hash),
        "services": list(user.services),
        "schema": user.schema_name,
        "from": [str(network) for network in user.from_networks],
        "max_connections": user.max_connections,
        "server_user": user.server_user or user.name,
        "server_password": _revealed(user.server_password),
    }


def _revealed(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()


def _pool(service: Service) -> dict[str, Any] | None:
    if service.mode != "pool":
        return None
    pool = service.pool
    return {
        "max": pool.max,
        "min_idle": pool.min_idle,
        "max_lifetime_ms": _ms(pool.max_lifetime_s),
        "idle_ms": _ms(pool.idle_s),
        "open_rate": pool.open_rate,
        "login_ms": _ms(service.timeouts.login_s),
        "local_infile": service.local_infile,
    }


def _server(server: Server, destinations: tuple[str, ...] | None) -> dict[str, Any]:
    if destinations is None:
        literal = (address for address in server.addresses if address.kind != "name")
        destinations = tuple(str(address) for address in literal)
    source = server.source
    return {
        "name": server.name,
        "destinations": list(destinations),
        "max_connections": server.max_connections,
        "source": {
            "addresses": list(source.ips),
            "ports": list(source.ports) if source.ports else None,
            "reserve": source.reserve,
        },
        "send_proxy": server.send_proxy,
        "connect_ms": _ms(server.timeouts.connect_s),
        "login_ms": _ms(server.timeouts.login_s),
        "keepalive_ms": _ms(source.keepalive_s),
        "user_timeout_ms": _ms(source.user_timeout_s),
        "tls": server_tls(server),
    }


def server_tls(server: Server) -> dict[str, Any] | None:
    """TLS towards a server as the data plane takes it; None: none."""
    tls = server.tls
    if tls.mode == "disabled":
        return None
    return {
        "mode": tls.mode,
        "ca": tls.ca and tls.ca.text,
        "certificate": tls.certificate and tls.certificate.text,
        "key": tls.key and tls.key.text,
        "name": server.tls_name,
    }


def _service_tls(service: Service) -> dict[str, Any] | None:
    tls = service.tls
    if service.mode != "pool" or tls.certificate is None or tls.key is None:
        return None
    must_verify = tls.client_verify == "required"
    return {
        "certificate": tls.certificate.text,
        "key": tls.key.text,
        # Who comes without TLS shows no certificate.
        "required": tls.required or (tls.client_ca is not None and must_verify),
        "client_ca": tls.client_ca and tls.client_ca.text,
        "client_verify": must_verify,
    }


def _service(
    service: Service,
    servers: Mapping[str, Server],
    members: Mapping[tuple[str, str], MemberState],
    is_paused: bool,
    listen_fds: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    return {
        "name": service.name,
        "listen": [_listen(listen, listen_fds) for listen in service.listen],
        "accept_proxy": [str(network) for network in service.accept_proxy],
        "allow": [str(network) for network in service.allow],
        "deny": [str(network) for network in service.deny],
        "probe_networks": [str(network) for network in service.probe_networks],
        "balance": service.balance,
        "max_connections": service.max_connections,
        "queue": service.queue,
        "max_connections_per_client": service.max_connections_per_client,
        "queue_ms": _ms(service.timeouts.queue_s),
        "idle_ms": _ms(service.timeouts.idle_s),
        "retries": service.retries,
        "to_client": service.close.to_client,
        "paused": is_paused,
        "pool": _pool(service),
        "tls": _service_tls(service),
        "server_version": service.server_version,
        "rsa_key": service.pool.rsa_key and service.pool.rsa_key.text,
        "members": [
            _member(
                service,
                member,
                servers[member.name],
                members.get((service.name, member.name), UNKNOWN),
            )
            for member in service.servers
        ],
    }


def _member(service: Service, member: Member, server: Server, state: MemberState) -> dict[str, Any]:
    close = member_close(service, server)
    return {
        "server": member.name,
        "weight": effective_weight(member, state),
        "backup": member.backup,
        "eligible": state.eligible,
        "why": state.why,
        "close": {
            "to_server": close.to_server,
            "deadline_ms": _ms(close.deadline_s),
            "abandon_bytes": close.abandon_bytes,
            "abandon_ms": _ms(close.abandon_time_s),
            "tls_hold_ms": _ms(close.tls_hold_s),
        },
    }


def effective_weight(member: Member, state: MemberState) -> int:
    """The weight in hundredths; a slow start never rounds a weight above 0 down to 0."""
    weight = (member.weight if state.weight is None else state.weight) * WEIGHT_SCALE
    return max(1, round(weight * min(1.0, state.ramp))) if weight else 0


def _listen(listen: Listen, listen_fds: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return {
        "address": str(listen.address),
        "mode": int(listen.mode, 8) if listen.mode else None,
        "uid": pwd.getpwnam(listen.user).pw_uid if listen.user else None,
        "gid": grp.getgrnam(listen.group).gr_gid if listen.group else None,
        "backlog": listen.backlog,
        "fds": list(listen_fds.get(str(listen.address), ())),
    }


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
