"""A draft as portside.toml: keys for Portside, and as comments every line that is not one of them.

The comments stand where a reader looks for them: what concerns the process at the top, a server's
lines above its `[[server]]`, a service's above its `[[service]]`, what stays at the end. Each line
is printed once. Pure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from portside.config.dump import write_value
from portside.importer.draft import Account, Draft, Keys, Listen, Member, Server, Service
from portside.importer.notes import Line, Outcome, Part, counts, printable

_WIDTH: Final = 100
_ORDER: Final = ("portside", "source", "close", "timeouts", "check", "pool", "log")
_WORDS: Final = {
    Outcome.CHANGED: "changed",
    Outcome.DROPPED: "not carried over",
    Outcome.STAYS: "stays",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that belong together, with what a reader calls them."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the draft came from.

    Attributes:
        what: what the first line says: "haproxy.cfg".
        hints: sentences for the head of the file.
        top: lines of the whole process.
        rest: lines of what is no service; those already printed are left out.
        has_files: several files: their names stand before line numbers.
    """

    what: str
    hints: Sequence[str]
    top: Sequence[Group]
    rest: Sequence[Group]
    has_files: bool = False

    @property
    def lines(self) -> list[Line]:
        """Every line once, in order."""
        found = {id(line): line for group in (*self.top, *self.rest) for line in group.lines}
        return list(found.values())


def toml(draft: Draft, origin: Origin) -> str:
    """The text of portside.toml."""
    writer = _Writer(origin)
    writer.head()
    for group in origin.top:
        writer.group(group)
    writer.tables(draft.keys)
    for server in draft.servers:
        writer.server(server)
    for service in draft.services:
        writer.service(service)
    for account in draft.users:
        writer.account(account)
    for group in origin.rest:
        writer.group(group)
    return "\n".join(writer.out).strip() + "\n"


class _Writer:
    def __init__(self, origin: Origin) -> None:
        self.out: list[str] = []
        self._origin = origin
        self._printed: set[int] = set()

    def head(self) -> None:
        found = counts(self._origin.lines)
        self._comment(f"Imported by portside import from {self._origin.what}.")
        self._comment(
            f"Lines carried over: {found[Outcome.CARRIED]}, changed in meaning:"
            f" {found[Outcome.CHANGED]}, not carried over: {found[Outcome.DROPPED]}, staying where"
            f" they are: {found[Outcome.STAYS]}. All but the first kind stand below as comments,"
            " with the reason."
        )
        for hint in self._origin.hints:
            self._comment(hint)

    def group(self, group: Group) -> None:
        lines = [line for line in group.lines if self._has_news(line)]
        if lines:
            self.out += ["", f"# ---- {printable(group.title)}"]
            self._lines(lines)

    def tables(self, keys: Keys) -> None:
        for table in _ORDER:
            prefix = f"{table}."
            own = {key.removeprefix(prefix): keys[key] for key in keys if key.startswith(prefix)}
            if own:
                self.out += ["", f"[{table}]"]
                self.out += [f"{key} = {write_value(value)}" for key, value in own.items()]

    def server(self, server: Server) -> None:
        self.out.append("")
        self._lines([line for line in server.lines if self._has_news(line)])
        places = ", ".join(self._place(line) for line in _once(server.lines))
        many = "s" if len(list(_once(server.lines))) > 1 else ""
        self.out.append(f"[[server]]  # line{many} {places}")
        self.out.append(f"name = {write_value(server.name)}")
        addresses = list(server.addresses)
        address = addresses[0] if len(addresses) == 1 else addresses
        self.out.append(f"address = {write_value(address)}")
        self._keys(server.keys)

    def service(self, service: Service) -> None:
        self.out.append("")
        self._lines([line for line in service.lines if self._has_news(line)])
        self.out.append("[[service]]")
        self.out.append(f"name = {write_value(service.name)}")
        listens = [_listen(one) for one in service.listen]
        self._list("listen", listens[0] if len(listens) == 1 else listens)
        self._keys(service.keys)
        self._list("servers", [_member(member) for member in service.members])

    def account(self, account: Account) -> None:
        self.out.append("")
        self._lines([line for line in account.lines if self._has_news(line)])
        self.out += ["[[user]]", f"name = {write_value(account.name)}"]
        self._keys(account.keys)

    def _keys(self, keys: Keys) -> None:
        """Plain keys, then inline tables: `check.interval` belongs into `check = { ... }`."""
        tables: dict[str, dict[str, object]] = {}
        for key, value in keys.items():
            table, dot, name = key.partition(".")
            if dot:
                tables.setdefault(table, {})[name] = value
            else:
                self.out.append(f"{key} = {write_value(value)}")
        for table, values in tables.items():
            self.out.append(f"{table} = {write_value(values)}")

    def _list(self, key: str, value: object) -> None:
        text = f"{key} = {write_value(value)}"
        if len(text) <= _WIDTH or not isinstance(value, list):
            self.out.append(text)
        else:
            entries = [f"    {write_value(item)}," for item in value]
            self.out += [f"{key} = [", *entries, "]"]

    # ---- comments

    def _has_news(self, line: Line) -> bool:
        return id(line) not in self._printed and line.outcome not in (None, Outcome.CARRIED)

    def _lines(self, lines: Sequence[Line]) -> None:
        """Lines in a row with the same fate share its reason."""
        for at, line in enumerate(lines):
            self._printed.add(id(line))
            self.out.append(f"# {self._place(line)}: {line.text}")
            news = _news(line)
            if at + 1 < len(lines) and _news(lines[at + 1]) == news:
                continue
            for part in news:
                about = f" ({printable(part.what)})" if part.what else ""
                self._comment(f"{_WORDS[part.outcome]}{about}: {part.note}", "#    ")

    def _comment(self, text: str, indent: str = "# ") -> None:
        width = _WIDTH - len(indent)
        wrapped = textwrap.wrap(printable(text), width, break_on_hyphens=False) or [""]
        self.out += [f"{indent}{part}" for part in wrapped]

    def _place(self, line: Line) -> str:
        return f"{line.file}:{line.number}" if self._origin.has_files else str(line.number)


def _news(line: Line) -> list[Part]:
    return [part for part in line.parts if part.outcome is not Outcome.CARRIED]


def _once(lines: Iterable[Line]) -> Iterable[Line]:
    return {(line.file, line.number): line for line in lines}.values()


def _listen(one: Listen) -> object:
    return {"address": one.address, **dict(one.keys)} if one.keys else one.address


def _member(member: Member) -> object:
    table: dict[str, object] = {"name": member.server.name}
    if member.weight != 1:
        table["weight"] = member.weight
    if member.backup:
        table["backup"] = True
    return table if len(table) > 1 else member.server.name
