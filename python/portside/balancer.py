"""A balancer inside a program or a test: ``with portside.Balancer(config) as b:``.

The same ``Host`` that ``portside run`` uses, on a thread of its own with its own event loop; the
engine has its threads anyhow. Every method may be called from any thread and blocks until it is
done. Takes no signals, attaches no log handler (messages go to the logger "portside"), and serves
an admin socket only if the configuration names one. Raises the soft limit of open files to the hard
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from portside.admin.views import (
    PortView,
    ReloadView,
    ServerView,
    ServiceView,
    SessionView,
    StatusView,
)
from portside.config.load import load, loads
from portside.config.model import Config
from portside.control import verbs
from portside.control.dataplane import EngineFactory, make_engine
from portside.control.event_ring import Event
from portside.control.host import Host, Setup
from portside.control.refusal import unknown
from portside.control.resolve import Lookup, look_up
from portside.control.state import AdminState
from portside.errors import ConfigError, PortsideError

T = TypeVar("T")
Source = Config | str | os.PathLike[str]

CALL_TIMEOUT_S = 30.0
"""No verb takes this long; a dead control thread must not hang its caller for ever."""


class Balancer:
    """A running balancer in this process; one at a time.

    Example:
        ::

            with portside.Balancer(Path("portside.toml")) as b:
                b.wait_ready()
                host, port = b.address("read")

    Args:
        config: a ``Config``, a path, or TOML text (a ``str`` with a line break in it). ``listen =
            "127.0.0.1:0"`` takes a free port, which ``address`` tells. Without a ``[log]`` table
            no session log is written: standard output is the program's.
        factory: makes the engine; for tests of Portside itself.
        lookup: resolves a host name of a server.

    Raises:
        ConfigError: every mistake of the configuration.
        PortsideError: from ``start``, when an address is taken, a name does not resolve, or the
            limit of open files is too small.
    """

    def __init__(
        self,
        config: Source,
        *,
        factory: EngineFactory = make_engine,
        lookup: Lookup = look_up,
    ) -> None:
        self._setup = _setup(config)
        self._factory = factory
        self._lookup = lookup
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._host: Host | None = None
        self._end: asyncio.Event | None = None

    # ---- life

    def start(self) -> None:
        """Binds, makes the first checks and accepts clients; returns when that is done."""
        if self._thread is not None:
            raise PortsideError("this balancer was started already; make another one.")
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(started)), name="portside-control", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join(CALL_TIMEOUT_S)
            raise

    def stop(self, drain_s: float = 0.0) -> None:
        """Ends it: waits up to ``drain_s`` for sessions, closes the rest. Harmless when ended."""
        loop, end, thread = self._loop, self._end, self._thread
        if loop is None or end is None or thread is None or not thread.is_alive():
            return
        if drain_s > 0:
            self._ask(lambda host: host.instance.drain(drain_s), drain_s + CALL_TIMEOUT_S)
        with contextlib.suppress(RuntimeError):  # the loop has just ended by itself
            loop.call_soon_threadsafe(end.set)
        thread.join(CALL_TIMEOUT_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def _live(self, started: Future[None]) -> None:
        try:
            host = Host(self._setup, factory=self._factory, lookup=self._lookup)
            await host.start()
        except BaseException as error:
            started.set_exception(error)
            return
        self._loop, self._host, self._end = asyncio.get_running_loop(), host, asyncio.Event()
        started.set_result(None)
        try:
            await self._end.wait()
        finally:
            await host.stop()

    # ---- what it is now

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Returns once every service has a server for new sessions.

        Raises:
            PortsideError: not within ``timeout`` seconds; says which service and why.
        """
        due = time.monotonic() + timeout
        while not self._now(lambda host: host.instance.is_ready()):
            if time.monotonic() >= due:
                empty = [
                    f"service {service.name}: "
                    + ("; ".join(m.why for m in service.members if m.why) or service.state)
                    for service in self.services()
                    if not any(member.active for member in service.members)
                ]
                raise PortsideError(f"not ready within {timeout:g} s: {'. '.join(empty)}.")
            time.sleep(0.02)

    def address(self, service: str, index: int = 0) -> tuple[str, int]:
        """Host and port where clients of ``service`` connect, ready for a driver.

        For an address that means every interface (``0.0.0.0``, ``[::]``) the loopback one is told.
        ``index`` chooses among several listeners.

        Raises:
            PortsideError: no such service, or a unix socket (see ``services()``).
        """
        found = self.config.service(service)
        if found is None:
            raise unknown("service", service, (each.name for each in self.config.services))
        address = found.listen[index].address
        if address.kind != "ip":
            raise PortsideError(f"service {service} listens on {address}, which has no port.")
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return loopback.get(address.host, address.host), address.port

    @property
    def config(self) -> Config:
        """The configuration in force, with free ports chosen."""
        return self._now(lambda host: host.instance.config)

    def status(self) -> StatusView:
        """One page about everything."""
        return self._now(lambda host: host.status())

    def services(self) -> tuple[ServiceView, ...]:
        """Every service, in the configuration's order."""
        return self._now(lambda host: host.instance.services())

    def servers(self) -> tuple[ServerView, ...]:
        """Every server, in the configuration's order."""
        return self._now(lambda host: host.instance.servers())

    def ports(self, server: str | None = None) -> tuple[PortView, ...]:
        """Source ports per (source, destination); empty where the kernel chooses them.

        Raises:
            Refusal: there is no such server.
        """
        return self._now(lambda host: host.instance.ports(server))

    def sessions(self, limit: int = 1000) -> list[SessionView]:
        """Up to ``limit`` running sessions."""
        return self._ask(lambda host: host.instance.sessions(limit))

    def events(self, after: int = 0, limit: int = 1000) -> list[Event]:
        """The newest events with an id above ``after``, oldest first."""
        return self._now(lambda host: host.instance.events(after, limit))

    def stats(self) -> dict[str, Any]:
        """The engine's counters; see docs/internals/architecture.md, Statistics."""
        return self._now(lambda host: host.instance.stats())

    # ---- what can be done to it; each returns one sentence and raises Refusal for a wrong name

    def drain(self, server: str) -> str:
        """No new sessions for ``server``; those there go on."""
        return self._ask(lambda h: verbs.set_server(h.instance, server, AdminState.DRAIN))

    def maint(self, server: str) -> str:
        """As ``drain``, and sessions there end at their next command boundary."""
        return self._ask(lambda h: verbs.set_server(h.instance, server, AdminState.MAINT))

    def ready(self, server: str) -> str:
        """Takes ``server`` back after ``drain`` or ``maint``."""
        return self._ask(lambda h: verbs.set_server(h.instance, server, AdminState.READY))

    def set_weight(self, service: str, server: str, weight: int | None) -> str:
        """Sets a weight until told otherwise; None: as the configuration says."""
        return self._ask(lambda h: verbs.set_weight(h.instance, service, server, weight))

    def pause(self, service: str) -> str:
        """Lets a service's new clients wait in its queue."""
        return self._ask(lambda h: verbs.set_pause(h.instance, service, True))

    def resume(self, service: str) -> str:
        """Ends a pause."""
        return self._ask(lambda h: verbs.set_pause(h.instance, service, False))

    def switch(self, service: str, server: str) -> str:
        """Moves a service to ``server``: the answer to ``failback = "manual"``."""
        return self._ask(lambda h: verbs.switch(h.instance, service, server))

    def kill(self, session: int) -> str:
        """Cuts one session, by its ``id`` or ``connection_id`` in ``sessions()``."""
        return self._ask(lambda h: verbs.kill(h.instance, session))

    def reload(self, config: Source | None = None, *, dry_run: bool = False) -> ReloadView:
        """Puts ``config`` in force, or the same file read again; all or nothing.

        Raises:
            ConfigError: mistakes of the new configuration; the old one stays.
            PortsideError: it is right but cannot be put in force here; the old one stays.
        """
        setup = self._setup if config is None else _setup(config)
        if config is None and setup.load is not None:
            setup = _setup(Path(setup.path))
        view = self._ask(lambda host: host.reload(setup.config, dry_run=dry_run))
        if not view.ok:
            raise PortsideError("\n".join((*view.mistakes, view.message)))
        return view

    def _ask(
        self, make: Callable[[Host], Coroutine[Any, Any, T]], timeout_s: float = CALL_TIMEOUT_S
    ) -> T:
        """The result of a coroutine on the control thread."""
        loop, host = self._loop, self._host
        if loop is None or host is None or loop.is_closed():
            raise PortsideError("the balancer does not run.")
        return asyncio.run_coroutine_threadsafe(make(host), loop).result(timeout_s)

    def _now(self, look: Callable[[Host], T]) -> T:
        """A look at the host, taken on the control thread."""

        async def on_loop(host: Host) -> T:
            return look(host)

        return self._ask(on_loop)


def _setup(source: Source) -> Setup:
    if isinstance(source, Config):
        return Setup(source)
    if isinstance(source, str) and "\n" in source:
        return Setup(loads(source))
    path = Path(source)
    return Setup(load(path), lambda: load(path), str(path))


__all__ = ["Balancer", "ConfigError", "Source"]
