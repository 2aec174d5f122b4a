"""tcp_tw_reuse: whether connect() takes ports in TIME_WAIT again. The article: set it to 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts
from portside.doctor.finding import Cure, Finding, Severity
from portside.doctor.pairs import MEASURED

KEY: Final = "net.ipv4.tcp_tw_reuse"
DELAY: Final = "net.ipv4.tcp_tw_reuse_delay"
_WORDS: Final = {0: "off", 1: "on", 2: "on for loopback only"}

REUSE: Final = Cure(
    "At once: let connect() reuse TIME_WAITs: sysctl -w net.ipv4.tcp_tw_reuse=1"
    " net.ipv4.tcp_timestamps=1, timestamps at the other end too",
    "a port is free again after 1 s: 14,100 connections/s per destination with 28,232 ports"
    f" ({MEASURED})",
    "none known with timestamps; without them at either end it does nothing, and nothing for"
    " programs that bind(address, 0)",
    {KEY: "1", "net.ipv4.tcp_timestamps": "1"},
)


def check(facts: Facts) -> Iterator[Finding]:
    """Off, or for loopback only; or on with a delay that is not the default."""
    if KEY not in facts.sysctls:
        return
    setting = facts.number(KEY)
    if setting != 1:
        yield Finding(
            id="tw-reuse",
            severity=Severity.NOTICE,
            title=f"tcp_tw_reuse is {_WORDS.get(setting, setting)}: a port that this host closed"
            " first is gone for 60 s",
            evidence=(f"{KEY} = {setting}",),
            cures=(REUSE,),
            source="the article; ip-sysctl.rst",
        )
    elif DELAY in facts.sysctls and facts.number(DELAY) != 1000:
        yield Finding(
            id="tw-reuse-delay",
            severity=Severity.NOTICE,
            title=f"tcp_tw_reuse_delay is {facts.number(DELAY):,} ms, not 1,000",
            evidence=(
                "1 gave 27,900 connections/s per destination, 0 behaved like the default"
                f" ({MEASURED})",
            ),
            source="ip-sysctl.rst",
        )
