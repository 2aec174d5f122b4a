"""Half-open connections: a listener's queue for them that is full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.checks.accept_queue import SOMAXCONN
from portside.doctor.facts import Facts, State
from portside.doctor.finding import Cure, Finding, Severity

KEY: Final = "net.ipv4.tcp_max_syn_backlog"
_LARGE: Final = 4096


def check(facts: Facts) -> Iterator[Finding]:
    """Full while watching."""
    most = facts.number(KEY, _LARGE)
    flows = facts.sockets.flows if facts.sockets else ()
    half_open = sum(flow.count(State.SYN_RECV) for flow in flows)
    drops = facts.fresh.get("TCPReqQFullDrop", 0)
    cookies = facts.fresh.get("TCPReqQFullDoCookies", 0)
    if not drops and not cookies:
        return
    turned_away = f"{drops:,} SYNs were dropped" if drops else f"{cookies:,} were sent SYN cookies"
    yield Finding(
        id="syn-backlog",
        severity=Severity.CRITICAL if drops else Severity.WARNING,
        title=f"{half_open:,} connections are half open, and {turned_away} while watching: a"
        " listener's queue for them is full",
        evidence=(
            f"{KEY} = {most}, net.core.somaxconn = {facts.sysctls.get(SOMAXCONN, '?')},"
            f" tcp_syncookies = {facts.sysctls.get('net.ipv4.tcp_syncookies', '?')}; the queue is"
            " as long as the listener's backlog, without cookies also 3/4 of the first",
        ),
        cures=(
            Cure(
                "Longer queues: both settings, and the program's own backlog; keep"
                " tcp_syncookies = 1",
                "room for clients with a long way, and nobody is dropped when it is full",
                "under a flood of forged SYNs it only fills more slowly",
                {
                    KEY: str(max(_LARGE, most)),
                    SOMAXCONN: str(max(_LARGE, facts.number(SOMAXCONN))),
                    "net.ipv4.tcp_syncookies": "1",
                },
            ),
        ),
        source="net/ipv4/tcp_input.c: tcp_conn_request; tcp(7)",
    )
