"""What an administrator can do to a running instance; each verb returns one sentence.

Names are checked here, so that the admin API, the command line and ``Balancer`` refuse a wrong
one in the same words. The sentence says what is true now, also when it was true before.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from portside.control.refusal import Refusal, unknown
from portside.control.state import AdminState, Composition, World, file_weight
from portside.counted import counted
from portside.health.eligibility import SwitchRefused
from portside.health.eligibility import switch as decide_switch
from portside.health.requirement import service_rules

if TYPE_CHECKING:
    from portside.admin.views import ServerView
    from portside.config.model import Service
    from portside.control.instance import Instance

_MANY = 1_000_000
# Of pool mode's greetings: docs/pooling.md, KILL. Source: crates/engine/src/pool/welcome.rs.
_CONNECTION_IDS = range(1 << 30, 1 << 31)
MAX_WEIGHT = 256  # as in the file, config.model.Member
MAX_SESSION = 2**63 - 1
"""The engine's numbers of sessions have 64 bits; none lives long enough for the last one."""


async def set_server(instance: Instance, server: str, state: AdminState) -> str:
    """``drain``, ``maint`` or ``ready`` a server, in every service."""
    _known_server(instance, server)
    before = instance.composed.world.overrides.admin_state(server)

    def alter(world: World) -> World:
        return replace(world, overrides=world.overrides.with_server(server, state))

    (view,) = (view for view in instance.servers() if view.name == server)
    after = await instance.change(alter)
    text = _server_sentence(server, state, before, view) + _left_without(after, server)
    if before is not state:
        instance.tell(f"admin_{state}", text, server=server)
    return text


def _server_sentence(server: str, state: AdminState, before: AdminState, view: ServerView) -> str:
    still = "still" if before is state else "now"
    if state is AdminState.READY:
        return f"server {server} is {still} ready: it takes sessions as its checks allow."
    # Connections of pools are counted with the sessions, as max_connections wants it.
    relayed = max(0, view.sessions - view.pool_open)
    is_drain = state is AdminState.DRAIN
    parts = ["no new sessions"]
    if relayed or view.pool_max is None:
        end = "may go on" if is_drain else "will end between two commands"
        parts.append(f"{counted(relayed, 'session')} {end}")
    if view.pool_open:
        parts.append(_pooled_part(view, is_drain=is_drain))
    return f"server {server} is {still} in {state}: {', '.join(parts)}."


def _pooled_part(view: ServerView, *, is_drain: bool) -> str:
    """What becomes of connections that clients share, and of the clients that use one now."""
    pooled = f"{counted(view.pool_open, 'pooled connection')} will go"
    if not view.pool_busy:
        return pooled
    if is_drain:
        return f"{pooled}, {view.pool_busy} of them when a client is done with it"
    clients = counted(view.pool_busy, "client")
    verb = "uses" if view.pool_busy == 1 else "use"
    return f"{pooled}, and {clients} that {verb} one now will end between two commands"


def _left_without(after: Composition, server: str) -> str:
    """A warning when services have nobody left now."""
    empty = [
        name
        for name, standing in after.standing.items()
        if server in standing.members and not standing.active
    ]
    return f" No server is left for: {', '.join(sorted(empty))}." if empty else ""


async def set_weight(instance: Instance, service: str, server: str, weight: int | None) -> str:
    """Sets a member's weight until told otherwise; None: as the file says."""
    _known_member(instance, service, server)
    if weight is not None and not 0 <= weight <= MAX_WEIGHT:
        raise Refusal(f"a weight is a number from 0 to {MAX_WEIGHT}.")

    def alter(world: World) -> World:
        return replace(world, overrides=world.overrides.with_weight(service, server, weight))

    after = await instance.change(alter)
    written = file_weight(instance.config, service, server)
    name = f"server {server} in service {service}"
    if weight is None:
        text = f"{name} has weight {written} again, as the file says."
    else:
        none = " and gets no new sessions" if weight == 0 else ""
        text = f"{name} has weight {weight} now{none} (file: {written})."
    instance.tell("admin_weight", text, service=service, server=server)
    return text + _left_without(after, server)


