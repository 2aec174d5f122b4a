"""The last events of an instance, numbered, for those who ask later and those who listen live.

Bounded: the oldest are forgotten. Lives on the event loop's thread; knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

CAPACITY = 1000
"""Enough for an hour of a flapping server; about 300 KiB."""
_SUBSCRIBER_CAPACITY = 256


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling a person: a state that changed, a limit that was met."""

    id: int
    time: float
    """Seconds since 1970."""
    kind: str
    message: str
    service: str = ""
    server: str = ""


class EventRing:
    """Keeps the last ``CAPACITY`` events and hands new ones to subscribers."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._events: deque[Event] = deque(maxlen=capacity)
        self._subscribers: set[asyncio.Queue[Event | None]] = set()
        self._last_id = 0
        self._closed = False

    def add(
        self, time: float, kind: str, message: str, *, service: str = "", server: str = ""
    ) -> Event:
        """Numbers, keeps and publishes one event. A subscriber that lags misses the newest."""
        self._last_id += 1
        event = Event(self._last_id, time, kind, message, service, server)
        self._events.append(event)
        for queue in self._subscribers:
            if not queue.full():
                queue.put_nowait(event)
        return event

    def since(self, after: int = 0, limit: int = CAPACITY) -> list[Event]:
        """The newest ``limit`` events with an id above ``after``, oldest first."""
        found = [event for event in self._events if event.id > after]
        return found[-limit:] if limit > 0 else []

    def close(self) -> None:
        """Ends every subscription."""
        self._closed = True
        for queue in self._subscribers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    async def follow(self) -> AsyncIterator[Event]:
        """Events from now on, until ``close``."""
        if self._closed:
            return
        queue: asyncio.Queue[Event | None] = asyncio.Queue(_SUBSCRIBER_CAPACITY)
        self._subscribers.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._subscribers.discard(queue)
