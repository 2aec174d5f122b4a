"""Ports that programs bind themselves: HAProxy ``source ip:lo-hi``, Portside."""

from __future__ import annotations

from collections.abc import Iterator

from portside.doctor.facts import Facts, State
from portside.doctor.finding import Finding, Severity


def check(facts: Facts) -> Iterator[Finding]:
    """Outgoing pairs with sockets outside the kernel's range."""
    flows = facts.sockets.flows if facts.sockets else ()
    outside = [
        (flow.count() - flow.in_range, flow)
        for flow in flows
        if not flow.incoming and flow.count() > flow.in_range
    ]
    if not outside:
        return
    count, flow = max(outside, key=lambda each: each[0])
    waiting = max(flow.count(State.TIME_WAIT) - sum(flow.ages), 0)
    yield Finding(
        id="explicit-ports",
        severity=Severity.NOTICE,
        title=f"a program chooses source ports itself: {count:,} sockets {flow.ours} ->"
        f" {flow.theirs} outside the kernel's range, {waiting:,} of them in TIME_WAIT",
        evidence=(
            f"{len(outside)} such pairs. They take nothing from the kernel's range; with"
            " SO_REUSEADDR and timestamps at both ends a TIME_WAIT is reused at once, whatever"
            " tcp_tw_reuse says (measured on Linux 6.18)",
        ),
        source="facts measured on Linux 6.18",
    )
