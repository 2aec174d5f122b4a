"""Decides which members of a service may take sessions, and says why the others may not.

For: ``require``, ``max_lag``, the two-writers rule, ``failback`` and ``switch``. Pure: what is
known of the servers and the last decision go in, a decision and events come out. It must not
know how servers are checked, nor weights, drain and maint (control/state.py puts those on top).

Two kinds of service:
- ``require = "writable"``: at most one member is eligible, the *holder*. It stays the holder for as
  long as it is writable, and also while nothing else is, so that a primary that flaps gets its
  writes back. It is replaced only when it is not writable and another member is.
- the others: backups are used when no other member is acceptable. With ``failback = "auto"`` the
  engine sees to that by itself; with ``"manual"`` a backup becomes eligible only by a decision
  made here, since nobody would remember later that it was used.

With ``failback = "manual"`` a member that lost its place waits: it takes no sessions until someone
says ``portside switch``, even when nobody else is left. It may have missed writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .judge import HealthEvent, Verdict
from .requirement import MemberRules, ServerView, ServiceRules, inability, refusal


class SwitchRefused(Exception):
    """``switch`` was not done; ``str()`` is one sentence that says why and what to do."""


@dataclass(frozen=True)
class MemberDecision:
    """``why`` is one sentence for clients and administrators; "" when eligible."""

    server: str
    eligible: bool
    why: str = ""


@dataclass(frozen=True)
class ServiceState:
    """What one service remembers. Plain names, so that control may store and restore it.

    Attributes:
        holder: the member that takes the writes (``require = "writable"`` only).
        waiting: members that take nothing until ``portside switch`` names one of them.
        rivals: members that were writable beside the holder at the last decision (alert once).
    """

    holder: str | None = None
    waiting: frozenset[str] = frozenset()
    rivals: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ServiceDecision:
    """One service's members in the file's order, and what to remember for the next decision."""

    service: str
    state: ServiceState
    members: tuple[MemberDecision, ...] = ()

    @property
    def eligible(self) -> tuple[str, ...]:
        """Names of the eligible members."""
        return tuple(member.server for member in self.members if member.eligible)

    def member(self, server: str) -> MemberDecision:
        """The decision on one member. Raises KeyError when it is none."""
        for member in self.members:
            if member.server == server:
                return member
        raise KeyError(server)


def decide_all(
    services: Sequence[ServiceRules],
    servers: Mapping[str, ServerView],
    before: Mapping[str, ServiceDecision],
) -> tuple[dict[str, ServiceDecision], tuple[HealthEvent, ...]]:
    """Decides every service; keys are service names. See ``decide``."""
    decisions: dict[str, ServiceDecision] = {}
    events: list[HealthEvent] = []
    for service in services:
        decision, news = decide(service, servers, before.get(service.name))
        decisions[service.name] = decision
        events += news
    return decisions, tuple(events)


def decide(
    service: ServiceRules,
    servers: Mapping[str, ServerView],
    before: ServiceDecision | None,
) -> tuple[ServiceDecision, tuple[HealthEvent, ...]]:
    """Who is eligible now, given what was decided before (None at the start). Pure; O(members)."""
    state = before.state if before else ServiceState()
    names = {member.server for member in service.members}
    state = _forget(state, names)
    if not service.manual_failback:
        state = replace(state, waiting=frozenset())
    refusals = {name: refusal(service, _view(servers, name)) for name in names}
    if service.require == "writable":
        decision, events = _decide_writer(service, servers, state, refusals)
    else:
        decision, events = _decide_tiers(service, servers, state, refusals)
    return decision, (*events, *_outage_events(service, before, decision))


def _view(servers: Mapping[str, ServerView], name: str) -> ServerView:
    return servers.get(name) or ServerView(name)


def _forget(state: ServiceState, names: set[str]) -> ServiceState:
    """Drops members that a reload took out of the service."""
    holder = state.holder if state.holder in names else None
    return replace(state, holder=holder, waiting=state.waiting & names, rivals=state.rivals & names)


def _waits(service: ServiceRules, server: str) -> str:
    return (
        f"server {server} was replaced and waits: failback is manual; "
        f"on the proxy: portside switch {service.name} {server}"
    )


def _is_pending(servers: Mapping[str, ServerView], names: Iterable[str]) -> bool:
    return any(not _view(servers, name).settled for name in names)


# ---- require = "writable": one holder


def _decide_writer(
    service: ServiceRules,
    servers: Mapping[str, ServerView],
    state: ServiceState,
    refusals: Mapping[str, str],
) -> tuple[ServiceDecision, list[HealthEvent]]:
    names = [member.server for member in service.members]
    # A holder that is drained stays the holder: its sessions still write.
    writers = [name for name in names if not inability(service, _view(servers, name))]
    free = [name for name in writers if not refusals[name]]
    state, events = _choose_holder(service, servers, state, writers, free)
    rivals = frozenset(writers) - {state.holder} if state.holder in writers else frozenset()
    if rivals - state.rivals:
        others = ", ".join(sorted(rivals))
        text = (
            f"service {service.name}: two writable servers: {state.holder} keeps the writes, "
            f"{others} {'gets' if len(rivals) == 1 else 'get'} none; "
            "set read_only=ON on the wrong one"
        )
        events.append(HealthEvent("two_writers", text, service=service.name))
    state = replace(state, rivals=rivals)
    members = tuple(
        MemberDecision(name, not why, why)
        for name, why in (
            (member.server, _writer_why(service, state, refusals, member.server))
            for member in service.members
        )
    )
    return ServiceDecision(service.name, state, members), events


def _writer_why(
    service: ServiceRules, state: ServiceState, refusals: Mapping[str, str], name: str
) -> str:
    if refusals[name]:
        return refusals[name]
    if name in state.waiting:
        return _waits(service, name)
    if state.holder is None:
        return f"server {name} is held back until the first check of every preferred server is done"
    if name != state.holder:
        return f"server {name} is writable, but {state.holder} takes the writes: never two writers"
    return ""


def _choose_holder(
    service: ServiceRules,
    servers: Mapping[str, ServerView],
    state: ServiceState,
    writers: Sequence[str],
    free: Sequence[str],
) -> tuple[ServiceState, list[HealthEvent]]:
    if state.holder in writers:
        return state, []
    ranked = _ranked(service, servers)
    found = next((name for name in ranked if name in free and name not in state.waiting), None)
    if found is None:
        return state, []
    if state.holder is None:
        preferred = ranked[: ranked.index(found)]
        others = [name for name in preferred if name not in state.waiting]
        if _is_pending(servers, others):
            return state, []
        waiting = state.waiting | _missed(service, servers, found)
        return replace(state, holder=found, waiting=waiting), []
    if not _view(servers, state.holder).settled:
        return state, []
    waiting = state.waiting | {state.holder} if service.manual_failback else state.waiting
    text = f"service {service.name}: writes move from {state.holder} to {found}"
    event = HealthEvent("failover", text, found, service.name)
    return replace(state, holder=found, waiting=waiting - {found}), [event]


def _missed(
    service: ServiceRules, servers: Mapping[str, ServerView], holder: str
) -> frozenset[str]:
    """Members that were down when Portside started and found a backup in their place."""
    is_backup = any(one.backup for one in service.members if one.server == holder)
    if not (service.manual_failback and is_backup):
        return frozenset()
    first = (member.server for member in service.members if not member.backup)
    return frozenset(name for name in first if _view(servers, name).verdict is Verdict.DOWN)


def _ranked(service: ServiceRules, servers: Mapping[str, ServerView]) -> list[str]:
    """Order of preference: replicates from nobody, is no backup, stands first in the file.

    A primary that was promoted while Portside was down replicates from nobody; the one it replaced,
    when it was brought back as a replica with read_only forgotten, does not take its place.
    """

    def rank(member: MemberRules) -> tuple[bool, bool]:
        return bool(_view(servers, member.server).readings.replica), member.backup

    return [member.server for member in sorted(service.members, key=rank)]


# ---- the others: members first, then backups


def _decide_tiers(
    service: ServiceRules,
    servers: Mapping[str, ServerView],
    state: ServiceState,
    refusals: Mapping[str, str],
) -> tuple[ServiceDecision, list[HealthEvent]]:
    state = replace(state, holder=None, rivals=frozenset())
    if not (service.manual_failback and service.has_backup):
        state = ServiceState()
        members = tuple(
            MemberDecision(one.server, not refusals[one.server], refusals[one.server])
            for one in service.members
        )
        return ServiceDecision(service.name, state, members), []
    state, events = _fall_over(service, servers, state, refusals)
    decided = tuple(
        MemberDecision(name, not why, why)
        for name, why in (
            (member.server, _tier_why(service, state, refusals, member))
            for member in service.members
        )
    )
    return ServiceDecision(service.name, state, decided), events


def _fall_over(
    service: ServiceRules,
    servers: Mapping[str, ServerView],
    state: ServiceState,
    refusals: Mapping[str, str],
) -> tuple[ServiceState, list[HealthEvent]]:
    first = [member.server for member in service.members if not member.backup]
    backups = [member.server for member in service.members if member.backup]
    usable = [name for name in backups if not refusals[name]]
    if state.waiting:
        # A reload may have added a member: it belongs to those that wait.
        return replace(state, waiting=frozenset(first)), []
    if any(not refusals[name] for name in first) or not usable or _is_pending(servers, first):
        return state, []
    text = f"service {service.name}: sessions move from {', '.join(first)} to {', '.join(usable)}"
    event = HealthEvent("failover", text, usable[0], service.name)
    return replace(state, waiting=frozenset(first)), [event] if first else []


def _tier_why(
    service: ServiceRules, state: ServiceState, refusals: Mapping[str, str], member: MemberRules
) -> str:
    name = member.server
    if refusals[name]:
        return refusals[name]
    if name in state.waiting:
        return _waits(service, name)
    has_first = any(not one.backup for one in service.members)
    if member.backup and has_first and not state.waiting:
        return f"server {name} is a backup and not in use"
    return ""


def _outage_events(
    service: ServiceRules, before: ServiceDecision | None, after: ServiceDecision
) -> list[HealthEvent]:
    """Tells when the last eligible member goes and when one is back; not at the start."""
    if before is None or not before.members or bool(before.eligible) == bool(after.eligible):
        return []
    if after.eligible:
        text = f"service {service.name}: {', '.join(after.eligible)} can take sessions again"
        return [HealthEvent("service_up", text, service=service.name)]
    reasons = "; ".join(member.why for member in after.members)
    text = f"service {service.name}: no server can take sessions: {reasons}"
    return [HealthEvent("service_down", text, service=service.name)]


# ---- switch


def switch(
    service: ServiceRules,
    servers: Mapping[str, ServerView],
    before: ServiceDecision | None,
    target: str,
) -> tuple[ServiceState, HealthEvent]:
    """The state to decide with after ``portside switch SERVICE SERVER``.

    For ``require = "writable"`` the target takes the writes and the present holder stops;
    otherwise the sessions go to the members (target is no backup) or to the backups (it is one).

    Raises:
        SwitchRefused: the target is no member, or could not take the sessions now; nothing changed.
    """
    state = before.state if before else ServiceState()
    member = next((one for one in service.members if one.server == target), None)
    if member is None:
        names = ", ".join(one.server for one in service.members)
        raise SwitchRefused(f"service {service.name} has no server {target}; it has {names}")
    if why := refusal(service, _view(servers, target)):
        raise SwitchRefused(f"service {service.name} cannot switch to {target}: {why}{_cure(why)}")
    if service.require == "writable":
        after = replace(state, holder=target, waiting=state.waiting - {target})
    else:
        after = _switch_tier(service, state, member)
    text = f"service {service.name} was switched to {target}"
    return after, HealthEvent("switched", text, target, service.name)


def _cure(why: str) -> str:
    return (
        "; promote it first (SET GLOBAL read_only=OFF there)" if why.endswith("read-only") else ""
    )


def _switch_tier(service: ServiceRules, state: ServiceState, member: MemberRules) -> ServiceState:
    if not service.has_backup:
        raise SwitchRefused(
            f"service {service.name} has no backup: every server takes sessions by its weight; "
            f"use portside drain or portside weight"
        )
    if not service.manual_failback:
        raise SwitchRefused(
            f'service {service.name} has failback = "auto", which would undo the switch at once; '
            f"use portside drain"
        )
    if not member.backup:
        return replace(state, waiting=frozenset())
    first = frozenset(one.server for one in service.members if not one.backup)
    return replace(state, waiting=first)
