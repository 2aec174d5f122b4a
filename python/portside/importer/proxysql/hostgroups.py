"""Which services the hostgroups become, in the order of their ports: where writes go comes first.

A pair of a writer and a reader hostgroup is two services, any other hostgroup is one. Decides only;
`carry` makes the services. Source: ProxySQL's main_runtime documentation, mysql_*_hostgroups.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from portside.errors import ConfigError
from portside.importer.notes import Line
from portside.importer.proxysql.libconfig import Node

REPLICATION: Final = "mysql_replication_hostgroups"
_GALERA: Final = "mysql_galera_hostgroups"
_AURORA: Final = "mysql_aws_aurora_hostgroups"
PAIR_TABLES: Final = (REPLICATION, _GALERA, "mysql_group_replication_hostgroups", _AURORA)
"""Tables whose rows name a writer and a reader hostgroup."""
_NO_HOSTGROUP: Final = -1
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of a table and the line that it begins in."""

    line: Line
    values: Mapping[str, Node]

    def text(self, *names: str) -> str:
        """The first of these that is there, as a text; else ""."""
        node = next((self.values[name] for name in names if name in self.values), None)
        return "" if node is None else str(node.value)

    def number(self, name: str, *others: str, default: int = 0) -> int:
        """The same as a whole number.

        Raises:
            ConfigError: it is none.
        """
        text = self.text(name, *others)
        if not text:
            return default
        if not re.fullmatch(r"[0-9]{1,18}", text):
            short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
            raise ConfigError((self.line.problem(f'{name}: "{short}" is no whole number'),))
        return int(text)

    @property
    def hostgroup(self) -> int:
        """Of a server."""
        return self.number("hostgroup", "hostgroup_id")


@dataclass(frozen=True, slots=True)
class Plan:
    """One service.

    Attributes:
        rows: of its servers; those of `hostgroup` say the weights.
        require: as in a service.
        line: whose comments stand above it.
        is_writer: it has to be on ProxySQL's own port.
        has_one_writer: one server at a time, the others are backups.
    """

    name: str
    hostgroup: int
    rows: Sequence[Row]
    require: str
    line: Line
    is_writer: bool = False
    has_one_writer: bool = False


def plans(
    servers: Sequence[Row], pairs: Mapping[str, Sequence[Row]], users: Sequence[Row]
) -> list[Plan]:
    """The services in the order of their ports: writers, then what most users come to by default.

    Args:
        servers: rows of mysql_servers.
        pairs: table of PAIR_TABLES -> its rows.
        users: rows of mysql_users; those who would meet another service say so.

    Raises:
        ConfigError: a pair without two hostgroups.
    """
    by_group: dict[int, list[Row]] = {}
    for row in servers:
        by_group.setdefault(row.hostgroup, []).append(row)
    found: list[Plan] = []
    inactive = []
    count = sum(len(rows) for rows in pairs.values())
    for table, rows in pairs.items():
        for pair in rows:
            if pair.text("active") in ("0", "False"):
                inactive.append(pair)
                pair.line.dropped("active = 0: ProxySQL does not use it")
                continue
            suffix = "" if count == 1 else f"-{pair.number('writer_hostgroup')}"
            found += _pair(table, pair, by_group, suffix)
    taken = {plan.hostgroup for plan in found} | {
        pair.number(name)
        for rows in pairs.values()
        for pair in rows
        for name in ("backup_writer_hostgroup", "offline_hostgroup")
        if name in pair.values and pair not in inactive
    }
    for group, own in by_group.items():
        if group not in taken:
            found.append(Plan(f"hostgroup-{group}", group, own, "none", own[0].line))
    defaults = Counter(user.number("default_hostgroup") for user in users)
    found.sort(key=lambda plan: (not plan.is_writer, -defaults[plan.hostgroup]))
    _tell_users(found, users)
    return found


def _pair(table: str, pair: Row, by_group: Mapping[int, Sequence[Row]], suffix: str) -> list[Plan]:
    writer = pair.number("writer_hostgroup", default=_NO_HOSTGROUP)
    reader = pair.number("reader_hostgroup", default=_NO_HOSTGROUP)
    if writer in (_NO_HOSTGROUP, reader) or reader == _NO_HOSTGROUP:
        message = f"{table} needs writer_hostgroup and reader_hostgroup, two different ones"
        raise ConfigError((pair.line.problem(message),))
    backup = pair.number("backup_writer_hostgroup", default=_NO_HOSTGROUP)
    own = [row for group in (writer, backup, reader) for row in by_group.get(group, ())]
    if not own:
        pair.line.dropped("no server is in its hostgroups")
        return []
    is_galera = table == _GALERA
    has_one = table == _AURORA or (table != REPLICATION and _writers(pair) == 1)
    is_plain = table == REPLICATION
    _tell(table, pair, has_one=has_one)
    write = "none" if is_galera else "writable"
    read = "none" if is_galera else "replicating"
    return [
        Plan(f"write{suffix}", writer, own, write, pair.line, True, has_one and not is_plain),
        Plan(f"read{suffix}", reader, own, read, pair.line),
    ]


def _writers(pair: Row) -> int:
    return pair.number("max_writers", default=1)


def _tell(table: str, pair: Row, *, has_one: bool) -> None:
    if table == REPLICATION:
        pair.line.carried('require = "writable" and "replicating"')
        return
    if table == _GALERA:
        form = (
            "one node takes the writes and the others are its backups, in order (a backup above its"
            " max_connections passes sessions to the next); a node that was replaced waits for"
            " portside switch"
            if has_one
            else f"writes go to every node alike, not to {_writers(pair)} of them"
        )
        pair.line.changed(
            f"ATTENTION, the cluster's state is not read: {form}. Give [check] a query that fails"
            " on a node that is not synced (wsrep_local_state)"
        )
        return
    more = "" if has_one else f", not to {_writers(pair)} of them"
    pair.line.changed(
        "ATTENTION, the cluster's tables are not read: the node with read_only = OFF takes the"
        f' writes (require = "writable"), one at a time{more}; reads go to every node with'
        ' require = "replicating": look at portside show servers before you use it'
    )


def _tell_users(found: Sequence[Plan], users: Sequence[Row]) -> None:
    """Who came to another hostgroup than the one that has ProxySQL's port now."""
    names = {plan.hostgroup: plan.name for plan in found}
    for user in users:
        group = user.number("default_hostgroup")
        if found and group in names and group != found[0].hostgroup:
            user.line.dropped(
                f"ATTENTION, this account's default hostgroup {group} is service {names[group]} on"
                f" a port of its own: on ProxySQL's port it meets service {found[0].name}"
            )
