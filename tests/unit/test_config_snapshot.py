"""The snapshot, value for value as the architecture describes it; the file limit; origins."""

from __future__ import annotations

import grp
import json
import pwd
import re
from pathlib import Path

import pytest
from portside.config import limits, loads
from portside.config.model import Member
from portside.config.origins import origins
from portside.config.snapshot import MemberState, build, effective_weight

ARCHITECTURE = Path(__file__).parents[2] / "docs/internals/architecture.md"

FILE = """\
[portside]
workers = 2
[source]
addresses = ["10.0.0.5"]
ports = "auto"
[close]
deadline = "2s"
to_server = "eof"
[timeouts]
idle = "never"
[[server]]
name = "db1"
address = ["10.0.0.11:3306", "db1.example.com:3306"]
max_connections = 500
close = { to_server = "fin" }
[[server]]
name = "db2"
address = "unix:/run/mysqld/mysqld.sock"
send_proxy = true
[[service]]
name = "write"
listen = ["10.0.0.5:3306", { address = "unix:/w.sock", mode = "0660", user = "root", group="root"}]
accept_proxy = "10.0.0.0/8"
close = { to_server = "linger2", tls_hold = "50ms", to_client = "fin" }
servers = [{ name = "db1", weight = 3 }, { name = "db2", backup = true }]
"""


def snapshot(**given: object) -> dict[str, object]:
    arguments = {
        "generation": 7,
        "resolved": {"db1": ("10.0.0.11:3306", "10.0.0.12:3306")},
        "members": {("write", "db1"): MemberState(True)},
        "accepting": True,
        "max_sessions": 8000,
        **given,
    }
    return build(loads(FILE), **arguments)  # type: ignore[arg-type]


def test_the_whole_snapshot() -> None:
    close = {"abandon_bytes": 1 << 20, "abandon_ms": 30000, "deadline_ms": 2000, "tls_hold_ms": 50}
    assert snapshot() == {
        "generation": 7,
        "workers": 2,
        "accepting": True,
        "max_sessions": 8000,
        "log": {"path": None, "format": "json", "sessions": "all"},
        "servers": [
            {
                "name": "db1",
                "destinations": ["10.0.0.11:3306", "10.0.0.12:3306"],
                "max_connections": 500,
                "source": {"addresses": ["10.0.0.5"], "ports": [12000, 29999], "reserve": 16},
                "send_proxy": False,
                "connect_ms": 3000,
                "login_ms": 10000,
                "keepalive_ms": 60000,
                "user_timeout_ms": 30000,
                "tls": None,
            },
            {
                "name": "db2",
                "destinations": ["unix:/run/mysqld/mysqld.sock"],
                "max_connections": None,
                "source": {"addresses": ["10.0.0.5"], "ports": [12000, 29999], "reserve": 16},
                "send_proxy": True,
                "connect_ms": 3000,
                "login_ms": 10000,
                "keepalive_ms": 60000,
                "user_timeout_ms": 30000,
                "tls": None,
            },
        ],
        "services": [
            {
                "name": "write",
                "listen": [
                    {
                        "address": "10.0.0.5:3306",
                        "mode": None,
                        "uid": None,
                        "gid": None,
                        "backlog": 4096,
                        "fds": [],
                    },
                    {
                        "address": "unix:/w.sock",
                        "mode": 0o660,
                        "uid": pwd.getpwnam("root").pw_uid,
                        "gid": grp.getgrnam("root").gr_gid,
                        "backlog": 4096,
                        "fds": [],
                    },
                ],
                "accept_proxy": ["10.0.0.0/8"],
                "allow": [],
                "deny": [],
                "probe_networks": [],
                "balance": "roundrobin",
                "max_connections": None,
                "queue": 1000,
                "max_connections_per_client": None,
                "queue_ms": 5000,
                "idle_ms": None,
                "retries": 3,
                "to_client": "fin",
                "paused": False,
                "pool": None,
                "tls": None,
                "server_version": None,
                "rsa_key": None,
                "members": [
                    {
                        "server": "db1",
                        "weight": 300,
                        "backup": False,
                        "eligible": True,
                        "why": "",
                        "close": {"to_server": "fin", **close},
                    },
                    {
                        "server": "db2",
                        "weight": 100,
                        "backup": True,
                        "eligible": False,
                        "why": "not checked yet",
                        "close": {"to_server": "linger2", **close},
                    },
                ],
            }
        ],
        "users": [],
    }


