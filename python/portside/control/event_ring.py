"""The last events of an instance, numbered, for those who ask later and those who listen live.

Bounded: the oldest are forgotten. A reader has no buffer of its own: it remembers the number of its
last event and takes the next ones from the ring when it is ready for them, so that any number of
slow readers cost nothing; one that falls behind the ring is told how many it missed. Lives on the
event loop's thread; knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice

CAPACITY = 1000
"""Enough for an hour of a flapping server; about 300 KiB."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling a person: a state that changed, a limit that was met."""

    id: int
    """Higher than that of every earlier event, also of those before a restart."""
    time: float
    """Seconds since 1970."""
    kind: str
    """One of ``event_kinds.KINDS``."""
    message: str
    service: str = ""
    server: str = ""


class EventRing:
    """Keeps the last ``capacity`` events and wakes those who follow them.

    Args:
        capacity: how many are kept.
        start: ids begin above it. An instance passes the milliseconds since 1970: a reader that
            resumes after a restart then neither misses events nor gets some twice.
    """

    def __init__(self, capacity: int = CAPACITY, start: int = 0) -> None:
        self._events: deque[Event] = deque(maxlen=capacity)
        self._wakes: set[asyncio.Event] = set()
        self._start = start
        self._last_id = start
        self._closed = False

    @property
    def followers(self) -> int:
        """How many follow now."""
        return len(self._wakes)

    def add(
        self, time: float, kind: str, message: str, *, service: str = "", server: str = ""
    ) -> Event:
        """Numbers, keeps and publishes one event. O(followers)."""
        self._last_id += 1
        event = Event(self._last_id, time, kind, message, service, server)
        self._events.append(event)
        self._wake()
        return event

    def since(self, after: int = 0, limit: int = CAPACITY) -> list[Event]:
        """The newest ``limit`` events with an id above ``after``, oldest first. O(their number)."""
        newer = max(0, self._last_id - after)
        found = list(islice(reversed(self._events), min(newer, max(0, limit))))
        return found[::-1]

    def close(self) -> None:
        """Ends every following, once it has the last event."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()

    async def follow(
        self, after: int | None = None, beat_s: float | None = None
    ) -> AsyncIterator[Event | None]:
        """Events above ``after`` (None: from now on) as they happen, until ``close``.

        Yields None when nothing has happened for ``beat_s``, and an event of the kind
        ``events_missed`` in place of events that the ring has forgotten. An ``after`` that is
        still to come is of a clock that went back: everything is told.
        """
        last = self._last_id if after is None else 0 if after > self._last_id else after
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            while True:
                wake.clear()
                if missed := self._missed(last):
                    last = missed.id
                    yield missed
                # One at a time: while the reader takes it, the ring may go on and forget.
                if event := self._next(last):
                    last = event.id
                    yield event
                elif self._closed:
                    return
                elif not await _set_within(wake, beat_s):
                    yield None
        finally:
            self._wakes.discard(wake)

    def _next(self, last: int) -> Event | None:
        newer = self._last_id - last
        return self._events[max(0, len(self._events) - newer)] if newer > 0 else None

    def _missed(self, last: int) -> Event | None:
        """What to tell a reader instead of the events after ``last`` that are gone."""
        before = self._events[0].id - 1 if self._events else self._last_id
        if 0 < last < self._start and before < self._last_id:
            text = f"Portside was started anew after event {last}: the log has what came before"
        elif (count := before - max(last, self._start)) > 0:
            events = "1 event was" if count == 1 else f"{count} events were"
            text = f"{events} forgotten before this reader took them"
        else:
            return None
        return Event(before, self._events[0].time, "events_missed", text)


async def _set_within(wake: asyncio.Event, timeout_s: float | None) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await wake.wait()
    except TimeoutError:
        return False
    return True
