"""How full each pair (our IP, destination) is, how fast it fills, and what time is left. Pure.

Counts the sockets whose port lies in the kernel's range, since those are what a connect() without
an explicit port has to share. A port outside it was bound by a program (HAProxy's ``source
ip:lo-hi``, Portside) and takes nothing from that range.

The forecast is arithmetic: TIME_WAITs end 60 s after they began, new ones come at the rate of the
last ten seconds, sockets in other states stay. Source: facts measured on Linux 6.18 for the cliff;
tcp(7).
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from portside.doctor.facts import LAST_PORT, TIME_WAIT_S, Facts, Flow, State, port_range, whole

MEASURED: Final = "measured on Linux 6.18"
_RATE_OVER_S: Final = 10
# connect() tries the ports of one parity first, then the others. Source: commit 07f4c90062f8.
_PARITY_SINCE: Final = (4, 2)


class CloserFirst(enum.Enum):
    """Whose FIN was first: the one that keeps the TIME_WAIT."""

    US = "this host"
    THEM = "the other side"
    UNKNOWN = "-"


@dataclass(frozen=True)
class Pair:
    """One outgoing pair.

    Attributes:
        size: ports in the kernel's range for it, the reserved ones taken off.
        used: of these, held by a socket of this pair in any state.
        time_wait: of these, in TIME_WAIT.
        rate_s: connections per second that ended with our FIN first, over the last ten seconds.
        settles_at: ports held once a minute has passed at this rate.
        cliff_s, left_s: until half of them, and all of them, are held; 0: now; None: never at
            this rate.
        reusable: the kernel gives TIME_WAITs out again after a second (tcp_tw_reuse).
    """

    ours: str
    theirs: str
    size: int
    used: int
    time_wait: int
    open: int
    close_wait: int
    rate_s: float
    settles_at: int
    cliff_s: int | None
    left_s: int | None
    closes_first: CloserFirst
    reusable: bool

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{self.ours} -> {self.theirs}"

    @property
    def fill(self) -> float:
        """Share of the ports that is held."""
        return self.used / self.size


def pairs(facts: Facts) -> list[Pair]:
    """Every outgoing pair, the one in the worst state first."""
    if facts.sockets is None:
        return []
    size = range_size(facts.sysctls)
    found = [_pair(flow, facts, size) for flow in facts.sockets.flows if not flow.incoming]
    return sorted(found, key=_badness)


def has_cliff(facts: Facts) -> bool:
    """Whether this kernel's connect() walks half of the range before it uses the other half."""
    return facts.version >= _PARITY_SINCE


def reuses(facts: Facts, destination: str) -> bool:
    """Whether connect() may take a port in TIME_WAIT there, given timestamps at that end."""
    if facts.number("net.ipv4.tcp_timestamps", 1) == 0:
        return False
    setting = facts.number("net.ipv4.tcp_tw_reuse")
    return setting == 1 or (setting == 2 and _is_loopback(destination))


def range_size(sysctls: Mapping[str, str]) -> int:
    """Ports that the kernel may choose."""
    low, high = port_range(sysctls)
    reserved = sum(
        max(0, min(last, high) - max(first, low) + 1) for first, last in reserved_ports(sysctls)
    )
    return max(high - low + 1 - reserved, 1)


def reserved_ports(sysctls: Mapping[str, str]) -> list[tuple[int, int]]:
    """``ip_local_reserved_ports`` as (first, last)."""
    found = []
    for word in sysctls.get("net.ipv4.ip_local_reserved_ports", "").split(","):
        first, _, last = word.strip().partition("-")
        ports = whole(first), whole(last or first)
        if ports[0] is not None and ports[1] is not None:
            found.append((ports[0], min(ports[1], LAST_PORT)))
    return found


def _pair(flow: Flow, facts: Facts, size: int) -> Pair:
    time_wait = sum(flow.ages)
    rate_s = sum(flow.ages[:_RATE_OVER_S]) / _RATE_OVER_S
    reusable = reuses(facts, flow.theirs)
    others = flow.in_range - time_wait
    # What connect() cannot have: with reuse only what is not in TIME_WAIT.
    ages: tuple[int, ...] = () if reusable else flow.ages
    growth = 0.0 if reusable else rate_s
    first = CloserFirst.UNKNOWN
    if flow.count(State.TIME_WAIT, State.FIN_WAIT2, State.FIN_WAIT1):
        first = CloserFirst.US
    elif flow.count(State.CLOSE_WAIT, State.LAST_ACK):
        first = CloserFirst.THEM
    return Pair(
        ours=flow.ours,
        theirs=flow.theirs,
        size=size,
        used=flow.in_range,
        time_wait=time_wait,
        open=flow.count(State.ESTABLISHED, State.SYN_SENT),
        close_wait=flow.count(State.CLOSE_WAIT),
        rate_s=rate_s,
        settles_at=int(others + growth * TIME_WAIT_S),
        cliff_s=seconds_until(size // 2, others, ages, growth) if has_cliff(facts) else None,
        left_s=seconds_until(size, others, ages, growth),
        closes_first=first,
        reusable=reusable,
    )


def seconds_until(level: int, others: int, ages: tuple[int, ...], rate_s: float) -> int | None:
    """Seconds until ``level`` ports are held; 0 when they are; None when that never comes.

    Args:
        level: how many ports.
        others: ports held in other states, for good.
        ages: TIME_WAITs by age in seconds.
        rate_s: how many more come per second.
    """
    # Within a second the count wavers by that second's arrivals.
    for later in range(TIME_WAIT_S + 1):
        old = sum(ages[: TIME_WAIT_S - later])
        if others + old + rate_s * later >= level:
            return later
    return None


def _badness(pair: Pair) -> tuple[float, float, float, str]:
    never = float("inf")
    return (
        never if pair.left_s is None else pair.left_s,
        never if pair.cliff_s is None else pair.cliff_s,
        -pair.fill,
        pair.name,
    )


def _is_loopback(destination: str) -> bool:
    try:
        return ipaddress.ip_address(destination.rpartition(":")[0].strip("[]")).is_loopback
    except ValueError:
        return False
