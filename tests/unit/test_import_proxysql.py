# ruff: noqa: E501 (a row of a table stays one line)
"""proxysql.cnf to relay services: the grammar, the tables, and what is named as not carried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.config import Config, loads
from portside.errors import ConfigError
from portside.importer.imported import (
    Imported,
    NothingImported,
    import_proxysql,
    is_proxysql,
)
from portside.importer.proxysql.libconfig import parse

FULL = """\
datadir="/var/lib/proxysql"   # a comment
admin_variables= { admin_credentials="admin:sesame1;radmin:sesame1" mysql_ifaces="0.0.0.0:6032" }
mysql_variables=
{
    threads=4
    interfaces="0.0.0.0:6033;/tmp/proxysql.sock"
    connect_timeout_server=3000
    connect_retries_on_failure=7
    monitor_username="mon"
    monitor_password="sesame2"
    mysql-monitor_ping_interval=5000
    multiplexing=true
}
/* the
   servers */
mysql_servers =
(
    { address="10.0.0.11", port=3306, hostgroup=10, max_connections=200 },
    { address="10.0.0.12", hostgroup_id=20, weight=1000, max_connections=300, max_replication_lag=8 },
    { address="10.0.0.13", hostgroup=20, weight=500, status="OFFLINE_SOFT", use_ssl=1 },
    { address="10.0.0.11", hostgroup=20, weight=500, max_connections=50 }
)
mysql_replication_hostgroups = ( { writer_hostgroup=10, reader_hostgroup=20 } )
mysql_users:
( { username="app", password = "sesame3", default_hostgroup=10 },
  { username="ro" password="sesame4, sesame5" default_hostgroup=20 } )
