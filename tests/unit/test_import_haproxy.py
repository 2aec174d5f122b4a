# ruff: noqa: E501 (a row of a table stays one line)
"""haproxy.cfg to portside.toml without a HAProxy: every keyword's fate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from portside.config import Config, loads
from portside.errors import ConfigError
from portside.importer.imported import Imported, NothingImported, import_haproxy

from tests.unit.conftest import Import

FILES = Path(__file__).parents[1] / "data" / "haproxy"
ENVIRONMENT = {
    **{f"DB{n}": f"10.0.0.1{n}:3306" for n in (1, 2, 3)},
    **{"DB2_PORT": "3306", "PORT1": "3306", "PORT2": "3307", "HTTP_PORT": "9200"},
    **{"HTTP_FRONT": "80", "STATS_PORT": "8404", "FOLDER": "/run", "CHECK_WORDS": "check weight 2"},
}
LISTEN = "listen db\n    bind 10.0.0.5:3306\n"
SERVER = "    server db1 10.0.0.11:3306 check\n"


def config(done: Imported) -> Config:
    return loads(done.text)


def fates(done: Imported, line: str) -> list[tuple[str, str]]:
    """Outcome and note of each row of a line."""
    return [(row.outcome, row.note) for row in done.rows if row.text == line]


def test_the_article(imported: Import) -> None:
    """mysql1 and mysql1_bis are one server with two source addresses; ports stay a range."""
    done = imported(
        "defaults\n    mode tcp\n    timeout connect 3s\n    timeout client 1m\n    timeout server 2m\n"
        "listen read\n    bind 10.0.0.5:3307\n    balance roundrobin\n"
        "    server mysql1 10.0.0.11:3306 check source 10.0.0.1:1025-65000\n"
        "    server mysql1_bis 10.0.0.11:3306 check source 10.0.0.2:1025-65000\n"
        "    server mysql2 10.0.0.12:3306 check weight 10 source 10.0.0.1:1025-65000\n"
        "    server mysql2_bis 10.0.0.12:3306 check weight 10 source 10.0.0.2:1025-65000\n"
    )
    one, two = config(done).servers
    assert (one.name, two.name) == ("mysql1", "mysql2")
    assert one.source.addresses == two.source.addresses == ("10.0.0.1", "10.0.0.2")
    assert one.source.ports == (1025, 65000)
    service = config(done).services[0]
    assert [(member.name, member.weight) for member in service.servers] == [
        ("mysql1", 1),
        ("mysql2", 10),
    ]
    assert service.timeouts.idle_s == 60.0 and one.timeouts.connect_s == 3.0
    assert set(done.counts) == {"carried", "changed", "dropped", "stays"}
    assert done.counts["changed"] == done.counts["dropped"] == 0


# What stands in a listen section, what it becomes, what the line's rows say.
SERVICE_LINES: list[tuple[str, dict[str, object], str]] = [
    ("balance leastconn", {"balance": "leastconn"}, "carried"),
    ("balance static-rr", {"balance": "roundrobin"}, "carried"),
    ("balance first", {"balance": "first"}, "carried"),
    ("balance random(3)", {"balance": "random2"}, "carried"),
    ("balance source", {"balance": "client-hash"}, "changed: other clients than before"),
    ("balance url_param id", {"balance": "roundrobin"}, "dropped: the algorithm looks into http"),
    ("maxconn 300", {"max_connections": 300}, "changed: max_connections: clients above it wait"),
    ("retries 1", {"retries": 1}, "changed: a retry goes to another server"),
    ("retries 0", {"retries": 0}, "carried"),
    ("option redispatch", {"retries": 3}, "changed: the first retry already goes"),
    ("timeout queue 7s", {"timeouts.queue_s": 7.0}, "carried"),
    ("timeout client 30s", {"timeouts.idle_s": 30.0}, "carried"),
    ("timeout server 0", {"timeouts.idle_s": None}, "carried"),
    ("timeout tunnel 8h", {"timeouts.idle_s": 28800.0}, "carried"),
    ("clitimeout 9000", {"timeouts.idle_s": 9.0}, "carried"),
    ("timeout client-fin 5s", {}, "dropped: closes end by their own rules"),
    ("timeout http-request 5s", {}, "dropped: an http setting"),
    ("option nolinger", {"close.to_server": "eof-reset"}, "changed: close.to_server"),
    ("option clitcpka", {}, "carried"),
    ("option srvtcpka", {}, "carried"),
    ("option tcplog", {}, "dropped: every session is logged"),
    ("option forwardfor", {}, "dropped: an http setting"),
    ("stick on src", {}, 'dropped: balance = "client-hash"'),
    ("rate-limit sessions 100", {}, "dropped: no limit on rates"),
    ("http-request deny", {}, "dropped: an http setting"),
    (
        "use_backend other if TRUE",
        {},
        "dropped: ATTENTION, these sessions go to the default backend",
    ),
    ("option dontlog-normal", {}, 'dropped: [log] sessions = "errors"'),
    ("tcp-request connection reject if { src 10.9.0.0/16 }", {"deny": ["10.9.0.0/16"]}, "carried"),
    (
        "tcp-request connection reject unless { src 10.0.0.1/8 }",
        {"allow": ["10.0.0.0/8"]},
        "carried",
    ),
    (
        "tcp-request connection expect-proxy layer4 if { src 10.0.0.9 }",
        {"accept_proxy": ["10.0.0.9/32"]},
        "carried",
    ),
    (
        "tcp-request connection reject if { src_conn_rate gt 9 }",
        {"deny": []},
        "dropped: ATTENTION, this service lets everybody in",
    ),
]


@pytest.mark.parametrize(("line", "keys", "fate"), SERVICE_LINES, ids=lambda v: str(v)[:40])
def test_lines_of_a_service(
    imported: Import, line: str, keys: dict[str, object], fate: str
) -> None:
    done = imported(f"{LISTEN}    {line}\n{SERVER}    server db2 10.0.0.12:3306 check\n")
    service = config(done).services[0]
    for key, value in keys.items():
        found: object = service
        for part in key.split("."):
            found = getattr(found, part)
        if isinstance(found, tuple):
            found = [str(network) for network in found]
        assert found == value, key
    assert_fate(done, line, fate)


def assert_fate(done: Imported, line: str, fate: str) -> None:
    outcome, _, note = fate.partition(": ")
    rows = fates(done, line)
    assert any(row[0] == outcome and row[1].startswith(note) for row in rows), rows
    if outcome != "carried":
        assert re.search(rf"^# \d+: {re.escape(line)}$", done.text, re.MULTILINE), done.text


SERVER_OPTIONS: list[tuple[str, dict[str, object], str]] = [
    ("maxconn 90", {"max_connections": 90}, "carried"),
    ("slowstart 30s", {"slowstart_s": 30.0}, "carried"),
    ("inter 5s", {"check.interval_s": 5.0, "check.fast_interval_s": 5.0}, "carried"),
    ("inter 5000 fastinter 1s", {"check.fast_interval_s": 1.0}, "carried"),
    ("rise 4 fall 5", {"check.rise": 4, "check.fall": 5}, "carried"),
    ("downinter 9s", {}, "changed: a server that is down"),
    ("port 9200", {}, "changed: the check goes to the address that sessions use"),
    ("port 3306", {}, "carried"),
    ("send-proxy", {"send_proxy": True}, "changed: the header is PROXY v2"),
    ("send-proxy-v2", {"send_proxy": True}, "carried"),
    ("tcp-ut 10s", {"source.user_timeout_s": 10.0}, "carried"),
    ("source 10.0.0.1", {"source.addresses": ("10.0.0.1",)}, "carried"),
    ("source 10.0.0.1:2000-3000", {"source.ports": (2000, 3000)}, "carried"),
    ("source 10.0.0.1:80-3000", {"source.ports": (1024, 3000)}, "changed: source.ports begin"),
    ("source 0.0.0.0:2000-3000", {"source.ports": (2000, 3000)}, "changed: HAProxy ignores"),
    ("source 0.0.0.0 usesrc clientip", {"source.addresses": ()}, "dropped: no transparent mode"),
    ("disabled", {}, "changed: weight = 0: it is checked"),
    ("cookie s1", {}, "dropped: an http setting"),
    ("observe layer4", {}, "dropped: three failed connections"),
    ("track other/db1", {}, "changed: a check of its own"),
    ("agent-check agent-port 99", {}, "dropped: no agent"),
    ("resolvers dns", {}, "dropped: the system's resolver"),
    ("minconn 5", {}, "dropped: max_connections is fixed"),
    ("on-marked-up shutdown-backup-sessions", {}, "dropped: sessions on a backup go on"),
]


@pytest.mark.parametrize(("option", "keys", "fate"), SERVER_OPTIONS, ids=lambda v: str(v)[:40])
def test_options_of_a_server(
    imported: Import, option: str, keys: dict[str, object], fate: str
) -> None:
    line = f"server db1 10.0.0.11:3306 check {option}"
    done = imported(f"{LISTEN}    {line}\n")
    server = config(done).servers[0]
    for key, value in keys.items():
        found: object = server
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value, key
    assert_fate(done, line, fate)


CHECKS: list[tuple[str, tuple[str, str | None], str]] = [
    ("option mysql-check user mon", ("login", "mon"), "carried"),
    ("option mysql-check user mon post-41", ("login", "mon"), "carried"),
    ("option mysql-check", ("tcp", None), "changed: a TCP check, which the server does not see"),
    ("option tcp-check", ("tcp", None), "carried"),
    (
        "option httpchk GET /",
        ("tcp", None),
        "changed: ATTENTION, a server that only accepts connections counts as healthy: a TCP",
    ),
    (
        "option external-check",
        ("tcp", None),
        "changed: ATTENTION, a server that only accepts connections counts as healthy: a TCP",
    ),
]


@pytest.mark.parametrize(("line", "kind", "fate"), CHECKS, ids=lambda v: str(v)[:40])
def test_kinds_of_checks(
    imported: Import, line: str, kind: tuple[str, str | None], fate: str
) -> None:
    done = imported(f"{LISTEN}    {line}\n{SERVER}")
    check = config(done).servers[0].check
    assert check is not None and (check.type, check.user) == kind
    assert_fate(done, line, fate)


def test_a_check_with_tcp_check_lines_says_what_it_loses(imported: Import) -> None:
    done = imported(
        f"{LISTEN}    option tcp-check\n    tcp-check send PASSWD\\ sesame\n"
        f"    tcp-check expect string OK\n{SERVER}"
    )
    assert_fate(done, "option tcp-check", "changed: ATTENTION, a server that only accepts")
    assert_fate(done, "tcp-check expect string OK", "dropped: the check only connects")
    assert "sesame" not in done.text


# Rules, then (allow, deny), or what the first of them says where they are not carried.
RULES: list[tuple[list[str], tuple[list[str], list[str]] | str]] = [
    (["reject if { src 10.1.0.0/16 }", "reject unless { src 10.0.0.0/8 }"], (["10.0.0.0/8"], ["10.1.0.0/16"])),
    (["reject unless { src 10.0.0.0/8 }", "reject if { src 10.1.0.0/16 }"], (["10.0.0.0/8"], ["10.1.0.0/16"])),
    (["reject if !{ src 10.0.0.0/8 }"], (["10.0.0.0/8"], [])),
    (["reject if ! { src 10.0.0.0/8 }"], (["10.0.0.0/8"], [])),
    (["reject unless !{ src 10.0.0.0/8 }"], ([], ["10.0.0.0/8"])),
    (["reject if { src 10.0.0.1 } or { src 10.0.0.2 }"], ([], ["10.0.0.1/32", "10.0.0.2/32"])),
    (["reject if { src 10.9.0.0/16 }", "accept if { src 10.0.0.0/8 }", "reject"], (["10.0.0.0/8"], ["10.9.0.0/16"])),
    (["accept if { src 10.0.0.0/8 }"], ([], [])),
    (["reject"], "more than reject by src"),
    (["reject unless { src }"], "more than reject by src"),
    (["accept if { src 10.0.0.0/8 }", "reject if { src 10.1.0.0/16 }"], "more than reject by src"),
    (["reject unless { src 10.0.0.0/8 }", "accept if { src 11.0.0.0/8 }"], "more than reject by src"),
    (["accept if { src 10.0.0.0/8 }", "reject", "reject if { src 1.1.1.1 }"], "a rule follows one that rejects"),
    (["reject if { src 10.0.0.1 } { dst_port 1 }"], "conditions that must hold together"),
    (["reject if !{ src 10.0.0.1 } or { src 10.0.0.2 }"], "a negation among alternatives"),
    (["reject if named"], '"named" is not understood'),
    (["reject if { src -f /etc/nets }"], '"-f" is no network'),
    (["expect-proxy layer4", "reject if { src 10.0.0.1 }"], "looks at the address before the PROXY header"),
    (["track-sc0 src"], '"src" is not understood'),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "lists"), RULES, ids=lambda v: str(v)[:50])
def test_access_rules_mean_the_same_or_are_not_carried(
    imported: Import, rules: list[str], lists: tuple[list[str], list[str]] | str
) -> None:
    lines = [f"tcp-request connection {rule}" for rule in rules]
    done = imported(LISTEN + "".join(f"    {line}\n" for line in lines) + SERVER)
    service = config(done).services[0]
    found = ([str(one) for one in service.allow], [str(one) for one in service.deny])
    if isinstance(lists, str):
        assert found == ([], []) and service.accept_proxy == ()
        (row, *_) = fates(done, lines[0])
        assert row[0] == "dropped" and lists in row[1], row
        assert row[1].startswith("ATTENTION, this service lets everybody in: ")
    else:
        assert found == lists


def test_acls_of_one_name_add_up(imported: Import) -> None:
    done = imported(
        f"{LISTEN}    acl web src 10.1.0.0/16\n    acl web src 10.2.0.0/16 10.3.0.0/16\n"
        f"    tcp-request connection reject unless web\n{SERVER}"
    )
    allow = [str(one) for one in config(done).services[0].allow]
    assert allow == ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]
    assert fates(done, "acl web src 10.1.0.0/16")[0][0] == "carried"


def test_a_listen_with_a_default_backend_does_not_use_its_own_servers(imported: Import) -> None:
    done = imported(
        f"{LISTEN}    default_backend b\n{SERVER}backend b\n    server db2 10.0.0.12:3306 check\n"
    )
    assert [member.name for member in config(done).services[0].servers] == ["db2"]
    assert_fate(done, SERVER.strip(), "dropped: HAProxy never uses it")


@pytest.mark.parametrize("file", sorted(FILES.glob("*.cfg")), ids=lambda file: file.stem)
def test_every_line_of_every_file_has_a_fate(file: Path) -> None:
    """Also in what is printed: a comment for each line that is not carried over."""
    done = import_haproxy([file], environment=ENVIRONMENT, ask=False, file_limit=20_000)
    lines = file.read_text("latin-1").splitlines()
    said = {n for n, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"}
    assert {row.line for row in done.rows} == said
    for row in done.rows:
        assert row.note or row.outcome == "carried", row
        if row.outcome != "carried":
            assert f"# {row.line}: {row.text}" in done.text.splitlines(), row


def test_no_check_is_no_check(imported: Import) -> None:
    done = imported(f"{LISTEN}    server db1 10.0.0.11:3306\n")
    assert config(done).servers[0].check is None


GLOBAL: list[tuple[str, str, object]] = [
    ("maxconn 500", "portside.max_sessions", 500),
    ("nbthread 3", "portside.workers", 3),
    ("hard-stop-after 45s", "timeouts.drain_s", 45.0),
]


@pytest.mark.parametrize(("line", "key", "value"), GLOBAL)
def test_global(imported: Import, line: str, key: str, value: object) -> None:
    found: object = config(imported(f"global\n    {line}\n{LISTEN}{SERVER}"))
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


BINDS: list[tuple[str, list[str]]] = [
    ("bind :3306", ["0.0.0.0:3306"]),
    ("bind *:3306,10.0.0.5:3310-3312", ["0.0.0.0:3306", *(f"10.0.0.5:{n}" for n in (3310, 3311, 3312))]),
    ("bind :::3306", ["[::]:3306"]),
    ("bind [2001:db8::1]:3306", ["[2001:db8::1]:3306"]),
    ("bind /run/db.sock mode 660", ["unix:/run/db.sock"]),
    ("bind unix@/run/db.sock", ["unix:/run/db.sock"]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "listens"), BINDS)
def test_binds(imported: Import, line: str, listens: list[str]) -> None:
    done = imported(f"listen db\n    {line}\n{SERVER}")
    assert [str(one.address) for one in config(done).services[0].listen] == listens


def test_a_bind_that_takes_proxy_headers_is_a_service_of_its_own(imported: Import) -> None:
    done = imported(f"{LISTEN}    bind 10.0.0.5:3307 accept-proxy\n{SERVER}")
    plain, proxied = config(done).services
    assert (plain.name, plain.accept_proxy) == ("db", ())
    assert proxied.name == "db-proxy" and str(proxied.listen[0].address) == "10.0.0.5:3307"
    assert [str(one) for one in proxied.accept_proxy] == ["0.0.0.0/0", "::/0"]


def test_rules_before_the_header_count_for_the_plain_bind(imported: Import) -> None:
    rule = "tcp-request connection reject if !{ src 10.0.0.0/8 }"
    done = imported(f"{LISTEN}    bind 10.0.0.5:3307 accept-proxy\n    {rule}\n{SERVER}")
    plain, proxied = config(done).services
    assert ([str(one) for one in plain.allow], proxied.allow) == (["10.0.0.0/8"], ())
    assert_fate(done, rule, "dropped: ATTENTION, service db-proxy lets everybody in: tcp-request")


def test_unix_sockets_of_an_unknown_owner_lose_him(imported: Import) -> None:
    line = "bind /run/db.sock user nobody_like_him mode 600"
    done = imported(f"listen db\n    {line}\n{SERVER}")
    listen = config(done).services[0].listen[0]
    assert (listen.mode, listen.user) == ("0600", None)
    assert_fate(done, line, "dropped: this machine has no such user")


def test_backups(imported: Import) -> None:
    backup = "server db{} 10.0.0.{}:3306 check backup"
    text = f"{LISTEN}{SERVER}    {backup.format(2, 12)}\n    {backup.format(3, 13)}\n"
    done = imported(text)
    service = config(done).services[0]
    assert [member.backup for member in service.servers] == [False, True, True]
    assert service.failback == "auto" and service.on_down == "keep-sessions"
    assert service.balance == "first" and done.counts["changed"] == 0
    every = imported(f"{text}    option allbackups\n")
    assert config(every).services[0].balance == "roundrobin" and every.counts["changed"] == 0


BACKUPS: list[tuple[list[str], str | None]] = [
    (["", "backup", "backup"], "first"),
    (["weight 5", "backup weight 9", "backup maxconn 9"], "first"),
    (["maxconn 9", "backup", "backup"], "first"),
    (["backup", "backup"], "first"),
    (["", "", "backup"], "roundrobin"),
    (["", "", "backup", "backup"], None),
    (["", "backup maxconn 9", "backup"], None),
]


@pytest.mark.parametrize(("options", "balance"), BACKUPS, ids=str)
def test_one_backup_at_a_time_or_a_warning(
    imported: Import, options: list[str], balance: str | None
) -> None:
    """HAProxy uses its first backup alone; None: Portside would use several, and says so."""
    lines = [f"server db{n} 10.0.0.1{n}:3306 check {o}".strip() for n, o in enumerate(options)]
    done = imported(LISTEN + "".join(f"    {line}\n" for line in lines))
    service = config(done).services[0]
    warned = {row.text for row in done.rows if row.note.startswith("ATTENTION, several backups")}
    assert service.balance == (balance or "roundrobin")
    assert warned == ({line for line in lines if "backup" in line} if balance is None else set())


@pytest.mark.parametrize("role", ["", " backup"])
def test_stick_on_dst_keeps_one_server(imported: Import, role: str) -> None:
    """HAProxy sends everybody to the server in the table, also when the first one is back."""
    done = imported(
        f"{LISTEN}    stick-table type ip size 1\n    stick on dst\n{SERVER}"
        f"    server db2 10.0.0.12:3306 check{role}\n    server db3 10.0.0.13:3306 check{role}\n"
    )
    service = config(done).services[0]
    assert [member.backup for member in service.servers] == [False, True, True]
    assert (service.balance, service.failback) == ("first", "manual")
    assert_fate(done, "stick on dst", "changed: ATTENTION, one server takes every session")


def test_a_tcp_check_of_the_servers_own_port_is_no_weaker(imported: Import) -> None:
    for port, outcome in ((3306, "carried"), (9200, "changed")):
        done = imported(
            f"{LISTEN}    option tcp-check\n    tcp-check connect port {port}\n{SERVER}"
        )
        assert fates(done, "option tcp-check")[0][0] == outcome


def test_one_server_of_two_backends_is_one_server(imported: Import) -> None:
    """HAProxy's maxconn counts for each backend, so the sum is what the server has seen."""
    text = (
        "listen w\n    bind :3306\n    server db1 10.0.0.11:3306 check maxconn 10\n"
        "listen r\n    bind :3307\n    server db1 10.0.0.11:3306 check maxconn 20\n"
    )
    (server,) = config(imported(text)).servers
    assert server.max_connections == 30
    done = imported(text.replace("check maxconn 20", "check maxconn 20 inter 9s"))
    assert [one.name for one in config(done).servers] == ["db1", "r-db1"]
    line = "server db1 10.0.0.11:3306 check maxconn 20 inter 9s"
    assert_fate(done, line, 'changed: "r-db1", beside "db1" of line 3, which is the same server')


