"""ProxySQL's tables to services: servers, replication hostgroups, what they need.

ProxySQL has one port and looks at queries; Portside splits by port, so each hostgroup becomes a
service with a port of its own, and the application says by the port what it wants. In relay mode
what belongs to sharing server connections (users, multiplexing) is named and not carried over; in
pool mode accounts become `[[user]]`. Rules and the cache are carried over in neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from portside.config.units import format_duration
from portside.errors import ConfigError
from portside.importer.draft import (
    Draft,
    Keys,
    Listen,
    Member,
    Names,
    Server,
    Service,
    hoist,
    reduced,
)
from portside.importer.notes import Line
from portside.importer.proxysql.accounts import accounts
from portside.importer.proxysql.hostgroups import PAIR_TABLES, Plan, Row, plans
from portside.importer.proxysql.libconfig import Node
from portside.importer.proxysql.shown import shown
from portside.importer.write import Group, Origin

MONITOR_VARIABLE: Final = "PORTSIDE_MONITOR_PASSWORD"
_POOL: Final = "belongs to shared server connections (pool mode), which a relay has not"
_POOL_HAS_NOT: Final = "Portside's pool has no such setting: docs/pooling.md has those it has"
_TABLES: Final[Mapping[str, str]] = {
    "mysql_query_rules": "no query is routed by its text: the application chooses by the port",
    "mysql_query_rules_fast_routing": "not routed by schema: a service for each schema's port",
    "scheduler": 'a check of your own is Python: [check] type = "python"',
    "proxysql_servers": "no cluster: each Portside decides by its own checks; give all one file",
    "admin_variables": "admin.socket, to which the portside commands speak",
    "pgsql_servers": "PostgreSQL: it stays with ProxySQL",
    "pgsql_users": "PostgreSQL: it stays with ProxySQL",
    "pgsql_variables": "PostgreSQL: it stays with ProxySQL",
    "datadir": "nothing is kept on disk",
    "errorlog": "Portside writes its messages to standard error",
    "restapi": "GET /v1/... on the admin socket",
}
_MS: Final[Mapping[str, str]] = {
    "connect_timeout_server": "timeouts.connect",
    "wait_timeout": "timeouts.idle",
    "connect_timeout_server_max": "timeouts.queue",
    "monitor_ping_interval": "check.interval",
    "monitor_ping_timeout": "check.timeout",
}
_MOST: Final = 2**31 - 1
_POOL_MS: Final = {"connection_max_age_ms": "pool.max_lifetime"}
_POOL_NUMBERS: Final = {"throttle_connections_per_sec_to_hostgroup": "pool.open_rate"}
_NUMBERS: Final[Mapping[str, str]] = {
    "threads": "portside.workers",
    "max_connections": "portside.max_sessions",
    "monitor_ping_max_failures": "check.fall",
}


@dataclass(frozen=True, slots=True)
class Carried:
    """A draft, where it comes from, the lines of its global keys."""

    draft: Draft
    origin: Origin
    key_lines: Mapping[str, Line]
    has_password: bool
    """The monitor's password is asked for in $PORTSIDE_MONITOR_PASSWORD."""


def carry(
    settings: Mapping[str, Node], name: str, port_offset: int = 0, *, pool: bool = False
) -> Carried:
    """The draft of one proxysql.cnf; ``pool``: its services are of pool mode.

    Raises:
        ConfigError: a value that ProxySQL refuses.
    """
    maker = _Maker(settings, name, port_offset, pool)
    maker.make()
    hints = [
        "ProxySQL has one port and looks at queries; here each hostgroup has a port of its own, and"
        " the application chooses by it."
    ]
    hints += _pool_hints(maker.draft) if pool else _RELAY_HINTS
    if maker.has_password:
        hints.append(
            f"The monitor's password is not copied: set ${MONITOR_VARIABLE}, for `check` too."
        )
    origin = Origin(name, hints, [Group("mysql_variables", maker.variable_lines)], maker.groups)
    return Carried(maker.draft, origin, maker.key_lines, maker.has_password)


_RELAY_HINTS: Final = (
    "Clients log in at the database itself: its accounts and GRANTs count, for Portside's"
    " addresses.",
    "Users and passwords are not copied; [[user]] belongs to pool mode (portside import --pool).",
)


def _pool_hints(draft: Draft) -> list[str]:
    variables = [
        f"${value['env']}"
        for account in draft.users
        for value in account.keys.values()
        if isinstance(value, dict)
    ]
    return [
        "Clients log in at Portside, as at ProxySQL; what pins a session to its connection is in"
        " docs/pooling.md. portside check --connect logs in as each account.",
        f"Passwords are not copied: set {', '.join(variables)}, for `check` too.",
    ]


