"""Group 3: the CPU time of taking a port as the range fills up.

From socket() to the end of connect(), by CLOCK_THREAD_CPUTIME_ID; a connect() over the cable
contains the whole handshake, both ends. Figures are of this machine now; what is compared is the
shape.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from portside.lab.facts.capacity import LOW
from portside.lab.facts.fact import CannotMeasureError, Fact, Outcome
from portside.lab.facts.stage import DB_PORTS, Bind, RefusedError, Stage, connect
from portside.lab.hosts import PROXY_ADDRESSES

_PORTS = 8_000
_FILLS = (25, 49, 51, 90)
# Calls round a point, as for the tables; less than 1 % of the ports, so that none spans the half.
_WINDOW = 60
_FAILING = 10
# A search of half the range cost 70 times the call before it (28K ports), 20 times with 8,000; a
# busy machine doubles a median at most.
_STEEP = 4.0


@dataclass(frozen=True)
class Curve:
    """Median microseconds per call.

    Attributes:
        at: at 25, 49, 51 and 90 % of the range.
        full: of a call that fails; None when none did.
    """

    at: Sequence[float]
    full: float | None


def shape(curve: Curve) -> Outcome:
    """Whether it climbs, and where."""
    quarter, before, after, late = curve.at
    if after > _STEEP * before:
        value = "cliff at half"
    elif late > _STEEP * quarter:
        value = "climbs"
    else:
        value = "flat"
    figures = [f"{us:.0f} us at {fill} %" for us, fill in zip(curve.at, _FILLS, strict=True)]
    if curve.full is not None:
        figures.append(f"{curve.full:.0f} failing")
    return Outcome(value, ", ".join(figures))


def curve_of(spent_us: Sequence[float], failing_us: Sequence[float], ports: int) -> Curve:
    """Medians round each fill. ``spent_us``: one figure per connection, in their order.

    Raises:
        CannotMeasureError: it ended too early to tell.
    """
    if len(spent_us) < ports * 0.95:
        raise CannotMeasureError(f"only {len(spent_us):,} of {ports:,} ports could be taken")
    windows = [
        spent_us[ports * fill // 100 - _WINDOW // 2 : ports * fill // 100 + _WINDOW // 2]
        for fill in _FILLS
    ]
    at = [statistics.median(window) for window in windows]
    return Curve(at, statistics.median(failing_us) if failing_us else None)


def _fill(kind: str, stage: Stage) -> Outcome:
    """Takes every port of the range, and then a few more."""
    span = (LOW, LOW + _PORTS - 1)
    stage.settings(stage.hosts.proxy, {"ip_local_port_range": f"{span[0]} {span[1]}"})
    spent: list[float] = []
    failing: list[float] = []
    while len(failing) < _FAILING and len(spent) < _PORTS * 1.01:
        bind = {
            "kernel": Bind(),
            "explicit": Bind(PROXY_ADDRESSES[0], LOW + len(spent) % _PORTS, reuse=True),
            "range": Bind(PROXY_ADDRESSES[0], no_port=True, ports=span),
        }[kind]
        began = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID)
        try:
            client = connect(bind)
        except RefusedError as refused:
            if refused.call not in ("bind", "connect"):
                return Outcome(f"{refused}")
            failing.append(_us_since(began))
            continue
        spent.append(_us_since(began))
        with stage.accept(DB_PORTS[0]) as server:
            client.close()
            server.recv(1)
    return shape(curve_of(spent, failing, _PORTS))


def _us_since(began_ns: int) -> float:
    return (time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID) - began_ns) / 1000


FACTS = (
    Fact(
        "3/S1",
        "CPU of connect(), kernel-chosen port",
        Outcome("cliff at half", "33 us at 49 %, 2,959 at 50 %, 7,392 failing; 28,232 ports"),
        partial(_fill, "kernel"),
        "better than measured if it is flat: kernel-chosen ports (no [source] ports) then cost"
        " nothing beyond half of the range",
    ),
    Fact(
        "3/S5",
        "CPU of connect(), IP_BIND_ADDRESS_NO_PORT and IP_LOCAL_PORT_RANGE",
        Outcome("flat", "18 us, 21 at the last port, 5,900 failing; 28,232 ports"),
        partial(_fill, "range"),
        "the cliff at half of the range is there for Portside's kernel-chosen ports too: set"
        ' [source] ports = "auto", or keep below half of net.ipv4.ip_local_port_range',
        quick=True,
    ),
    Fact(
        "3/S6",
        "CPU of bind() and connect(), explicit port, SO_REUSEADDR",
        Outcome("flat", "13-16 us to 100 % and through reuse"),
        partial(_fill, "explicit"),
        "[source] ports costs more on a full range than Portside reckons with: give it more"
        " addresses, so that less of each range is in use",
        quick=True,
    ),
)
