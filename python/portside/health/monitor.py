"""The loop that keeps every server checked and tells what changed.

For: joining probe (I/O), judge (decisions) and the configuration: one task per server, its
state, the snapshot that others read, and the events. It must not know services: eligibility.py
takes ``views()``. One monitor runs in one event loop; ``snapshot``, ``views`` and ``hint`` may
be called from any thread.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from .connection import PortDoor
from .judge import (
    CheckResult,
    DestinationResult,
    HealthEvent,
    Rules,
    ServerState,
    Status,
    Verdict,
    first_delay_s,
    hinted_due,
    next_delay_s,
    step,
    unchecked,
)
from .looplag import LoopLag
from .probe import Prober
from .requirement import ServerView, view_of
from .target import Target, target_of

if TYPE_CHECKING:
    from portside.config.model import Config

OnChange = Callable[[Mapping[str, "ServerHealth"]], None]
OnEvent = Callable[[HealthEvent], None]
Destinations = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ServerHealth:
    """One server's health at one moment; what admin, metrics and eligibility read.

    Attributes:
        status: "up", "down" or "unknown" (no result yet).
        code: the last check's status word ("" before the first), see ``judge.Status``.
        detail: the last check's error in words, "" when there was none.
        since: when ``status`` last changed, in the monitor's clock; 0.0 while unknown.
        up_since: when the server came back, for slow start; None when it was up from the start.
        latency_s: of the last check that passed.
        writable, replicating, lag_s: None = not known.
        note: why something is not known, with the cure.
        destinations: the last check's outcome per address of the server.
        blocked: (our address, its address) pairs that the server refuses.
        checks, failures: counts since Portside started; void checks are in neither.
        view: the same for ``eligibility``.
    """

    name: str
    status: str
    code: str
    detail: str
    since: float
    up_since: float | None
    latency_s: float | None
    writable: bool | None
    replicating: bool | None
    lag_s: float | None
    note: str
    destinations: tuple[DestinationResult, ...]
    blocked: tuple[tuple[str, str], ...]
    checks: int
    failures: int
    view: ServerView


@dataclass
class _Watched:
    """One server under watch. ``target`` None: not checked (``check = false``)."""

    target: Target | None
    state: ServerState
    wake: asyncio.Event
    task: asyncio.Task[None] | None = None
    due: float = 0.0
    started: float = float("-inf")
    turn: int = 0
    checks: int = 0
    failures: int = 0
    latency_s: float | None = None
    waiters: list[asyncio.Future[None]] | None = None


class HealthMonitor:
    """Checks every server of a configuration, for as long as ``run`` runs.

    Args:
        config: the configuration.
        on_change: called in the loop's thread with ``snapshot()`` after something in it changed
        (not
            for latency alone). Several results of one moment make one call.
        on_event: called in the loop's thread for each event.
        rng: spreads the checks; pass a seeded one in tests.
        clock: for ``since`` and ``up_since``; the caller's, so that it can compare. Default: the
            running loop's time (CLOCK_MONOTONIC).
        destinations: resolved addresses per server name; without an entry the monitor resolves.
        ports: where source ports are leased; None: the kernel chooses them.
    """

    def __init__(
        self,
        config: Config,
        on_change: OnChange,
        *,
        on_event: OnEvent | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] | None = None,
        destinations: Destinations | None = None,
        ports: PortDoor | None = None,
    ) -> None:
        self._on_change = on_change
        self._on_event = on_event
        self._rng = rng or random.Random()  # noqa: S311  spreads checks, guards nothing
        self._clock = clock
        self._ports = ports
        self._wanted: tuple[Config, Destinations] = (config, destinations or {})
        self._watched: dict[str, _Watched] = {}
        self._snapshot: Mapping[str, ServerHealth] = MappingProxyType({})
        self._loop: asyncio.AbstractEventLoop | None = None
        self._prober: Prober | None = None
        self._lag: LoopLag | None = None
        self._told = False

    # ---- life

    async def run(self) -> None:
        """Checks until cancelled; then everything it opened is closed."""
        self._loop = asyncio.get_running_loop()
        self._clock = self._clock or self._loop.time
        self._prober = Prober(ports=self._ports)
        self._lag = LoopLag()
        self._lag.start()
        try:
            self._follow()
            await asyncio.get_running_loop().create_future()
        finally:
            self._lag.stop()
            await self._end(list(self._watched))
            await self._prober.close()
            self._loop = None

    def reload(self, config: Config, destinations: Destinations | None = None) -> None:
        """Follows another configuration; servers that stay keep their state. From any thread."""
        self._wanted = (config, destinations or {})
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._follow)

    def _follow(self) -> None:
        config, destinations = self._wanted
        names = {server.name for server in config.servers}
        gone = [self._watched.pop(name) for name in set(self._watched) - names]
        for one in gone:
            _cancel(one)
        for server in config.servers:
            target = target_of(server, destinations.get(server.name))
            known = self._watched.get(server.name)
            if known is None:
                self._watch(server.name, target)
            elif known.target != target:
                self._retarget(known, target)
        self._publish()

    def _watch(self, name: str, target: Target | None, known: ServerState | None = None) -> None:
        assert self._loop is not None and self._clock is not None  # noqa: S101  run() set them
        state = known or (ServerState(name) if target else unchecked(name, self._clock()))
        one = _Watched(target, state, asyncio.Event())
        self._watched[name] = one
        if target is not None:
            one.due = self._loop.time() + first_delay_s(target.rules, self._rng.random())
            one.task = self._loop.create_task(self._keep_checking(one), name=f"check-{name}")

    def _retarget(self, one: _Watched, target: Target | None) -> None:
        """A changed check: the verdict stays, and the next check comes at once."""
        if (one.target is None) != (target is None):
            _cancel(one)
            # What was taken for alive stays so until its first check: a reload cuts nobody off.
            self._watch(one.state.name, target, one.state if target else None)
            return
        one.target = target
        one.due = 0.0
        one.wake.set()

    async def _end(self, names: Iterable[str]) -> None:
        watched = [self._watched.pop(name) for name in names]
        for one in watched:
            _cancel(one)
        tasks = [one.task for one in watched if one.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- one server

    async def _keep_checking(self, one: _Watched) -> None:
        assert self._loop is not None  # noqa: S101  run() set it
        while True:
            await self._until_due(one)
            target = one.target
            assert target is not None  # noqa: S101  else there is no task
            one.started = self._loop.time()
            waiters, one.waiters = one.waiters, None
            result = await self._check(one, target)
            self._take(one, target.rules, result)
            delay = next_delay_s(one.state, target.rules, self._rng.random())
            one.due = self._loop.time() + delay
            for waiter in waiters or ():
                if not waiter.done():
                    waiter.set_result(None)

    async def _until_due(self, one: _Watched) -> None:
        assert self._loop is not None  # noqa: S101  run() set it
        while (wait_s := one.due - self._loop.time()) > 0:
            one.wake.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await one.wake.wait()
            except TimeoutError:
                return

    async def _check(self, one: _Watched, target: Target) -> CheckResult:
        assert self._prober is not None and self._lag is not None  # noqa: S101  run() set them
        one.turn += 1
        try:
            result = await self._prober.check(target, one.turn)
        except (
            Exception
        ) as error:  # a mistake of ours must neither end the checks nor blame a server
            detail = f"the check itself failed: {type(error).__name__}: {error}; not the database"
            return CheckResult(Status.SOCKERR, detail=detail)
        if result.status.passed or result.status.is_ours or result.definitive:
            return result
        late_s = self._lag.was_late_since(one.started)
        return replace(result, void=True) if late_s else result

    def _take(self, one: _Watched, rules: Rules, result: CheckResult) -> None:
        assert self._clock is not None  # noqa: S101  run() set it
        one.state, events = step(one.state, rules, result, self._clock())
        if not result.void:
            one.checks += 1
            one.failures += not (result.status.passed or result.status.is_ours)
        if result.status.passed:
            one.latency_s = result.latency_s
        self._publish(one)
        if self._on_event is None or self._loop is None:
            return
        for event in events:
            # Through the loop: what a listener raises must not end this server's checks.
            self._loop.call_soon(self._on_event, event)

    # ---- what others see

    @property
    def unstamped(self) -> frozenset[str]:
        """Destinations whose TCP turned out to have no timestamps."""
        return frozenset(self._prober.unstamped) if self._prober else frozenset()

    def snapshot(self) -> Mapping[str, ServerHealth]:
        """Every server's health, read-only; a new object after each check. From any thread."""
        return self._snapshot

    def views(self) -> dict[str, ServerView]:
        """What ``eligibility.decide`` takes. From any thread."""
        return {name: health.view for name, health in self._snapshot.items()}

    def hint(self, server: str) -> None:
        """Says that a session failed to connect: checks soon, rate-limited. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._hinted, server)

    def _hinted(self, server: str) -> None:
        one = self._watched.get(server)
        if one is None or one.task is None or self._loop is None:
            return
        due = hinted_due(one.due, one.started, self._loop.time())
        if due < one.due:
            one.due = due
            one.wake.set()

    async def check_now(self, server: str) -> ServerHealth:
        """Checks at once and returns the outcome. To be awaited in the monitor's loop.

        Raises:
            KeyError: no such server.
        """
        one = self._watched[server]
        if one.task is not None:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            one.waiters = [*(one.waiters or ()), done]
            one.due = 0.0
            one.wake.set()
            await done
        return self._snapshot[server]

    def _publish(self, checked: _Watched | None = None) -> None:
        """Makes the snapshot new and, if it says something new, tells once in this turn.

        Only ``checked`` is worked out again: hundreds of servers make hundreds of results a second.
        """
        before = self._snapshot
        after = {
            name: before[name]
            if checked and checked is not one and name in before
            else _health(one)
            for name, one in self._watched.items()
        }
        self._snapshot = MappingProxyType(after)
        if self._told or self._loop is None:
            return
        if before.keys() != after.keys() or checked is None:
            self._told = True
        else:
            name = checked.state.name
            self._told = _comparable(before[name]) != _comparable(after[name])
        if self._told:
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._told = False
        self._on_change(self._snapshot)


def _cancel(one: _Watched) -> None:
    if one.task is not None:
        one.task.cancel()
    for waiter in one.waiters or ():
        waiter.cancel()


def _comparable(health: ServerHealth) -> ServerHealth:
    """Without what differs in every check."""
    quiet = tuple(replace(one, latency_s=None, source="") for one in health.destinations)
    return replace(health, latency_s=None, checks=0, failures=0, destinations=quiet)


def _health(one: _Watched) -> ServerHealth:
    state = one.state
    last = state.last
    seen = state.readings
    alive = state.verdict is Verdict.UP
    rules = one.target.rules if one.target else Rules()
    return ServerHealth(
        name=state.name,
        status=str(state.verdict),
        code=str(last.status) if last else "",
        detail=last.detail if last else "",
        since=state.since,
        up_since=state.up_since,
        latency_s=one.latency_s,
        writable=None if seen.read_only is None or not alive else not seen.read_only,
        replicating=seen.replicating if alive else None,
        lag_s=seen.lag_s if alive else None,
        note=seen.note,
        destinations=last.destinations if last else (),
        blocked=tuple(sorted(state.blocked)),
        checks=one.checks,
        failures=one.failures,
        view=view_of(state, rules),
    )