def test_merged_lines_with_other_port_ranges(imported: Import) -> None:
    lines = "    server a 10.0.0.11:3306 source 10.0.0.1:2000-4000\n"
    lines += "    server b 10.0.0.11:3306 source 10.0.0.2:3000-5000\n"
    (server,) = config(imported(LISTEN + lines)).servers
    assert server.source.ports == (3000, 4000), "ports that both lines allow"
    (server,) = config(imported(LISTEN + lines.replace("10.0.0.2", "10.0.0.1"))).servers
    assert server.source.ports == (2000, 5000), "one address whose range was cut in two"


def test_http_stays_and_is_named(imported: Import) -> None:
    done = imported(
        f"defaults\n    mode http\nfrontend www\n    bind :80\n    default_backend web\n"
        f"backend web\n    server w 10.0.0.20:80\n{LISTEN}    mode tcp\n{SERVER}"
        "listen stats\n    bind :8404\n    stats auth admin:sesame\n"
        "listen redis\n    mode tcp\n    bind :6379\n    option redis-check\n    server r 10.0.0.9:6380\n"
    )
    assert [one.name for one in config(done).services] == ["db"]
    assert fates(done, "frontend www") == [("stays", "http: it stays with HAProxy")]
    assert fates(done, "listen redis") == [("stays", "Redis, not MySQL: it stays with HAProxy")]
    assert "# ---- frontend www (line 3)" in done.text and "sesame" not in done.text


