"""One running balancer: an engine, its checks, and everything that changes them.

The same object serves ``portside run`` and ``portside.Balancer``. It lives on one asyncio loop;
calls of the engine that may wait run in threads. Every change (health, a verb, a reload, new
addresses) goes through ``change``: compose, build the whole snapshot, apply, then act on
sessions; one at a time. What is decided is decided in ``state``; signals, sockets of the admin
API and the process belong to others.

Flow: ``start`` (resolve, bind, first checks, workers) - ``change``... - ``drain`` - ``stop``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from portside.admin.views import PortView, ServerView, ServiceView, SessionView
from portside.config import snapshot
from portside.config.limits import fd_need, file_limit
from portside.config.model import Config, Server
from portside.control import picture
from portside.control.announce import Announcer
from portside.control.dataplane import DataPlane, EngineFactory, make_engine
from portside.control.event_ring import Event, EventRing
from portside.control.journal import log
from portside.control.late_closes import LateCloses
from portside.control.limits import raise_file_limit
from portside.control.listeners import Listeners
from portside.control.names import Names
from portside.control.refusal import unknown
from portside.control.resolve import Lookup, look_up
from portside.control.state import Composition, Overrides, World, actions, compose
from portside.counted import counted
from portside.errors import PortsideError
from portside.health.monitor import HealthMonitor, ServerHealth
from portside.health.proxy_header import header_refusals
from portside.ports import timewait
from portside.ports.trend import Trends

SAMPLE_S = 1.0
"""How often the ports are counted for their trend."""
FIRST_CHECKS_S = 5.0
"""How long the start waits for first verdicts; clients wait in the accept queue meanwhile."""

Alter = Callable[[World], World]


class Instance:
    """A balancer for one configuration.

    Args:
        config: loaded; a listen address with port 0 gets a free port.
        listeners: sockets inherited from a service manager.
        factory: makes the engine; a double in unit tests.
        lookup: resolves a host name, blocking.
        owns_stdout: whether the session log may go to standard output unasked; in a program that
            embeds a balancer it goes there only with a ``[log]`` table.
    """

    def __init__(
        self,
        config: Config,
        *,
        listeners: Listeners | None = None,
        factory: EngineFactory = make_engine,
        lookup: Lookup = look_up,
        owns_stdout: bool = True,
    ) -> None:
        self._owns_stdout = owns_stdout
        self.listeners = listeners or Listeners()
        self.ring = EventRing(start=int(time.time() * 1000))
        self.accepting = True
        self.started = False
        """Whether the workers run."""
        self._written = config
        self._factory = factory
        self._names = Names(lookup)
        self._announcer = Announcer(self.ring)
        self._generation = 0
        self._applied: dict[str, Any] = {}
        self._lock = asyncio.Lock()
        self._dirty = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._plane: DataPlane | None = None
        self._monitor: HealthMonitor | None = None
        self._composed: Composition | None = None
        self._cuts: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._late_closes = LateCloses()
        self._trends = Trends()
        self._resets_lost: set[tuple[str, str]] = set()
        self._seeded: set[str] = set()
        """Destinations whose TIME_WAITs of an earlier process the ledger was told."""

    # ---- life

    async def bind(self) -> None:
        """Resolves the servers' names and binds every listener; nothing is accepted yet.

        Raises:
            PortsideError: the file limit is too small, a name does not resolve, or an address is
                taken.
        """
        raise_file_limit()
        config = self.fitted(self._written)
        await self._names.resolve_new(config)
        await self.refuse_proxy_headers(config, config.servers)
        world = World(config, Overrides(), self._names.destinations(config))
        self._composed = compose(world, {}, self._now())
        self._applied = self._snapshot(self._composed, True)
        self._plane = await asyncio.to_thread(DataPlane, self._applied, self._factory)
        for address in self.listeners.unused(config):
            log.warning("no service listens on %s, which was inherited", address)
        await self._seed_ports()

    async def start(self) -> None:
        """Makes the first checks, then starts the workers and the tasks that keep everything."""
        config = self.composed.world.config
        self._monitor = HealthMonitor(
            config,
            lambda _: self._dirty.set(),
            on_event=self._announcer.health,
            destinations=self._destinations(),
            ports=self.plane,
        )
        self._spawn(self._monitor.run(), "health")
        await self._first_checks()
        await self._seed_unstamped()
        # What was decided without any health is not a decision that the first one could change.
        await self.change(lambda world: replace(world, decisions={}))
        self.plane.start()
        self.started = True
        self.plane.pump(self._on_engine_event)
        self._spawn(self._keep_applied(), "apply")
        self._spawn(self._keep_resolved(), "resolve")
        self._spawn(self._keep_sampling(), "ports")

    async def _seed_ports(self) -> None:
        """Tells the ledger of an earlier process' TIME_WAITs, where the kernel would refuse them.

        With timestamps at both ends it does not: an explicit bind reuses them at once.
        """
        resolved = self._destinations()
        ours = (server for server in self.config.servers if server.source.ports)
        wanted = [d for server in ours for d in picture.destinations_of(server, resolved)]
        if wanted and not timewait.timestamps_are_on():
            await self._seed(wanted)
            self._seeded.update(wanted)

    async def _seed_unstamped(self) -> None:
        """The same for servers that turn out to have no timestamps, once each.

        A check tells before the first session; without one the first close does.
        """
        found = {row["destination"] for row in self.port_rows() if row["peer_timestamps"] is False}
        if self._monitor is not None:
            found |= self._monitor.unstamped
        if new := found - self._seeded:
            self._seeded |= new
            await self._seed(sorted(new))

    async def _seed(self, wanted: Sequence[str]) -> None:
        try:
            held = await asyncio.to_thread(timewait.held, wanted)
        except OSError as error:
            log.warning("what is in TIME_WAIT is not known: %s; ports are tried instead", error)
            return
        if count := await asyncio.to_thread(self.plane.seed_ports, held):
            log.info("%d source ports are still in TIME_WAIT; they are left alone until due", count)

    async def _first_checks(self) -> None:
        """Waits until every server has a verdict or ``FIRST_CHECKS_S`` have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CHECKS_S):
                while not self._is_settled():
                    self._dirty.clear()
                    await self._dirty.wait()

    def _is_settled(self) -> bool:
        healths = self.healths()
        servers = self.composed.world.config.servers
        return all(s.name in healths and healths[s.name].view.settled for s in servers)

    async def drain(self, timeout_s: float | None, enough: asyncio.Event | None = None) -> int:
        """Stops accepting and waits for the sessions; returns how many are left.

        Args:
            timeout_s: how long; None: for ever.
            enough: ends the wait when set (a second signal).
        """
        self.accepting = False
        self.plane.drain()
        began = time.monotonic()
        while left := self.sessions_now():
            waited_s = time.monotonic() - began
            if (timeout_s is not None and waited_s >= timeout_s) or (enough and enough.is_set()):
                break
            await asyncio.sleep(min(0.1, 0.01 + waited_s / 10))
        return left

    async def stop(self, timeout_s: float = 2.0) -> int:
        """Ends checks, sessions and workers; returns sessions cut hard."""
        self.accepting = False
        for cut in self._cuts.values():
            cut.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        hard = 0
        if self._plane is not None:
            async with self._lock:
                hard = await asyncio.to_thread(self._plane.stop, timeout_s)
        self.listeners.close()
        self.ring.close()
        return hard

    # ---- what it is now

    @property
    def plane(self) -> DataPlane:
        """The engine; there once ``bind`` has returned."""
        if self._plane is None:
            raise PortsideError("the balancer has not been started.")
        return self._plane

    @property
    def composed(self) -> Composition:
        """What was decided last."""
        if self._composed is None:
            raise PortsideError("the balancer has not been started.")
        return self._composed

    @property
    def config(self) -> Config:
        """The configuration in force, with free ports chosen."""
        return self.composed.world.config

    def healths(self) -> Mapping[str, ServerHealth]:
        """What the checks say."""
        return self._monitor.snapshot() if self._monitor else {}

    def stats(self) -> dict[str, Any]:
        """The engine's counters (docs/internals/architecture.md, Statistics)."""
        return self.plane.stats()

    def sessions_now(self) -> int:
        """How many sessions run."""
        return sum(worker["sessions"] for worker in self.stats()["workers"])

    def services(self, stats: Mapping[str, Any] | None = None) -> tuple[ServiceView, ...]:
        """Every service."""
        return picture.services(self.composed, stats or self.stats(), self.accepting)

    def servers(self, stats: Mapping[str, Any] | None = None) -> tuple[ServerView, ...]:
        """Every server."""
        return picture.servers(self.composed, self.healths(), stats or self.stats(), self._now())

    def port_rows(self) -> list[dict[str, Any]]:
        """The engine's counts of source ports that are ours to choose (_core.pyi)."""
        return self.plane.ports()

    def ports(
        self, server: str | None = None, rows: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[PortView, ...]:
        """The same with rates and the last minute, of one server or of all.

        Raises:
            Refusal: there is no such server.
        """
        known = [each.name for each in self.config.servers]
        if server is not None and server not in known:
            raise unknown("server", server, known)
        views = self._trends.views(self._now(), self.port_rows() if rows is None else rows)
        return tuple(view for view in views if server in (None, view.server))

    async def sessions(self, limit: int) -> list[SessionView]:
        """Up to ``limit`` running sessions."""
        found = await asyncio.to_thread(self.plane.sessions, limit)
        return [SessionView(**session) for session in found]

    def events(self, after: int = 0, limit: int = 100) -> list[Event]:
        """The newest events, oldest first."""
        return self.ring.since(after, limit)

    def is_ready(self) -> bool:
        """Whether every service has a server for new sessions."""
        return self.accepting and all(s.active for s in self.composed.standing.values())

    def healthz(self, service: str | None = None) -> tuple[bool, str]:
        """For keepalived and other balancers: whether to send clients here, and why not.

        Without ``service``: whether new clients are accepted at all. A service without a server
        does not count: a second Portside beside this one would see the same servers.
        """
        if not self.accepting:
            return False, "draining"
        if service is None:
            return True, "ok"
        standing = self.composed.standing.get(service)
        if standing is None:
            return False, f"there is no service {service}"
        barred = picture.barred_servers(self.stats())
        state = picture.service_state(standing, barred, self.accepting)
        return state == "open", "ok" if state == "open" else state

    # ---- changes

    async def change(
        self, alter: Alter, *, then: Callable[[Composition], None] | None = None
    ) -> Composition:
        """Makes ``alter`` true: decides, applies the whole snapshot, acts on sessions.

        Args:
            alter: from the present world to the one wanted; may raise to refuse.
            then: called after the engine took the snapshot and before the next change.

        Raises:
            PortsideError: the engine refused; nothing has changed.
        """
        async with self._lock:
            before = self.composed
            after = compose(alter(before.world), self.healths(), self._now())
            wanted = self._snapshot(after, self.accepting)
            if _without_generation(wanted) != _without_generation(self._applied):
                await asyncio.to_thread(self.plane.apply, wanted)
                self._applied = wanted
            self._composed = after
            for event in after.events:
                self._announcer.health(event)
            if then is not None:
                then(after)
            await self._act(before, after)
            return after

    async def _act(self, before: Composition, after: Composition) -> None:
        if not self.started:
            return  # no sessions yet, and no worker that would answer
        old, new = before.world.overrides, after.world.overrides
        for close in actions(before.standing, after.standing, old, new):
            told = await asyncio.to_thread(
                self.plane.close_sessions,
                server=close.server,
                service=close.service,
                at_boundary=close.at_boundary,
            )
            if told:
                text = f"{close.reason}: closing {counted(told, 'session')}"
                self._announcer.tell(
                    "sessions_closed", text, service=close.service or "", server=close.server
                )
        if before.world.config is not after.world.config:
            self._cut_removed(before.world.config, after.world.config)

    def _cut_removed(self, old: Config, new: Config) -> None:
        """Sessions of removed servers and services may go on for ``timeouts.drain``."""
        gone = [("server", s.name, s.timeouts.drain_s) for s in old.servers]
        gone += [("service", s.name, s.timeouts.drain_s) for s in old.services]
        here = {("server", s.name) for s in new.servers}
        here |= {("service", s.name) for s in new.services}
        for key in here & self._cuts.keys():
            self._cuts.pop(key).cancel()
        loop = asyncio.get_running_loop()
        for kind, name, drain_s in gone:
            if (kind, name) not in here and drain_s is not None:
                self._cuts[kind, name] = loop.call_later(drain_s, self._cut, kind, name)

    def _cut(self, kind: str, name: str) -> None:
        self._cuts.pop((kind, name), None)
        told = self.plane.close_sessions(**{kind: name})  # type: ignore[arg-type]
        if told:
            count = counted(told, "session")
            text = f"{kind} {name}, removed by a reload: {count} outlived its drain: closed"
            self._announcer.tell("sessions_closed", text)

    async def take_config(self, config: Config) -> None:
        """Puts a checked and resolved configuration in force; overrides that still fit are kept."""

        def alter(world: World) -> World:
            return replace(
                world,
                config=config,
                destinations=self._names.destinations(config),
                overrides=world.overrides.fitted(config),
            )

        def then(_: Composition) -> None:
            if self._monitor is not None:  # else the start makes it, from what is in force then
                self._monitor.reload(config, self._destinations())

        await self.change(alter, then=then)

    def fitted(self, config: Config) -> Config:
        """``config`` with free ports chosen, once its sessions are known to fit.

        Raises:
            PortsideError: they do not fit the limit of open files; with the arithmetic.
        """
        need = fd_need(config, file_limit())
        if not need.fits:
            raise PortsideError(f"the configuration does not fit: {need.text}.")
        return self.listeners.place(config)

    async def resolve_new(self, config: Config) -> None:
        """Looks up the names of ``config`` that are not known yet; may raise."""
        await self._names.resolve_new(config)

    async def refuse_proxy_headers(self, config: Config, servers: Sequence[Server]) -> None:
        """Greets those of ``servers`` that get a PROXY header from us.

        Raises:
            PortsideError: a server that does not speak it; all of them are named.
        """
        found = await header_refusals(servers, self._names.destinations(config))
        for hint in found.hints:
            log.warning("%s", hint)
        if found.mistakes:
            raise PortsideError("\n".join(found.mistakes))

    def forget_unused(self) -> None:
        """Lets go of what is not in force (any more): free ports, and answers of name servers."""
        self.listeners.retire(self.config)
        self._names.forget_others(self.config)

    def _snapshot(self, composed: Composition, accepting: bool) -> dict[str, Any]:
        self._generation += 1
        world = composed.world
        is_asked = self._owns_stdout or "log" in world.config.model_fields_set
        return snapshot.build(
            world.config,
            generation=self._generation,
            resolved=world.destinations,
            members=composed.members,
            accepting=accepting,
            paused=world.overrides.paused,
            max_sessions=fd_need(world.config, file_limit()).max_sessions,
            listen_fds=self.listeners.fds,
            log_path=None if is_asked else os.devnull,
        )

    def _destinations(self) -> dict[str, tuple[str, ...]]:
        return dict(self.composed.world.destinations)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # ---- tasks

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"portside-{name}")
        task.add_done_callback(self._on_task_end)
        self._tasks.append(task)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        # The data plane goes on with what it has; a person must know that nobody watches any more.
        log.critical("%s has ended by a fault", task.get_name(), exc_info=task.exception())

    async def _keep_applied(self) -> None:
        """Applies what the checks say, and the next step of a slow start when it is due."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.composed.next_change_s):
                    await self._dirty.wait()
            self._dirty.clear()
            try:
                await self.change(lambda world: world)
            except PortsideError as error:
                self._announcer.tell("apply_failed", f"the engine refused a change: {error}")
                await asyncio.sleep(1.0)  # an engine that refuses must not be asked in a spin
                self._dirty.set()

    async def _keep_resolved(self) -> None:
        while True:
            every_s = self.config.portside.resolve_s
            await asyncio.sleep(3600.0 if every_s is None else every_s)
            if self.config.portside.resolve_s is not None:
                await self._resolve_again()

    async def _resolve_again(self) -> None:
        answer = await self._names.look_up(self.config)
        # Of what is in force now: a reload may have come meanwhile.
        for kind, text, server in self._names.take(answer, self.config):
            self._announcer.tell(kind, text, server=server)
        if self._names.destinations(self.config) != self.composed.world.destinations:
            await self._take_destinations()

    async def _take_destinations(self) -> None:
        def alter(world: World) -> World:
            # Here, inside the change: the configuration may be another one by now.
            return replace(world, destinations=self._names.destinations(world.config))

        def then(after: Composition) -> None:
            if self._monitor is not None:
                self._monitor.reload(after.world.config, self._destinations())

        try:
            await self.change(alter, then=then)
        except PortsideError as error:
            self._announcer.tell("apply_failed", f"the engine refused new addresses: {error}")

    async def _keep_sampling(self) -> None:
        """Counts once a second: ports for their trend, paths that lose resets, late closes."""
        while True:
            late = {s["name"]: s["close_deadlines_total"] for s in self.stats()["servers"]}
            for server, text in self._late_closes.news(self._now(), late):
                self._announcer.tell("close_deadlines", text, server=server)
            rows = self.port_rows()
            self._trends.add(self._now(), rows)
            await self._seed_unstamped()
            lost = {(row["server"], row["destination"]) for row in rows if row["resets_lost"]}
            for server, destination in sorted(lost - self._resets_lost):
                text = (
                    f"server {server}: something on the way to {destination} swallows our resets:"
                    " old connections stay open there. For now our FIN answers the server's, and"
                    " source ports rest 60 s"
                )
                self._announcer.tell("resets_lost", text, server=server)
            self._resets_lost = lost
            await asyncio.sleep(SAMPLE_S)

    def _on_engine_event(self, event: Mapping[str, Any]) -> None:
        self._announcer.engine(event)
        if event["kind"] in {"connect_failed", "breaker_open"} and self._monitor is not None:
            self._monitor.hint(event["server"])

    def event_counts(self) -> Mapping[str, int]:
        """Events since the start by kind, also those that were counted and not told."""
        return self._announcer.counts

    def tell(self, kind: str, text: str, *, service: str = "", server: str = "") -> None:
        """An event of the control side: into the ring and the log."""
        self._announcer.tell(kind, text, service=service, server=server)


def _without_generation(made: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in made.items() if key != "generation"}
