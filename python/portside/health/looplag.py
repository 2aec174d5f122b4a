"""Measures how late the event loop is, so that a check can tell its own lateness from a server's.

For: a process that is stopped, starved of CPU, or whose interpreter is held by somebody else
sees timeouts that no server caused. A heartbeat every 50 ms shows it. Not thread-safe: it lives
in one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque

BEAT_S = 0.05
# Below this a check's timeout (2 s) is not in danger; Python's own pauses are shorter.
LATE_S = 0.25
# Longer than any check runs.
REMEMBERED = 64


class LoopLag:
    """A heartbeat in the running loop. ``start`` it, ask ``was_late_since``, ``stop`` it."""

    def __init__(self, late_s: float = LATE_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._late_s = late_s
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None
        # (end of the pause, its length), oldest first.
        self._pauses: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)

    def start(self) -> None:
        """Begins to measure."""
        self._arm()

    def stop(self) -> None:
        """Ends the heartbeat."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        self._due = self._loop.time() + BEAT_S
        self._handle = self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        if now - self._due >= self._late_s:
            self._pauses.append((now, now - self._due))
        self._arm()

    def was_late_since(self, started: float) -> float:
        """The longest pause that ended after ``started`` (loop time), in seconds; 0.0 for none.

        A pause that is just ending counts too: after one, the callbacks of checks may run before
        the heartbeat's.
        """
        overdue = self._loop.time() - self._due
        worst = overdue if self._handle is not None and overdue >= self._late_s else 0.0
        for ended, length in self._pauses:
            if ended >= started:
                worst = max(worst, length)
        return worst
