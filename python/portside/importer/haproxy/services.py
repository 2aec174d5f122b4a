"""Frontends with their backends, and listens, to services; the servers behind them to a catalogue.

What a proxy says about itself is judged here, keyword by keyword; binds, servers, checks and access
rules have files of their own. A proxy that cannot be a service says so in each of its lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from portside.errors import Problem
from portside.importer.draft import (
    Draft,
    Keys,
    Listen,
    Member,
    Names,
    Server,
    Service,
    differing,
    reduced,
)
from portside.importer.haproxy import access
from portside.importer.haproxy.binds import BindReader, Bound
from portside.importer.haproxy.checks import OTHER_PROTOCOLS, kind_of
from portside.importer.haproxy.options import Refused
from portside.importer.haproxy.proxies import Proxies, Proxy
from portside.importer.haproxy.reasons import http_note
from portside.importer.haproxy.sections import Section, Statement
from portside.importer.haproxy.servers import Instance, ServerReader, merge
from portside.importer.haproxy.settings import ServiceKeys
from portside.importer.notes import Line

# Ports of other protocols: a TCP proxy whose every server has one of them is not MySQL's.
_OTHER_PORTS: Final = {
    22: "SSH", 25: "SMTP", 53: "DNS", 80: "HTTP", 110: "POP3", 143: "IMAP", 389: "LDAP",
    443: "HTTPS", 465: "SMTP", 587: "SMTP", 636: "LDAP", 993: "IMAP", 995: "POP3", 1433: "MSSQL",
    1521: "Oracle", 1883: "MQTT", 2181: "ZooKeeper", 3389: "RDP", 5432: "PostgreSQL", 5671: "AMQP",
    5672: "AMQP", 6379: "Redis", 6443: "Kubernetes", 8080: "HTTP", 8443: "HTTPS", 9092: "Kafka",
    9200: "Elasticsearch", 11211: "memcached", 26379: "Redis", 27017: "MongoDB",
}  # fmt: skip


@dataclass
class Builder:
    """Makes the draft; `problems` are lines that HAProxy would refuse."""

    binds: BindReader
    draft: Draft
    problems: list[Problem] = field(default_factory=list)
    _names: Names = field(default_factory=Names)
    _catalogue: _Catalogue = field(init=False)
    _used: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._catalogue = _Catalogue()

    def build(self, found: Proxies) -> None:
        """Adds every proxy that can be a service."""
        backs = {one.name: one for one in found.proxies if one.section.kind != "frontend"}
        for front in found.proxies:
            if front.section.kind != "backend":
                try:
                    self._front(front, backs)
                except Refused as error:
                    self.problems.append(error.problem)
        self.draft.servers = self._catalogue.servers
        for one in found.proxies:
            if one.section.kind == "backend" and id(one) not in self._used:
                self._backend_alone(one)

    def _front(self, front: Proxy, backs: dict[str, Proxy]) -> None:
        if front.is_disabled:
            _all(front.section, "disabled: HAProxy does not start it", Line.dropped)
            return
        if front.mode != "tcp":
            note = http_note() if front.mode == "http" else f"mode {front.mode}: not MySQL"
            _all(front.section, note, Line.stays)
            return
        bounds = self.binds.read(front)
        back = self._back(front, backs)
        if back is None or not bounds:
            self._take_apart(front, "no backend" if bounds else "no address to listen on")
            return
        ports = {port for bound in bounds for port in bound.ports}
        client_port = ports.pop() if len(ports) == 1 else 0
        reader = ServerReader(back, client_port, self.binds.is_lenient)
        instances = merge(reader.read())
        other = _other_protocol(back, instances)
        if other:
            for section in dict.fromkeys((front.section, back.section)):
                _all(section, f"{other}, not MySQL: it stays with HAProxy", Line.stays)
            self._used.add(id(back))
            return
        if not instances:
            self._take_apart(front, "no server that can be carried")
            return
        self._used.add(id(back))
        self._services(front, back, bounds, instances)

    def _back(self, front: Proxy, backs: dict[str, Proxy]) -> Proxy | None:
        """The backend that sessions go to; a listen's own servers only where it names no other."""
        wanted = front.settings.get("default_backend")
        for line in front.lists.get("use_backend", ()):
            if len(line.words) == 2:
                wanted = line
                break
            line.dropped(
                "ATTENTION, these sessions go to the default backend: nothing is chosen by a"
                " condition; a backend needs a service with a port of its own"
            )
        if wanted is None or len(wanted.words) < 2:
            return front if front.section.kind == "listen" else None
        back = backs.get(wanted.words[1])
        if back is None:
            raise Refused(wanted.problem(f'there is no backend "{wanted.words[1]}"'))
        wanted.carried("service servers")
        if front.section.kind == "listen" and back is not front:
            for one in front.servers:
                one.statement.dropped(f"HAProxy never uses it: sessions go to backend {back.name}")
        return back

    def _services(
        self, front: Proxy, back: Proxy, bounds: Sequence[Bound], instances: Sequence[Instance]
    ) -> None:
        with_proxy = [bound for bound in bounds if bound.accepts_proxy]
        plain = [bound for bound in bounds if not bound.accepts_proxy]
        keys = ServiceKeys(front, back, instances).read(bounds)
        members = self._members(back, instances, keys)
        sections = dict.fromkeys((front.section, back.section))
        lines: list[Line] = [line for one in sections for line in (one.head, *one.lines)]
        for section in sections:
            section.head.carried("[[service]]")
        for group in filter(None, (plain, with_proxy)):
            takes_proxy = group is with_proxy
            suffix = "-proxy" if takes_proxy and plain else ""
            own = {**keys, **_access(front, takes_proxy, suffix)}
            name = self._names.free(f"{front.name}{suffix}", f"{front.name}{suffix}-service")
            listen = _without_double(group)
            service = Service(name, listen, [Member(**vars(m)) for m in members], own, lines)
            self.draft.services.append(service)

    def _members(self, back: Proxy, instances: Sequence[Instance], keys: Keys) -> list[Member]:
        weights = [one.weight for one in instances]
        if any(one.is_sum for one in instances):
            weights = reduced(weights)
        members: list[Member] = []
        for one, weight in zip(instances, weights, strict=True):
            server = self._catalogue.server(one, back)
            if any(member.server is server for member in members):
                one.line.dropped("the same server is in this service already")
                continue
            members.append(Member(server, weight, one.is_backup))
        if all(member.backup for member in members):
            for member in members:
                member.backup = False
            for one in instances:
                one.line.changed("no backup, since there is nothing else", "backup")
            keys.pop("failback", None)
        return members

    def _take_apart(self, front: Proxy, why: str) -> None:
        _all(front.section, f"not a service: {why}", Line.dropped)

    def _backend_alone(self, back: Proxy) -> None:
        if back.mode != "tcp":
            _all(back.section, http_note(), Line.stays)
        else:
            _all(back.section, "no frontend that is carried uses this backend", Line.dropped)


