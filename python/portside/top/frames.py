"""What ``portside top`` has seen of an instance, and the rates between two looks. Pure.

A frame is the answer to one look; the rates are differences of its counters against the oldest
frame of the last few seconds. An instance that was started anew begins with no rates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

WINDOW_S = 3.0
"""Rates are means over this long: calm enough to read, quick enough to see a change."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One look: the status, and the rows of the view that was open.

    Attributes:
        time: when it was answered, in seconds of a clock that never goes back.
        status: the answer of ``/v1/status``.
        ports, sessions, events: rows of the answers; empty when they were not asked for.
    """

    time: float
    status: Row
    ports: Sequence[Row] = ()
    sessions: Sequence[Row] = ()
    events: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Rates:
    """Counters per second: ``services`` and ``servers`` by name, members by (service, server).

    A value is None when there is nothing to compare with.
    """

    services: Mapping[str, Mapping[str, float | None]]
    servers: Mapping[str, Mapping[str, float | None]]
    members: Mapping[tuple[str, str], float | None]

    def total(self, counter: str) -> float | None:
        """Of all services."""
        known = [each[counter] for each in self.services.values()]
        return None if not known or None in known else sum(filter(None, known))


_SERVICE = ("accepted_total", "refused_total", "to_server_bytes_total", "to_client_bytes_total")
_SERVER = ("sessions_total", "connect_failures_total", "close_deadlines_total")


class History:
    """The frames of the last seconds."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()

    def add(self, frame: Frame) -> bool:
        """Takes a frame; True when it is of another process than the one before."""
        is_new = bool(self._frames) and not _is_same(self._frames[-1], frame)
        if is_new:
            self._frames.clear()
        self._frames.append(frame)
        while len(self._frames) > 2 and frame.time - self._frames[1].time >= WINDOW_S:
            self._frames.popleft()
        return is_new

    @property
    def last(self) -> Frame | None:
        """The latest frame."""
        return self._frames[-1] if self._frames else None

    def rates(self) -> Rates:
        """Between the oldest frame that is kept and the latest."""
        if not self._frames:
            return Rates({}, {}, {})
        return rates(self._frames[0], self._frames[-1])


def rates(before: Frame, after: Frame) -> Rates:
    """What happened between two frames, per second. O(services + servers + members)."""
    span_s = after.time - before.time
    old_services, new_services = _by_name(before, "services"), _by_name(after, "services")
    old_servers, new_servers = _by_name(before, "servers"), _by_name(after, "servers")
    old_members = _members(old_services)
    return Rates(
        {
            name: {key: _rate(old_services.get(name), row, key, span_s) for key in _SERVICE}
            for name, row in new_services.items()
        },
        {
            name: {key: _rate(old_servers.get(name), row, key, span_s) for key in _SERVER}
            for name, row in new_servers.items()
        },
        {
            pair: _rate(old_members.get(pair), row, "sessions_total", span_s)
            for pair, row in _members(new_services).items()
        },
    )


def _is_same(before: Frame, after: Frame) -> bool:
    old, new = before.status, after.status
    return bool(old["pid"] == new["pid"] and old["uptime_s"] <= new["uptime_s"])


def _by_name(frame: Frame, key: str) -> dict[str, Row]:
    return {row["name"]: row for row in frame.status[key]}


def _members(services: Mapping[str, Row]) -> dict[tuple[str, str], Row]:
    return {
        (name, member["server"]): member
        for name, service in services.items()
        for member in service["members"]
    }


def _rate(before: Row | None, after: Row, key: str, span_s: float) -> float | None:
    if before is None or span_s <= 0:
        return None
    # A key that a little older instance does not have: new ones do not raise the API's level.
    more = after.get(key, 0) - before.get(key, 0)
    # Less than before: it was removed and came back within the window.
    return None if more < 0 else float(more) / span_s