@dataclass
class _Maker:
    settings: Mapping[str, Node]
    name: str
    port_offset: int
    pool: bool
    draft: Draft = field(default_factory=Draft)
    groups: list[Group] = field(default_factory=list)
    key_lines: dict[str, Line] = field(default_factory=dict)
    variable_lines: list[Line] = field(default_factory=list)
    has_password: bool = False
    _variables: dict[str, Row] = field(default_factory=dict)
    _servers: dict[str, Server] = field(default_factory=dict)
    _names: Names = field(default_factory=Names)

    def make(self) -> None:
        rows = {table: self._rows(table) for table in self.settings}
        servers = rows.pop("mysql_servers", [])
        pairs: dict[str, list[Row]] = {
            table: rows.pop(table) for table in PAIR_TABLES if table in rows
        }
        users = rows.pop("mysql_users", [])
        self._read_variables()
        rows.pop("mysql_variables", None)
        if any(
            pairs.values()
        ):  # ProxySQL's own default is monitor, with a password of the same name
            self.draft.keys.setdefault("check.user", "monitor")
        self.has_password = "check.user" in self.draft.keys
        listens = self._listens()
        for plan in plans(servers, pairs, users):
            self._service(plan, listens)
        self.draft.servers = list(self._servers.values())
        hoist(self.draft)
        self._accounts(users)
        for table, left in rows.items():
            for row in left:
                row.line.dropped(_TABLES.get(table, "not known to this importer"))
        for table, own in (("mysql_servers", servers), ("mysql_users", users),
                           *pairs.items(), *rows.items()):  # fmt: skip
            self.groups.append(Group(table, [row.line for row in own]))

    def _accounts(self, users: Sequence[Row]) -> None:
        if self.pool:
            self.draft.users = accounts(users)
            self._pool_max()
            return
        for user in users:
            user.line.dropped("an account of pool mode (--pool); in a relay the database's own"
                              " accounts log in, unseen")  # fmt: skip

    def _pool_max(self) -> None:
        """ProxySQL's limit is each server's own, a pool's is one for all: the largest."""
        limits = {
            limit: server
            for server in self.draft.servers
            if isinstance(limit := server.keys.get("max_connections"), int)
        }
        if limits:
            most = max(limits)
            self.draft.keys["pool.max"] = min(most, _MOST)
            self.key_lines["pool.max"] = limits[most].lines[0]

    def _rows(self, table: str) -> list[Row]:
        node = self.settings[table]
        entries = node.value if isinstance(node.value, list) else [node]
        found = []
        for entry in entries:
            text = f"{table}: {shown(table, entry)}"
            values = entry.value if isinstance(entry.value, dict) else {}
            found.append(Row(Line(self.name, entry.line, text), values))
        return found

    def _read_variables(self) -> None:
        node = self.settings.get("mysql_variables")
        values = node.value if node is not None and isinstance(node.value, dict) else {}
        for written, value in values.items():
            name = written.removeprefix("mysql-")
            line = Line(self.name, value.line, f"{written} = {shown(name, value)}")
            row = Row(line, {"value": value})
            self._variables[name] = row
            self.variable_lines.append(line)
            self._variable(name, row)

    def _variable(self, name: str, row: Row) -> None:
        keys = self.draft.keys
        times = {**_MS, **(_POOL_MS if self.pool else {})}
        numbers = {**_NUMBERS, **(_POOL_NUMBERS if self.pool else {})}
        key = times.get(name) or numbers.get(name)
        if key is not None:
            value = row.number("value")
            if value:
                keys[key] = format_duration(value / 1000) if name in times else min(value, _MOST)
                self.key_lines[key] = row.line
            row.line.carried(key)
        elif name == "monitor_username":
            keys["check.user"] = row.text("value")
            row.line.carried("check.user")
        elif name == "monitor_password":
            row.line.changed(f"not copied: it is asked for in ${MONITOR_VARIABLE}")
        elif name in ("interfaces", "proxy_protocol_networks", "connect_retries_on_failure"):
            row.line.carried("service")
        elif name.startswith("monitor_"):
            row.line.dropped("one check reads all of it: liveness, read_only and lag")
        elif name == "multiplexing" and self.pool:
            if row.text("value") in ("0", "False", "false"):
                row.line.dropped(
                    "ATTENTION, sessions share connections here; what multiplexing = false is, is"
                    " a relay: import without --pool"
                )
            row.line.carried('mode = "pool"')
        else:
            row.line.dropped(_POOL_HAS_NOT if self.pool else _POOL)

    # ---- services

    def _service(self, plan: Plan, listens: Sequence[Listen]) -> None:
        index = len(self.draft.services)
        keys: Keys = {"mode": "pool"} if self.pool else {}
        keys |= {} if plan.require == "none" else {"require": plan.require}
        self._lag(plan, keys)
        if plan.has_one_writer:
            keys["balance"] = "first"
            keys |= {"failback": "auto"} if plan.require == "writable" else {}
        if "connect_retries_on_failure" in self._variables:
            keys["retries"] = min(
                self._variables["connect_retries_on_failure"].number("value"), 100
            )
        networks = self._networks()
        if networks:
            keys["accept_proxy"] = networks
        # A unix socket has no next port: only the first service has it.
        own = [
            _moved(listen, index * _span(listens))
            for listen in listens
            if index == 0 or not listen.address.startswith("unix:")
        ]
        members = self._members(plan)
        service = Service(self._names.free(plan.name), own, members, keys, [plan.line])
        self.draft.services.append(service)

    def _lag(self, plan: Plan, keys: Keys) -> None:
        """The largest lag that one of the reader's servers may have; those with another say so."""
        own = [row for row in plan.rows if row.hostgroup == plan.hostgroup] or plan.rows
        lags = [row.number("max_replication_lag") for row in own]
        if plan.require != "replicating" or not any(lags):
            return
        most = max(lags)
        keys["max_lag"] = f"{most}s"
        for row, lag in zip(own, lags, strict=True):
            if lag != most:
                had = f"{lag}s" if lag else "none"
                row.line.changed(
                    f"max_lag = {most}s of service {plan.name}, one for all its servers, instead of"
                    f" {had}",
                    "max_replication_lag",
                )

    def _members(self, plan: Plan) -> list[Member]:
        weights: dict[str, int] = {}
        chosen: dict[str, Server] = {}
        own: set[str] = set()
        for row in plan.rows:
            server = self._server(row)
            is_own = row.hostgroup == plan.hostgroup
            if is_own:
                own.add(server.name)
            online = row.text("status").upper() in ("", "ONLINE")
            if not online:
                row.line.changed('weight = 0 until "portside weight"', "status")
            weight = row.number("weight", default=1) if online else 0
            if server.name not in weights or is_own:
                weights[server.name] = weight
            chosen[server.name] = server
        small = reduced(list(weights.values()))
        members = [Member(chosen[name], w) for name, w in zip(weights, small, strict=True)]
        if plan.has_one_writer:  # ProxySQL takes the heaviest of the writer hostgroup
            members.sort(key=lambda one: (one.server.name not in own, -one.weight))
            for member in members:
                member.weight = min(member.weight, 1)
                member.backup = member is not members[0]
        return members

    def _server(self, row: Row) -> Server:
        host = row.text("address", "hostname")
        port = row.number("port", default=3306)
        if not host:
            raise ConfigError((row.line.problem("mysql_servers: an address is missing"),))
        bracketed = f"[{host}]" if ":" in host else host
        address = f"{bracketed}:{port}" if port else f"unix:{host}"
        known = self._servers.get(address)
        limit = row.number("max_connections")
        if known is not None:
            if row.line not in known.lines:
                known.lines.append(row.line)
                if limit and "max_connections" in known.keys:
                    known.keys["max_connections"] = int(str(known.keys["max_connections"])) + limit
                    row.line.changed("one limit for all hostgroups, their sum", "max_connections")
            return known
        keys: Keys = {"max_connections": limit} if limit else {}
        server = Server(
            self._names.free(host.strip("/").replace("/", "-")), (address,), keys, [row.line]
        )
        row.line.carried("[[server]]")
        self._servers[address] = server
        for name, why in _SERVER_KEYS.items():
            if row.text(name) in ("", "0", "False"):
                continue
            if name == "use_ssl" and self.pool:
                keys["tls.mode"] = "required"
            else:
                row.line.dropped(why, name)
        return server

    def _listens(self) -> list[Listen]:
        row = self._variables.get("interfaces")
        line = row.line if row is not None else Line(self.name, 1, "interfaces = 0.0.0.0:6033")
        text = row.text("value") if row is not None else "0.0.0.0:6033"
        found = []
        for one in filter(None, (part.strip() for part in text.split(";"))):
            if one.startswith("/"):
                found.append(Listen(f"unix:{one}{'.portside' if self.port_offset else ''}", line))
                continue
            host, _, port = one.rpartition(":")
            if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) + self.port_offset < 65536:
                raise ConfigError((line.problem(f'interfaces: "{one}" has no port'),))
            found.append(Listen(f"{host}:{int(port) + self.port_offset}", line))
        line.changed("the first service has this port, each further one the next port")
        # The IPv6 wildcard is both families.
        both = {one.address[5:] for one in found if one.address.startswith("[::]:")}
        return list(
            {
                one.address: one
                for one in found
                if not (one.address.startswith("0.0.0.0:") and one.address[8:] in both)
            }.values()
        )

    def _networks(self) -> list[str]:
        row = self._variables.get("proxy_protocol_networks")
        text = row.text("value") if row is not None else ""
        parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
        return ["0.0.0.0/0", "::/0"] if parts == ["*"] else parts


_SERVER_KEYS: Final = {
    "compression": "client and server agree on compression by themselves",
    "use_ssl": "ATTENTION, TLS to this server is now the client's to ask for: Portside relays it"
    " unread",
    "max_latency_ms": "a server is not judged by its latency; check.timeout bounds the check",
    "gtid_port": _POOL,
}


def _span(listens: Sequence[Listen]) -> int:
    """How far the next service's ports are away: no two may meet."""
    ports = [int(one.address.rpartition(":")[2]) for one in listens if one.address[:5] != "unix:"]
    return max(ports) - min(ports) + 1 if ports else 0


def _moved(listen: Listen, by: int) -> Listen:
    if listen.address.startswith("unix:"):
        return listen
    host, _, port = listen.address.rpartition(":")
    return Listen(f"{host}:{int(port) + by}", listen.line)
