"""What the lab compares: strategies as data, and the configuration that each balancer gets for one.

Pure: no I/O, no processes. A strategy names only what sets it apart; how much load there is and
which ports there are is the scale's.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from portside.lab.errors import LabError
from portside.lab.hosts import DB_ADDRESS, PROXY_ADDRESSES, WEB_SIDE
from portside.lab.scale import Scale

DB_PORT = LISTEN_PORT = 3306
_ROW_QUEUE_MS = 5_000


class By(Enum):
    """Who stands between web and database."""

    NOBODY = "nobody"
    PORTSIDE = "Portside"
    HAPROXY = "HAProxy"


class Ports(Enum):
    """Who chooses the source port towards the database."""

    KERNEL = "the kernel's"
    RING = "the balancer's"
    ONE = "one"


@dataclass(frozen=True)
class Strategy:
    """One way to the database.

    Attributes:
        key: what the command line calls it.
        title: what the table calls it.
        what: one sentence for the page.
        by: who relays.
        close: ``close.to_server`` of Portside; "nolinger" for HAProxy with that option.
        addresses: source addresses named in the configuration; 0: the route's.
        ports: who chooses the port.
        wide: the proxy's ip_local_port_range is the article's, 1025-65000.
        eats_resets: a firewall drops RSTs from the proxy to the database.
        unix: clients come over a unix socket.
        timestamps: the database uses TCP timestamps, as every system does by default.
    """

    key: str
    title: str
    what: str
    by: By = By.PORTSIDE
    close: str = "eof-reset"
    addresses: int = 0
    ports: Ports = Ports.KERNEL
    wide: bool = False
    eats_resets: bool = False
    unix: bool = False
    timestamps: bool = True

    @property
    def is_ours(self) -> bool:
        """Portside as it is meant: close order on, nothing on the path broken."""
        return self.by is By.PORTSIDE and self.close == "eof-reset" and not self.eats_resets

    @property
    def in_a_row(self) -> bool:
        """One tuple: its connections come one after the other."""
        return self.ports is Ports.ONE

    @property
    def has_delay(self) -> bool:
        """Not for one connection after the other, nor where a minute must fill 180,000 tuples."""
        return not self.in_a_row and not (self.ports is Ports.RING and self.close == "fin")


STRATEGIES: Sequence[Strategy] = (
    Strategy(
        "direct",
        "direct, no proxy",
        "The web server connects to the database itself and closes first, as libmysql does.",
        By.NOBODY,
        "fin",
    ),
    Strategy(
        "haproxy",
        "HAProxy",
        "HAProxy as installed: a plain server line, ports chosen by the kernel.",
        By.HAPROXY,
        "fin",
    ),
    Strategy(
        "haproxy-source",
        "HAProxy, 4 x source IP",
        "The article's second step: four server lines, each with its own source address.",
        By.HAPROXY,
        "fin",
        addresses=4,
    ),
    Strategy(
        "haproxy-ports",
        "HAProxy, 4 x source IP:lo-hi",
        "The article's third step: HAProxy chooses the ports of four addresses.",
        By.HAPROXY,
        "fin",
        addresses=4,
        ports=Ports.RING,
    ),
    Strategy(
        "haproxy-nolinger",
        "HAProxy, option nolinger",
        "The article's first comment: reset towards the database at once.",
        By.HAPROXY,
        "nolinger",
    ),
    Strategy(
        "naive",
        "naive FIN, default range",
        "Our FIN is first towards the database, as with any relay; the kernel chooses the port."
        " Towards clients Portside closes well: what the proxy keeps are ports to the database.",
        close="fin",
    ),
    Strategy(
        "naive-wide",
        "naive FIN, wide range",
        "The same with net.ipv4.ip_local_port_range = 1025 65000, the article's first step.",
        close="fin",
        wide=True,
    ),
    Strategy(
        "naive-4",
        "naive FIN, 4 addresses, kernel's ports",
        "The same from four addresses, ports chosen by the kernel.",
        close="fin",
        addresses=4,
    ),
    Strategy(
        "naive-4-ledger",
        "naive FIN, 4 addresses, our ledger",
        "The same from four addresses, every port chosen by Portside's ledger; the database has no"
        " timestamps. With them the ledger uses a TIME_WAIT again after a second: no wall.",
        close="fin",
        addresses=4,
        ports=Ports.RING,
        timestamps=False,
    ),
    Strategy(
        "reset-now",
        "QUIT and reset at once",
        "QUIT, then RST without waiting for the database.",
        close="reset-now",
    ),
    Strategy(
        "ours",
        "our close, kernel's ports",
        "QUIT, the database's FIN, then RST; towards the client its FIN, then RST.",
    ),
    Strategy(
        "ours-one-port",
        "our close, ONE source port",
        "The same, every connection over one single source address and port, one after the other.",
        addresses=1,
        ports=Ports.ONE,
    ),
    Strategy(
        "ours-filtered",
        "our close, resets filtered",
        "The same over a firewall that eats every RST towards the database.",
        addresses=4,
        ports=Ports.RING,
        eats_resets=True,
    ),
    Strategy(
        "unix",
        "our close, web on a unix socket",
        "The web server and Portside on one host, a unix socket between them.",
        unix=True,
    ),
)


def choose(keys: Sequence[str], has_haproxy: bool) -> list[Strategy]:
    """The strategies of these keys in the table's order; without keys every one that can run.

    Raises:
        LabError: an unknown key, with the nearest; HAProxy asked for and not installed.
    """
    known = {strategy.key: strategy for strategy in STRATEGIES}
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise LabError(f"unknown strategy {key!r}: {hint}known are {', '.join(known)}")
        if known[key].by is By.HAPROXY and not has_haproxy:
            raise LabError(f"{key}: haproxy is not installed: apt-get install haproxy")
    wanted = keys or [one.key for one in STRATEGIES if has_haproxy or one.by is not By.HAPROXY]
    return [strategy for strategy in STRATEGIES if strategy.key in wanted]


def target(strategy: Strategy, folder: Path) -> str:
    """What the clients connect to."""
    if strategy.by is By.NOBODY:
        return f"{DB_ADDRESS}:{DB_PORT}"
    return f"unix:{folder}/db.sock" if strategy.unix else f"{WEB_SIDE}:{LISTEN_PORT}"


def portside_toml(strategy: Strategy, scale: Scale, folder: Path) -> str:
    """Portside's configuration.

    No checks: the lab counts connections, and one tuple leaves none for them. The queue is short,
    so that a session without a port shows as a failure within the run; over one tuple waiting is
    the rule, and a SYN that gets lost (seen once in some 50,000) costs a second.
    """
    queue_ms = _ROW_QUEUE_MS if strategy.in_a_row else scale.queue_ms
    source = []
    if strategy.addresses:
        source.append(f"addresses = {list(PROXY_ADDRESSES[: strategy.addresses])}")
    if strategy.ports is not Ports.KERNEL:
        low, high = scale.ring
        source.append(f'ports = "{low}-{low if strategy.ports is Ports.ONE else high}"')
        source.append("reserve = 0")
    lines = "\n".join(source).replace("'", '"')
    return f"""[portside]
