"""Looks at an instance again and again, in a thread of its own.

The screen never waits for an answer. Whatever goes wrong is a sentence, and the next look comes
all the same: an instance that ends and comes back is found again. Knows nothing of what is shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from portside.admin.client import AdminClient
from portside.cli.runtime import request_of
from portside.errors import PortsideError
from portside.top.frames import Frame

SESSIONS = 1000
"""More than a person reads, and cheap to ask for once a second."""
EVENTS = 300


def look(client: AdminClient, view: str) -> Frame:
    """The status, and the rows that ``view`` needs besides; ``all``: everything.

    Raises:
        PortsideError: nothing answers, or not as it should.
    """
    every = view == "all"
    status = client.get("/v1/status")
    ports = client.get("/v1/ports") if every or view == "ports" else ()
    events = client.get("/v1/events", limit=EVENTS) if every or view == "events" else ()
    sessions: Any = ()
    if every or view == "sessions":
        sessions = client.get("/v1/sessions", limit=SESSIONS)
    return Frame(time.monotonic(), status, ports, sessions, events)


class Feed:
    """A thread that looks every ``every_s`` and hands over what it saw, or why it saw nothing.

    Args:
        client: of the instance.
        every_s: the time between two looks.
        seen: called in the feed's thread with the view that was asked for and the frame.
        lost: called in the feed's thread with the sentence.
    """

    def __init__(
        self,
        client: AdminClient,
        every_s: float,
        seen: Callable[[str, Frame], None],
        lost: Callable[[str], None],
    ) -> None:
        self.view = "services"
        self._client = client
        self._every_s = every_s
        self._seen, self._lost = seen, lost
        self._wake = threading.Event()
        self._ended = False

    def start(self) -> None:
        """Begins. A daemon: a look that hangs does not keep the program from ending."""
        threading.Thread(target=self._work, name="portside-top", daemon=True).start()

    def show(self, view: str) -> None:
        """What to ask for from now on; looks at once."""
        self.view = view
        self._wake.set()

    def stop(self) -> None:
        """Ends after the present look."""
        self._ended = True
        self._wake.set()

    def _work(self) -> None:
        while not self._ended:
            view = self.view
            try:
                frame = look(self._client, view)
            except PortsideError as error:
                self._lost(str(error))
            except Exception as error:  # the screen must say it, and the next look may be better
                self._lost(f"a fault of ours: {type(error).__name__}: {error}")
            else:
                self._seen(view, frame)
            self._wake.wait(self._every_s)
            self._wake.clear()


def act(client: AdminClient, verb: str, args: Sequence[str]) -> str:
    """Does a verb of ``portside`` and returns its sentence; raises as ``AdminClient.post``."""
    path, body = request_of(verb, args)
    return str(client.post(path, body)["message"])
