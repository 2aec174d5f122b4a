"""The engine as the rest of Python sees it: dicts in, dicts out, and its events on the loop.

A thin door round ``portside._core.Engine`` (or a double with the same methods in unit tests). Knows
the JSON texts of docs/internals/architecture.md and nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from errno import EADDRNOTAVAIL
from typing import Any, Protocol, TypeVar

from portside.control.journal import log
from portside.control.owner import explain_bind_failure
from portside.errors import PortsideError
from portside.foreign_text import one_line
from portside.health.connection import NoPort, PortLease


class Engine(Protocol):
    """The methods of ``portside._core.Engine``; see ``_core.pyi`` for what they do."""

    # ruff: noqa: D102  described where they are implemented
    def start(self) -> None: ...
    def apply(self, snapshot: str) -> int: ...
    def drain(self) -> None: ...
    def stop(self, timeout_s: float) -> int: ...
    def stats(self) -> str: ...
    def ports(self) -> str: ...
    def lease(
        self, server: str, destination: str, avoid: Sequence[str] | None = None
    ) -> PortLease | None: ...
    def seed_ports(self, time_wait: str) -> int: ...
    def sessions(self, limit: int) -> str: ...
    def events(self, timeout_s: float) -> str: ...
    def close_sessions(
        self,
        *,
        session: int | None = None,
        server: str | None = None,
        service: str | None = None,
        at_boundary: bool = False,
    ) -> int: ...
    def reopen_log(self) -> None: ...


EngineFactory = Callable[[str], Engine]
Snapshot = Mapping[str, Any]

T = TypeVar("T")

_EVENT_WAIT_S = 0.5  # how long the end of the pump may take; events wake it at once
# Of a server: texts that have its own words.
_SAID = ("connect_error", "pool_login_error", "pool_full_error")


def make_engine(snapshot: str) -> Engine:
    """The real engine. Imported here, so that commands that need none start without it."""
    from portside import _core

    return _core.Engine(snapshot)


class DataPlane:
    """One engine, made from its first snapshot (which binds the listeners) and not yet started.

    Raises:
        PortsideError: an address could not be bound, with its owner or the missing right.
    """

    def __init__(self, first: Snapshot, factory: EngineFactory = make_engine) -> None:
        self._engine = _translated(lambda: factory(json.dumps(first)))
        self._pump: threading.Thread | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Starts the workers."""
        _translated(self._engine.start)

    def apply(self, snapshot: Snapshot) -> int:
        """Takes a whole snapshot, all or nothing; raises as the constructor. Blocks."""
        text = json.dumps(snapshot)
        return _translated(lambda: self._engine.apply(text))

    def stats(self) -> dict[str, Any]:
        """The counters; what servers said among them is one printable line each."""
        found: dict[str, Any] = json.loads(self._engine.stats())
        for server in found["servers"]:
            for key in _SAID:
                server[key] = one_line(server[key]) if server.get(key) else None
            for blocked in server["hosts_blocked"]:
                if blocked["error"]:
                    number, text = blocked["error"]
                    blocked["error"] = [number, one_line(text)]
        return found

    def ports(self) -> list[dict[str, Any]]:
        """The port ledger: one row per (server, source, destination) whose ports are ours."""
        found: list[dict[str, Any]] = json.loads(self._engine.ports())
        return found

    def lease(
        self, server: str, destination: str, avoid: Sequence[str] | None = None
    ) -> PortLease | None:
        """A source port for a check; None where the kernel chooses.

        Raises:
            NoPort: nothing is left, or our addresses are gone.
        """
        try:
            return self._engine.lease(server, destination, avoid)
        except Exception as error:
            if type(error).__name__ != "EngineError":
                raise
            raise NoPort(str(error.args[0]), is_gone=error.args[1] == EADDRNOTAVAIL) from None

    def seed_ports(self, time_wait: Sequence[Mapping[str, Any]]) -> int:
        """Takes TIME_WAITs of an earlier process; returns how many belong to a ledger."""
        text = json.dumps(time_wait)
        return _translated(lambda: self._engine.seed_ports(text))

    def sessions(self, limit: int) -> list[dict[str, Any]]:
        """Running sessions. Blocks up to a second: use a thread."""
        found: list[dict[str, Any]] = json.loads(self._engine.sessions(limit))
        return found

    def close_sessions(
        self,
        *,
        session: int | None = None,
        server: str | None = None,
        service: str | None = None,
        at_boundary: bool = False,
    ) -> int:
        """Ends matching sessions; returns how many were told."""
        return self._engine.close_sessions(
            session=session, server=server, service=service, at_boundary=at_boundary
        )

    def drain(self) -> None:
        """Stops accepting."""
        self._engine.drain()

    def reopen_log(self) -> None:
        """Reopens the session log file."""
        _translated(self._engine.reopen_log)

    def stop(self, timeout_s: float) -> int:
        """Closes every session and ends the workers; returns sessions cut hard. Blocks."""
        self._ended.set()
        if self._pump is not None:
            self._pump.join()
        return self._engine.stop(timeout_s)

    def pump(self, receive: Callable[[dict[str, Any]], None]) -> None:
        """Calls ``receive`` on the running loop for every event of the engine, until ``stop``."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            while not self._ended.is_set():
                try:
                    events = json.loads(self._engine.events(_EVENT_WAIT_S))
                except Exception:
                    log.exception("the engine's events cannot be read")
                    return
                for event in events:
                    # A server's own words may be in it.
                    event["message"] = one_line(event["message"])
                    # The loop is closed: we are ending, and nobody listens.
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(receive, event)

        self._pump = threading.Thread(target=work, name="portside-events", daemon=True)
        self._pump.start()


def _translated(call: Callable[[], T]) -> T:
    """The result of ``call``; an engine's refusal becomes a sentence for an administrator."""
    try:
        return call()
    except Exception as error:
        # EngineError is known by its shape (_core.pyi), so that this module imports no extension.
        if type(error).__name__ != "EngineError":
            raise
        text, code, address = (*error.args, 0, "")[:3]
        if code and address:
            raise PortsideError(explain_bind_failure(str(address), int(code))) from None
        raise PortsideError(str(text)) from None
