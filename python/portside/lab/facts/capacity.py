"""Group 2: how many connections each way of taking a source port gives, before what fails.

We close first and the kernel reuses nothing (tcp_tw_reuse=0), so each connection leaves a TIME_WAIT
on the proxy. Ranges are narrowed to 250 ports per address, or 1,000 with one address: the kernel's
search is the same, and a run takes a fraction of a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from portside.lab.facts.fact import Fact, Outcome
from portside.lab.facts.stage import ANY, DB_PORTS, Bind, RefusedError, Stage
from portside.lab.hosts import PROXY_ADDRESSES

LOW = 40_000
_ONE_ADDRESS, _EACH_ADDRESS = 1_000, 250
# How often a way must come round to a tuple before it counts as never failing.
_ROUNDS = 1.5


@dataclass(frozen=True)
class Way:
    """One strategy.

    Attributes:
        bind: how each socket is bound; its source and port are replaced by the next ones.
        addresses: our addresses, used in turn; 0: no bind().
        explicit: we choose the port.
        destinations: used in turn.
        timestamps: net.ipv4.tcp_timestamps of the database.
    """

    bind: Bind = ANY
    addresses: int = 0
    explicit: bool = False
    destinations: int = 1
    timestamps: bool = True

    @property
    def ports(self) -> int:
        """Ports per address."""
        return _EACH_ADDRESS if self.addresses else _ONE_ADDRESS

    @property
    def tuples(self) -> int:
        """(address, port, destination) that there are."""
        return max(1, self.addresses) * self.ports * self.destinations


def turns(way: Way) -> Sequence[tuple[str | None, int, int]]:
    """Address, port (0: the kernel's) and destination of each connection of one round."""
    addresses: Sequence[str | None] = PROXY_ADDRESSES[: way.addresses] or (None,)
    ports = range(LOW, LOW + way.ports)
    every = itertools.product(ports, DB_PORTS[: way.destinations], addresses)
    return [(address, port if way.explicit else 0, to) for port, to, address in every]


def filled(connections: int, ports: int, stopped: RefusedError | None) -> Outcome:
    """In ranges of ``ports``, so that it can be compared with any other range."""
    detail = f"{connections:,} connections, {ports:,} ports per address"
    if stopped is None:
        return Outcome("no end", detail)
    times = connections / ports
    near = round(times)
    # A stray reset may free a port: 1 in 100 is the same.
    text = f"{near}" if abs(times - near) <= 0.01 * near else f"{times:.2f}"
    return Outcome(f"{text} x the range, then {stopped.call} {stopped.name}", detail)


def fill(way: Way, stage: Stage) -> Outcome:
    """Connects and closes until one fails, or every tuple has been used 1.5 times."""
    proxy, db = stage.hosts.proxy, stage.hosts.db
    stage.settings(proxy, {"ip_local_port_range": f"{LOW} {LOW + way.ports - 1}"})
    stage.settings(db, {"tcp_timestamps": str(int(way.timestamps))})
    most = round(way.tuples * _ROUNDS)
    for done, (address, port, to) in enumerate(itertools.cycle(turns(way))):
        if done == most:
            return filled(done, way.ports, None)
        bind = replace(way.bind, source=address, port=port)
        try:
            close_first(stage, bind, to)
        except RefusedError as stopped:
            return filled(done, way.ports, stopped)
    raise AssertionError("a cycle has no end")


def close_first(stage: Stage, bind: Bind, to: int = DB_PORTS[0]) -> None:
    """A connection that leaves a TIME_WAIT on the proxy."""
    client, server = stage.pair(bind, to)
    client.close()
    server.recv(1)  # the FIN is there: none of ours crosses it
    server.close()


def _each_port_twice(reuse: bool, stage: Stage) -> Outcome:
    """Every (address, port) towards one destination, then towards the other."""
    both, failed = 0, "both work"
    for port in range(LOW, LOW + _EACH_ADDRESS):
        bind = Bind(PROXY_ADDRESSES[0], port, reuse)
        close_first(stage, bind, DB_PORTS[0])
        try:
            close_first(stage, bind, DB_PORTS[1])
            both += 1
        except RefusedError as refused:
            failed = f"the second: {refused}"
    return Outcome(failed, f"both for {both} of {_EACH_ADDRESS} ports")


_LESS = (
    "Portside's counts for kernel-chosen ports (no [source] ports) are off by that much; with"
    ' [source] ports = "auto" it does not depend on it'
)
_POOL = (
    "nothing for Portside, which never calls bind(ip, 0) without IP_BIND_ADDRESS_NO_PORT; it counts"
    " for programs on this host that do"
)
_RING = (
    "[source] ports rests on this: watch TIME_WAIT and WASTED in portside show ports, keep"
    ' [close] to_server = "eof-reset", which leaves nothing to be used again'
)

FACTS = (
    Fact(
        "2/S1",
        "connect() only",
        Outcome("1 x the range, then connect EADDRNOTAVAIL", "28,232, exact"),
        partial(fill, Way()),
        _LESS,
        quick=True,
    ),
    Fact(
        "2/S3",
        "bind(ip, 0), 4 addresses",
        Outcome("4 x the range, then bind EADDRINUSE", "16,000 of 4 x 4,000"),
        partial(fill, Way(addresses=4)),
        _POOL,
    ),
    Fact(
        "2/S3-2",
        "bind(ip, 0), 4 addresses, 2 destinations: one pool for both",
        Outcome("4 x the range, then bind EADDRINUSE", "16,000 of 4 x 4,000"),
        partial(fill, Way(addresses=4, destinations=2)),
        _POOL,
        quick=True,
    ),
    Fact(
        "2/S4",
        "bind(ip, 0) with IP_BIND_ADDRESS_NO_PORT, 4 addresses",
        Outcome("4 x the range, then connect EADDRNOTAVAIL", "16,000 of 4 x 4,000"),
        partial(fill, Way(Bind(no_port=True), addresses=4)),
        _LESS,
    ),
    Fact(
        "2/S4-2",
        "bind(ip, 0) with IP_BIND_ADDRESS_NO_PORT, 4 addresses, 2 destinations: a pool each",
        Outcome("8 x the range, then connect EADDRNOTAVAIL", "32,000 of 4 x 4,000"),
        partial(fill, Way(Bind(no_port=True), addresses=4, destinations=2)),
        _LESS,
        quick=True,
    ),
    Fact(
        "2/S5a",
        "IP_LOCAL_PORT_RANGE 1025-65000: it only narrows the system's range",
        Outcome("1 x the range, then connect EADDRNOTAVAIL", "28,232, exact"),
        partial(fill, Way(Bind(ports=(1025, 65_000)))),
        "if the kernel lacks this option (before Linux 6.3), connect() with a kernel-chosen port"
        ' searches in vain from half of the range on: set [source] ports = "auto"',
        quick=True,
    ),
    Fact(
        "2/S6",
        "explicit bind, SO_REUSEADDR, 4 addresses, timestamps: TIME_WAITs are used again",
        Outcome("no end", "305,904 connections, 255,904 tuples"),
        partial(fill, Way(Bind(reuse=True), 4, explicit=True)),
        _RING,
        quick=True,
    ),
    Fact(
        "2/S6-ts0",
        "explicit bind, SO_REUSEADDR, 4 addresses, no timestamps at the database",
        Outcome("4 x the range, then connect EADDRNOTAVAIL", "255,904 of 4 x 63,976"),
        partial(fill, Way(Bind(reuse=True), 4, explicit=True, timestamps=False)),
        _RING,
        quick=True,
    ),
    Fact(
        "2/S6'",
        "explicit bind without SO_REUSEADDR, 4 addresses, timestamps",
        Outcome("4 x the range, then bind EADDRINUSE", "255,904 of 4 x 63,976"),
        partial(fill, Way(addresses=4, explicit=True)),
        "nothing for Portside, which always sets SO_REUSEADDR; it shows why",
    ),
    Fact(
        "2/S7",
        "explicit bind, SO_REUSEADDR: each (ip, port) for 2 destinations",
        Outcome("both work", "400,000 on 200,000"),
        partial(_each_port_twice, True),
        "each destination has no longer all ports of [source] to itself: count them for all servers"
        " together, or give each [[server]] a source.ports of its own",
        quick=True,
    ),
    Fact(
        "2/S7'",
        "explicit bind without SO_REUSEADDR: each (ip, port) for 2 destinations",
        Outcome("the second: bind EADDRINUSE", "every second one"),
        partial(_each_port_twice, False),
        "nothing for Portside, which always sets SO_REUSEADDR; it shows why",
    ),
)