async def set_pause(instance: Instance, service: str, paused: bool) -> str:
    """Holds a service's new clients in its queue, or lets them go on."""
    _known_service(instance, service)

    def alter(world: World) -> World:
        return replace(world, overrides=world.overrides.with_pause(service, paused))

    await instance.change(alter)
    configured = _known_service(instance, service)
    if paused:
        wait_s = configured.timeouts.queue_s
        most = "for ever" if wait_s is None else f"at most {wait_s:g} s"
        text = (
            f"service {service} is paused: up to {configured.queue} {_who_waits(configured)},"
            f" {most} each."
        )
    else:
        text = f"service {service} takes clients."
    instance.tell("admin_pause" if paused else "admin_resume", text, service=service)
    return text


def _who_waits(service: Service) -> str:
    if service.mode == "relay":
        return "new clients wait"
    return "clients wait with their next command, but for those that keep a connection"


async def switch(instance: Instance, service: str, server: str) -> str:
    """Moves a service's sessions to ``server``: the one answer to ``failback = "manual"``."""
    configured = _known_service(instance, service)
    _known_member(instance, service, server)
    views = {name: health.view for name, health in instance.healths().items()}
    told: list[str] = []

    def alter(world: World) -> World:
        said = world.overrides.admin_state(server)
        if said is not AdminState.READY:
            raise Refusal(f"server {server} is in {said}.", f"First: portside ready {server}")
        rules = service_rules(configured)
        try:
            state, event = decide_switch(rules, views, world.decisions.get(service), server)
        except SwitchRefused as refused:
            raise Refusal(f"{refused}.", status=409) from None
        told.append(event.message)
        decision = world.decisions[service]
        return replace(
            world, decisions={**world.decisions, service: replace(decision, state=state)}
        )

    await instance.change(alter)
    instance.tell("switched", told[0], service=service, server=server)
    return f"{told[0]}."


async def kill(instance: Instance, number: int) -> str:
    """Cuts one session at once: by its number, or in pool mode by its client's CONNECTION_ID."""
    if not 0 <= number <= MAX_SESSION:
        raise Refusal("there is no session with such a number.", status=404)
    session, hint = number, "See portside show sessions."
    if number in _CONNECTION_IDS:
        session = await _session_meant(instance, number)
        hint = "Nor is it a CONNECTION_ID of now: portside show sessions has both."
    if not await asyncio.to_thread(instance.plane.close_sessions, session=session):
        raise Refusal(f"there is no session {number}.", hint, status=404)
    name = f"session {session}"
    if session != number:
        name += f", whose client has the CONNECTION_ID {number},"
    return f"{name} is being closed."


async def _session_meant(instance: Instance, number: int) -> int:
    """Whose it is: a worker's thousand-millionth session has a number in the same range."""
    views = await instance.sessions(_MANY)
    found = next((view.id for view in views if view.connection_id == number), number)
    if found != number and any(view.id == number for view in views):
        raise Refusal(
            f"session {number} is one, and the client of session {found} has this CONNECTION_ID.",
            f"For the latter: portside kill {found}; for the former its own CONNECTION_ID.",
            status=409,
        )
    return found


def _known_server(instance: Instance, name: str) -> None:
    if name not in instance.config.by_name:
        raise unknown("server", name, instance.config.by_name)


def _known_service(instance: Instance, name: str) -> Service:
    found = instance.config.service(name)
    if found is None:
        raise unknown("service", name, (service.name for service in instance.config.services))
    return found


def _known_member(instance: Instance, service: str, server: str) -> None:
    members = [member.name for member in _known_service(instance, service).servers]
    if server not in members:
        raise unknown(f"server in service {service}", server, members)
