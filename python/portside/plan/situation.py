"""What a plan is made from: a load, the ports there are, and who closes first.

Pure. The defaults are Linux's and those of any relay: one address, 28,232 ports chosen by the
kernel, our FIN first, 60 s.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from portside.errors import PortsideError

DEFAULT_PORTS = 28_232
"""net.ipv4.ip_local_port_range as Linux has it: 32768-60999."""
TIME_WAIT_S = 60.0
"""TCP_TIMEWAIT_LEN, include/net/tcp.h; not tunable."""
REUSE_AFTER_S = 1.0
"""tcp_tw_reuse_delay, and the rest that Portside's ledger gives a tuple: 1 s each."""
HALF = 0.5
"""connect() walks all ports of one parity first: at half it turns slow."""
HEADROOM = 0.8
"""A safe rate leaves a fifth for bursts."""


class PlanError(PortsideError):
    """A situation that cannot be; the text says which value and what was expected."""


class Chooser(enum.Enum):
    """Who chooses the source port."""

    CONNECT = "connect"
    """The kernel, in connect(): what every program does that does not bind, or with
    IP_BIND_ADDRESS_NO_PORT."""
    BIND = "bind"
    """The kernel, in bind(address, 0): a `source` address without that option."""
    OWN = "own"
    """The program, with SO_REUSEADDR: Portside's `[source] ports`, HAProxy's `source ip:lo-hi`."""


class ToServer(enum.Enum):
    """How a connection to a server is closed; the words of `close.to_server`."""

    EOF_RESET = "eof-reset"
    EOF = "eof"
    LINGER2 = "linger2"
    RESET_NOW = "reset-now"
    FIN = "fin"

    @property
    def leaves_time_wait(self) -> bool:
        """Whether our side keeps a TIME_WAIT: only where our FIN comes first."""
        return self is ToServer.FIN


@dataclass(frozen=True)
class Situation:
    """One load towards one kind of destination.

    Attributes:
        rate: new connections a second, towards all destinations together; None: not known.
        hold_s: how long a connection is open.
        addresses: source addresses of ours.
        ports: source ports of each.
        destinations: addresses (ip:port) of servers.
        time_wait_s: how long a TIME_WAIT lasts.
        close: who closes first.
        chooser: who chooses the port.
        timestamps: TCP timestamps at both ends.
        tw_reuse: net.ipv4.tcp_tw_reuse = 1 (2, the default, means loopback only).
        pool: server connections that sessions share, per destination; None: one session, one
            connection.
        pool_lifetime_s: after this long each of them is replaced.
        writes: share of the sessions that write, 0 to 1; None: no split, all servers alike.
        share: part of the rate that the busiest destination gets; None: from destinations, writes.
        web_servers: how many hosts the clients are on; None: not looked at.
        name: the destination, where it has one.
    """

    rate: float | None = None
    hold_s: float = 0.01
    addresses: int = 1
    ports: int = DEFAULT_PORTS
    destinations: int = 1
    time_wait_s: float = TIME_WAIT_S
    close: ToServer = ToServer.FIN
    chooser: Chooser = Chooser.CONNECT
    timestamps: bool = True
    tw_reuse: bool = False
    pool: int | None = None
    pool_lifetime_s: float = 3600.0
    writes: float | None = None
    share: float | None = None
    web_servers: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Refuses what cannot be.

        Raises:
            PlanError: the first value that is out of its range.
        """
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # nor is NaN
                raise PlanError(f"{name} = {str(value)[:20]}: expected {low:,g} to {high:,g}.")

    @property
    def busiest_share(self) -> float:
        """Part of the whole rate that meets the fewest ports; 1 where all share one pool."""
        if self.share is not None:
            return self.share
        if self.chooser is Chooser.BIND:
            return 1.0
        if self.writes is None or self.destinations == 1:
            return 1 / self.destinations
        return max(self.writes, (1 - self.writes) / (self.destinations - 1))

    @property
    def keep_s(self) -> float:
        """How long a tuple is lost after its connection was closed."""
        if not self.close.leaves_time_wait:
            return 0.0
        reuses = self.chooser is Chooser.OWN or (self.chooser is Chooser.CONNECT and self.tw_reuse)
        if reuses and self.timestamps:
            return min(REUSE_AFTER_S, self.time_wait_s)
        return self.time_wait_s

    @property
    def tuples(self) -> int:
        """Source ports towards one destination, all addresses together."""
        return self.addresses * self.ports

    @property
    def usable(self) -> float:
        """The part of them that can be in use before connect() turns slow."""
        return 1.0 if self.chooser is Chooser.OWN else HALF


_LIMITS = (
    ("rate", 0.001, 1e8),
    ("hold_s", 0.0001, 1e7),
    ("addresses", 1, 1e6),
    ("ports", 1, 65_535),
    ("destinations", 1, 1e6),
    ("time_wait_s", 0.001, 3600),
    ("pool", 1, 1e7),
    ("pool_lifetime_s", 1, 1e8),
    ("writes", 0, 1),
    ("share", 1e-9, 1),
    ("web_servers", 1, 1e6),
)