workers = 1

[admin]
socket = "{folder}/admin.sock"

[log]
sessions = "errors"

[timeouts]
queue = "{queue_ms}ms"

[source]
{lines}

[close]
to_server = "{strategy.close}"

[[server]]
name = "db1"
address = "{DB_ADDRESS}:{DB_PORT}"
check = false

[[service]]
name = "db"
listen = "{target(strategy, folder)}"
servers = ["db1"]
"""


def haproxy_cfg(strategy: Strategy, scale: Scale) -> str:
    """HAProxy's configuration, as the article has it; one thread, as Portside has one worker."""
    low, high = scale.ring
    ring = f":{low}-{high}" if strategy.ports is Ports.RING else ""
    sources = [f" source {ip}{ring}" for ip in PROXY_ADDRESSES[: strategy.addresses]] or [""]
    servers = "\n".join(
        f"    server db1_{number} {DB_ADDRESS}:{DB_PORT}{source}"
        for number, source in enumerate(sources, 1)
    )
    return f"""global
    maxconn 4000
    nbthread 1
defaults
    mode tcp
    timeout connect 3s
    timeout client 1m
    timeout server 1m
frontend mysql
    bind {WEB_SIDE}:{LISTEN_PORT}
    default_backend db
backend db
    balance roundrobin
{"    option nolinger" if strategy.close == "nolinger" else "    # as installed"}
{servers}
"""
