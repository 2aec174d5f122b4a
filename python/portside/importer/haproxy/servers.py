"""`server` lines to servers: addresses, limits, source addresses, checks; several lines to one.

Lines of a backend with the same address are one instance for Portside: the article's mysql1 and
mysql1_bis, which differ in their source address, become one server with two. The same instance in
several backends is one server too, as long as its keys agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from portside.importer.draft import Keys, differing
from portside.importer.haproxy import reasons
from portside.importer.haproxy.checks import CheckReader
from portside.importer.haproxy.options import (
    SERVER_FLAGS,
    SERVER_VALUED,
    Grammar,
    Option,
    Refused,
    refuse,
)
from portside.importer.haproxy.proxies import Proxy, ServerLine
from portside.importer.haproxy.sections import Statement
from portside.importer.haproxy.values import (
    Address,
    BadValue,
    address,
    duration,
    milliseconds,
    number,
)

_SEND_PROXY: Final = (
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2-ssl",
    "send-proxy-v2-ssl-cn",
)
_KNOWN: Final = frozenset(
    ("weight", "backup", "maxconn", "source", "slowstart", "disabled", "enabled", "tcp-ut",
     "on-marked-down", "usesrc", "interface", *_SEND_PROXY)
)  # fmt: skip


@dataclass(eq=False)
class Instance:
    """One server line as Portside sees it.

    Attributes:
        keys: of the `[[server]]`, without source addresses.
        sources: its source address, or none.
        ports: its range of source ports.
        closes_sessions: on-marked-down shutdown-sessions.
        is_sum: it stands for several of HAProxy's servers, and so does its weight.
    """

    name: str
    address: str
    keys: Keys
    line: Statement
    weight: int = 1
    is_backup: bool = False
    closes_sessions: bool = False
    is_sum: bool = False
    sources: list[str] = field(default_factory=list)
    ports: tuple[int, int] | None = None
    lines: list[Statement] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ServerReader:
    """Reads the servers of one backend.

    Attributes:
        back: the backend or listen.
        client_port: the one port that clients come to, 0 when there are several: a server line
            without a port means it.
        is_lenient: a HAProxy has taken the file.
    """

    back: Proxy
    client_port: int
    is_lenient: bool

    def read(self) -> list[Instance]:
        """The instances that the backend uses, in order.

        Raises:
            Refused: HAProxy would refuse a line.
        """
        found: list[Instance] = []
        names: dict[str, Statement] = {}
        for one in self.back.servers:
            instance = self._instance(one)
            other = names.setdefault(one.statement.words[1], one.statement)
            if other is not one.statement:
                message = f'server "{one.statement.words[1]}" is also in line {other.number}'
                raise Refused(one.statement.problem(message))
            if instance is not None:
                found.append(instance)
        return found

    def _instance(self, one: ServerLine) -> Instance | None:
        line, words = one.statement, list(one.statement.words)
        is_template = line.keyword == "server-template"
        if len(words) < 3 + is_template:
            raise Refused(line.problem(f"a {line.keyword} line needs a name and an address"))
        count = self._template_size(line, words[2]) if is_template else 1
        name, target = words[1], words[2 + is_template]
        options: dict[str, Option] = {}
        grammar = Grammar(SERVER_VALUED, SERVER_FLAGS, self.is_lenient)
        for default in one.defaults:
            grammar.read(default, default.words[1:], options)
        grammar.read(line, words[3 + is_template :], options)
        if "ssl" in options:
            line.dropped(
                "HAProxy begins TLS by itself here, before MySQL's own beginning; let"
                " the clients use MySQL's own TLS, which Portside relays unread"
            )
            return None
        try:
            where = self._address(line, address(target))
        except BadValue as error:
            raise refuse(line, error) from None
        if where is None:
            return None
        for default in one.defaults:
            default.carried("in each server")
        instance = Instance(name, where, {}, line, lines=[line])
        self._fill(instance, options)
        if is_template:
            self._as_template(instance, count)
        return instance

    def _address(self, line: Statement, one: Address) -> str | None:
        if one.kind == "other" or (one.kind == "name" and one.host.startswith("_")):
            line.dropped(f"{one.host} is neither an address, a name nor a path")
            return None
        if one.kind == "any" or one.host in ("0.0.0.0", "::"):
            line.dropped("without an address it means the one that the client asked")
            return None
        if one.kind == "unix" or one.low:
            return one.at(one.low)
        if not self.client_port:
            line.dropped("without a port it means the client's, and there are several")
            return None
        port = self.client_port + (one.shift or 0)
        if not 0 < port < 65536:
            raise Refused(line.problem(f"port {port} does not exist"))
        line.changed(f"the port that clients come to, written out: {port}", "no port")
        return one.at(port)

    def _fill(self, instance: Instance, options: Mapping[str, Option]) -> None:
        keys, line = instance.keys, instance.line
        weight = _of(options, "weight", lambda text: number(text, 0, 256))
        instance.weight = 1 if weight is None else weight
        instance.is_backup = "backup" in options
        limit = _of(options, "maxconn", number)
        if limit:
            keys["max_connections"] = limit
        slow = _of(options, "slowstart", milliseconds)
        if slow:
            keys["slowstart"] = duration(slow)
        silence = _of(options, "tcp-ut", milliseconds)
        if silence:
            keys["source.user_timeout"] = duration(silence)
        self._send_proxy(keys, options)
        action = options.get("on-marked-down")
        instance.closes_sessions = action is not None and action.value == "shutdown-sessions"
        if "disabled" in options:
            instance.weight = 0
            options["disabled"].line.changed(
                'weight = 0: it is checked and gets no sessions until "portside weight"', "disabled"
            )
        source = options.get("source") or self._backend_source()
        if source is not None:
            _source(instance, source, options, is_own="source" in options)
        own_port = instance.address.rpartition(":")[2]
        read = CheckReader(self.back, own_port).read(options)
        keys.update(read.keys)
        line.carried("[[server]]")
        self._note_others(options, read.used)

    def _send_proxy(self, keys: Keys, options: Mapping[str, Option]) -> None:
        name = next((name for name in _SEND_PROXY if name in options), None)
        if name is None:
            return
        keys["send_proxy"] = True
        if name == "send-proxy":
            options[name].line.changed("the header is PROXY v2, which MariaDB reads as well", name)
        elif name != "send-proxy-v2":
            options[name].line.changed("the PROXY v2 header holds addresses only", name)

    def _backend_source(self) -> Option | None:
        line = self.back.settings.get("source")
        if line is None or len(line.words) < 2:
            return None
        line.carried("source.addresses of its servers")
        if len(line.words) > 2:
            line.dropped(_TRANSPARENT, " ".join(line.words[2:]))
        return Option(line.words[1], line)

    def _template_size(self, line: Statement, text: str) -> int:
        low, dash, high = text.partition("-")
        try:
            first = number(low) if dash else 1
            last = number(high if dash else low, 1)
        except BadValue as error:
            raise refuse(line, error) from None
        if last < first:
            raise Refused(line.problem(f'"{text}" is no range'))
        return last - first + 1

    def _as_template(self, instance: Instance, count: int) -> None:
        limit = instance.keys.get("max_connections")
        if isinstance(limit, int):
            instance.keys["max_connections"] = limit * count
        instance.weight *= count
        instance.is_sum = True
        instance.line.changed(
            f"one server with every address of the name instead of {count}: its addresses share"
            " one health and one limit; where they are different instances, write a [[server]] for"
            " each"
        )

    def _note_others(self, options: Mapping[str, Option], used: set[str]) -> None:
        for name in options.keys() - _KNOWN - used:
            reason = reasons.why(reasons.SERVER, [name])
            options[name].line.dropped(reason or "TLS: Portside begins none by itself", name)


_TRANSPARENT: Final = (
    "no transparent mode: the server sees Portside's address; MariaDB and Percona Server take the"
    " client's from a PROXY header (send_proxy = true)"
)


def _source(
    instance: Instance, source: Option, options: Mapping[str, Option], *, is_own: bool
) -> None:
    """Source address and ports; HAProxy has ports on server lines only."""
    line = source.line
    try:
        one = address(source.value)
    except BadValue as error:
        raise refuse(line, error, "source") from None
    for name in ("usesrc", "interface"):
        if is_own and name in options:
            text = _TRANSPARENT if name == "usesrc" else "source.addresses of that interface do it"
            line.dropped(text, f"{name} {options[name].value}")
    if one.kind in ("name", "unix", "other"):
        line.dropped("source addresses are IP addresses", f"source {source.value}")
        return
    is_everywhere = one.kind == "any" or one.host in ("0.0.0.0", "::")
    if not is_everywhere:
        instance.sources = [one.host]
    if one.low:
        low, high = max(one.low, 1024), max(one.high, 1024)
        if low != one.low:
            line.changed("source.ports begin at 1024", f"source {source.value}")
        if is_everywhere:
            line.changed(
                "HAProxy ignores a port range without an address (haproxy#2204); Portside uses it"
                " with the route's address",
                f"source {source.value}",
            )
        instance.ports = low, high


def _of(options: Mapping[str, Option], name: str, convert: Callable[[str], int]) -> int | None:
    option = options.get(name)
    if option is None:
        return None
    try:
        return convert(option.value)
    except BadValue as error:
        raise refuse(option.line, error, name) from None


def merge(instances: Sequence[Instance]) -> list[Instance]:
    """One instance for each address and role, in order: weights and limits add up.

    Lines that differ in their source addresses are what the article does by hand. Where they differ
    in anything else the first one counts, and the others say so.
    """
    first: dict[tuple[str, bool], Instance] = {}
    for one in instances:
        into = first.setdefault((one.address, one.is_backup), one)
        if into is not one:
            _merge(into, one)
    return list(first.values())


def _merge(into: Instance, one: Instance) -> None:
    what = "one server with several source addresses" if one.sources else "one server, its weights"
    into.lines += one.lines
    into.is_sum = True
    for line in (into.line, one.line):
        line.carried(f"merged: {what}")
    into.weight += one.weight
    into.closes_sessions |= one.closes_sessions
    limits = into.keys.get("max_connections"), one.keys.get("max_connections")
    if isinstance(limits[0], int) and isinstance(limits[1], int):
        into.keys["max_connections"] = limits[0] + limits[1]
    elif limits[0] or limits[1]:
        into.keys.pop("max_connections", None)
        one.line.changed("no limit, since one of the merged lines has none", "maxconn")
    if bool(into.sources) != bool(one.sources):
        one.line.changed("all connections come from the source addresses that are named", "source")
    into.ports = _ports(into, one)
    into.sources += [source for source in one.sources if source not in into.sources]
    other = differing(into.keys, one.keys)
    if other:
        one.line.changed(f"{', '.join(other)}: as in line {into.line.number}, one server")


def _ports(into: Instance, one: Instance) -> tuple[int, int] | None:
    """One range for all addresses: HAProxy has one for each line."""
    if into.ports == one.ports:
        return into.ports
    if into.ports is None or one.ports is None:
        one.line.changed("one range of source ports for all its source addresses", "source")
        return into.ports or one.ports
    low, high = max(into.ports[0], one.ports[0]), min(into.ports[1], one.ports[1])
    if into.sources == one.sources or low > high:
        low, high = min(into.ports[0], one.ports[0]), max(into.ports[1], one.ports[1])
    one.line.changed(f"source.ports {low}-{high} for all its source addresses", "source")
    return low, high
