"""Clients that wait for accept(): the queue of each listener, and somaxconn that limits it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts, Listener
from portside.doctor.finding import Cure, Finding, Severity

SOMAXCONN: Final = "net.core.somaxconn"
_LARGE: Final = 4096  # Linux's default since 5.4
_HALF: Final = 0.5


def check(facts: Facts) -> Iterator[Finding]:
    """Full now; overflowed since the boot; or too short to take a burst."""
    listeners = facts.sockets.listeners if facts.sockets else ()
    fuller = [each for each in listeners if each.queued > each.backlog * _HALF and each.queued > 1]
    for each in sorted(fuller, key=lambda one: -one.queued):
        yield _full(facts, each)
    if not any(each.queued > each.backlog for each in listeners):
        yield from _overflowed(facts)
    if facts.number(SOMAXCONN, _LARGE) < _LARGE:
        yield Finding(
            id="somaxconn",
            severity=Severity.NOTICE,
            title=f"somaxconn is {facts.number(SOMAXCONN):,}: no listener can have a longer queue,"
            " whatever it asks for",
            evidence=(f"{SOMAXCONN} = {facts.number(SOMAXCONN)}; Linux's own is 4,096 since 5.4",),
            cures=(_longer(facts),),
            source="listen(2)",
        )


def _full(facts: Facts, each: Listener) -> Finding:
    name = f"{each.address}:{each.port}" + (f" ({each.process})" if each.process else "")
    # The kernel takes one more than backlog; then it drops the client's last ACK or its SYN.
    is_full = each.queued >= each.backlog
    what = "is full, clients hang" if is_full else "is more than half full"
    return Finding(
        id="accept-queue",
        severity=Severity.CRITICAL if is_full else Severity.WARNING,
        title=f"the accept queue of {name} {what}: {each.queued:,} clients wait for accept(), of at"
        f" most {each.backlog:,}",
        evidence=(
            f"ListenOverflows +{facts.fresh.get('ListenOverflows', 0):,} while watching; a client"
            " that finds no room waits a second at least, for its SYN to be sent again",
        ),
        cures=(
            Cure(
                "Find out why the program does not accept: it is stuck, at its connection limit,"
                " or out of CPU",
                "the queue empties",
                "none known",
            ),
            _longer(facts),
        ),
        source="listen(2); the article: clients hang",
        left_s=0.0 if is_full else None,
    )


def _overflowed(facts: Facts) -> Iterator[Finding]:
    fresh = facts.fresh.get("ListenOverflows", 0)
    total = facts.counters.get("ListenOverflows", 0)
    if total:
        when = f"{fresh:,} in {facts.window_s:g} s" if fresh else f"{total:,} since the boot"
        yield Finding(
            id="listen-overflows",
            severity=Severity.CRITICAL if fresh else Severity.NOTICE,
            title=f"a full accept queue turned clients away: {when}",
            evidence=(f"ListenDrops {facts.counters.get('ListenDrops', 0):,} since the boot",),
            cures=(_longer(facts),),
            source="listen(2)",
            left_s=0.0 if fresh else None,
        )


def _longer(facts: Facts) -> Cure:
    now = facts.number(SOMAXCONN)
    most = max(_LARGE, now)
    own = "the program's own backlog (MySQL back_log, HAProxy backlog)"
    first = f"{SOMAXCONN} = {most}, and {own}" if now < most else own
    limit = "" if now < most else f"; {SOMAXCONN} = {now} lets it"
    return Cure(
        f"Longer queues: {first}, then restart it{limit}",
        "room for a burst",
        "a program that is stuck keeps its clients waiting for longer",
        {SOMAXCONN: str(most)},
    )
