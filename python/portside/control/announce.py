"""Events on their way to people: into the ring (admin API) and into the log, at the right level."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from portside.control.event_kinds import KINDS
from portside.control.event_ring import EventRing
from portside.control.journal import log
from portside.health.judge import HealthEvent

REPEAT_S = 10.0
"""A broken server makes ten ``connect_failed`` a second: one in this time is told, with a count."""
_EACH_ITS_ADDRESS = frozenset({"host_blocked", "host_unblocked", "source_suspended", "source_back"})
_ADDRESSES = 16
"""So many of these are told in that time: a missing GRANT may hit each of 254 addresses."""
STANDS_S = 600.0
"""The checks and the data plane both meet a server that refuses an address of ours: whoever comes
second within this time tells nothing new."""


class Announcer:
    """Puts every event into the ring and the log; repeated engine events are counted, not told."""

    def __init__(self, ring: EventRing, clock: Callable[[], float] = time.time) -> None:
        self.counts: Counter[str] = Counter()
        """Events so far by kind; those that were only counted are among them."""
        self._ring = ring
        self._clock = clock
        self._told: dict[tuple[str, str, str], list[float]] = {}
        self._held: dict[tuple[str, str, str], int] = {}
        self._stands: dict[tuple[str, str], tuple[str, float]] = {}
        """What was told last of a server and an address of ours, and when."""

    def tell(self, kind: str, text: str, *, service: str = "", server: str = "") -> None:
        """One event of the control side, now."""
        self._put(self._clock(), kind, text, service, server)

    def health(self, event: HealthEvent) -> None:
        """One event of the checks."""
        now = self._clock()
        if self._is_news(event.kind, event.server, event.about, now):
            self._put(now, event.kind, event.message, event.service, event.server)

    def engine(self, event: Mapping[str, Any]) -> None:
        """One event of the engine."""
        key = (event["kind"], event["service"], event["server"])
        now = event["time"]
        if not self._is_news(event["kind"], event["server"], event.get("about", ""), now):
            return
        recent = [moment for moment in self._told.get(key, ()) if now - moment < REPEAT_S]
        if len(recent) >= (_ADDRESSES if event["kind"] in _EACH_ITS_ADDRESS else 1):
            self._held[key] = self._held.get(key, 0) + 1
            self.counts[event["kind"]] += 1
            return
        self._told[key] = [*recent, now]
        text = event["message"]
        if held := self._held.pop(key, 0):
            text += f" ({held} more since the last message of this kind)"
        self._put(now, event["kind"], text, event["service"], event["server"])

    def _is_news(self, kind: str, server: str, about: str, now: float) -> bool:
        if not about:
            return True
        before, moment = self._stands.get((server, about), ("", 0.0))
        if before == kind and now - moment < STANDS_S:
            return False
        self._stands[server, about] = (kind, now)
        return True

    def _put(self, moment: float, kind: str, text: str, service: str, server: str) -> None:
        self.counts[kind] += 1
        self._ring.add(moment, kind, text, service=service, server=server)
        fields = {"kind": kind, "service": service, "server": server}
        log.log(level_of(kind), text, extra=fields)


def level_of(kind: str) -> int:
    """The log level of a kind of event."""
    found = KINDS.get(kind)
    return logging.INFO if found is None else found.level
