"""CLOSE_WAIT: the other side has closed, and a program here has not noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts, State
from portside.doctor.finding import Cure, Finding, Severity

_MANY: Final = 50
_SHARE: Final = 0.05  # of the sockets there: a busy program always has some on their way
_CRITICAL: Final = 0.5  # of a program's files
_MOST: Final = 3


def check(facts: Facts) -> Iterator[Finding]:
    """Pairs with many that stay; a program that closes a moment later always has some."""
    flows = facts.sockets.flows if facts.sockets else ()
    leaky: dict[str, int] = {}
    alive: dict[str, int] = {}
    for flow in flows:
        # Clients of a listener are one leak, however many they are.
        name = f"clients of {flow.ours}" if flow.incoming else f"{flow.ours} -> {flow.theirs}"
        leaky[name] = leaky.get(name, 0) + flow.count(State.CLOSE_WAIT) - flow.closed_soon
        alive[name] = alive.get(name, 0) + flow.count() - flow.count(State.TIME_WAIT)
    owners = [each for each in facts.processes if each.close_wait]
    for name, count in sorted(leaky.items(), key=lambda each: -each[1])[:_MOST]:
        if count < _MANY or count < alive[name] * _SHARE:
            continue
        whose = ", ".join(f"{each.name} (pid {each.pid})" for each in owners[:2])
        is_fatal = any(each.close_wait >= each.limit * _CRITICAL for each in owners)
        yield Finding(
            id="close-wait",
            severity=Severity.CRITICAL if is_fatal else Severity.WARNING,
            title=f"{name}: {count:,} sockets in CLOSE_WAIT, the other side has closed and"
            f" {whose or 'a program here'} has not",
            evidence=tuple(
                f"{each.name} (pid {each.pid}): {each.close_wait:,} in CLOSE_WAIT,"
                f" {each.files:,} of {each.limit:,} files open"
                for each in owners
            )
            or ("whose they are: run it as root",),
            cures=(
                Cure(
                    "Mend or restart the program: it must read until the end and close",
                    "files and ports come back",
                    "a restart cuts its sessions",
                ),
                Cure(
                    "No sysctl helps: CLOSE_WAIT has no timeout",
                    "saves the search",
                    "none known",
                ),
            ),
            source="tcp(7); RFC 9293",
        )
