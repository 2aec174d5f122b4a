"""The `global` section: what concerns the whole process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from portside.errors import Problem
from portside.importer.draft import Keys
from portside.importer.haproxy.binds import UnixBind, read_unix_bind
from portside.importer.haproxy.sections import Section, Statement
from portside.importer.haproxy.values import BadValue, duration, milliseconds, number


@dataclass(slots=True)
class Process:
    """Keys of the global tables, the lines they come from, and what `unix-bind` says."""

    keys: Keys = field(default_factory=dict)
    lines: dict[str, Statement] = field(default_factory=dict)
    unix: UnixBind = field(default_factory=UnixBind)
    problems: list[Problem] = field(default_factory=list)


def read(sections: Iterable[Section]) -> Process:
    """What the `global` sections say, the last word counting."""
    found = Process()
    for section in sections:
        if section.kind == "global":
            section.head.carried()
            for line in section.statements:
                try:
                    _take(line, found)
                except BadValue as error:
                    found.problems.append(line.problem(f"{line.keyword}: {error}"))
    return found


def _take(line: Statement, found: Process) -> None:
    keyword, value = line.keyword, line.words[1] if len(line.words) > 1 else ""
    key = ""
    if keyword == "maxconn":
        found.keys[key := "portside.max_sessions"] = number(value, 1)
    elif keyword == "nbthread":
        found.keys[key := "portside.workers"] = number(value, 1, 1024)
    elif keyword == "hard-stop-after":
        found.keys[key := "timeouts.drain"] = duration(milliseconds(value))
    elif keyword == "unix-bind":
        found.unix = read_unix_bind(line)
    if key:
        found.lines[key] = line
        line.carried(f"[{key.replace('.', '] ')}")
