"""tcp_rfc1337: whether a stray RST ends a TIME_WAIT early."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts
from portside.doctor.finding import Finding, Severity

KEY: Final = "net.ipv4.tcp_rfc1337"


def check(facts: Facts) -> Iterator[Finding]:
    """On: worth knowing, no more."""
    if facts.number(KEY) == 1:
        yield Finding(
            id="rfc1337",
            severity=Severity.NOTICE,
            title="tcp_rfc1337 is on: a reset does not end a TIME_WAIT, each lasts its 60 s",
            evidence=(
                f"{KEY} = 1. A reset that comes before the TIME_WAIT, as Portside's does, works"
                " all the same (measured on Linux 6.18)",
            ),
            source="RFC 1337; facts measured on Linux 6.18",
        )
