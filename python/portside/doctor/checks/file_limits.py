"""Open files: each socket is one, per process and on the whole host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from portside.doctor.facts import Facts, whole
from portside.doctor.finding import Cure, Finding, Severity

_WARN: Final = 0.8
_FULL: Final = 0.97
_MOST: Final = 3


def check(facts: Facts) -> Iterator[Finding]:
    """A process or the host near its limit."""
    near = [each for each in facts.processes if each.fill >= _WARN]
    for each in sorted(near, key=lambda one: -one.fill)[:_MOST]:
        yield Finding(
            id="file-limit",
            severity=_severity(each.fill),
            title=f"{each.name} (pid {each.pid}) has {each.files:,} of {each.limit:,} files open"
            f" ({100 * each.fill:.0f} %): then accept() and socket() fail with EMFILE",
            cures=(
                Cure(
                    "A larger limit: LimitNOFILE= in its systemd unit, or limits.conf; then"
                    " restart it",
                    "one file per client, two on a proxy",
                    f"none known up to fs.nr_open = {facts.number('fs.nr_open', 1048576):,}",
                ),
                Cure(
                    "Look whether it leaks: ls -l /proc/" + str(each.pid) + "/fd | wc -l, twice",
                    "a leak is not cured by a limit",
                    "none known",
                ),
            ),
            source="getrlimit(2)",
        )
    used = whole(facts.sysctls.get("fs.file-nr", "").partition(" ")[0]) or 0
    most = facts.number("fs.file-max")
    if most and used >= most * _WARN:
        yield Finding(
            id="file-max",
            severity=_severity(used / most),
            title=f"the host has {used:,} of {most:,} files open ({100 * used / most:.0f} %): at"
            " the limit every program fails with ENFILE",
            cures=(
                Cure(
                    f"fs.file-max = {most * 2}",
                    "twice the files",
                    "kernel memory for each",
                    {"fs.file-max": str(most * 2)},
                ),
            ),
            source="proc(5)",
        )


def _severity(fill: float) -> Severity:
    return Severity.CRITICAL if fill >= _FULL else Severity.WARNING
