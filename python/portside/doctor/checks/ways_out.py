"""What helps against source ports that run out: the article's list, corrected.

First what one command does at 3 a.m., then what ends it for good, best first.

Each sentence with a figure says where it was measured. Source: the article "HAProxy, high mysql
request rate and TCP source port exhaustion", and measurements of it on Linux 6.18.
"""

from __future__ import annotations

from typing import Final

from portside.doctor.checks.port_range import widen
from portside.doctor.checks.tw_reuse import REUSE
from portside.doctor.facts import Facts
from portside.doctor.finding import Cure
from portside.doctor.pairs import Pair, range_size

CLOSE_IN_ORDER: Final = Cure(
    "For good: put Portside before the database; it lets the server close first and answers with"
    " a reset",
    "no TIME_WAIT on any host: one source port carried 50,000 connections in a row"
    " (measured on Linux 6.18)",
    "the database sees Portside's addresses: each needs its GRANTs",
)
UNIX_SOCKET: Final = Cure(
    "For good: use the server's unix socket: it is on this very host",
    "no source port at all",
    "'user'@'localhost' needs its own GRANTs",
)
PERSISTENT: Final = Cure(
    'Keep connections: a pool, or persistent ones (mysqli "p:host", PDO::ATTR_PERSISTENT)',
    "one connection for many requests",
    "each worker holds one (max_connections); temporary tables, locks and open transactions"
    " outlive the request; reads are balanced worse",
)
MORE_ADDRESSES: Final = Cure(
    "On a proxy: several source addresses with ports that the proxy chooses (Portside [source]"
    " addresses and ports; HAProxy: a server line per address with source IP:LOW-HIGH)",
    "a whole range per address, and connect() stays fast to the last port (measured on Linux 6.18)",
    "GRANTs for each address; keep LOW-HIGH out of net.ipv4.ip_local_port_range, or the kernel"
    " cannot give those ports to anybody",
)
ASK_LESS: Final = Cure(
    "Ask less: answer from a cache (memcached, Redis) what the database need not",
    "each connection less is a port for 60 s",
    "answers may be old",
)
RESET: Final = Cure(
    "Last: close with a reset (HAProxy: option nolinger)",
    "no TIME_WAIT here",
    "the server may count aborted clients: 1,942 of 2,000 with HAProxy 3.2 before MariaDB 10.11"
    " (measured); a reply on its way is lost",
)


def ways_out(facts: Facts, pair: Pair) -> tuple[Cure, ...]:
    """What is not done yet, in the order to try it."""
    cures = []
    if not pair.reusable and facts.number("net.ipv4.tcp_tw_reuse") != 1:
        cures.append(REUSE)
    wider = widen(facts)
    if range_size({**facts.sysctls, **wider.sysctls}) > range_size(facts.sysctls):
        cures.append(wider)
    local = [UNIX_SOCKET] if _is_ours(pair) else []
    return (*cures, *local, CLOSE_IN_ORDER, PERSISTENT, MORE_ADDRESSES, ASK_LESS, RESET)


def _is_ours(pair: Pair) -> bool:
    destination = pair.theirs.rpartition(":")[0].strip("[]")
    return destination == pair.ours or destination.startswith("127.") or destination == "::1"
