"""What an administrator has said at run time, and what follows when anything changes. Pure.

``Overrides`` hold drain, maint, weights and pauses: they survive reloads, are shown beside the
file's value, and are gone with the process. ``compose`` puts file, overrides, health and
eligibility together: where every member of every service stands. ``actions`` says what must
happen to running sessions between two standings. No I/O and no clock here: ``instance`` acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from portside.config.model import Config, Service
from portside.config.snapshot import MemberState
from portside.health.eligibility import ServiceDecision, decide_all
from portside.health.judge import HealthEvent, Verdict
from portside.health.requirement import service_rules
from portside.health.slowstart import slow_start_next_s, slow_start_share

if TYPE_CHECKING:
    from portside.health.monitor import ServerHealth


class AdminState(StrEnum):
    """What an administrator wants of a server."""

    READY = "ready"
    DRAIN = "drain"
    """No new sessions; those there go on."""
    MAINT = "maint"
    """No new sessions; those there end at their next command boundary."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """Runtime changes in force; a server or pair that is not named is as the file says."""

    servers: Mapping[str, AdminState] = field(default_factory=dict)
    weights: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (service, server)."""
    paused: frozenset[str] = frozenset()
    """Names of services."""

    def admin_state(self, server: str) -> AdminState:
        """What was said of ``server``; ready when nothing was."""
        return self.servers.get(server, AdminState.READY)

    def with_server(self, server: str, state: AdminState) -> Overrides:
        """The overrides after ``drain``, ``maint`` or ``ready``."""
        servers = {name: said for name, said in self.servers.items() if name != server}
        if state is not AdminState.READY:
            servers[server] = state
        return replace(self, servers=servers)

    def with_weight(self, service: str, server: str, weight: int | None) -> Overrides:
        """The overrides after ``weight``; None goes back to the file's."""
        weights = {key: said for key, said in self.weights.items() if key != (service, server)}
        if weight is not None:
            weights[service, server] = weight
        return replace(self, weights=weights)

    def with_pause(self, service: str, paused: bool) -> Overrides:
        """The overrides after ``pause`` or ``resume``."""
        rest = self.paused - {service}
        return replace(self, paused=rest | {service} if paused else rest)

    def fitted(self, config: Config) -> Overrides:
        """Those that still name something in ``config``; a reload may have removed the others."""
        pairs = {(s.name, m.name) for s in config.services for m in s.servers}
        return Overrides(
            {name: said for name, said in self.servers.items() if name in config.by_name},
            {pair: weight for pair, weight in self.weights.items() if pair in pairs},
            self.paused & {service.name for service in config.services},
        )

    def words(self, config: Config) -> tuple[str, ...]:
        """Each override in a few words, with the file's value beside it."""
        found = [f"server {name}: {said}" for name, said in sorted(self.servers.items())]
        for (service, server), weight in sorted(self.weights.items()):
            written = file_weight(config, service, server)
            found.append(f"service {service}, server {server}: weight {weight} (file: {written})")
        found += [f"service {name}: paused" for name in sorted(self.paused)]
        return tuple(found)


def file_weight(config: Config, service: str, server: str) -> int:
    """The weight that the file gives ``server`` in ``service``; 0 when it is no member."""
    found = config.service(service)
    members = found.servers if found else ()
    return next((member.weight for member in members if member.name == server), 0)


@dataclass(frozen=True, slots=True)
class MemberStanding:
    """One server in one service, everything considered."""

    weight: int
    """In force, before slow start."""
    backup: bool
    eligible: bool
    why: str
    down: bool
    """Its checks say that it is down: sessions there may have to be closed."""


@dataclass(frozen=True, slots=True)
class ServiceStanding:
    """One service: its members by name, in the file's order, and who holds the writes."""

    members: Mapping[str, MemberStanding]
    paused: bool
    closes_on_down: bool
    holder: str | None
    """The only member that takes writes (``require = "writable"``), else None."""
    waiting: bool = False
    """Whether members wait for ``portside switch``: backups have taken over."""

    @property
    def active(self) -> frozenset[str]:
        """Members that get new sessions now: eligible and weighted; backups only without others."""
        # What the engine does: weight 0 takes nothing, backups only while no other is eligible.
        usable = {n: m for n, m in self.members.items() if m.eligible and m.weight > 0}
        first = frozenset(name for name, member in usable.items() if not member.backup)
        return first or frozenset(usable)


