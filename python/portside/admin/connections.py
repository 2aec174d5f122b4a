"""Who may hold a connection to one HTTP door, and for how long.

The HTTP server behind a door has no limit before a first request: connections that never say a
word would take every descriptor of the process, and the clients of the databases with them. So
the door accepts by itself: a fixed number at most, room made by closing the connection that has
waited longest for a request, silence ended after a few seconds, and a pause where the process has
no descriptor left. Knows no paths and no applications.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from uvicorn.protocols.http.h11_impl import H11Protocol

from portside.control.journal import log
from portside.control.limits import DOOR_CONNECTIONS

IDLE_S = 5.0
"""How long a connection may go without a complete request, before its first and between two."""
UNREAD_S = 30.0
"""How long the end of an answer may wait for a client that reads slowly, or not at all."""
SWEEP_S = 1.0
ACCEPTS_PER_TURN = 16
"""Of one turn of the loop, which has checks to make meanwhile."""
GRACE_S = 0.02
"""Nobody is closed earlier to make room: whoever has something to ask has said it by then."""
TELL_EVERY_S = 60.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Connection(H11Protocol):
    """One HTTP connection that knows since when it waits for a request."""

    waits_since = 0.0
    is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection has just begun."""
        self.waits_since = self.loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its descriptor is free."""
        self.is_lost = True
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """An answer is on its way; what follows is the wait for the next request."""
        self.waits_since = self.loop.time()
        super().on_response_complete()

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered: also one of which only a part has come."""
        return self.cycle is None or self.cycle.response_complete

    def is_silent(self, now: float) -> bool:
        """Whether it has waited too long, for a request or for its client to take the answer."""
        limit_s = UNREAD_S if self.transport.get_write_buffer_size() else IDLE_S
        return self.is_waiting and now - self.waits_since >= limit_s


class Acceptor:
    """Accepts on one listening socket for as long as it is open.

    Args:
        name: of the door, for the log.
        make: a connection's protocol.
    """

    def __init__(self, listener: socket.socket, name: str, make: Callable[[], Connection]) -> None:
        self._listener = listener
        self._name = name
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._open: set[Connection] = set()
        self._beginning: set[asyncio.Task[None]] = set()
        self._told: dict[str, float] = {}
        self._resume: asyncio.TimerHandle | None = None
        self._sweep = self._loop.call_later(SWEEP_S, self._close_silent)
        self._loop.add_reader(listener, self._accept)

    def stop(self) -> None:
        """Accepts nothing more; connections that are there go on."""
        self._loop.remove_reader(self._listener)
        self._sweep.cancel()
        if self._resume is not None:
            self._resume.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            is_full = self._count() >= DOOR_CONNECTIONS
            if is_full and not self._make_room():
                self._pause()
                return
            try:
                accepted, _peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._on_exhausted(error)
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._begin(accepted))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)
            if is_full:
                return  # room is made for newcomers that are there: at most one is known to be

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            _, connection = await self._loop.connect_accepted_socket(self._make, accepted)
        except OSError:
            accepted.close()
            return
        if not connection.is_lost:
            self._open.add(connection)

    def _count(self) -> int:
        self._forget_closed()
        return len(self._open) + len(self._beginning)

    def _forget_closed(self) -> None:
        # Not those that are only closing: until all is sent they hold their descriptor.
        self._open = {one for one in self._open if not one.is_lost}

    def _make_room(self) -> bool:
        """Closes the connection that has waited longest, else the longest busy; False: none may go.

        Nobody who has sent a request is the victim of those who have not.
        """
        if not self._open:
            return False
        oldest = min(self._open, key=lambda one: (not one.is_waiting, one.waits_since))
        if self._loop.time() - oldest.waits_since < GRACE_S:
            return False
        self._end(oldest)
        self._tell(
            "full",
            f"{self._name}: too many connections; for each new one that which has waited longest"
            " for a request is closed",
        )
        return True

    def _end(self, connection: Connection) -> None:
        self._open.discard(connection)
        # A reset: a FIN would leave the TIME_WAITs of a flood with us.
        connection.transport.abort()

    def _on_exhausted(self, error: OSError) -> None:
        """One of ours that says nothing is worth less than the newcomer; else that must wait."""
        self._tell("exhausted", f"{self._name}: {error.strerror}: new connections wait")
        if not self._make_room():
            self._pause()

    def _pause(self) -> None:
        """Leaves newcomers in the kernel's queue, which would report them again at once."""
        self._loop.remove_reader(self._listener)
        self._resume = self._loop.call_later(GRACE_S, self._go_on)

    def _go_on(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _close_silent(self) -> None:
        now = self._loop.time()
        self._forget_closed()
        for connection in list(self._open):
            if connection.is_silent(now):
                self._end(connection)
        self._sweep = self._loop.call_later(SWEEP_S, self._close_silent)

    def _tell(self, what: str, text: str) -> None:
        now = self._loop.time()
        if now - self._told.get(what, float("-inf")) >= TELL_EVERY_S:
            self._told[what] = now
            log.warning("%s", text)
