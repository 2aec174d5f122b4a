"""The plan: verdict first, then figures, then what to change. Pure."""

from __future__ import annotations

import enum
import math
from dataclasses import asdict, dataclass
from typing import Any

from portside.plan import arithmetic
from portside.plan.changes import Change, changes
from portside.plan.figure import Figure
from portside.plan.situation import HALF, HEADROOM, Situation


class Verdict(enum.Enum):
    """Whether the ports are enough."""

    ENOUGH = "enough"
    TIGHT = "tight"
    """It goes, and a burst may not."""
    SLOW = "slow"
    """Beyond the cliff: each connect() takes milliseconds of CPU."""
    EXHAUSTED = "exhausted"
    """More ports are needed than there are."""
    OPEN = "open"
    """No rate was given: only limits can be said."""

    @property
    def is_good(self) -> bool:
        """Whether nothing has to change now."""
        return self in (Verdict.ENOUGH, Verdict.TIGHT, Verdict.OPEN)


@dataclass(frozen=True)
class Plan:
    """What came out of a situation.

    Attributes:
        situation: what was given.
        verdict: whether it is enough.
        figures: in the order of reading.
        changes: what would help, to be tried in this order; empty where nothing is to be done.
    """

    situation: Situation
    verdict: Verdict
    figures: tuple[Figure, ...]
    changes: tuple[Change, ...]

    def figure(self, key: str) -> Figure:
        """The figure of that key.

        Raises:
            KeyError: this plan has none of it.
        """
        found = next((figure for figure in self.figures if figure.key == key), None)
        if found is None:
            raise KeyError(key)
        return found

    @property
    def headline(self) -> str:
        """The verdict in two or three sentences."""
        return " ".join([_verdict(self), *_writes(self.situation), *_first(self)])

    def as_json(self) -> dict[str, Any]:
        """Everything, JSON-ready; a rate without limit is null."""
        given = asdict(self.situation)
        given["close"] = self.situation.close.value
        given["chooser"] = self.situation.chooser.value
        return {
            "verdict": self.verdict.value,
            "headline": self.headline,
            "given": given,
            "figures": [asdict(figure) for figure in self.figures],
            "changes": [change.as_json() for change in self.changes],
        }


def work_out(situation: Situation) -> Plan:
    """The plan of a situation. O(1)."""
    verdict = _judge(situation)
    return Plan(
        situation, verdict, arithmetic.figures(situation), changes(situation, verdict.is_good)
    )


def _judge(s: Situation) -> Verdict:
    if s.rate is None and s.pool is None:
        return Verdict.OPEN
    need = arithmetic.needed(s)
    if need > s.tuples:
        return Verdict.EXHAUSTED
    if need > s.tuples * s.usable:
        return Verdict.SLOW
    is_safe = arithmetic.addresses_needed(s) <= s.addresses
    return Verdict.ENOUGH if is_safe else Verdict.TIGHT


def _verdict(plan: Plan) -> str:
    s = plan.situation
    towards = f"towards {s.name}" if s.name else "towards one destination"
    if plan.verdict is Verdict.OPEN:
        return f"{rate_text(arithmetic.safe(s))} in all are safe; {_limits(s, towards)}."
    need, load = plan.figure("needed").text, _load(s)
    ports = "source port" if need == "1" else "source ports"
    has = f"{load} need {need} {ports} {towards}, and there are {s.tuples:,}"
    if plan.verdict is Verdict.ENOUGH:
        return f"Yes: {has}."
    if plan.verdict is Verdict.TIGHT:
        return f"Just: {has}; {_limits(s, towards)}, and a burst reaches that."
    if plan.verdict is Verdict.SLOW:
        return (
            f"No: {has}. More than half of them are in use, and there the kernel takes"
            f" milliseconds of CPU for each connect(); {_safe(s)}."
        )
    wall = arithmetic.wall(s)
    if s.pool is not None or wall > arithmetic.NO_LIMIT:
        return f"No: {has}; {_safe(s)}."
    return f"No: {has}. They run out at {int(wall):,}/s{_slow(s, ', ')}; {_safe(s)}."


def _load(s: Situation) -> str:
    if s.pool is not None:
        return f"{s.pool:,} shared connections"
    rate = f"{arithmetic.plain(s.rate or 0.0)} connections/s"
    return rate if s.busiest_share == 1 else f"{rate}, {arithmetic.opened(s):,.0f}/s of them here,"


def _limits(s: Situation, towards: str) -> str:
    if s.pool is not None:
        what = "connect() turns slow" if s.usable < 1 else "ports run out"
        return f"{what} at {int(s.tuples * s.usable):,} open connections"
    wall = arithmetic.wall(s)
    if wall > arithmetic.NO_LIMIT:
        return "source ports are not what limits the rate"
    return f"ports run out at {int(wall):,}/s {towards}{_slow(s, ', and ')}"


def _slow(s: Situation, joint: str) -> str:
    """Where connect() turns slow; "" where ports are the program's own."""
    if s.usable == 1:
        return ""
    return f"{joint}connect() turns slow at {int(arithmetic.wall(s) * s.usable):,}/s"


def _safe(s: Situation) -> str:
    if s.pool is not None:
        return f"{int(s.tuples * s.usable * HEADROOM):,} are safe"
    return f"{rate_text(arithmetic.safe(s))} in all are safe"


def rate_text(rate: float) -> str:
    """A safe rate for people; beyond the article's 100,000/s ports are not what limits."""
    if math.isinf(rate):
        return "any rate"
    if rate > arithmetic.NO_LIMIT:
        return f"over {arithmetic.NO_LIMIT:,}/s"
    return f"{int(rate):,}/s" if rate >= 10 else f"{rate:.1f}/s"


def _writes(s: Situation) -> list[str]:
    if s.writes is None or s.writes <= HALF:
        return []
    return [
        f"More writes than reads ({s.writes:.0%}): replication does not help, since every write"
        f" goes to the one primary; replicas bring at most {1 / s.writes:.2g} x."
    ]


def _first(plan: Plan) -> list[str]:
    helps = next((change for change in plan.changes if change.is_enough), None)
    if plan.verdict.is_good or helps is None:
        return []
    return [f"Change first: {helps.what}."]