def test_it_has_the_keys_of_the_architecture_document() -> None:
    section = ARCHITECTURE.read_text().partition("## The snapshot")[2]
    documented = json.loads(re.findall(r"```json\n(.*?)```", section, re.DOTALL)[0])

    def keys(node: object) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(keys, node))
        if isinstance(node, dict):
            return set(node).union(*map(keys, node.values()))
        return set()

    # Inherited descriptors are the engine's addition for LISTEN_FDS.
    assert keys(snapshot()) - {"fds"} == keys(documented)


def test_runtime_state_goes_in() -> None:
    text = json.dumps(
        snapshot(
            accepting=False,
            paused=frozenset({"write"}),
            log_path="/var/log/portside.log",
            members={("write", "db1"): MemberState(False, "read_only = ON", 9)},
            listen_fds={"10.0.0.5:3306": (3, 4)},
        )
    )
    assert '"accepting": false' in text and '"paused": true' in text
    assert '"weight": 900' in text and '"why": "read_only = ON"' in text
    assert '"path": "/var/log/portside.log"' in text and '"fds": [3, 4]' in text


@pytest.mark.parametrize(
    ("weight", "state", "effective"),
    [
        (1, MemberState(True), 100),
        (10, MemberState(True, ramp=0.25), 250),
        (1, MemberState(True, ramp=0.001), 1),
        (1, MemberState(True, ramp=0.0), 1),
        (1, MemberState(True, ramp=1.5), 100),
        (0, MemberState(True), 0),
        (5, MemberState(True, weight=0), 0),
        (0, MemberState(True, weight=2), 200),
    ],
)
def test_weights_are_hundredths(weight: int, state: MemberState, effective: int) -> None:
    assert effective_weight(Member(name="db", weight=weight), state) == effective


SIZED = """\
[portside]
workers = 2
[[server]]
name = "a"
address = "10.0.0.1:1"
{a}
[[server]]
name = "b"
address = "10.0.0.2:1"
{b}
[[service]]
name = "s"
listen = "10.0.0.5:1"
servers = ["a", "b"]
{s}
[[service]]
name = "t"
listen = "10.0.0.5:2"
servers = ["a"]
{t}
"""


@pytest.mark.parametrize(
    ("a", "b", "s", "t", "promised"),
    [
        (0, 0, 0, 0, 0),
        (0, 0, 400, 0, 400),
        (0, 0, 400, 300, 700),
        (100, 0, 0, 0, 100),  # db a in two services: its connections are the same ones
        (100, 50, 0, 0, 150),  # never more than the servers take together
        (100, 50, 4000, 4000, 150),
        (100, 50, 20, 30, 50),
    ],
)
def test_promised_sessions(a: int, b: int, s: int, t: int, promised: int) -> None:
    lines = {
        k: f"max_connections = {v}" if v else "" for k, v in zip("abst", (a, b, s, t), strict=True)
    }
    assert limits.promised_sessions(loads(SIZED.format(**lines))) == promised


def test_too_many_promised_sessions_are_refused_with_the_arithmetic() -> None:
    config = loads(SIZED.format(a="", b="", s="max_connections = 600", t=""))
    need = limits.fd_need(config, 1024)
    assert not need.fits
    assert need.text == (
        "600 sessions x 2 + 4 listening sockets (2 x 2 workers) + 4 for checks + 144 = 1,352 open"
        " files, but the limit is 1,024, enough for 436 sessions; raise it (LimitNOFILE= or ulimit"
        " -Hn) to 1,352, or lower max_connections"
    )
    assert limits.fd_need(config, 1352).fits
    assert not limits.fd_need(config, 1351).fits


