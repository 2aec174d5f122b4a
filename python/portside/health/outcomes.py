"""Puts the outcomes of one check together: over our source addresses, over a server's destinations.

Pure. It must not know how they were obtained (probe.py) nor what they do to the verdict (judge.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .greeting import ER_ACCESS_DENIED, ER_HOST_IS_BLOCKED, ER_HOST_NOT_PRIVILEGED
from .judge import CheckResult, DestinationResult, HostBlocked, Status

# The answer depends on the address that we come from: another one may be let in.
REFUSED_ADDRESS = frozenset({ER_HOST_IS_BLOCKED, ER_HOST_NOT_PRIVILEGED, ER_ACCESS_DENIED})


def may_differ_elsewhere(one: DestinationResult) -> bool:
    """True when another of our addresses may fare better."""
    return one.status.is_ours or one.errno in REFUSED_ADDRESS


def over_sources(outcomes: Sequence[DestinationResult]) -> DestinationResult:
    """One destination's outcome out of those from several of our addresses, in the order tried.

    The server is judged by the best: one address that is let in shows that it works. ERR 1045
    counts as a blocked address only then; else the account or its password is wrong everywhere.
    """
    best = next((one for one in outcomes if one.status.passed), None)
    if best is None:
        best = next((one for one in outcomes if not one.status.is_ours), None)
    if best is None:
        best = next((one for one in outcomes if one.status is Status.SOCKERR), outcomes[0])
    blocked = tuple(
        HostBlocked(one.source, one.destination, one.errno, _without_number(one))
        for one in outcomes
        if one.errno in REFUSED_ADDRESS and (one.errno != ER_ACCESS_DENIED or best.status.passed)
    )
    return replace(best, blocked=blocked)


def _without_number(one: DestinationResult) -> str:
    """The server's text of "ERR 1130: text", "ERR 1130 text" or "1130 text"."""
    return one.detail.partition(str(one.errno))[2].lstrip(": ")


def combine(results: Sequence[DestinationResult]) -> CheckResult:
    """A server's result out of its destinations': it is alive when one of them is.

    Readings are of the instance, so any destination's will do. ``detail`` names the ones that fail.
    """
    failed = [one for one in results if not one.status.passed]
    good = [one for one in results if one.status.passed]
    details = "; ".join(
        f"{one.destination}: {one.detail}" if len(results) > 1 else one.detail
        for one in (*failed, *good)
        if one.detail
    )
    if good:
        best = next((one for one in good if one.readings is not None), good[0])
        full = all(one.full for one in good)
    else:
        theirs = [one for one in failed if not one.status.is_ours]
        shortage = [one for one in failed if one.status is Status.SOCKERR]
        best, full = (theirs or shortage or failed)[0], False
    return CheckResult(
        best.status,
        best.latency_s,
        details,
        definitive=best.definitive,
        readings=best.readings,
        full=full,
        destinations=tuple(results),
    )
