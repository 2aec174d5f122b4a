"""Where the source ports are going: rates and the time to exhaustion, from samples of the ledger.

Pure: the time is an argument. The instance adds a sample a second; views and metrics ask. A sample
is a row of ``Engine.ports()``. In the flow: engine -> ``Trends.add`` -> ``Trends.views``.

A tuple is usable when it is free or rests: rest is a preference, a resting tuple is leased when
nothing else is left. In use, blocked, in TIME_WAIT and reserved ones are not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portside.admin.views import PortView

LEAST_S = 10.0
"""Samples must span this much before they tell of the future."""
WINDOW_S = 60.0
"""What is older says little about the next minute; also the minute of the closes."""
STILL_S = 15.0
"""A fall must still go on in these last seconds: a load that began and stays is no trend."""
RATE_S = 10.0
"""New connections per second are a mean over this long."""
TIME_WAIT_S = 60.0
"""TCP_TIMEWAIT_LEN, include/net/tcp.h. By then a tuple in TIME_WAIT is back."""
FARTHEST_S = 86_400.0
"""A fall so slow is a day's rhythm, not an exhaustion."""

Row = Mapping[str, Any]
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One (server, source, destination) at one moment."""

    time: float
    usable: int
    time_wait: int
    opened: int
    closes: Mapping[str, int]


def usable(row: Row) -> int:
    """Tuples of a row that a session could have now."""
    return int(row["free"]) + int(row["resting"])


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares: change per second, and the standard deviation of what is left. O(points)."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return 0.0, 0.0
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in points) / count
    return rise, math.sqrt(left)


def exhausted_in_s(samples: Sequence[Sample]) -> float | None:
    """Seconds until no tuple is usable, if what happens now goes on.

    None: never (steady recycling, or a fall that ends by itself), or not known yet (less than
    ``LEAST_S`` of samples). 0.0: nothing is left now.
    """
    if not samples:
        return None
    last = samples[-1]
    if last.usable == 0:
        return 0.0
    recent = [s for s in samples if last.time - s.time <= WINDOW_S]
    span = last.time - recent[0].time
    if span < LEAST_S:
        return None
    now = [s for s in recent if last.time - s.time <= STILL_S]
    falls = (_fall_per_s(recent), _fall_per_s(now))
    fall = min(falls)
    if fall <= 0:
        return None
    left_s = last.usable / fall
    by_time_wait, _ = slope([(s.time, s.time_wait) for s in recent])
    # TIME_WAIT stops growing when the first of them come back, at what is added in 60 s.
    to_come = by_time_wait * TIME_WAIT_S - last.time_wait
    if by_time_wait >= falls[0] / 2 and last.usable > to_come:
        return None
    return left_s if left_s <= FARTHEST_S else None


def _fall_per_s(samples: Sequence[Sample]) -> float:
    """How fast the usable ones become fewer; 0.0 where that is no more than their noise."""
    rise, noise = slope([(s.time, s.usable) for s in samples])
    span = samples[-1].time - samples[0].time
    # Sessions come and go: a fall no larger than their noise is none.
    return -rise if -rise * span > max(2.0, 3 * noise) else 0.0


class History:
    """The samples of one (server, source, destination)."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, now: float, row: Row) -> None:
        """Takes a sample; what is older than the window is forgotten."""
        samples = self._samples
        if samples and row["opened_total"] < samples[-1].opened:
            samples.clear()  # the counters began anew: this destination was away for a while
        samples.append(_sample(now, row))
        # One that is older stays: the minute begins with it.
        while len(samples) > 1 and now - samples[1].time >= WINDOW_S:
            samples.popleft()

    def new_per_s(self) -> float:
        """Connections per second over the last ``RATE_S``; 0.0 with a single sample."""
        if len(self._samples) < 2:
            return 0.0
        last = self._samples[-1]
        first = next(s for s in self._samples if last.time - s.time <= RATE_S)
        if first is last:
            first = self._samples[-2]
        return (last.opened - first.opened) / (last.time - first.time)

    def closes(self, row: Row, now: float) -> dict[str, int]:
        """Closes of the last minute by outcome, up to ``row``."""
        before: Mapping[str, int] = {}
        if self._samples and now - self._samples[0].time >= WINDOW_S:
            before = self._samples[0].closes
        counts = {how: count - before.get(how, 0) for how, count in row["closes"].items()}
        return {how: count for how, count in counts.items() if count > 0}

    def exhausted_in_s(self, row: Row, now: float) -> float | None:
        """See the function of this name; ``row`` is the present."""
        return exhausted_in_s([*self._samples, _sample(now, row)])


def _sample(now: float, row: Row) -> Sample:
    return Sample(now, usable(row), row["time_wait"], row["opened_total"], dict(row["closes"]))


class Trends:
    """The histories of every (server, source, destination) of an instance."""

    def __init__(self) -> None:
        self._histories: dict[Key, History] = {}

    def add(self, now: float, rows: Sequence[Row]) -> None:
        """Takes a sample of every row; rows that are gone are forgotten."""
        kept = {key_of(row): self._histories.get(key_of(row)) or History() for row in rows}
        for row in rows:
            kept[key_of(row)].add(now, row)
        self._histories = kept

    def views(self, now: float, rows: Sequence[Row]) -> tuple[PortView, ...]:
        """The rows as people see them, in their order."""
        return tuple(self._view(now, row) for row in rows)

    def _view(self, now: float, row: Row) -> PortView:
        history = self._histories.get(key_of(row)) or History()
        left_s = history.exhausted_in_s(row, now)
        return PortView(
            source=row["source"],
            destination=row["destination"],
            server=row["server"],
            size=row["size"],
            in_use=row["in_use"],
            resting=row["resting"],
            blocked=row["blocked"],
            time_wait=row["time_wait"],
            free=row["free"],
            reserved=row["reserved"],
            new_per_s=round(history.new_per_s(), 1),
            exhausted_in_s=None if left_s is None else round(left_s, 1),
            wasted_probes=row["wasted_probes"],
            closes=history.closes(row, now),
            peer_timestamps=row["peer_timestamps"],
            resets_lost=row["resets_lost"],
        )


def key_of(row: Row) -> Key:
    """What tells one row from another."""
    return row["server"], row["source"], row["destination"]
