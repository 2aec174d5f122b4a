"""Source ports of a pair that run out, or are past the half where connect() becomes slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.checks.ways_out import ways_out
from portside.doctor.facts import TIME_WAIT_S, Facts
from portside.doctor.finding import Finding, Severity
from portside.doctor.pairs import MEASURED, CloserFirst, Pair, has_cliff, pairs

ID: Final = "source-ports"
_SOURCE: Final = "the article; tcp(7); facts measured on Linux 6.18"
_WORTH_A_WARNING: Final = 0.35  # of the range, where no clock runs
_MOST: Final = 20  # pairs; the hundredth has nothing new to say


def check(facts: Facts) -> Iterator[Finding]:
    """One finding per pair that is, or will be, in trouble."""
    for pair in pairs(facts)[:_MOST]:
        severity = _severity(pair)
        if severity is not None:
            yield Finding(
                id=ID,
                severity=severity,
                title=_title(pair),
                evidence=_evidence(facts, pair),
                cures=ways_out(facts, pair),
                source=_SOURCE,
                left_s=pair.cliff_s if pair.left_s is None else pair.left_s,
            )


def _severity(pair: Pair) -> Severity | None:
    if pair.left_s is not None or pair.cliff_s == 0:
        return Severity.CRITICAL
    if pair.cliff_s is not None or _held(pair) >= pair.size * _WORTH_A_WARNING:
        return Severity.WARNING
    return None


def _held(pair: Pair) -> int:
    """Ports that connect() cannot have."""
    return pair.used - pair.time_wait if pair.reusable else pair.used


def _title(pair: Pair) -> str:
    what, count = "in use", _held(pair)
    if not pair.reusable and pair.time_wait * 2 >= pair.used:
        what, count = "in TIME_WAIT", pair.time_wait
    text = (
        f"{pair.name} has {count:,} of {pair.size:,} source ports {what}"
        f" ({100 * count / pair.size:.0f} %): {_time(pair)}"
    )
    if pair.closes_first is CloserFirst.US:
        text += ". This host closes first"
    return text


def _time(pair: Pair) -> str:
    rate = f"at {pair.rate_s:,.0f}/s"
    if pair.left_s == 0:
        return "none is left, connect() fails with EADDRNOTAVAIL"
    if pair.cliff_s == 0:
        past = "connect() is past the cliff"
        if pair.left_s is None:
            how = "stays at" if pair.settles_at * 2 >= pair.size else "falls to"
            return f"{past}; {rate} it {how} about {pair.settles_at:,} ports"
        return f"{past}; {rate} the rest is gone in {pair.left_s} s"
    if pair.left_s is not None:
        return f"{rate} the rest is gone in {pair.left_s} s"
    if pair.cliff_s is not None:
        return f"{rate} connect() reaches the cliff at half of them in {pair.cliff_s} s"
    return f"{rate} it settles at about {pair.settles_at:,}"


def _evidence(facts: Facts, pair: Pair) -> tuple[str, ...]:
    said = [
        f"{pair.used:,} ports are held: {pair.time_wait:,} in TIME_WAIT, {pair.open:,} open,"
        f" {pair.close_wait:,} in CLOSE_WAIT; {pair.size:,} are in"
        f" net.ipv4.ip_local_port_range ({facts.sysctls.get('net.ipv4.ip_local_port_range', '?')})",
        f"{pair.rate_s:,.0f} connections/s over the last 10 s,"
        f" {pair.time_wait / TIME_WAIT_S:,.0f}/s over the last 60 s (TIME_WAITs / 60 s); the range"
        f" carries {pair.size / TIME_WAIT_S:,.0f}/s: {pair.size:,} ports / 60 s",
    ]
    if has_cliff(facts):
        said.append(
            f"the cliff, at {pair.size / 2 / TIME_WAIT_S:,.0f}/s: past half of the range the kernel"
            " first walks every port of one parity: connect() takes 3 ms instead of 0.03 ms with"
            f" 28,232 ports, 5 ms with 63,976 ({MEASURED}; this is {facts.kernel})"
        )
    said.append(
        "elsewhere it looks like this: errno 99 (Cannot assign requested address) in PHP, SOCKERR"
        " for health checks in HAProxy's log, and a database that idles"
    )
    if pair.reusable:
        said.append(
            "net.ipv4.tcp_tw_reuse gives TIME_WAITs out again, provided the other end has"
            " timestamps, so only the others are counted against the range"
        )
    return tuple(said)
