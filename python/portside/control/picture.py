"""An instance as people see it: configuration, standing, health and counters into views. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from portside.admin.views import (
    MemberView,
    PortView,
    ReloadView,
    ServerView,
    ServiceView,
    StatusView,
)
from portside.config import certificates
from portside.config.limits import fd_need, file_limit, pool_max
from portside.config.model import Server, Service
from portside.control.state import AdminState, Composition, ServiceStanding
from portside.health.judge import Status
from portside.ports import words

if TYPE_CHECKING:
    from portside.health.monitor import ServerHealth

Stats = Mapping[str, Any]
_PASSED = frozenset(str(status) for status in Status if status.passed)
_SERVICE_ZERO: Stats = {
    "sessions": 0,
    "queued": 0,
    "accepted_total": 0,
    "refused_total": 0,
    "commands_refused_total": 0,
    "to_server_bytes_total": 0,
    "to_client_bytes_total": 0,
    "members": [],
}
_SERVER_ZERO: Stats = {
    "sessions": 0,
    "sessions_total": 0,
    "connect_failures_total": 0,
    "left_before_login_total": 0,
    "close_deadlines_total": 0,
    "pool_busy": 0,
    "pool_connections": 0,
    "pool_login_error": None,
    "pool_full_error": None,
    "breaker": "closed",
    "connect_error": None,
    "hosts_blocked": [],
}


def services(composed: Composition, stats: Stats, accepting: bool) -> tuple[ServiceView, ...]:
    """Every service in the file's order. A service the engine does not know yet counts zero."""
    counted = {service["name"]: service for service in stats["services"]}
    barred = barred_servers(stats)
    return tuple(
        _service(
            service,
            composed.standing[service.name],
            counted.get(service.name, _SERVICE_ZERO),
            barred,
            accepting,
        )
        for service in composed.world.config.services
    )


def barred_servers(stats: Stats) -> dict[str, str]:
    """The servers that no session can be connected to just now, whatever their checks say: why."""
    return {one["name"]: one["connect_error"] for one in stats["servers"] if one["connect_error"]}


def _service(
    service: Service,
    standing: ServiceStanding,
    count: Stats,
    barred: Mapping[str, str],
    accepting: bool,
) -> ServiceView:
    return ServiceView(
        name=service.name,
        listen=tuple(str(listen.address) for listen in service.listen),
        mode=service.mode,
        balance=service.balance,
        state=service_state(standing, barred, accepting),
        paused=standing.paused,
        sessions=count["sessions"],
        max_connections=service.max_connections,
        queued=count["queued"],
        accepted_total=count["accepted_total"],
        refused_total=count["refused_total"],
        commands_refused_total=count["commands_refused_total"],
        to_server_bytes_total=count["to_server_bytes_total"],
        to_client_bytes_total=count["to_client_bytes_total"],
        members=_members(service, standing, count, barred),
    )


def service_state(standing: ServiceStanding, barred: Mapping[str, str], accepting: bool) -> str:
    """``open``, ``paused``, ``no server`` or ``closed``; the worst that holds."""
    if not accepting:
        return "closed"
    if standing.active <= barred.keys():
        return "no server"
    return "paused" if standing.paused else "open"


def _members(
    service: Service, standing: ServiceStanding, count: Stats, barred: Mapping[str, str]
) -> tuple[MemberView, ...]:
    counted = {member["server"]: member for member in count["members"]}
    total = sum(member["sessions_total"] for member in counted.values())
    active = standing.active - barred.keys()
    views = []
    for written in service.servers:
        member = standing.members[written.name]
        is_barred = member.eligible and written.name in barred
        seen = counted.get(written.name, {"sessions": 0, "sessions_total": 0})
        views.append(
            MemberView(
                server=written.name,
                weight=member.weight,
                file_weight=written.weight,
                backup=written.backup,
                eligible=member.eligible and not is_barred,
                active=written.name in active,
                why=f"connects fail: {barred[written.name]}" if is_barred else member.why,
                sessions=seen["sessions"],
                sessions_total=seen["sessions_total"],
                share=seen["sessions_total"] / total if total else 0.0,
            )
        )
    return tuple(views)


def servers(
    composed: Composition, healths: Mapping[str, ServerHealth], stats: Stats, now: float
) -> tuple[ServerView, ...]:
    """Every server in the file's order. ``now`` is in the monitor's clock."""
    counted = {server["name"]: server for server in stats["servers"]}
    return tuple(
        _server(
            server,
            composed,
            healths.get(server.name),
            counted.get(server.name, _SERVER_ZERO),
            now,
        )
        for server in composed.world.config.servers
    )


def _server(
    server: Server, composed: Composition, health: ServerHealth | None, count: Stats, now: float
) -> ServerView:
    world = composed.world
    admin = world.overrides.admin_state(server.name)
    status = health.status if health else "unknown"
    blocked = {host["source"] for host in count["hosts_blocked"]}
    blocked |= {source for source, _ in health.blocked} if health else set()
    return ServerView(
        name=server.name,
        destinations=destinations_of(server, world.destinations),
        state=_state(admin, health),
        admin=str(admin),
        is_up={"up": True, "down": False}.get(status),
        check=health.code if health else "",
        check_s=health.latency_s if health else None,
        reason=(health.detail or health.note) if health and health.code != "NO_CHECK" else "",
        since_s=now - health.since if health and status != "unknown" else None,
        role=_role(health),
        lag_s=health.lag_s if health else None,
        sessions=count["sessions"],
        max_connections=server.max_connections,
        sessions_total=count["sessions_total"],
        connect_failures_total=count["connect_failures_total"],
        left_before_login_total=count["left_before_login_total"],
        close_deadlines_total=count["close_deadlines_total"],
        pool_busy=count["pool_busy"],
        pool_open=count["pool_connections"],
        pool_max=pool_max(world.config).get(server.name),
        pool_login_error=count["pool_login_error"] or "",
        pool_full_error=count["pool_full_error"] or "",
        breaker=count["breaker"],
        connect_error=count["connect_error"] or "",
        hosts_blocked=tuple(sorted(blocked)),
        services=tuple(
            service.name
            for service in world.config.services
            if any(member.name == server.name for member in service.servers)
        ),
    )