def test_what_check_refuses_is_taken_out(imported: Import) -> None:
    """Two services on one address, and one that would go in a circle."""
    done = imported(
        f"{LISTEN}{SERVER}listen same\n    bind 0.0.0.0:3306\n    server x 10.0.0.12:3306\n"
        "listen circle\n    bind :4000\n    server self 10.0.0.5:3306\n"
    )
    assert [one.name for one in config(done).services] == ["db"]
    assert_fate(done, "listen same", "dropped: portside check refuses it: service db already")
    assert_fate(done, "listen circle", "dropped: portside check refuses it: service db listens")


def test_limits_that_this_host_cannot_hold(imported: Import) -> None:
    server = SERVER.replace("check", "check maxconn 80000")
    text = f"global\n    maxconn 100000\n{LISTEN}    maxconn 90000\n{server}"
    done = imported(text, file_limit=1000)
    loaded = config(done)
    assert loaded.portside.max_sessions is None
    assert 300 < (loaded.services[0].max_connections or 0) < 500, "what 1,000 open files hold"
    assert_fate(done, "listen db", "changed: max_connections = ")
    assert loaded.servers[0].max_connections == 80_000, "it protects the database"
    assert_fate(done, "maxconn 100000", "dropped: max_sessions: this host's limit of open files")
    assert config(imported(text, file_limit=10**6)).portside.max_sessions == 100_000
    with pytest.raises(NothingImported, match="limit of open files, 20, is too low"):
        imported(LISTEN + SERVER, file_limit=20)


def test_ports_of_a_run_beside_haproxy(imported: Import) -> None:
    done = imported(f"{LISTEN}    bind /run/db.sock\n{SERVER}", port_offset=10_000)
    listens = [str(one.address) for one in config(done).services[0].listen]
    assert listens == ["10.0.0.5:13306", "unix:/run/db.sock.portside"]
    assert "# Every listening port is 10000 higher than HAProxy's" in done.text
    with pytest.raises(ConfigError, match=":2:1: port 3306 and an offset of 63000 are above 65535"):
        imported(LISTEN + SERVER, port_offset=63_000)
