"""TCP's memory: past the third number of tcp_mem the kernel drops data and resets orphans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts, whole
from portside.doctor.finding import Cure, Finding, Severity

KEY: Final = "net.ipv4.tcp_mem"


def check(facts: Facts) -> Iterator[Finding]:
    """Past the second number (pressure) or near the third (the end)."""
    words = facts.sysctls.get(KEY, "").split()
    used = facts.counters.get("sockstat.mem", 0)
    limits = [limit for word in words if (limit := whole(word)) is not None]
    if len(limits) != 3:
        return
    _, pressure, most = limits
    aborted = facts.fresh.get("TCPAbortOnMemory", 0)
    if used < pressure and not aborted:
        return
    yield Finding(
        id="tcp-memory",
        severity=Severity.CRITICAL if aborted or used >= most * 0.95 else Severity.WARNING,
        title=f"TCP uses {used:,} pages of at most {most:,}; from {pressure:,} on the kernel"
        f" takes buffers away, and {aborted:,} connections were cut for it while watching",
        evidence=(f"{KEY} = {facts.sysctls[KEY]} (pages of 4 KiB on most machines)",),
        cures=(
            Cure(
                "Find the connections with full queues: ss -tmn, sorted by skmem",
                "a reader that does not read is the usual cause",
                "none known",
            ),
            Cure(
                f"{KEY} = {words[0]} {pressure * 2} {most * 2}",
                "twice the room",
                "memory that programs no longer have",
            ),
        ),
        source="tcp(7)",
    )
