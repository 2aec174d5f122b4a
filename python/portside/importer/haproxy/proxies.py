"""`defaults`, `frontend`, `backend` and `listen` with what they inherit, still as HAProxy's lines.

A proxy takes the settings of the `defaults` that it names with `from`, else of the last one above
it. `default-server` counts for the server lines below it. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from portside.errors import Problem
from portside.importer.haproxy.sections import Section, Statement

# HAProxy 1's names, still seen.
_OLD: Final = {
    "contimeout": "timeout connect",
    "clitimeout": "timeout client",
    "srvtimeout": "timeout server",
}
# Lines of which there may be several; each list is kept in order.
_LISTS: Final = frozenset(
    [
        "acl",
        "bind",
        "default-server",
        "server",
        "server-template",
        "tcp-check",
        "tcp-request",
        "use_backend",
    ]
)
_TWO_WORDS: Final = frozenset(("option", "timeout", "stats", "rate-limit", "email-alert"))


@dataclass(frozen=True, slots=True)
class ServerLine:
    """A `server` or `server-template` line and the `default-server` lines that it inherits."""

    statement: Statement
    defaults: tuple[Statement, ...]


@dataclass(eq=False, slots=True)
class Proxy:
    """One section that carries connections, or the defaults of such.

    Attributes:
        settings: "timeout connect", "option nolinger", "balance" -> the line in force.
        lists: keyword -> its lines, in order.
        servers: server lines, in order.
    """

    section: Section
    settings: dict[str, Statement] = field(default_factory=dict)
    lists: dict[str, list[Statement]] = field(default_factory=dict)
    servers: list[ServerLine] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name."""
        return self.section.name

    @property
    def mode(self) -> str:
        """Tcp unless it says otherwise."""
        return self.word("mode") or "tcp"

    @property
    def is_disabled(self) -> bool:
        """Whether HAProxy does not start it."""
        return "disabled" in self.settings

    def word(self, key: str) -> str:
        """The first argument of a setting, "" without one."""
        statement = self.settings.get(key)
        skipped = len(key.split())
        words = statement.words if statement else ()
        return words[skipped] if len(words) > skipped else ""

    def has(self, option: str) -> Statement | None:
        """The line of an `option` that is on."""
        return self.settings.get(f"option {option}")

    def inherit(self, base: Proxy) -> None:
        """Starts from the settings of a `defaults` section."""
        self.settings = dict(base.settings)
        self.lists = {key: list(lines) for key, lines in base.lists.items()}

    def take(self, line: Statement) -> None:
        """Adds one line of the section."""
        words = line.words
        if words[0] in ("no", "default") and words[1:2] == ("option",) and len(words) > 2:
            off = self.settings.pop(f"option {words[2]}", None)
            line.carried("" if off else "it is off anyway")
        elif words[0] == "no" and words[1:2] == ("log",):
            self.settings.pop("log", None)
            line.carried()
        elif words[0] in _LISTS:
            if words[0] in ("server", "server-template"):
                defaults = tuple(self.lists.get("default-server", ()))
                self.servers.append(ServerLine(line, defaults))
            else:
                self.lists.setdefault(words[0], []).append(line)
        elif words[0] == "enabled":
            self.settings.pop("disabled", None)
            line.carried()
        else:
            key = _OLD.get(words[0], words[0])
            if words[0] in _TWO_WORDS and len(words) > 1:
                key = f"{words[0]} {words[1]}"
            if words[0] in _OLD:
                line.words = (*key.split(), *words[1:])
            self.settings.pop(key, None)  # the last one of a kind also counts as the last in order
            self.settings[key] = line


@dataclass(frozen=True, slots=True)
class Proxies:
    """Every section that carries connections, and what is wrong with how they name each other."""

    defaults: list[Proxy]
    proxies: list[Proxy]
    problems: list[Problem]


def collect(sections: Iterable[Section]) -> Proxies:
    """The proxies of a file, each with what it inherits."""
    found = Proxies([], [], [])
    named: dict[str, Proxy] = {}
    last: Proxy | None = None
    seen: dict[tuple[str, str], Section] = {}
    for section in sections:
        if section.kind not in ("defaults", "frontend", "backend", "listen"):
            continue
        proxy = Proxy(section)
        base = named.get(section.base) if section.base else last
        if section.base and base is None:
            message = f'there is no "defaults {section.base}" above'
            found.problems.append(section.head.problem(message))
        if base is not None and (section.kind != "defaults" or section.base):
            proxy.inherit(base)
        for line in section.statements:
            proxy.take(line)
        if section.kind == "defaults":
            found.defaults.append(proxy)
            last = proxy
            if section.name:
                named[section.name] = proxy
            continue
        found.proxies.append(proxy)
        found.problems.extend(_taken(section, seen))
    return found


def _taken(section: Section, seen: dict[tuple[str, str], Section]) -> list[Problem]:
    """A frontend and a backend may share a name; two of a kind, or one with a listen, may not."""
    sides = {"frontend": ("frontend",), "backend": ("backend",)}
    problems: list[Problem] = []
    for side in sides.get(section.kind, ("frontend", "backend")):
        other = seen.setdefault((side, section.name), section)
        if other is not section and not problems:
            message = f'"{other.title}" of line {other.head.number} has this name already'
            problems.append(section.head.problem(message))
    return problems
