"""Connection tracking: a table that drops packets when it is full, and keeps closed connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts
from portside.doctor.finding import Cure, Finding, Severity

MAX: Final = "net.netfilter.nf_conntrack_max"
COUNT: Final = "net.netfilter.nf_conntrack_count"
_KEEPS: Final = "net.netfilter.nf_conntrack_tcp_timeout_time_wait"
_WARN: Final = 0.7
_FULL: Final = 0.95


def check(facts: Facts) -> Iterator[Finding]:
    """Nearly full, or dropping."""
    most, count = facts.number(MAX), facts.number(COUNT)
    drops = facts.fresh.get("conntrack.drop", 0) + facts.fresh.get("conntrack.early_drop", 0)
    if most == 0 or (count < most * _WARN and not drops):
        return
    is_full = drops > 0 or count >= most * _FULL
    yield Finding(
        id="conntrack",
        severity=Severity.CRITICAL if is_full else Severity.WARNING,
        title=f"the connection tracking table holds {count:,} of {most:,}"
        f" ({100 * count / most:.0f} %): {'it drops' if is_full else 'when full it drops'}"
        " packets of new connections",
        evidence=(
            f"dropped while watching: {drops:,}; a closed connection stays for"
            f" {facts.number(_KEEPS, 120)} s ({_KEEPS}), so"
            f" {most / max(facts.number(_KEEPS, 120), 1):,.0f} short connections/s fill it",
        ),
        cures=(
            Cure(
                "Do not track what needs no NAT: nft ... tcp dport 3306 notrack, both directions",
                "no table, no limit, less CPU",
                "stateful rules (ct state) no longer match these packets",
            ),
            Cure(
                f"{MAX} = {most * 4}",
                "four times the connections",
                "kernel memory for each; raise nf_conntrack_buckets as well",
                {MAX: str(most * 4)},
            ),
            Cure(
                f"{_KEEPS} = 30",
                "closed connections leave the table sooner",
                "below TIME_WAIT's 60 s a late packet of theirs is judged as new",
            ),
        ),
        source="nf_conntrack-sysctl.rst",
        left_s=0.0 if is_full else None,
    )
