"""TCP timestamps: without them nobody reuses a TIME_WAIT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts
from portside.doctor.finding import Cure, Finding, Severity

KEY: Final = "net.ipv4.tcp_timestamps"


def check(facts: Facts) -> Iterator[Finding]:
    """Off."""
    if facts.number(KEY, 1) != 0:
        return
    reuse = " tcp_tw_reuse = 1 has no effect." if facts.number("net.ipv4.tcp_tw_reuse") == 1 else ""
    yield Finding(
        id="timestamps",
        severity=Severity.WARNING,
        title="tcp_timestamps is off: a port in TIME_WAIT stays gone for 60 s, whoever wants it",
        evidence=(
            f"{KEY} = 0.{reuse} Proxies that choose their ports cannot reuse one in TIME_WAIT"
            " either (measured on Linux 6.18)",
        ),
        cures=(
            Cure(
                "Turn timestamps on, at both ends",
                "tcp_tw_reuse works, explicit ports are reused at once, and PAWS protects",
                "12 bytes per packet; the uptime is no secret any more on Linux before 4.10",
                {KEY: "1"},
            ),
        ),
        source="RFC 7323; facts measured on Linux 6.18",
    )
