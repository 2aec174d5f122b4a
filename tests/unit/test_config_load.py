"""Loading: each mistake in its own words, all at once, each with its line; secrets never shown."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from portside.config import Config, load, loads, schema, warnings
from portside.errors import ConfigError, PortsideError

GOOD = """\
[[server]]
name = "db1"
address = "10.0.0.11:3306"

[[service]]
name = "write"
listen = "10.0.0.5:3306"
servers = ["db1"]
"""

# Section 4 of the design, whole: these keys are fixed.
EVERY_KEY = """\
[portside]
workers = "auto"
[admin]
socket = "/run/portside/admin.sock"
[metrics]
listen = "127.0.0.1:9606"
[source]
addresses = ["10.0.0.5", "10.0.0.6", "10.9.0.0/24"]
ports = "auto"
reserve = 16
[close]
to_server = "eof-reset"
to_client = "fin-reset"
deadline = "1s"
[timeouts]
connect = "3s"
login = "10s"
queue = "5s"
idle = "never"
drain = "30s"
[check]
user = "monitor"
password = { env = "PORTSIDE_MONITOR_PASSWORD" }
interval = "2s"
fall = 3
rise = 2
[log]
format = "json"
sessions = "all"
[[server]]
name = "db1"
address = "10.0.0.11:3306"
max_connections = 500
[[server]]
name = "db2"
address = ["10.0.0.12:3306", "unix:/run/mysqld/mysqld.sock"]
close = { to_server = "reset-now" }
[[server]]
name = "db3"
address = "db3.example.com:3306"
[[service]]
name = "write"
listen = ["10.0.0.5:3306", { address = "unix:/run/portside/w.sock", mode = "0660", group = "root" }]
mode = "relay"
require = "writable"
failback = "manual"
on_down = "close-sessions"
servers = ["db1", { name = "db2", backup = true }]
[[service]]
name = "read"
listen = "10.0.0.5:3307"
balance = "roundrobin"
require = "replicating"
max_lag = "10s"
max_connections = 4000
queue = 1000
servers = [{ name = "db1", weight = 1 }, { name = "db2", weight = 10 }, { name = "db3" }]
[[user]]
name = "app"
password = "app-pw"
services = ["write"]
schema = "shop"
from = "10.0.0.0/8"
max_connections = 10
server_user = "app2"
server_password = "app2-pw"
[pool]
max = 100
min_idle = 0
max_lifetime = "1h"
idle = "5m"
open_rate = 50
"""


def mistakes(text: str, folder: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "p.toml", folder=folder)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def with_line(table: str, line: str) -> str:
    """GOOD with one more line at the end of a table."""
    if table in ("server", "service"):
        end = re.search(rf"\[\[{table}\]\]\n(?:.+\n)+", GOOD)
        assert end
        return f"{GOOD[: end.end()]}{line}\n{GOOD[end.end() :]}"
    return f"[{table}]\n{line}\n{GOOD}"


def test_one_server_and_one_service_are_enough() -> None:
    config = loads(GOOD)
    assert config.service("write") == config.services[0]
    assert warnings(config) == []


def test_every_key_of_the_design_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTSIDE_MONITOR_PASSWORD", "geheim")
    config = loads(EVERY_KEY)
    db2, write = config.servers[1], config.services[0]
    assert db2.source.ports == (12000, 29999)
    assert len(db2.source.ips) == 258
    assert (db2.close.to_server, db2.close.deadline_s) == ("reset-now", 1.0)
    assert config.timeouts.idle_s is None
    assert (config.check.type, config.check.logs_in) == ("login", True)
    assert [(m.name, m.weight, m.backup) for m in write.servers] == [
        ("db1", 1, False),
        ("db2", 1, True),
    ]
    assert (write.failback, config.services[1].failback) == ("manual", "auto")
    assert write.listen[1].address.path == "/run/portside/w.sock"


@pytest.mark.parametrize(
    ("table", "line", "mistake"),
    [
        ("timeouts", "conect = '3s'", 'timeouts.conect: unknown key; did you mean "connect"?'),
        (
            "service",
            'idle = "3s"',
            'service "write" idle: unknown key; it belongs in a table: timeouts = { idle = ... }',
        ),
        ("metrics", 'token = "x"', "metrics.token: unknown key; it belongs in [admin]"),
        (
            "metrics",
            "zzz = 1",
            "metrics.zzz: unknown key; known here: listen",
        ),
        (
            "timeouts",
            "connect = 3",
            "timeouts.connect: wrong value (found 3); expected a duration with its unit"
            ' (ms, s, m, h, d), such as "250ms" or "5s"; did you mean "3s"?',
        ),
        (
            "timeouts",
            'idle = "0"',
            'timeouts.idle: wrong value (found "0"); expected a duration with its unit'
            ' (ms, s, m, h, d), such as "250ms" or "5s", or "never";'
            " zero is refused: some read it as at once, others as never",
        ),
        (
            "close",
            "abandon_bytes = 1024",
            "close.abandon_bytes: wrong value (found 1024); expected a size with its unit"
            ' (B, KiB, MiB, GiB), such as "1MiB"; did you mean "1024KiB"?',
        ),
        (
            "close",
            'to_server = "rst"',
            'close.to_server: wrong value (found "rst"); expected "eof-reset", "eof", "linger2",'
            ' "reset-now" or "fin"',
        ),
        (
            "portside",
            "workers = 0",
            'portside.workers: wrong value (found 0); expected "auto" or a number of threads',
        ),
        (
            "server",
            'max_connections = "10"',
            'server "db1" max_connections: wrong value (found "10"); expected a whole number',
        ),
        (
            "server",
            "max_connections = 0",
            'server "db1" max_connections: wrong value (found 0);'
            " expected a whole number of at least 1",
        ),
        (
            "server",
            "send_proxy = 1",
            'server "db1" send_proxy: wrong value (found 1); expected true or false',
        ),
        (
            "server",
            "check = true",
            'server "db1" check: wrong value (found true); expected false or a table such as'
            ' { interval = "1s" }; checks are on by default',
        ),
        (
            "server",
            'close = "fin"',
            'server "db1" close: wrong value (found "fin"); expected a table',
        ),
        (
            "server",
            "check = { interval = 1 }",
            'server "db1" check.interval: wrong value (found 1); expected a duration',
        ),
        (
            "source",
            'ports = "100-200"',
            'source.ports: wrong value (found "100-200"); expected "auto" (12000-29999) or'
            ' "lo-hi" within 1024-65535',
        ),
        (
            "source",
            'ports = "3000-2000"',
            "the first port must not be above the last",
        ),
        (
            "source",
            'addresses = "10.0.0.5"',
            'source.addresses: wrong value (found "10.0.0.5"); expected a list in brackets',
        ),
        (
            "source",
            'addresses = ["10.0.0.5", "x"]',
            'source.addresses[1]: wrong value (found "x"); expected an IP address without a port',
        ),
        (
            "service",
            'allow = ["10.0.0.1/8"]',
            'did you mean "10.0.0.0/8"?',
        ),
        (
            "log",
            'sessions = "1/0"',
            'log.sessions: wrong value (found "1/0"); expected "all", "errors" or "1/N"',
        ),
        (
            "log",
            'file = "x.log"',
            'log.file: wrong value (found "x.log"); expected an absolute path',
        ),
        (
            "check",
            'function = "nope"',
            'check.function: wrong value (found "nope"); expected "package.module:function"',
        ),
        ("check", 'user = ""', 'check.user: wrong value (found ""); expected a text that is not'),
    ],
)
def test_a_wrong_key_is_named_with_what_was_expected(table: str, line: str, mistake: str) -> None:
    (found,) = mistakes(with_line(table, line))
    assert mistake in found
    number = with_line(table, line).split("\n").index(line) + 1
    assert found.startswith(f"p.toml:{number}:")


def test_a_wrong_key_hides_nothing_of_its_table() -> None:
    text = GOOD.replace('["db1"]', '[{ name = "db9", wieght = 3 }]').replace(
        'listen = "10.0.0.5:3306"', 'listen = "10.0.0.5:3306"\nlissten = 1\nqueue = "many"'
    )
    found = mistakes(text)
    assert len(found) == 4, found
    for words in ("wieght", "db9", "lissten", "queue"):
        assert any(words in one for one in found), (words, found)


def test_every_mistake_comes_at_once_in_file_order() -> None:
    found = mistakes("""\