mysql_query_rules: ( { rule_id=1, match_pattern="^SELECT" , destination_hostgroup=20 } )
"""

Import = Callable[..., Imported]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    monkeypatch.delenv("PORTSIDE_MONITOR_PASSWORD", raising=False)

    def work(text: str, **options: Any) -> Imported:
        file = tmp_path / "proxysql.cnf"
        file.write_text(text)
        return import_proxysql(file, file_limit=20_000, **options)

    return work


def config(done: Imported, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("PORTSIDE_MONITOR_PASSWORD", "x")
    return loads(done.text)


def test_the_tables(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = config(imported(FULL), monkeypatch)
    assert loaded.portside.workers == 4 and loaded.timeouts.connect_s == 3.0
    assert (loaded.check.user, loaded.check.interval_s) == ("mon", 5.0)
    write, read = loaded.services
    assert [str(one.address) for one in write.listen] == ["0.0.0.0:6033", "unix:/tmp/proxysql.sock"]
    assert [str(one.address) for one in read.listen] == ["0.0.0.0:6034"]
    assert (write.require, read.require, read.max_lag_s) == ("writable", "replicating", 8.0)
    assert write.retries == 7
    weights = {member.name: member.weight for member in read.servers}
    assert weights == {"10.0.0.11": 1, "10.0.0.12": 2, "10.0.0.13": 0}
    assert {server.name: server.max_connections for server in loaded.servers} == {
        "10.0.0.11": 250,
        "10.0.0.12": 300,
        "10.0.0.13": None,
    }


def test_no_password_is_copied_and_every_entry_is_named(imported: Import) -> None:
    done = imported(FULL)
    everything = done.text + repr(done.rows)
    assert "sesame" not in everything
    assert 'password = { env = "PORTSIDE_MONITOR_PASSWORD" }' in done.text
    whats = {row.text.split(":")[0].split(" =")[0] for row in done.rows}
    assert {
        "mysql_users",
        "mysql_query_rules",
        "admin_variables",
        "datadir",
        "multiplexing",
    } <= whats
    notes = {row.text.split(":")[0]: row.note for row in done.rows}
    assert notes["mysql_query_rules"].startswith("no query is routed by its text")
    assert notes["mysql_users"].startswith("an account of pool mode")


def test_the_monitor_that_the_file_does_not_name(
    imported: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = imported(
        'mysql_servers=({address="a" hostgroup=1 use_ssl=1},{address="b" hostgroup=2})\n'
        "mysql_replication_hostgroups=({writer_hostgroup=1 reader_hostgroup=2})"
    )
    loaded = config(done, monkeypatch)
    assert loaded.check.user == "monitor" and loaded.check.password is not None
    assert [service.require for service in loaded.services] == ["writable", "replicating"]
    assert any(row.what == "use_ssl" and row.note.startswith("ATTENTION") for row in done.rows)


def test_hostgroups_without_replication(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    done = imported(
        'mysql_servers=({hostname="db.example.com" hostgroup=1},{hostname="::1" port=3307 hostgroup=2},'
        '{hostname="/run/mysqld.sock" port=0 hostgroup=2})\nmysql_users=({username="a" default_hostgroup=2})',
        port_offset=1000,
    )
    loaded = config(done, monkeypatch)
    assert [(one.name, str(one.listen[0].address)) for one in loaded.services] == [
        ("hostgroup-2", "0.0.0.0:7033"),
        ("hostgroup-1", "0.0.0.0:7034"),
    ]
    addresses = [str(server.addresses[0]) for server in loaded.servers]
    assert addresses == ["[::1]:3307", "unix:/run/mysqld.sock", "db.example.com:3306"]


NODES = "".join(f'{{address="n{n}" hostgroup=10 weight={w}}},' for n, w in ((1, 1), (2, 9), (3, 1)))
CLUSTERS = [
    ("mysql_galera_hostgroups", "max_writers=1", ("first", "none", None), "one node takes the writes"),
    ("mysql_galera_hostgroups", "", ("first", "none", None), "one node takes the writes"),
    ("mysql_galera_hostgroups", "max_writers=2", ("roundrobin", "none", None), "writes go to every node alike, not to 2"),
    ("mysql_group_replication_hostgroups", "max_writers=1", ("first", "writable", "auto"), 'require = "writable"'),
    ("mysql_group_replication_hostgroups", "max_writers=3", ("roundrobin", "writable", None), "not to 3 of them"),
    ("mysql_aws_aurora_hostgroups", "", ("first", "writable", "auto"), 'require = "writable"'),
]  # fmt: skip


@pytest.mark.parametrize(("table", "more", "keys", "note"), CLUSTERS)
def test_a_cluster_has_one_writer_or_a_warning(
    imported: Import,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    more: str,
    keys: tuple[str, str, str | None],
    note: str,
) -> None:
    done = imported(
        f'mysql_servers=({NODES}{{address="n4" hostgroup=12 weight=99}})\n'
        f"{table}=({{writer_hostgroup=10 backup_writer_hostgroup=11 reader_hostgroup=12 {more}}})"
    )
    write, read = config(done, monkeypatch).services
    assert (write.name, str(write.listen[0].address)) == ("write", "0.0.0.0:6033")
    assert (write.balance, write.require) == keys[:2]
    if keys[0] == "first":
        assert [(one.name, one.backup) for one in write.servers] == [
            ("n2", False), ("n1", True), ("n3", True), ("n4", True)
        ]  # fmt: skip
        assert write.failback == (keys[2] or "manual")
    assert read.require == ("replicating" if keys[1] == "writable" else "none")
    (row,) = [row for row in done.rows if row.text.startswith(table)]
    assert row.note.startswith("ATTENTION") and note in row.note


def test_a_cluster_that_is_not_active(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "writer_hostgroup=10 reader_hostgroup=12 active=0"
    done = imported(f"mysql_servers=({NODES})\nmysql_galera_hostgroups=({{{row}}})")
    assert [one.name for one in config(done, monkeypatch).services] == ["hostgroup-10"]


def test_writes_keep_proxysqls_port(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = FULL.replace("default_hostgroup=10", "default_hostgroup=20")
    done = imported(readers)
    assert [one.name for one in config(done, monkeypatch).services] == ["write", "read"]
    notes = [row.note for row in done.rows if row.text.startswith("mysql_users")]
    said = "ATTENTION, this account's default hostgroup 20 is service read on a port of its own"
    assert len(notes) == 4 and sum(note.startswith(said) for note in notes) == 2


def test_lags_that_differ_are_named(imported: Import) -> None:
    done = imported(FULL)
    notes = [row.note for row in done.rows if row.what == "max_replication_lag"]
    assert notes == ["max_lag = 8s of service read, one for all its servers, instead of none"] * 2


@pytest.mark.parametrize(
    ("interfaces", "listens"),
    [
        ("0.0.0.0:6033;[::]:6033", [["[::]:6033"], ["[::]:6034"]]),
        ("0.0.0.0:6033;0.0.0.0:6033", [["0.0.0.0:6033"], ["0.0.0.0:6034"]]),
        ("0.0.0.0:6033;0.0.0.0:6034", [["0.0.0.0:6033", "0.0.0.0:6034"], ["0.0.0.0:6035", "0.0.0.0:6036"]]),
        ("10.0.0.1:6033;/tmp/p.sock", [["10.0.0.1:6033", "unix:/tmp/p.sock"], ["10.0.0.1:6034"]]),
    ],
)  # fmt: skip
def test_interfaces(
    imported: Import, monkeypatch: pytest.MonkeyPatch, interfaces: str, listens: list[list[str]]
) -> None:
    done = imported(
        f'mysql_variables={{interfaces="{interfaces}"}}\n'
        'mysql_servers=({address="a" hostgroup=1},{address="b" hostgroup=2})'
    )
    found = config(done, monkeypatch).services
    assert [[str(one.address) for one in service.listen] for service in found] == listens


def test_proxysqls_files_are_known_by_their_tables(tmp_path: Path) -> None:
    file = tmp_path / "any.name"
    for text, is_it in (
        (FULL, True),
        ("listen x\n    bind :1\n", False),
        ("# mysql_servers=\n", False),
    ):
        file.write_text(text)
        assert is_proxysql(file) is is_it
    assert not is_proxysql(tmp_path / "gone")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mysql_servers=(\n{ address=\"a\"", ':2:1: not libconfig: "{" of line 2 is not closed'),
        ("a=1\nb\n", ':2:1: not libconfig: "b" needs "=" and a value'),
        ("a=\n", "not libconfig: a value is missing"),
        ("a=1\n?", ':2:1: not libconfig: "?" is no part of this language'),
        ("a=1\n}", ':2:1: not libconfig: "}" is not expected here'),
        ('@include "more.cfg"\n', ":1:1: not libconfig: an @include is not followed"),
        ("a=" + "(" * 30, "too many brackets in each other"),
        ("mysql_servers=({hostgroup=1})", ":1:1: mysql_servers: an address is missing"),
        ('mysql_servers=({address="a" port="x"})', ':1:1: port: "x" is no whole number'),
        ("mysql_servers=({address=\"a\"})\nmysql_replication_hostgroups=({writer_hostgroup=1})",
         ":2:1: mysql_replication_hostgroups needs writer_hostgroup and reader_hostgroup"),
        ('mysql_servers=({address="a"})\nmysql_variables={\ninterfaces="x"}', ':3:1: interfaces: "x" has no port'),
    ],
)  # fmt: skip
def test_mistakes(imported: Import, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(text)
    assert message in str(caught.value)


def test_nothing_to_import(imported: Import) -> None:
    with pytest.raises(NothingImported):
        imported("mysql_variables={ threads=4 }")


def test_grammar() -> None:
    text = 'a = "x\\"\\x41" "y\\n"; b : [1, 0x1F, -3L] c = { d = TRUE, e = 1.5 } // end\n# more'
    found = parse(text, "x")
    assert found["a"].value == 'x"Ay\n'
    assert [node.value for node in found["b"].value] == [1, 31, -3]  # type: ignore[union-attr]
    group = found["c"].value
    assert isinstance(group, dict) and (group["d"].value, group["e"].value) == (True, 1.5)


@given(st.text(alphabet='a=:;{}()[]", \n1x\\#/*', max_size=60))
def test_no_text_is_our_fault(text: str) -> None:
    try:
        parse(text, "x")
    except ConfigError as error:
        assert "not libconfig" in str(error)


USERS = """\
mysql_variables={ connection_max_age_ms=600000 multiplexing=false free_connections_pct=10 }
mysql_servers=({address="a" hostgroup=1 use_ssl=1 max_connections=40})
mysql_users:
( { username="app", password = "sesame1", default_schema="shop" max_connections=50 use_ssl=1 },
  { username="hash" password="*F5CB189AAFE5D3CC8AB7CE363FD4A583C23E55DC" max_connections=10000 },
  { username="two" password="sesame2" backend=0 }, { username="two" password="sesame3" frontend=0 },
  { username="gone" password="sesame4" active=0 }, { username="back" password="sesame5" frontend=0 },
  { username="a-b" password="sesame6" }, { username="a.b" password="sesame7" } )
