"""Group 4: what tcp_tw_reuse, timestamps and tcp_max_tw_buckets do to kernel-chosen ports."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from portside.lab.facts.capacity import LOW, close_first
from portside.lab.facts.fact import Fact, Outcome
from portside.lab.facts.stage import ANY, RefusedError, Stage

_PORTS = 100
_DELAY = "tcp_tw_reuse_delay"
# Before tcp_tw_reuse_delay the kernel compared whole seconds: a second may be two.
_OVER_A_SECOND_S = 2.1
_OVER_A_MS_S = 0.05
_LIMIT = 30


def _again(settings: Mapping[str, str], rest_s: float, peers: bool, stage: Stage) -> Outcome:
    """Fills the range, rests, and connects once more.

    Args:
        settings: of the proxy.
        rest_s: how long.
        peers: whether the database has timestamps.
        stage: the stage.
    """
    proxy = stage.hosts.proxy
    stage.settings(proxy, {"ip_local_port_range": f"{LOW} {LOW + _PORTS - 1}", **settings})
    stage.settings(stage.hosts.db, {"tcp_timestamps": str(int(peers))})
    for _ in range(_PORTS):
        close_first(stage, ANY)
    time.sleep(rest_s)
    try:
        close_first(stage, ANY)
    except RefusedError as refused:
        return Outcome(f"{refused}", f"after {rest_s:g} s")
    return Outcome("used again", f"after {rest_s:g} s")


def _no_buckets(stage: Stage) -> Outcome:
    """With no TIME_WAIT allowed the range never fills."""
    proxy = stage.hosts.proxy
    stage.settings(
        proxy,
        {"ip_local_port_range": f"{LOW} {LOW + _PORTS - 1}", "tcp_max_tw_buckets": "0"},
    )
    done = 0
    try:
        for _ in range(3 * _PORTS):
            close_first(stage, ANY)
            done += 1
    except RefusedError as refused:
        return Outcome(f"{refused}", f"after {done} connections over {_PORTS} ports")
    left = proxy.time_waits()
    return Outcome(f"no end, {left or 'no'} TIME_WAIT", f"{done} connections, {_PORTS} ports")


def _few_buckets(stage: Stage) -> Outcome:
    """Above the limit a socket goes straight to CLOSE, and nobody sees an error."""
    proxy = stage.hosts.proxy
    stage.settings(proxy, {"tcp_max_tw_buckets": str(_LIMIT)})
    for _ in range(_PORTS):
        close_first(stage, ANY)
    left = proxy.time_waits()
    value = "the limit holds" if left == _LIMIT else f"{left} TIME_WAITs"
    return Outcome(value, f"{left} of {_PORTS}, limit {_LIMIT}")


_REUSE = (
    "only for ports that the kernel chooses: Portside never counts on tcp_tw_reuse, its close order"
    " leaves no TIME_WAIT to be used again"
)
_BELT = (
    "tcp_max_tw_buckets is no second belt here; rely on the close order"
    ' ([close] to_server = "eof-reset", to_client = "fin-reset")'
)

FACTS = (
    Fact(
        "4/reuse-0",
        "tcp_tw_reuse=0: a TIME_WAIT's port stays taken",
        Outcome("connect EADDRNOTAVAIL"),
        partial(_again, {"tcp_tw_reuse": "0"}, _OVER_A_SECOND_S, True),
        _REUSE,
    ),
    Fact(
        "4/reuse-1-soon",
        "tcp_tw_reuse=1, at once",
        Outcome("connect EADDRNOTAVAIL", "reuse after 1,000 ms"),
        partial(_again, {"tcp_tw_reuse": "1"}, 0.0, True),
        _REUSE,
    ),
    Fact(
        "4/reuse-1",
        "tcp_tw_reuse=1, after more than a second",
        Outcome("used again", "14.2K/s over 14,116 ports"),
        partial(_again, {"tcp_tw_reuse": "1"}, _OVER_A_SECOND_S, True),
        _REUSE,
        quick=True,
    ),
    Fact(
        "4/reuse-delay",
        "tcp_tw_reuse=1, tcp_tw_reuse_delay=1 (ms)",
        Outcome("used again", "27.9K/s over 14,116 ports"),
        partial(_again, {"tcp_tw_reuse": "1", _DELAY: "1"}, _OVER_A_MS_S, True),
        _REUSE,
    ),
    Fact(
        "4/reuse-ts0",
        "tcp_tw_reuse=1 and no timestamps at the database",
        Outcome("connect EADDRNOTAVAIL", "full at 4,000 of 4,000"),
        partial(_again, {"tcp_tw_reuse": "1"}, _OVER_A_SECOND_S, False),
        _REUSE,
    ),
    Fact(
        "4/reuse-2",
        "tcp_tw_reuse=2 off the loopback",
        Outcome("connect EADDRNOTAVAIL"),
        partial(_again, {"tcp_tw_reuse": "2"}, _OVER_A_SECOND_S, True),
        _REUSE,
    ),
    Fact(
        "4/buckets-0",
        "tcp_max_tw_buckets=0 in one namespace",
        Outcome("no end, no TIME_WAIT", "60,000 connections, 28,232 ports"),
        _no_buckets,
        _BELT,
        quick=True,
    ),
    Fact(
        "4/buckets-n",
        "tcp_max_tw_buckets below the number of closes",
        Outcome("the limit holds", "10,000 of 60,000, limit 10,000"),
        _few_buckets,
        _BELT,
    ),
)
