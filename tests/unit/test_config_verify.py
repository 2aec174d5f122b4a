"""Keys against each other: each refusal and each warning in its own words, at the right key."""

from __future__ import annotations

import pytest
from portside.config import Config, loads, verify, warnings
from portside.errors import ConfigError

BASE = """\
{globals}
[[server]]
name = "db1"
address = "10.0.0.11:3306"
{server}
[[server]]
name = "db2"
address = "10.0.0.12:3306"
[[service]]
name = "write"
listen = {listen}
servers = {members}
{service}
"""


def text(**parts: str) -> str:
    defaults = {
        "globals": "",
        "server": "",
        "service": "",
        "listen": '"10.0.0.5:3306"',
        "members": '["db1", "db2"]',
    }
    return BASE.format(**{**defaults, **parts})


def mistakes(**parts: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text(**parts), "p.toml")
    return [f"{p.key}: {p.message} {p.value} {p.hint}" for p in caught.value.problems]


def doubts(**parts: str) -> list[str]:
    config = loads(text(**parts), "p.toml")
    assert all(problem.line > 0 for problem in warnings(config))
    return [f"{p.key}: {p.message} {p.value} {p.hint}" for p in warnings(config)]


LOGIN = '[check]\nuser = "m"'


@pytest.mark.parametrize(
    ("parts", "mistake"),
    [
        ({"server": '[[server]]\nname = "db1"\naddress = "10.0.0.13:3306"'}, "another server of"),
        ({"service": '[[service]]\nname = "write"\nlisten = "10.0.0.5:1"\nservers = ["db1"]'},
         "another service of this name"),
        ({"members": '["db1", "db3"]'},
         'servers[1]: no [[server]] has this name "db3" did you mean "db2"?'),
        ({"members": '["db1", "xyz"]'}, 'no [[server]] has this name "xyz" there are: db1, db2'),
        ({"members": '["db1", "db1"]'}, 'servers[1]: this server is named twice "db1"'),
        ({"members": '[{ name = "db1", backup = true }]'}, "servers: every server is a backup"),
        ({"listen": '["10.0.0.5:3306", "10.0.0.5:3306"]'}, "service write already listens on 10."),
        ({"listen": '["10.0.0.5:3306", "0.0.0.0:3306"]'}, "listen[1]: service write already"),
        ({"listen": '["[::]:3306", "0.0.0.0:3306"]'}, "already listens on [::]:3306"),
        ({"listen": '["[::]:3306", "10.0.0.5:3306"]'}, "already listens on [::]:3306"),
        ({"listen": '["unix:/a", "unix:/a"]'}, "already listens on unix:/a"),
        ({"globals": '[metrics]\nlisten = "0.0.0.0:3306"'}, "[metrics] already listens on 0.0.0.0"),
        ({"globals": '[admin]\nsocket = "/a"', "listen": '"unix:/a"'}, "[admin] already listens"),
        ({"listen": '"10.0.0.11:3306"'}, 'server "db1" address: service write listens on this'),
        ({"listen": '{ address = "10.0.0.5:1", mode = "0660" }'}, "mode: only a unix socket has"),
        ({"listen": '{ address = "unix:/a", user = "no-such" }'}, "user: this machine has no such"),
        ({"listen": '{ address = "unix:/a", group = "no-such" }'}, "group: this machine has no su"),
        (
            {"listen": '{ address = "unix:/a", group = "\\u0000" }'},
            "group: this machine has no su",
        ),
        (
            {"service": 'mode = "pool"'},
            'mode: nobody may log in: no [[user]] is for this service "pool"',
        ),
        ({"service": 'require = "writable"'},
         "require: read_only and lag are unknown without a check that logs in (db1, db2)"),
        ({"service": 'require = "writable"', "globals": LOGIN, "server": "check = false"},
         "without a check that logs in (db1)"),
        ({"service": 'require = "writable"', "globals": LOGIN + '\ntype = "tcp"'},
         "without a check that logs in (db1, db2)"),
        ({"service": 'max_lag = "1s"'}, 'max_lag: the lag matters only with'),
        ({"globals": '[check]\nquery = "SELECT 1"'}, 'check: a check of type "query" needs a user'),
        ({"globals": '[check]\ntype = "login"'}, 'check: a check of type "login" needs a user'),
        ({"globals": LOGIN + '\ntype = "query"'}, 'a check of type "query" needs a query'),
        ({"globals": '[check]\ntype = "python"'}, 'a check of type "python" needs a function'),
        ({"globals": '[check]\npassword = "x"'}, "check: there is a password but no user"),
        ({"globals": '[check]\nfunction = "a:b"'}, 'function: a function needs type = "python"'),
        ({"globals": LOGIN + '\ntype = "tcp"\nquery = "x"'}, "a query is not run by a check of"),
        ({"server": 'check = { type = "query" }', "globals": LOGIN},
         'server "db1" check: a check of type "query" needs a query'),
        ({"globals": '[source]\naddresses = ["0.0.0.0"]\nports = "auto"'},
         "source.addresses[0]: this is no address to connect from"),
        ({"server": 'source = { addresses = ["::"] }'}, 'source.addresses[0]: this is no'),
        ({"server": 'source = { addresses = ["fd00::1"] }'},
         'server "db1" address: no source address is IPv4'),
        ({"globals": '[admin]\nlisten = "127.0.0.1:6060"'}, "listen: TCP needs a token"),
        ({"globals": '[metrics]\nlisten = "unix:/m"'}, "metrics.listen: this is TCP only"),
        ({"globals": '[source]\naddresses = ["224.0.0.1"]'},
         "source.addresses[0]: no connection can come from a multicast address"),
        ({"globals": '[log]\nfile = "/nowhere/at/all/s.log"'},
         "log.file: there is no folder /nowhere/at/all"),
        ({"globals": '[log]\nfile = "/proc"'}, "log.file: this is a folder"),
        ({"server": '[[server]]\nname = "db9"\naddress = ["10.0.0.9:3306", "10.0.0.9:3306"]'},
         'server "db9" address: this address is twice here "10.0.0.9:3306"'),
    ],
)  # fmt: skip
def test_refused(parts: dict[str, str], mistake: str) -> None:
    found = mistakes(**parts)
    assert any(mistake in one for one in found), found