"""


def test_accounts_of_pool_mode(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    done = imported(USERS, pool=True)
    assert "sesame" not in done.text + repr(done.rows) and "F5CB189" not in done.text
    names = ["APP", "TWO", "TWO_SERVER", "A_B", "A_B_2"]
    for name in names:
        monkeypatch.setenv(f"PORTSIDE_PASSWORD_{name}", f"{name}-pw")
    monkeypatch.setenv("PORTSIDE_PASSWORD_HASH", "*" + "0" * 40)
    loaded = loads(done.text)
    (service,) = loaded.services
    assert (service.mode, service.pool.max, service.pool.max_lifetime_s) == ("pool", 40, 600.0)
    assert loaded.servers[0].tls.mode == "required"
    users = {user.name: user for user in loaded.users}
    assert list(users) == ["app", "hash", "two", "a-b", "a.b"]
    assert (users["app"].schema_name, users["app"].max_connections) == ("shop", 50)
    assert users["hash"].max_connections is None and users["hash"].password_hash is not None
    two = users["two"]
    assert two.password is not None and two.password.reveal() == "TWO-pw"
    assert two.server_password is not None and two.server_password.reveal() == "TWO_SERVER-pw"
    notes = {(row.what, row.note) for row in done.rows}
    assert ("password", "not copied: it is asked for in $PORTSIDE_PASSWORD_A_B_2") in notes
    for begin in (
        "ATTENTION, nothing demands TLS of this account's clients",
        "ATTENTION, sessions share connections here",
        "active = 0: ProxySQL does not use it",
        "no client can log in with it",
        "Portside's pool has no such setting",
    ):
        assert any(note.startswith(begin) for _, note in notes), begin


def test_a_pool_without_accounts_is_nothing(imported: Import) -> None:
    with pytest.raises(NothingImported) as caught:
        imported('mysql_servers=({address="a" hostgroup=1})', pool=True)
    assert any("nobody may log in" in row.note for row in caught.value.rows)


def test_a_pool_that_does_not_fit_the_file_limit(imported: Import) -> None:
    server = '{address="a" hostgroup=1 max_connections=30000}'
    done = imported(f'mysql_servers=({server})\nmysql_users=({{username="u"}})', pool=True)
    assert "\nmax = " not in done.text and "max_connections = 30000" in done.text
    assert any(row.note.startswith("[pool] max stays at its default") for row in done.rows)
