"""tcp_fin_timeout: believed to shorten TIME_WAIT, which it does not; and FIN_WAIT2 that pile up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts, State
from portside.doctor.finding import Cure, Finding, Severity

KEY: Final = "net.ipv4.tcp_fin_timeout"
_MANY: Final = 1_000
_SOURCE: Final = "tcp(7); include/net/tcp.h: TCP_TIMEWAIT_LEN"


def check(facts: Facts) -> Iterator[Finding]:
    """Changed without effect on TIME_WAIT, or needed because peers do not close."""
    flows = facts.sockets.flows if facts.sockets else ()
    waiting = sum(flow.count(State.FIN_WAIT2) for flow in flows)
    if waiting >= _MANY:
        worst = max(flows, key=lambda flow: flow.count(State.FIN_WAIT2))
        yield Finding(
            id="fin-wait-2",
            severity=Severity.WARNING,
            title=f"{waiting:,} sockets wait in FIN_WAIT2 for a FIN that does not come,"
            f" {worst.count(State.FIN_WAIT2):,} of them {worst.ours} -> {worst.theirs}",
            evidence=(f"{KEY} = {facts.sysctls.get(KEY, '?')} s is how long each may stay",),
            cures=(
                Cure(
                    "Find out why the other side does not close: CLOSE_WAIT over there",
                    "the ports come back at once",
                    "none known",
                ),
                Cure(
                    "Until then: tcp_fin_timeout = 15",
                    "each is gone after 15 s",
                    "a peer that half-closes on purpose is cut off",
                ),
            ),
            source=_SOURCE,
        )
    elif facts.number(KEY, 60) != 60:
        yield Finding(
            id="fin-timeout",
            severity=Severity.NOTICE,
            title=f"tcp_fin_timeout is {facts.number(KEY)} s: it shortens FIN_WAIT2, not TIME_WAIT,"
            " which is 60 s in every kernel",
            evidence=(f"{KEY} = {facts.number(KEY)}",),
            source=_SOURCE,
        )