@pytest.mark.parametrize(
    "parts",
    [
        {"listen": '["10.0.0.5:3306", "10.0.0.6:3306", "[::1]:3306"]'},
        {"listen": '["0.0.0.0:3306", "[fd00::1]:3306"]'},
        {"service": 'require = "replicating"\nmax_lag = "1s"', "globals": LOGIN},
        {"globals": '[admin]\nlisten = "127.0.0.1:6060"\ntoken = "t"'},
        {"listen": '{ address = "unix:/a", mode = "0660", user = "root", group = "root" }'},
        {"globals": '[source]\naddresses = ["fd00::1", "10.0.0.5"]'},
    ],
)
def test_allowed(parts: dict[str, str]) -> None:
    assert loads(text(**parts)).services


@pytest.mark.parametrize(
    ("parts", "doubt"),
    [
        ({"members": '["db1", { name = "db2", backup = true }]'},
         'service "write": a backup takes over by being reachable alone'),
        ({"globals": '[check]\ntype = "mysql"'}, "check.type: the server counts each"),
        ({"server": 'check = { type = "mysql" }'}, 'server "db1" check.type: the server counts'),
        ({"members": '[{ name = "db1", weight = 0 }, { name = "db2", weight = 0 }]'},
         "servers: every weight is 0"),
        ({"server": '[[server]]\nname = "db9"\naddress = "10.0.0.11:3306"'},
         'server "db9" address: server db1 has this address too'),
        ({"members": '["db1"]'}, 'server "db2": no service names this server'),
        ({"globals": "[pool]\nmax = 5"}, 'pool: this has no effect: no service has mode = "pool"'),
        ({"globals": '[[user]]\nname = "a"\npassword = "p"'}, 'user "a": this has no effect'),
        ({"service": "local_infile = true"},
         'local_infile: this has no effect: without mode = "pool" LOAD DATA LOCAL passes anyway'),
        ({"service": 'mode = "pool"\nlocal_infile = true',
          "globals": '[[user]]\nname = "a"\npassword = "p"'},
         "local_infile: who can change a client's statements (SQL injection) can now"),
        ({"service": 'mode = "pool"\npool = { max = 2, min_idle = 3 }',
          "globals": '[[user]]\nname = "a"\npassword = "p"'},
         "pool.min_idle: no more than max, 2, are ever open"),
        ({"service": 'mode = "pool"', "server": "max_connections = 40",
          "globals": '[[user]]\nname = "a"\npassword = "p"'},
         "takes 40 at most (max_connections)"),
        ({"service": 'server_version = "8.0.36"'},
         "server_version: this has no effect: in a relay the server greets"),
        ({"globals": '[source]\nports = "3000-4000"', "listen": '"0.0.0.0:3306"'},
         "listen: the port is also one of source.ports (3000-4000)"),
        ({"globals": '[source]\nports = "20000-20099"\nreserve = 51'},
         "source.reserve: only half of the ports, 50, can be kept for checks 51"),
        # 192.0.2.0/24 is on no host: RFC 5737.
        ({"globals": '[source]\naddresses = ["127.0.0.1", "192.0.2.0/30"]'},
         "source.addresses: this host does not have 192.0.2.0 (nor 2 more) now"),
    ],
)  # fmt: skip
def test_doubtful(parts: dict[str, str], doubt: str) -> None:
    found = doubts(**parts)
    assert any(doubt in one for one in found), found


def test_one_destination_without_a_source_is_a_doubt_and_all_are_a_mistake() -> None:
    mixed = text(globals='[source]\naddresses = ["127.0.0.5"]').replace(
        '"10.0.0.11:3306"', '["10.0.0.11:3306", "[fd00::11]:3306"]'
    )
    found = [problem.message for problem in warnings(loads(mixed))]
    assert found == ["[fd00::11]:3306 will not be used: no source address of its family"]


def test_a_low_port_without_rights_is_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_may_bind_low_ports", lambda: False)
    monkeypatch.setattr(verify, "_first_unprivileged_port", lambda: 1024)
    assert any("a port below 1024 needs CAP_NET" in one for one in doubts(listen='"10.0.0.5:306"'))
    assert doubts(listen='"10.0.0.5:1024"') == []


def test_nothing_is_doubtful_about_the_base() -> None:
    assert doubts() == []


def test_rules_read_a_configuration_only() -> None:
    config = loads(text())
    before = config.model_dump_json()
    assert list(verify.mistakes(config)) == list(verify.doubts(config)) == []
    assert config.model_dump_json() == before and isinstance(config, Config)
