"""What ``portside show`` and the runtime verbs print, from fixed answers of the API."""

import io
import json
import re

import pytest
from portside.admin.client import Refused
from portside.cli import runtime, show, table
from portside.errors import NoInstance, PortsideError

MEMBER = {
    "server": "db1",
    "weight": 1,
    "file_weight": 1,
    "backup": False,
    "eligible": True,
    "active": True,
    "why": "",
    "sessions": 2,
    "sessions_total": 100,
    "share": 0.25,
}
STATUS = {
    "version": "0.1.0",
    "pid": 812,
    "uptime_s": 93784.0,
    "config_path": "/etc/portside/portside.toml",
    "generation": 7,
    "accepting": True,
    "workers": 1,
    "sessions": 2,
    "max_sessions": 9963,
    "last_reload": None,
    "overrides": ["service read, server db2: weight 3 (file: 10)"],
    "alerts": ["server db2 is down: L4CON connection refused"],
    "services": [
        {
            "name": "read",
            "listen": ["10.0.0.5:3307"],
            "mode": "relay",
            "balance": "roundrobin",
            "state": "open",
            "sessions": 2,
            "max_connections": 4000,
            "queued": 0,
            "accepted_total": 12345,
            "refused_total": 1,
            "to_server_bytes_total": 0,
            "to_client_bytes_total": 0,
            "members": [
                MEMBER,
                {
                    **MEMBER,
                    "server": "db2",
                    "weight": 3,
                    "file_weight": 10,
                    "eligible": False,
                    "active": False,
                    "why": "server db2 is down (L4CON: connection refused)",
                    "sessions": 0,
                    "share": 0.75,
                },
            ],
        }
    ],
    "servers": [
        {
            "name": "db2",
            "destinations": ["10.0.0.12:3306"],
            "state": "down",
            "admin": "ready",
            "is_up": False,
            "check": "L4CON",
            "check_s": None,
            "reason": "connection refused",
            "since_s": 61.0,
            "role": "",
            "lag_s": None,
            "sessions": 0,
            "max_connections": None,
            "sessions_total": 9,
            "connect_failures_total": 3,
            "left_before_login_total": 0,
            "close_deadlines_total": 0,
            "breaker": "open",
            "hosts_blocked": [],
            "services": ["read"],
        }
    ],
}


def plainly(parts: list[table.Part]) -> str:
    """As a pipe sees it."""
    out = io.StringIO()
    for part in parts:
        table.write(part, out)
    return out.getvalue()


class Terminal(io.StringIO):
    """A terminal of 80 columns without colours."""

    def isatty(self) -> bool:
        return True


def test_the_status_on_one_page():
    assert (
        plainly(show.status(STATUS))
        == """\
Portside 0.1.0, pid 812, up 1d2h, accepting, 2 of 9,963 sessions, 1 worker, \
/etc/portside/portside.toml
! server db2 is down: L4CON connection refused

SERVICE  STATE     SESSIONS  QUEUE      TOTAL  REFUSED  LISTEN / WHY NOT
read     open       2/4,000      0     12,345        1  10.0.0.5:3307
  db1    eligible         2         100 (25%)           w 1
  db2    not              0         100 (75%)           \
server db2 is down (L4CON: connection refused)

SERVER  STATE  CHECK  SINCE  SESSIONS  FAILED  DESTINATIONS
db2     down   L4CON   1m1s         0       3  10.0.0.12:3306
  db2: connection refused

Set at run time (kept over reloads, gone with the process):
  service read, server db2: weight 3 (file: 10)
"""
    )


def test_a_pool_shows_its_connections_and_a_breaker_that_no_check_sees():
    [server] = STATUS["servers"]
    pool = {"pool_busy": 3, "pool_open": 5, "pool_max": 40}
    row = {**server, **pool, "state": "up", "check": "L4OK", "reason": ""}
    other = {**server, "name": "db3", "pool_max": None, "breaker": "closed", "reason": ""}
    other["hosts_blocked"] = ["10.0.0.5"]
    assert (
        plainly(show.servers([row, other]))
        == """\
SERVER  STATE  CHECK  SINCE  SESSIONS    POOL  FAILED  DESTINATIONS
db2     up     L4OK    1m1s         0  3/5/40       3  10.0.0.12:3306
db3     down   L4CON   1m1s         0               3  10.0.0.12:3306
  db2: sessions cannot connect; why: portside show events
  db3: refuses our address 10.0.0.5; why: portside show events
"""
    )