class _Catalogue:
    """Servers by address; one for all backends whose keys agree."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self._by_address: dict[str, list[tuple[Server, set[str]]]] = {}
        self._names = Names()

    def server(self, one: Instance, back: Proxy) -> Server:
        """The `[[server]]` for an instance of a backend."""
        keys = dict(one.keys)
        if one.sources:
            keys["source.addresses"] = list(one.sources)
        if one.ports:
            keys["source.ports"] = f"{one.ports[0]}-{one.ports[1]}"
        known = self._by_address.setdefault(one.address, [])
        for server, users in known:
            if not differing(server.keys, keys):
                if back.name not in users:
                    _share(server, keys, one)
                    users.add(back.name)
                    server.lines += one.lines
                return server
        name = self._names.free(one.name, f"{back.name}-{one.name}")
        server = Server(name, (one.address,), keys, list(one.lines))
        if known:
            other = known[0][0]
            keys_text = ", ".join(differing(other.keys, keys))
            one.line.changed(
                f'"{name}", beside "{other.name}" of line {other.lines[0].number}, which is the'
                f" same server with other keys ({keys_text}): make them alike to have one"
            )
        elif name != one.name:
            one.line.changed(f'called "{name}": another server has this name', one.name)
        self.servers.append(server)
        known.append((server, {back.name}))
        return server


def _access(front: Proxy, takes_proxy: bool, suffix: str) -> Keys:
    """Who may come in; the plain listeners of a frontend may have rules that the others cannot."""
    who = f"service {front.name}{suffix}" if suffix else "this service"
    rules = access.read(front, takes_proxy=takes_proxy, who=who)
    proxied = list(access.EVERYBODY) if takes_proxy else rules.accept_proxy
    lists = {"allow": rules.allow, "deny": rules.deny, "accept_proxy": proxied}
    return {key: list(dict.fromkeys(networks)) for key, networks in lists.items() if networks}


def _share(server: Server, keys: Keys, one: Instance) -> None:
    """HAProxy's maxconn counts for each backend, Portside's for the server."""
    mine, theirs = server.keys.get("max_connections"), keys.get("max_connections")
    if isinstance(mine, int) and isinstance(theirs, int):
        server.keys["max_connections"] = mine + theirs
        one.line.changed("one limit for every service, the sum of the backends'", "maxconn")
    elif mine or theirs:
        server.keys.pop("max_connections", None)
        one.line.changed("no limit, since another backend sets none for this server", "maxconn")


def _without_double(bounds: Sequence[Bound]) -> list[Listen]:
    """Without the IPv4 wildcard where the IPv6 one, which is both families, has the same port."""
    listens = [listen for bound in bounds for listen in bound.listens]
    both = {one.address.removeprefix("[::]:") for one in listens if one.address[:5] == "[::]:"}
    found: dict[str, Listen] = {}
    for one in listens:
        if one.address.startswith("0.0.0.0:") and one.address[8:] in both:
            one.line.carried(f"[::]:{one.address[8:]} listens on both families")
        else:
            found.setdefault(one.address, one)
    return list(found.values())


def _other_protocol(back: Proxy, instances: Sequence[Instance]) -> str:
    """The protocol that the check or the ports speak of, "" where it may be MySQL."""
    kind = kind_of(back)
    if kind is not None and kind[0] in OTHER_PROTOCOLS:
        return OTHER_PROTOCOLS[kind[0]]
    if kind is not None and kind[0] == "mysql-check":
        return ""
    ports = {one.address.rpartition(":")[2] for one in instances}
    names = {_OTHER_PORTS.get(int(port)) if port.isdigit() else None for port in ports}
    return (names.pop() or "") if len(names) == 1 else ""


def _all(section: Section, note: str, fate: Callable[[Statement, str], None]) -> None:
    for line in (section.head, *section.lines):
        if line.words:
            line.parts.clear()
            fate(line, note)
