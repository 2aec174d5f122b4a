"""tcp_max_tw_buckets: the number of TIME_WAITs above which the kernel keeps none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts
from portside.doctor.finding import Cure, Finding, Severity

KEY: Final = "net.ipv4.tcp_max_tw_buckets"
_OVERFLOW: Final = "TCPTimeWaitOverflow"


def check(facts: Facts) -> Iterator[Finding]:
    """Reached."""
    most, now = facts.number(KEY, -1), facts.counters.get("sockstat.tw", 0)
    fresh = facts.fresh.get(_OVERFLOW, 0)
    if most < 0 or (fresh == 0 and now < most * 0.95):
        return
    yield Finding(
        id="tw-buckets",
        severity=Severity.NOTICE if most == 0 else Severity.WARNING,
        title=f"{now:,} TIME_WAITs of at most {most:,}: the kernel lets further sockets skip"
        " TIME_WAIT, and the rates told here are too low",
        evidence=(
            f"{KEY} = {most:,}; {_OVERFLOW} +{fresh:,} while watching,"
            f" {facts.counters.get(_OVERFLOW, 0):,} since the boot",
            "nobody gets an error by it: 50,000 of 60,000 skipped it and none failed"
            " (measured on Linux 6.18)",
        ),
        cures=(
            Cure(
                "Leave it, or raise it to 262,144 where duplicates of old packets are feared",
                "every close keeps its TIME_WAIT",
                "411 bytes of kernel memory each (measured on Linux 6.18), and ports run out"
                " where the limit kept them from it",
            ),
        ),
        source="ip-sysctl.rst; facts measured on Linux 6.18",
    )
