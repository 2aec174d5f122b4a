"""connect() that nobody answers: SYN_SENT whose SYN had to be sent again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts, State
from portside.doctor.finding import Cure, Finding, Severity

_MANY: Final = 5
_MOST: Final = 3


def check(facts: Facts) -> Iterator[Finding]:
    """Destinations with many of them."""
    flows = facts.sockets.flows if facts.sockets else ()
    waiting = [(flow.retried, flow) for flow in flows if not flow.incoming]
    for count, flow in sorted(waiting, key=lambda each: -each[0])[:_MOST]:
        if count < _MANY:
            return
        yield Finding(
            id="unanswered",
            severity=Severity.CRITICAL,
            title=f"{flow.ours} -> {flow.theirs}: {count:,} connects got no answer for a second or"
            " longer; not for want of source ports, their SYNs are out",
            evidence=(
                f"{flow.count(State.ESTABLISHED):,} are established there; TCPSynRetrans"
                f" +{facts.fresh.get('TCPSynRetrans', 0):,} while watching",
            ),
            cures=(
                Cure(
                    "Look over there: portside doctor on that host shows a full accept queue, a"
                    " full conntrack table, or that it is down",
                    "names the cause",
                    "none known",
                ),
                Cure(
                    "Look at firewalls on the way: some drop SYNs on a reused port",
                    "names the cause",
                    "none known",
                ),
            ),
            source="tcp(7)",
            left_s=0.0,
        )
