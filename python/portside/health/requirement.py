"""What a service requires of a server, and why a server does not meet it. Pure.

For: liveness, ``require`` and ``max_lag`` of one server by itself. It must not know what other
servers do, nor what was decided before: that is eligibility.py.

The sentences go into the ERR text of clients: they name the server and the cause, never an address
of a client nor a secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .judge import Readings, ServerState, Status, Verdict, is_settled

if TYPE_CHECKING:
    from portside.config.model import Service

    from .judge import Rules

Require = Literal["none", "writable", "replicating"]


@dataclass(frozen=True)
class MemberRules:
    """One member of a service, in the file's order."""

    server: str
    backup: bool = False


@dataclass(frozen=True)
class ServiceRules:
    """What a service asks of its members. ``max_lag_s`` None = any known lag will do."""

    name: str
    members: tuple[MemberRules, ...]
    require: Require = "none"
    max_lag_s: float | None = None
    manual_failback: bool = False

    @property
    def has_backup(self) -> bool:
        """True when some member is a backup."""
        return any(member.backup for member in self.members)


@dataclass(frozen=True)
class ServerView:
    """What eligibility needs to know of a server (made from judge.ServerState by the monitor).

    ``settled`` False: the first result is still to come. ``detail`` is the last error in words.
    ``held``: why an administrator keeps sessions away (drain, maint), "" when nobody does; control
    sets it, a check never does.
    """

    name: str
    verdict: Verdict = Verdict.UNKNOWN
    code: Status | None = None
    detail: str = ""
    settled: bool = False
    readings: Readings = field(default_factory=Readings)
    held: str = ""


def service_rules(service: Service) -> ServiceRules:
    """The rules of a configured service."""
    return ServiceRules(
        service.name,
        tuple(MemberRules(member.name, member.backup) for member in service.servers),
        service.require,
        service.max_lag_s,
        manual_failback=service.failback == "manual",
    )


def view_of(state: ServerState, rules: Rules) -> ServerView:
    """What eligibility needs of a server's state."""
    last = state.last
    return ServerView(
        state.name,
        state.verdict,
        last.status if last else None,
        last.detail if last else "",
        settled=is_settled(state, rules),
        readings=state.readings,
    )


def refusal(service: ServiceRules, server: ServerView) -> str:
    """Why this server may not take this service's sessions, whatever the others do; "" = it may."""
    return server.held or inability(service, server)


def inability(service: ServiceRules, server: ServerView) -> str:
    """Why this server could not take them, even if no administrator held it; "" = it could."""
    return _liveness_refusal(server) or _requirement_refusal(service, server)


def _liveness_refusal(server: ServerView) -> str:
    error = _error_for_clients(server)
    if server.verdict is Verdict.DOWN and server.code is not None and server.code.passed:
        return f"server {server.name} is coming back: check.rise good checks in a row are needed"
    if server.verdict is Verdict.DOWN:
        return (
            f"server {server.name} is down ({error})" if error else f"server {server.name} is down"
        )
    if server.code is Status.NO_SOURCE:
        return f"server {server.name} cannot be reached from here ({error}); not the database"
    if server.verdict is Verdict.UNKNOWN:
        because = f" ({error})" if error else ""
        return f"server {server.name} has not been checked yet{because}"
    return ""


def _error_for_clients(server: ServerView) -> str:
    """The code, and the words where they are ours: a server's own ERR may name our account."""
    code = str(server.code or "")
    if not server.detail or code.startswith("L7"):
        return code
    return f"{code}: {server.detail}"


def _requirement_refusal(service: ServiceRules, server: ServerView) -> str:
    if service.require == "writable":
        return _write_refusal(server)
    if service.require == "replicating":
        return _replication_refusal(service, server)
    return ""


def _unknown(server: ServerView, what: str) -> str:
    note = server.readings.note or "the check must log in (user and password)"
    return f"it is not known whether server {server.name} {what}: {note}"


def _write_refusal(server: ServerView) -> str:
    if server.readings.read_only is None:
        return _unknown(server, "is writable")
    return f"server {server.name} is read-only" if server.readings.read_only else ""


def _replication_refusal(service: ServiceRules, server: ServerView) -> str:
    """A writable server that is nobody's replica is the primary: it has no lag."""
    seen = server.readings
    if seen.read_only is False and not seen.replica:
        return ""
    if seen.replica is None:
        return _unknown(server, "replicates")
    if not seen.replica:
        return f"server {server.name} is read-only and replicates from nobody"
    if not seen.replicating:
        note = f" ({seen.note})" if seen.note else ""
        return f"server {server.name}: replication is stopped{note}"
    if service.max_lag_s is None:
        return ""
    if seen.lag_s is None:
        return f"server {server.name}: its lag is not known"
    if seen.lag_s > service.max_lag_s:
        return (
            f"server {server.name} lags {seen.lag_s:.0f} s behind, "
            f"at most {service.max_lag_s:.0f} s is allowed"
        )
    return ""