def test_a_pools_sessions_share_their_server_connections() -> None:
    text = SIZED.format(a="max_connections = 30", b="", s="max_connections = 600", t="")
    pool = text.replace("[[service]]\n", '[[service]]\nmode = "pool"\npool = { max = 50 }\n')
    pool += '[[user]]\nname = "u"\npassword = "p"\n'
    config = loads(pool)
    assert limits.promised_sessions(config) == 600  # not the 30 that a relay could have
    need = limits.fd_need(config, 700)
    assert need.text == (
        "600 sessions x 1 + 80 pooled connections + 4 listening sockets (2 x 2 workers) + 4 for"
        " checks + 144 = 832 open files, but the limit is 700, enough for 468 sessions; raise it"
        " (LimitNOFILE= or ulimit -Hn) to 832, or lower max_connections or [pool] max"
    )
    mixed = limits.fd_need(loads(pool.replace('mode = "pool"\n', "", 1)), 20_000)
    assert " x 2 + " in mixed.text


def test_without_limits_the_sessions_follow_from_the_file_limit() -> None:
    config = loads(SIZED.format(a="", b="", s="", t=""))
    assert limits.fd_need(config, 1024).max_sessions == 436
    assert not limits.fd_need(config, 60).fits


def test_a_configured_maximum_counts_as_promised() -> None:
    text = SIZED.format(a="", b="", s="", t="").replace("= 2\n", "= 2\nmax_sessions = 437\n", 1)
    need = limits.fd_need(loads(text), 1024)
    assert (need.max_sessions, need.fits) == (437, False)


def test_origins_name_the_line_that_set_each_value() -> None:
    rows = {row.key: (row.value, row.origin) for row in origins(loads(FILE, "p.toml"))}
    assert rows["portside.workers"] == ("2", "p.toml:2")
    assert rows["close.deadline"] == ('"2s"', "p.toml:7")
    assert rows["close.to_client"] == ('"fin-reset"', "built-in")
    assert rows["server.db1.close.to_server"] == ('"fin"', "p.toml:15")
    assert rows["server.db2.close.to_server"] == ('"eof"', "p.toml:8")
    assert rows["server.db2.close.deadline"] == ('"2s"', "p.toml:7")
    assert rows["service.write.close.tls_hold"] == ('"50ms"', "p.toml:24")
    assert rows["service.write.failback"] == ('"manual"', "built-in")
    assert rows["server.db2.check.type"] == ('"tcp"', "built-in")


def test_origins_show_no_secret() -> None:
    text = '[check]\nuser = "m"\npassword = "geheim"\n' + FILE
    rows = {row.key: row.value for row in origins(loads(text))}
    assert rows["server.db1.check.password"] == '"***"'
    assert not any("geheim" in value for value in rows.values())


POOL = """
[[server]]
name = "db1"
address = "10.0.0.11:3306"
[[service]]
name = "s"
listen = "10.0.0.5:3306"
mode = "pool"
pool = { max = 20, idle = "never" }
servers = ["db1"]
[[user]]
name = "app"
password = "app-secret"
from = "10.0.0.0/8"
[[user]]
name = "report"
password = "front-secret"
server_user = "reader"
server_password = "back-secret"
services = ["s"]
schema = "shop"
max_connections = 5
"""


def test_pool_mode_has_its_limits_and_accounts() -> None:
    built = build(
        loads(POOL), generation=1, resolved={}, members={}, accepting=True, max_sessions=10
    )
    assert built["services"][0]["pool"] == {
        "max": 20,
        "min_idle": 0,
        "max_lifetime_ms": 3_600_000,
        "idle_ms": None,
        "open_rate": 50,
        "local_infile": False,
        "login_ms": 10_000,
    }
    assert built["users"] == [
        {
            "name": "app",
            "password": "app-secret",
            "password_hash": None,
            "services": [],
            "schema": None,
            "from": ["10.0.0.0/8"],
            "max_connections": None,
            "server_user": "app",
            "server_password": None,
        },
        {
            "name": "report",
            "password": "front-secret",
            "password_hash": None,
            "services": ["s"],
            "schema": "shop",
            "from": [],
            "max_connections": 5,
            "server_user": "reader",
            "server_password": "back-secret",
        },
    ]