[timeouts]
connect = 3
[[server]]
name = "db1"
address = "10.0.0.11"
colour = "red"
[[server]]
name = "db1"
address = "10.0.0.12:3306"
[[service]]
name = "w"
listen = "0.0.0.0:3306"
balance = "rr"
servers = ["db1", { name = "db2", weight = 300 }, "dbx"]
[[service]]
name = "r"
listen = "10.0.0.5:3306"
servers = ["db9"]
""")
    assert [text.split(" ")[0] for text in found] == [
        "p.toml:2:1:",
        "p.toml:5:1:",
        "p.toml:6:1:",
        "p.toml:8:1:",
        "p.toml:13:1:",
        "p.toml:14:35:",
        "p.toml:17:1:",
        "p.toml:18:12:",
    ]


def test_a_broken_key_causes_no_second_message() -> None:
    text = GOOD.replace('"db1"\naddress', '"d b"\naddress')
    (found,) = mistakes(text)
    assert 'server "d b" name: wrong value (found "d b"); expected 1 to 64 letters' in found


def test_missing_keys_are_said_with_their_meaning() -> None:
    found = mistakes(GOOD.replace('address = "10.0.0.11:3306"\n', ""))
    assert len(found) == 1
    assert found[0].startswith('p.toml:1:1: server "db1" address: missing; where it listens')


def test_no_control_character_reaches_the_terminal() -> None:
    line = '"\\u001bkey" = 1\nbalance = "\\u001b[31m"'
    found = mistakes(with_line("service", line).replace('"write"', '"w\\u0007"'))
    assert len(found) == 3
    assert all(text.isprintable() for text in found)


def test_an_empty_list_is_refused() -> None:
    (found,) = mistakes(GOOD.replace('["db1"]', "[]"))
    assert 'service "write" servers: wrong value (found a list); expected at least one' in found


def test_an_unknown_table_names_the_nearest() -> None:
    assert 'timeout: unknown key; did you mean "timeouts"?' in mistakes(f"[timeout]\n{GOOD}")[0]


def test_single_brackets_where_several_may_stand() -> None:
    found = mistakes(GOOD.replace("[[server]]", "[server]"))
    assert "server: wrong form; expected [[server]] with double brackets" in found[0]
    assert len(found) == 1


def test_an_empty_file_says_what_is_missing() -> None:
    assert mistakes("") == [
        "p.toml: server: there is no [[server]]; one is enough to start with",
        "p.toml: service: there is no [[service]]; one is enough to start with",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("a = \n", "p.toml:1:5: not TOML: invalid value"),
        ("[a", "p.toml: not TOML: expected ']' at the end of a table declaration"),
        ("x = 1\nx = 2\n", "p.toml:2:6: not TOML: cannot overwrite a value"),
    ],
)
def test_what_is_not_toml_has_a_place(text: str, mistake: str) -> None:
    assert mistakes(text)[0].startswith(mistake)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PortsideError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"# fine\n\xff\n")
    with pytest.raises(ConfigError, match=r"x\.toml:2:1: is not UTF-8"):
        load(tmp_path / "x.toml")


def test_a_byte_order_mark_and_crlf_are_fine(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(tmp_path / "x.toml") == loads(GOOD)


class TestSecrets:
    def test_read_from_a_file_beside_the_configuration(self, tmp_path: Path) -> None:
        (tmp_path / "pw").write_text("geheim\n")
        (tmp_path / "p.toml").write_text(
            with_line("check", 'user = "m"\npassword = { file = "pw" }')
        )
        password = load(tmp_path / "p.toml").check.password
        assert password is not None and password.reveal() == "geheim"

    def test_never_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        config = loads(with_line("check", 'user = "m"\npassword = "geheim"'))
        logging.getLogger().warning("%s %r", config, config)
        shown = f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
        assert "geheim" not in shown + caplog.text

    @pytest.mark.parametrize(
        "line",
        [
            'pasword = "geheim"',
            'password = ["geheim"]',
            'password = { value = "geheim" }',
            'password = { file = "geheim", env = "geheim" }',
        ],
    )
    def test_no_mistake_shows_one(self, line: str) -> None:
        assert "geheim" not in "".join(mistakes(with_line("check", f'user = "m"\n{line}')))

    @pytest.mark.parametrize(
        ("reference", "mistake"),
        [
            ('{ env = "PORTSIDE_NO" }', "environment variable PORTSIDE_NO is not set"),
            ('{ env = "PORTSIDE_EMPTY" }', "environment variable PORTSIDE_EMPTY is empty"),
            ('{ file = "/nonexistent/pw" }', "/nonexistent/pw: No such file or directory"),
            ('{ file = "empty" }', "empty is empty"),
            ('{ file = "large" }', "large is larger than 64 KiB"),
            ('{ file = "binary" }', "binary is not UTF-8"),
        ],
    )
    def test_a_reference_that_leads_nowhere(
        self, reference: str, mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PORTSIDE_EMPTY", "")
        (tmp_path / "empty").write_text("\n")
        (tmp_path / "large").write_text("x" * 70_000)
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        text = with_line("check", f'user = "m"\npassword = {reference}')
        (found,) = mistakes(text, tmp_path)
        assert found.startswith("p.toml:3:1: check.password: wrong value") and mistake in found


def test_inheritance_merges_key_by_key_and_lists_replace() -> None:
    config = loads("""\
