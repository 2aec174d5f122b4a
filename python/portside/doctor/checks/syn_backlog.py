"""Half-open connections: SYN_RECV against tcp_max_syn_backlog."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts, State
from portside.doctor.finding import Cure, Finding, Severity

KEY: Final = "net.ipv4.tcp_max_syn_backlog"
_LARGE: Final = 4096
_NEAR: Final = 0.75


def check(facts: Facts) -> Iterator[Finding]:
    """Nearly full, or dropping."""
    most = facts.number(KEY, _LARGE)
    flows = facts.sockets.flows if facts.sockets else ()
    half_open = sum(flow.count(State.SYN_RECV) for flow in flows)
    drops = facts.fresh.get("TCPReqQFullDrop", 0)
    cookies = facts.fresh.get("TCPReqQFullDoCookies", 0)
    if half_open < most * _NEAR and not drops and not cookies:
        return
    yield Finding(
        id="syn-backlog",
        severity=Severity.CRITICAL if drops else Severity.WARNING,
        title=f"{half_open:,} half-open connections of at most {most:,} per listener;"
        f" {drops:,} SYNs dropped while watching",
        evidence=(
            f"{KEY} = {most}; SYN cookies sent while watching: {cookies:,}"
            f" (tcp_syncookies = {facts.sysctls.get('net.ipv4.tcp_syncookies', '?')})",
        ),
        cures=(
            Cure(
                f"{KEY} = {max(_LARGE, most * 2)}, and keep tcp_syncookies = 1",
                "room for clients with a long way",
                "under a flood of forged SYNs it only fills more slowly",
                {KEY: str(max(_LARGE, most * 2)), "net.ipv4.tcp_syncookies": "1"},
            ),
        ),
        source="tcp(7)",
    )