def _state(admin: AdminState, health: ServerHealth | None) -> str:
    if admin is not AdminState.READY:
        return str(admin)
    if health is None:
        return "unknown"
    return "unchecked" if health.code == Status.NO_CHECK else health.status


def _role(health: ServerHealth | None) -> str:
    if health is None or health.writable is None:
        return ""
    if health.writable:
        return "primary"
    return "read-only" if health.replicating is None else "replica"


def destinations_of(server: Server, resolved: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Where the server is reached: resolved, or as the file says."""
    literal = tuple(str(address) for address in server.addresses)
    return resolved.get(server.name, literal)


def alerts(
    composed: Composition,
    service_views: tuple[ServiceView, ...],
    server_views: tuple[ServerView, ...],
    stats: Stats,
) -> tuple[str, ...]:
    """What needs a person, most urgent first."""
    found = []
    cut_off = {service.name for service in service_views if service.state == "no server"}
    for service in service_views:
        if service.name in cut_off:
            reasons = "; ".join(member.why for member in service.members if member.why)
            found.append(f"service {service.name} has no server: {reasons or 'all weights are 0'}")
    for name, decision in composed.world.decisions.items():
        if decision.state.rivals:
            others = ", ".join(sorted(decision.state.rivals))
            found.append(
                f"service {name}: two writable servers: {decision.state.holder} keeps the writes, "
                f"{others} must be read-only"
            )
    for server in server_views:
        if server.state == "down":
            found.append(f"server {server.name} is down: {_down_text(server)}")
        for source in server.hosts_blocked:
            found.append(_blocked_text(server.name, source, stats))
        if server.connect_error and server.state != "down" and not cut_off & {*server.services}:
            found.append(f"{server.connect_error}; sessions cannot connect there")
        if server.pool_full_error and _has_waiters(server, service_views):
            found.append(
                f"{server.pool_full_error}: clients wait: raise the server's limit, or lower [pool]"
                f" max, which is {server.pool_max}"
            )
        if _is_exhausted(server, service_views):
            found.append(
                f"server {server.name}: {server.pool_busy} of {server.pool_max} pooled connections"
                " are in use and clients wait: portside show sessions, PINNED, says who keeps one"
            )
        if server.pool_login_error:
            found.append(f"{server.pool_login_error}; portside check --connect tries every account")
    if dropped := stats["log"]["dropped_total"]:
        found.append(f"{dropped:,} session log lines were lost: the log's disk is too slow")
    return tuple(found)


def _down_text(server: ServerView) -> str:
    if server.check in _PASSED:
        return f"its last check passed ({server.check}), check.rise in a row bring it back"
    return f"{server.check} {server.reason}".rstrip()


def _blocked_text(name: str, source: str, stats: Stats) -> str:
    """The server's own words have our address where the route chose it."""
    hosts = (
        one
        for server in stats["servers"]
        if server["name"] == name
        for one in server["hosts_blocked"]
    )
    error = next((one["error"] for one in hosts if one["source"] == source and one["error"]), None)
    what = f"server {name} refuses our address"
    what += f" {source}" if source else ""
    if error is None:
        return f"{what}: portside show events says why"
    number, text = error
    cure = "FLUSH HOSTS" if number == 1129 else "CREATE USER and GRANT for this address"
    return f"{what}: ERR {number}: {text}; cure: {cure} there"


def _is_exhausted(server: ServerView, services: tuple[ServiceView, ...]) -> bool:
    if server.pool_max is None or server.pool_busy < server.pool_max:
        return False
    return _has_waiters(server, services)


def _has_waiters(server: ServerView, services: tuple[ServiceView, ...]) -> bool:
    return any(one.queued and not one.paused and one.name in server.services for one in services)


@dataclass(frozen=True, slots=True)
class About:
    """What a status says of the process, which no part of the instance knows."""

    version: str
    pid: int
    config_path: str
    last_reload: ReloadView | None
    started: bool
    """Whether the workers were started; before, none is alive and none is missing."""
    time_s: float
    """Seconds since 1970."""


def status(
    about: About,
    stats: Stats,
    composed: Composition,
    service_views: tuple[ServiceView, ...],
    server_views: tuple[ServerView, ...],
    *,
    port_views: Sequence[PortView] = (),
) -> StatusView:
    """One page about an instance."""
    config = composed.world.config
    found = [*alerts(composed, service_views, server_views, stats), *words.alerts(port_views)]
    found += certificates.alerts(config, about.time_s)
    if about.started:
        found += [f"worker {w['id']} is dead" for w in stats["workers"] if not w["alive"]]
    if about.last_reload is not None and not about.last_reload.ok:
        mistakes = about.last_reload.mistakes
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        found.append(f"the last reload was refused: {mistakes[0]}{more}")
    return StatusView(
        version=about.version,
        pid=about.pid,
        uptime_s=stats["uptime_s"],
        config_path=about.config_path,
        generation=stats["generation"],
        accepting=stats["accepting"],
        workers=len(stats["workers"]),
        sessions=sum(worker["sessions"] for worker in stats["workers"]),
        max_sessions=fd_need(config, file_limit()).max_sessions,
        last_reload=about.last_reload,
        overrides=composed.world.overrides.words(config),
        alerts=tuple(found),
        services=service_views,
        servers=server_views,
    )