[source]
addresses = ["10.0.0.5", "10.0.0.6"]
reserve = 4
[close]
deadline = "2s"
[check]
user = "m"
interval = "9s"
[[server]]
name = "a"
address = "10.0.0.11:3306"
source = { addresses = ["10.0.0.7"] }
close = { to_server = "fin" }
check = { interval = "1s" }
timeouts = { connect = "1s" }
[[server]]
name = "b"
address = "10.0.0.12:3306"
check = false
[[service]]
name = "s"
listen = "10.0.0.5:3306"
timeouts = { queue = "1s" }
servers = ["a", "b"]
""")
    a, b = config.servers
    assert (a.source.addresses, a.source.reserve) == (("10.0.0.7",), 4)
    assert (a.close.to_server, a.close.deadline_s) == ("fin", 2.0)
    assert a.check is not None
    assert (a.check.interval_s, a.check.user, a.check.type) == (1.0, "m", "login")
    assert b.check is None
    assert (a.timeouts.connect_s, a.timeouts.queue_s) == (1.0, 5.0)
    assert config.services[0].timeouts.queue_s == 1.0


def test_the_type_of_a_check_follows_from_its_keys() -> None:
    def kind(line: str) -> str:
        return loads(with_line("check", line)).check.type

    assert kind("") == "tcp"
    assert kind('user = "m"') == "login"
    assert kind('user = "m"\nquery = "SELECT 1"') == "query"
    assert kind('user = "m"\ntype = "tcp"') == "tcp"
    assert kind('type = "python"\nfunction = "a.b:c"') == "python"


def test_the_schema_accepts_both_forms_of_a_key() -> None:
    text = schema()
    assert text["properties"]["service"]["items"] == {"$ref": "#/$defs/Service"}
    assert text["$defs"]["Service"]["additionalProperties"] is False
    assert {"type": "string"} in text["$defs"]["Service"]["properties"]["listen"]["anyOf"]
    assert Config.__name__ not in text["$defs"]