Standing = Mapping[str, ServiceStanding]
"""By service name."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that a snapshot is decided from, except the health of the moment."""

    config: Config
    overrides: Overrides = field(default_factory=Overrides)
    destinations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Resolved addresses by server; only servers with a host name are here."""
    decisions: Mapping[str, ServiceDecision] = field(default_factory=dict)
    """The last decision per service: who holds the writes, who waits for a switch."""


@dataclass(frozen=True, slots=True)
class Composition:
    """A world once health has been looked at: ready to be a snapshot."""

    world: World
    standing: Standing
    members: Mapping[tuple[str, str], MemberState]
    events: tuple[HealthEvent, ...]
    next_change_s: float | None
    """When a slow start takes its next step; None: nothing changes by itself."""


def compose(world: World, healths: Mapping[str, ServerHealth], now: float) -> Composition:
    """Decides every service. ``now`` is in the monitor's clock. O(members)."""
    views = {name: health.view for name, health in healths.items()}
    rules = [service_rules(service) for service in world.config.services]
    decisions, events = decide_all(rules, views, world.decisions)
    standing = {
        service.name: _stand(service, world.overrides, decisions[service.name], healths)
        for service in world.config.services
    }
    ramps, next_s = _ramps(world.config, healths, now)
    members = {
        (service, server): MemberState(
            member.eligible, member.why, member.weight, ramps.get(server, 1.0)
        )
        for service, stands in standing.items()
        for server, member in stands.members.items()
    }
    return Composition(replace(world, decisions=decisions), standing, members, events, next_s)


def _stand(
    service: Service,
    overrides: Overrides,
    decision: ServiceDecision,
    healths: Mapping[str, ServerHealth],
) -> ServiceStanding:
    members = {}
    for written in service.servers:
        name = written.name
        said, decided = overrides.admin_state(name), decision.member(name)
        why = decided.why
        if said is not AdminState.READY:
            why = f"server {name} is in {said}; on the proxy: portside ready {name}"
        members[name] = MemberStanding(
            weight=overrides.weights.get((service.name, name), written.weight),
            backup=written.backup,
            eligible=decided.eligible and said is AdminState.READY,
            why=why,
            down=name in healths and healths[name].view.verdict is Verdict.DOWN,
        )
    return ServiceStanding(
        members,
        service.name in overrides.paused,
        service.on_down == "close-sessions",
        decision.state.holder,
        bool(decision.state.waiting),
    )


def _ramps(
    config: Config, healths: Mapping[str, ServerHealth], now: float
) -> tuple[dict[str, float], float | None]:
    """The slow-start share of each returning server, and when the first of them changes."""
    shares: dict[str, float] = {}
    waits: list[float] = []
    for server in config.servers:
        health = healths.get(server.name)
        if health is None or health.up_since is None or server.slowstart_s is None:
            continue
        up_for_s = now - health.up_since
        shares[server.name] = slow_start_share(up_for_s, server.slowstart_s)
        next_s = slow_start_next_s(up_for_s, server.slowstart_s)
        if next_s is not None:
            waits.append(next_s)
    return shares, min(waits, default=None)


@dataclass(frozen=True, slots=True)
class CloseSessions:
    """Sessions that must end: those of ``service`` (None: all) on ``server``."""

    server: str
    service: str | None
    at_boundary: bool
    reason: str


def actions(
    before: Standing, after: Standing, old: Overrides, new: Overrides
) -> tuple[CloseSessions, ...]:
    """What must happen to running sessions when ``after`` has replaced ``before``.

    A server that went down: its sessions are closed in services with ``on_down =
    "close-sessions"``. A holder of writes that was replaced: its sessions are closed whatever
    ``on_down`` says, or two servers would be written. Maint: sessions end at their next command
    boundary.
    """
    found: list[CloseSessions] = []
    for name, service in after.items():
        was = before.get(name)
        if was is None:
            continue
        found += _went_down(name, was, service)
        old_holder, new_holder = was.holder, service.holder
        if old_holder is not None and new_holder is not None and new_holder != old_holder:
            text = f"service {name}: the writes moved from {old_holder} to {new_holder}"
            found.append(CloseSessions(old_holder, name, False, text))
    for server, said in new.servers.items():
        if said is AdminState.MAINT and old.admin_state(server) is not AdminState.MAINT:
            found.append(CloseSessions(server, None, True, f"server {server}: maint"))
    return _once(found)


def _went_down(name: str, before: ServiceStanding, after: ServiceStanding) -> list[CloseSessions]:
    if not after.closes_on_down:
        return []
    return [
        CloseSessions(server, name, False, f"service {name}: server {server} is down")
        for server, member in after.members.items()
        if member.down and server in before.members and not before.members[server].down
    ]


def _once(found: Iterable[CloseSessions]) -> tuple[CloseSessions, ...]:
    """The first of those that close the same sessions."""
    kept: dict[tuple[str, str | None, bool], CloseSessions] = {}
    for action in found:
        kept.setdefault((action.server, action.service, action.at_boundary), action)
    return tuple(kept.values())
