"""Lines to a stream whose reader may stop reading, without ever waiting for it.

For: standard error. A pipe that nobody reads fills, and whoever writes to it then waits: the loop
with the checks, the admin API and the signals must not be that one. Lines wait in a bounded queue
for a thread of their own; what does not fit is counted and told when there is room again.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable

MAX_LINES = 1000
"""That may wait; with a traceback each, a few MiB."""

Write = Callable[[str], object]


class LineWriter:
    """Hands lines to ``write`` in a daemon thread, in order.

    Args:
        write: may block; an OSError of it costs the lines of that turn.
        lost: the line that says how many had no room.
    """

    def __init__(self, write: Write, lost: Callable[[int], str]) -> None:
        self._write = write
        self._lost_line = lost
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._lost = 0
        self._is_writing = False
        threading.Thread(target=self._work, name="portside-journal", daemon=True).start()

    def put(self, line: str) -> None:
        """Queues one line, or counts it as lost. Never waits."""
        with self._changed:
            if len(self._lines) >= MAX_LINES:
                self._lost += 1
                return
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything is written; False when the reader did not take it in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._lines and not self._is_writing, timeout_s
            )

    def _work(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._lines))
                lines, self._lines = self._lines, []
                lost, self._lost = self._lost, 0
                self._is_writing = True
            if lost:  # they came while these filled the queue: after them
                lines.append(self._lost_line(lost))
            with contextlib.suppress(OSError, ValueError):  # the reader, or the stream, is gone
                self._write("".join(f"{line}\n" for line in lines))


def to_descriptor(descriptor: int) -> Write:
    """Writes to a descriptor, without a Python stream whose lock the process's end would want."""

    def write(text: str) -> None:
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:  # somebody, another process perhaps, made it non-blocking
                poll = select.poll()
                poll.register(descriptor, select.POLLOUT)
                poll.poll()

    return write