def test_a_terminal_of_80_columns_is_enough(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    for part in show.status(STATUS):
        table.write(part, out)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(len(line) for line in text.splitlines()) <= 80
    for word in ("12,345", "2/4,000", "connection", "10.0.0.5:3307", "db2"):
        assert word in text


def test_nothing_there_is_said():
    assert plainly(show.sessions([])) == "No sessions.\n"
    assert plainly(show.events([])) == "No events.\n"


def test_sessions():
    row = {
        "id": 1,
        "client": "10.0.1.7:51234",
        "service": "read",
        "server": "",
        "source": "",
        "state": "queued",
        "age_s": 1.5,
        "idle_s": 0.2,
        "to_server_bytes": 10,
        "to_client_bytes": 2048,
    }
    assert plainly(show.sessions([row])) == (
        "ID  CLIENT          SERVICE  SERVER  SOURCE  STATE    AGE  IDLE  SENT  RECEIVED\n"
        " 1  10.0.1.7:51234  read     -       -       queued  1.5s  0.2s    10      2.0K\n"
    )


def test_config_shows_run_time_changes_first():
    answer = {
        "toml": "[portside]\nworkers = 2\n",
        "values": [{"key": "portside.workers", "value": "2", "origin": "p.toml:2"}],
        "overrides": ["server db1: drain"],
    }
    assert plainly(show.config(answer)) == (
        "# at run time: server db1: drain\n[portside]\nworkers = 2\n"
    )
    assert plainly(show.config_origins(answer)) == (
        "# at run time: server db1: drain\n"
        "KEY               VALUE  FROM\n"
        "portside.workers  2      p.toml:2\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (10, "10s"),
        (59.9, "59s"),
        (61, "1m1s"),
        (3600, "1h0m"),
        (86399, "23h59m"),
        (90000, "1d1h"),
    ],
)
def test_durations(seconds, text):
    assert show.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1.0K"), (20 << 20, "20M"), (5 << 40, "5.0T")],
)
def test_sizes(count, text):
    assert show.size(count) == text


@pytest.mark.parametrize(
    ("verb", "args", "path", "body"),
    [
        ("drain", ["db1"], "/v1/servers/db1/drain", {}),
        ("maint", ["a/b"], "/v1/servers/a%2Fb/maint", {}),
        ("pause", ["read"], "/v1/services/read/pause", {}),
        ("switch", ["write", "db2"], "/v1/services/write/switch", {"server": "db2"}),
        ("weight", ["read/db2", "7"], "/v1/services/read/servers/db2/weight", {"weight": 7}),
        ("weight", ["read/db2", "file"], "/v1/services/read/servers/db2/weight", {"weight": None}),
        ("kill", ["42"], "/v1/sessions/42/kill", {}),
    ],
)
def test_verbs_become_requests(verb, args, path, body):
    assert runtime.request_of(verb, args) == (path, body)


@pytest.mark.parametrize(
    ("verb", "args", "words"),
    [
        ("weight", ["db2", "7"], "'db2' is not SERVICE/SERVER, such as read/db2."),
        ("weight", ["read/db2", "-1"], "'-1' is not a weight"),
        ("kill", ["x"], "'x' is not a session's number"),
    ],
)
def test_wrong_arguments_are_sentences(verb, args, words):
    with pytest.raises(PortsideError) as refused:
        runtime.request_of(verb, args)
    assert words in str(refused.value)


class Instance:
    """Answers like the API, without a socket."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __call__(self, _admin: str | None) -> "Instance":
        return self

    def get(self, _path: str, **_: object) -> object:
        return self.answer

    def post(self, _path: str, _body: object) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_json_is_the_answer_itself(monkeypatch, capsys):
    monkeypatch.setattr(show, "AdminClient", Instance(STATUS))
    assert show.main(None, None, True, False) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_a_reload_prints_what_changed(monkeypatch, capsys):
    answer = {"message": "Reloaded: 1 thing changed.", "changes": ["server db1: address changed"]}
    monkeypatch.setattr(runtime, "AdminClient", Instance(answer))
    assert runtime.main("reload", [], None, {}) == 0
    assert capsys.readouterr().out == (
        "Reloaded: 1 thing changed.\n  server db1: address changed\n"
    )


def test_a_refused_reload_prints_every_mistake_and_is_1(monkeypatch, capsys):
    body = {"error": "not reloaded.", "hint": "", "mistakes": ["p.toml:3:1: unknown key", "more"]}
    monkeypatch.setattr(runtime, "AdminClient", Instance(Refused(409, body)))
    assert runtime.main("reload", [], None, {}) == 1
    assert capsys.readouterr().err == "p.toml:3:1: unknown key\nmore\nnot reloaded.\n"


def test_without_an_instance_the_address_tried_is_named():
    with pytest.raises(NoInstance, match=r"no running instance at /nonexistent/x.sock"):
        show.main(None, "/nonexistent/x.sock", False, False)
