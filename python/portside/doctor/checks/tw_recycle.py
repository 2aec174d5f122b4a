"""tcp_tw_recycle: the article's other sysctl, dangerous behind NAT and gone since Linux 4.12."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts
from portside.doctor.finding import Cure, Finding, Severity

KEY: Final = "net.ipv4.tcp_tw_recycle"
_REMOVED: Final = (4, 12)
_SOURCE: Final = "commit 4396e46187ca (Linux 4.12); tcp(7)"


def check(facts: Facts) -> Iterator[Finding]:
    """On: critical, clients behind one NAT are refused; absent: do not look for it."""
    if facts.number(KEY) == 1:
        yield Finding(
            id="tw-recycle",
            severity=Severity.CRITICAL,
            title="tcp_tw_recycle is on: of several clients behind one NAT only one gets in, the"
            " others' SYNs are dropped without a word",
            evidence=(
                f"{KEY} = 1 on Linux {facts.kernel}",
                f"PAWSPassive +{facts.fresh.get('PAWSPassive', 0):,} while watching,"
                f" {facts.counters.get('PAWSPassive', 0):,} since the boot: SYNs dropped by it",
            ),
            cures=(
                Cure(
                    "Turn it off; tcp_tw_reuse = 1 does what is wanted",
                    "clients behind NAT get in again, at once",
                    "none known",
                    {KEY: "0", "net.ipv4.tcp_tw_reuse": "1"},
                ),
            ),
            source=_SOURCE,
        )
    elif KEY not in facts.sysctls and facts.version >= _REMOVED:
        yield Finding(
            id="tw-recycle",
            severity=Severity.NOTICE,
            title="tcp_tw_recycle, which older advice names, does not exist here: Linux 4.12"
            " removed it",
            evidence=(f"Linux {facts.kernel} has no {KEY}",),
            source=_SOURCE,
        )
