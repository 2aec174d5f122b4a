"""What servers answer, and what is made of it: roles, lag, greetings, slow start, outcomes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portside.config.model import Config
from portside.health.greeting import Greeting, NotMysql, ServerError, parse_first
from portside.health.judge import DestinationResult, Readings, Rules, Status
from portside.health.login import is_true
from portside.health.outcomes import combine, over_sources
from portside.health.probe import check_target
from portside.health.readings import dialect_of, is_read_only, replication_of
from portside.health.slowstart import slow_start_next_s, slow_start_share
from portside.health.target import Target, parse_destination, target_of, usable_sources
from portside.health.userworker import outcome


def mariadb_row(io="Yes", sql="Yes", lag: object = 0, error="", name="") -> dict[str, object]:
    return {
        "Connection_name": name,
        "Slave_IO_Running": io,
        "Slave_SQL_Running": sql,
        "Seconds_Behind_Master": lag,
        "Last_IO_Error": error,
        "Last_SQL_Error": "",
    }


def mysql_row(io="Yes", sql="Yes", lag: object = 0) -> dict[str, object]:
    return {
        "Channel_Name": "",
        "Replica_IO_Running": io,
        "Replica_SQL_Running": sql,
        "Seconds_Behind_Source": lag,
        "Last_IO_Error": "",
        "Last_SQL_Error": "",
    }


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], Readings(True, replica=False)),
        ([mariadb_row()], Readings(True, True, True, 0.0)),
        ([mysql_row(lag=3)], Readings(True, True, True, 3.0)),
        ([mariadb_row(lag=None)], Readings(True, True, True, None)),
        ([mariadb_row(lag=1), mariadb_row(lag=9)], Readings(True, True, True, 9.0)),
        ([mariadb_row(lag=1), mariadb_row(lag=None)], Readings(True, True, True, None)),
        # Both threads stopped without an error: switched off, as after a promotion.
        ([mariadb_row("No", "No", None)], Readings(True, replica=False)),
        ([mariadb_row("No", "No", None), mariadb_row()], Readings(True, True, True, 0.0)),
    ],
)
def test_replication(rows, expected):
    assert replication_of(rows, True) == expected


def test_broken_replication_says_which_channel_and_why():
    rows = [mariadb_row(), mariadb_row("Connecting", "Yes", None, "error connecting", "west")]
    seen = replication_of(rows, True)
    assert (seen.replica, seen.replicating, seen.lag_s) == (True, False, None)
    assert seen.note == "channel west: IO thread Connecting, SQL thread Yes: error connecting"


def test_threads_stopped_by_an_error_are_not_switched_off():
    assert replication_of([mariadb_row("No", "No", None, "fatal")], False).replicating is False


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((0, 0), False),
        ((0, 1), True),
        (("OFF",), False),
        (("ON",), True),
        (("NO_LOCK_NO_ADMIN",), True),
        ((), None),
    ],
)
def test_read_only(row, expected):
    assert is_read_only(row) is expected


@pytest.mark.parametrize(
    ("version", "replica_query", "grant"),
    [
        ("5.5.5-10.4.1-MariaDB-log", "SHOW ALL SLAVES STATUS", "REPLICATION CLIENT"),
        ("10.11.6-MariaDB-0+deb12u1", "SHOW ALL SLAVES STATUS", "REPLICA MONITOR"),
        ("12.0.2-MariaDB", "SHOW ALL SLAVES STATUS", "REPLICA MONITOR"),
        ("5.7.44-log", "SHOW SLAVE STATUS", "REPLICATION CLIENT"),
        ("8.0.21", "SHOW SLAVE STATUS", "REPLICATION CLIENT"),
        ("8.4.3", "SHOW REPLICA STATUS", "REPLICATION CLIENT"),
        ("9.7.0", "SHOW REPLICA STATUS", "REPLICATION CLIENT"),
    ],
)
def test_dialect(version, replica_query, grant):
    dialect = dialect_of(version)
    assert (dialect.replica_query, dialect.missing_grant) == (replica_query, grant)
    assert ("super_read_only" in dialect.read_only_query) is not dialect.is_mariadb


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_version_text_makes_a_dialect(version):
    assert dialect_of(version).replica_query.startswith("SHOW ")


def packet(payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + b"\0" + payload


GREETING = packet(b"\x0a10.11.6-MariaDB\0" + bytes(4) + b"abcdefgh\0\xfe\xff" + bytes(20))


def test_greeting():
    assert parse_first(GREETING) == Greeting("10.11.6-MariaDB", has_tls=True)
    assert all(parse_first(GREETING[:size]) is None for size in range(len(GREETING)))


@pytest.mark.parametrize("marker", [b"", b"#08004"])
def test_error_in_place_of_a_greeting(marker):
    data = packet(b"\xff\x10\x04" + marker + b"Too many connections")
    assert parse_first(data) == ServerError(1040, "Too many connections")


@pytest.mark.parametrize("data", [b"HTTP/1.1 400", b"SSH-2.0-", packet(b"\x09old\0"), bytes(9)])
def test_not_mysql(data):
    assert isinstance(parse_first(data), NotMysql)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data):
    parse_first(data)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, True),
        (0, False),
        (0.0, False),
        ("1", True),
        ("0", False),
        ("on", True),
        ("Off", False),
        ("Synced", True),
        ("", False),
        (None, False),
        (b"\x01", True),
        (b"\x00", False),
    ],
)
def test_truth_of_a_first_column(value, expected):
    assert is_true(value) is expected


# ---- outcomes put together


def outcome_at(status: Status, source="", errno=0, **values) -> DestinationResult:
    detail = f"ERR {errno} no" if errno else ""
    return DestinationResult("db:1", status, source=source, errno=errno, detail=detail, **values)


def test_best_of_several_sources_counts():
    refused = outcome_at(Status.L7STS, "10.0.0.5", 1130)
    good = outcome_at(Status.L7OK, "10.0.0.6")
    best = over_sources([refused, good])
    assert (best.status, best.source) == (Status.L7OK, "10.0.0.6")
    assert [(one.source, one.errno, one.text) for one in best.blocked] == [
        ("10.0.0.5", 1130, "no"),
    ]


def test_wrong_password_everywhere_blocks_nobody():
    both = [outcome_at(Status.L7STS, source, 1045) for source in ("10.0.0.5", "10.0.0.6")]
    assert over_sources(both).blocked == ()
    assert len(over_sources([*both, outcome_at(Status.L7OK)]).blocked) == 2


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([Status.L4OK], Status.L4OK),
        ([Status.L4CON, Status.L4OK], Status.L4OK),
        ([Status.L4CON, Status.SOCKERR], Status.L4CON),
        ([Status.NO_SOURCE, Status.SOCKERR], Status.SOCKERR),
        ([Status.NO_SOURCE, Status.NO_SOURCE], Status.NO_SOURCE),
    ],
)
def test_a_server_is_alive_when_one_destination_is(statuses, expected):
    assert combine([outcome_at(status) for status in statuses]).status is expected


def test_one_full_destination_does_not_hide_the_readings_of_another():
    seen = Readings(read_only=False)
    full = outcome_at(Status.L7OK, full=True)
    result = combine([full, outcome_at(Status.L7OK, readings=seen)])
    assert (result.full, result.readings) == (False, seen)
    assert combine([full]).full


# ---- targets


@pytest.mark.parametrize(
    ("text", "host", "port", "path", "version"),
    [
        ("10.0.0.1:3306", "10.0.0.1", 3306, "", 4),
        ("[fd00::1]:3306", "fd00::1", 3306, "", 6),
        ("db.example:3306", "db.example", 3306, "", 0),
        ("unix:/run/m.sock", "", 0, "/run/m.sock", 0),
    ],
)
def test_destination(text, host, port, path, version):
    one = parse_destination(text)
    assert (one.host, one.port, one.path, one.version) == (host, port, path, version)
    assert one.is_name is (text.startswith("db."))


def test_sources_of_the_right_family():
    assert usable_sources(("10.0.0.1", "fd00::1"), 6) == ("fd00::1",)


def test_target_of_a_configured_server():
    server = {
        "name": "db1",
        "address": ["10.0.0.11:3306", "unix:/run/m.sock"],
        "source": {"addresses": ["10.0.0.5"]},
        "check": {"user": "monitor", "password": "secret", "interval": "1s", "fall": 2},
    }
    config = Config.model_validate({"server": [server]})
    target = target_of(config.servers[0])
    assert target is not None
    assert (target.type, target.user, target.password) == ("login", "monitor", "secret")
    assert target.destinations == ("10.0.0.11:3306", "unix:/run/m.sock")
    assert target.sources == ("10.0.0.5",)
    assert target.rules == Rules(1.0, 0.5, 2, 2)
    assert "secret" not in repr(target) + repr(check_target(target))
    off = Config.model_validate({"server": [{**server, "check": False}]})
    assert target_of(off.servers[0]) is None


def test_what_a_function_is_called_with():
    seen = check_target(Target("db1", ("[fd00::1]:3306", "unix:/m"), user="u", timeout_s=1.5))
    assert (seen.host, seen.port, seen.unix_socket, seen.timeout_s) == ("fd00::1", 3306, "", 1.5)


@pytest.mark.parametrize(
    ("value", "status"),
    [(True, Status.L7OK), ((True, "x"), Status.L7OK), (False, Status.L7STS), ("no", Status.L7STS)]
    + [((False, "x"), Status.L7STS)]
    + [(value, Status.L7RSP) for value in (None, "", 1, 0, (1, "x"), (True,), [], object())],
)
def test_outcome_of_a_function(value, status):
    assert outcome(value)[0] is status


# ---- slow start


@pytest.mark.parametrize(
    ("up_for_s", "share"),
    [(None, 1.0), (0.0, 0.1), (0.9, 0.1), (1.0, 0.2), (5.0, 0.6), (9.9, 1.0), (10.0, 1.0)],
)
def test_slow_start(up_for_s, share):
    assert slow_start_share(up_for_s, 10.0) == pytest.approx(share)


def test_slow_start_next_step():
    assert slow_start_next_s(2.4, 10.0) == pytest.approx(0.6)
    assert slow_start_next_s(10.0, 10.0) is None
    assert slow_start_next_s(None, 10.0) is None
    assert slow_start_share(1.0, None) == 1.0
