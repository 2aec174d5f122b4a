"""A sysctl.d file of what the findings recommend, the reason above each line. Pure."""

from __future__ import annotations

import textwrap
from typing import Final

from portside.doctor.checks.port_range import RESERVED, spans
from portside.doctor.pairs import reserved_ports
from portside.doctor.report import Report

_WIDTH: Final = 100


def sysctl_file(report: Report) -> str:
    """The file's text; settings that are in force already are left out.

    Where two findings want the same key the worse one's value stands; lists of reserved ports are
    united.
    """
    facts = report.facts
    wanted: dict[str, tuple[str, str]] = {}
    for finding in report.findings:
        for cure in finding.cures:
            for key, value in cure.sysctls.items():
                if key == RESERVED and key in wanted:
                    wanted[key] = (_united(wanted[key][0], value), wanted[key][1])
                why = f"{finding.id}: {cure.action}. Effect: {cure.effect}. Danger: {cure.danger}."
                wanted.setdefault(key, (value, why))
    lines = [
        f"# portside doctor on {facts.host}, Linux {facts.kernel}: what it recommends.",
        "# Put it into /etc/sysctl.d/90-portside-doctor.conf, then: sysctl --system",
    ]
    count, last = 0, ""
    for key, (value, why) in wanted.items():
        if facts.sysctls.get(key) == value:
            continue
        count += 1
        if why != last:
            lines += ["", *textwrap.wrap(why, _WIDTH, initial_indent="# ", subsequent_indent="# ")]
            last = why
        lines.append(f"# now: {facts.sysctls.get(key) or 'none'}")
        lines.append(f"{key} = {value}")
    if not count:
        lines += ["", "# Nothing: every setting is as recommended."]
    return "\n".join(lines) + "\n"


def _united(one: str, other: str) -> str:
    listed = reserved_ports({RESERVED: f"{one},{other}"})
    return spans(port for first, last in listed for port in range(first, last + 1))
