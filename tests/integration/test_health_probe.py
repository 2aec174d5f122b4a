"""Checks against real servers, and against one that misbehaves in every way we know."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
from portside.health.judge import CheckResult, Status
from portside.health.probe import Prober
from portside.health.target import CloseRule, Target

from tests.support.chaos import (
    COLUMN,
    EOF_PACKET,
    GREETING,
    OK,
    Behaviour,
    _packet,
    _read_packet,
)
from tests.support.servers import MONITOR_PASSWORD, MONITOR_USER, Database
from tests.support.socket_table import TIME_WAIT
from tests.support.waiting import wait_until

FAST = 0.3


def check(target: Target, times: int = 1) -> CheckResult:
    """The last of some checks in a row."""

    async def run() -> CheckResult:
        prober = Prober()
        try:
            for turn in range(times):
                result = await prober.check(target, turn)
            return result
        finally:
            await prober.close()

    return asyncio.run(run())


def target(address: str, **values) -> Target:
    values.setdefault("user", MONITOR_USER)
    values.setdefault("password", MONITOR_PASSWORD)
    return Target("db1", (address,), **values)


def address_of(server: Database) -> str:
    return f"{server.address}:{server.port}"


def sides(port: int) -> tuple[int, int]:
    """Sockets in TIME_WAIT that have ``port`` as their own, and as the other side's."""
    found = [0, 0]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == TIME_WAIT:
            found[0] += local.endswith(f":{port:04X}")
            found[1] += remote.endswith(f":{port:04X}")
    return found[0], found[1]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("kind", "behaviour", "status", "text"),
    [
        ("tcp", Behaviour.REFUSE, Status.L4CON, "ECONNREFUSED"),
        ("tcp", Behaviour.HANG, Status.L4TOUT, "no answer in time"),
        ("tcp", Behaviour.SILENT, Status.L4OK, ""),
        ("login", Behaviour.REFUSE, Status.L4CON, "ECONNREFUSED"),
        ("login", Behaviour.HANG, Status.L4TOUT, "no answer in time"),
        ("login", Behaviour.SILENT, Status.L7TOUT, "no greeting in time"),
        ("login", Behaviour.HALF_GREETING, Status.L7TOUT, "no greeting in time"),
        ("login", Behaviour.CLOSE, Status.L7RSP, "closed the connection in place of a greeting"),
        ("login", Behaviour.GARBAGE, Status.L7RSP, "not a MySQL greeting"),
        ("login", Behaviour.RESET_AFTER_LOGIN, Status.L7RSP, "reset"),
        ("query", Behaviour.SERVE, Status.L7OK, ""),
        ("mysql", Behaviour.SERVE, Status.L7OK, ""),
        ("mysql", Behaviour.GARBAGE, Status.L7RSP, "HTTP"),
        ("mysql", Behaviour.SILENT, Status.L7TOUT, "no greeting in time"),
    ],
)
def test_every_misbehaviour_has_its_word(chaos, kind, behaviour, status, text):
    chaos.behave(behaviour)
    before = open_descriptors()
    result = check(target(chaos.address, type=kind, query="SELECT 1", timeout_s=FAST))
    assert result.status is status
    assert text in result.detail
    # The misbehaving server lives in this process too, and closes when it sees our reset.
    wait_until(lambda: open_descriptors() <= before, 2, "descriptors closed")


def test_reset_at_once(chaos):
    """The kernel may tell of the reset before it tells of the connection: either word is right."""
    chaos.behave(Behaviour.RESET)
    result = check(target(chaos.address, type="login", timeout_s=FAST))
    assert result.status in (Status.L4CON, Status.L7RSP)
    assert "reset by peer" in result.detail


def test_full_server_is_alive(chaos):
    chaos.behave(Behaviour.ERR, (1040, "Too many connections"))
    result = check(target(chaos.address, type="login", timeout_s=FAST))
    assert (result.status, result.full, result.readings) == (Status.L7OK, True, None)
    assert "alive but full: ERR 1040 Too many connections" in result.detail


@pytest.mark.parametrize("errno", [1129, 1130])
def test_refused_host_fails_when_every_address_is_refused(chaos, errno):
    chaos.behave(Behaviour.ERR, (errno, "Host is not welcome"))
    sources = ("127.0.0.1", "127.0.0.2")
    result = check(target(chaos.address, type="login", timeout_s=FAST, sources=sources))
    assert result.status is Status.L7STS
    assert result.detail == f"ERR {errno} Host is not welcome"
    assert {(one.source, one.errno) for one in result.blocked} == {(s, errno) for s in sources}


def test_refused_host_is_up_while_another_address_works(mariadb_factory):
    server = mariadb_factory(client_hosts="127.0.0.2")
    sources = ("127.0.0.3", "127.0.0.2")  # 127.0.0.1 is known: there is root@127.0.0.1
    result = check(target(address_of(server), type="login", sources=sources))
    assert result.status is Status.L7OK
    (block,) = result.blocked
    assert (block.source, block.errno) == ("127.0.0.3", 1130)
    assert "is not allowed to connect" in block.text


def test_wrong_password(trio):
    result = check(target(address_of(trio.primary), type="login", password="wrong"))
    assert result.status is Status.L7STS
    assert "ERR 1045 Access denied for user 'monitor'" in result.detail
    assert "wrong" not in repr(target("x:1", password="wrong"))
    assert result.blocked == ()


def test_login_reads_role_and_lag(trio):
    primary = check(target(address_of(trio.primary), type="login")).readings
    replica = check(target(address_of(trio.replica1), type="login")).readings
    assert primary is not None and replica is not None
    assert (primary.read_only, primary.replica, primary.lag_s) == (False, False, None)
    assert (replica.read_only, replica.replica, replica.replicating) == (True, True, True)
    assert replica.lag_s == 0.0


def test_stopped_replication_is_seen_with_its_error(trio):
    trio.replica2.root("STOP SLAVE IO_THREAD")
    try:
        readings = check(target(address_of(trio.replica2), type="login")).readings
        assert readings is not None
        assert (readings.replica, readings.replicating, readings.lag_s) == (True, False, None)
        assert "IO thread No, SQL thread Yes" in readings.note
    finally:
        trio.replica2.root("START SLAVE")


def test_missing_privilege_is_named(mariadb_factory):
    server = mariadb_factory()
    server.root(f"REVOKE REPLICA MONITOR ON *.* FROM {MONITOR_USER}@'127.0.0.%'")
    result = check(target(address_of(server), type="login"))
    assert result.status is Status.L7OK
    assert result.readings is not None
    assert (result.readings.read_only, result.readings.replica) == (False, None)
    assert "GRANT REPLICA MONITOR ON *.*" in result.readings.note


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("SELECT 1", Status.L7OK, ""),
        ("SELECT @@read_only = 0", Status.L7OK, ""),
        ("DO 1", Status.L7OK, ""),
        ("SELECT 1 FROM information_schema.columns", Status.L7OK, ""),
        ("SELECT 0", Status.L7STS, "the check's query said 0"),
        ("SELECT NULL", Status.L7STS, "the check's query said None"),
        ("SELECT 'OFF'", Status.L7STS, "the check's query said 'OFF'"),
        ("SELECT 1 FROM dual WHERE 1 = 0", Status.L7STS, "no row"),
        ("SELECT nonsense", Status.L7STS, "ERR 1054"),
        ("SELECT SLEEP(5)", Status.L7TOUT, "did not end in time"),
    ],
)
def test_query(trio, query, status, text):
    result = check(target(address_of(trio.primary), type="query", query=query, timeout_s=0.5))
    assert result.status is status
    assert text in result.detail


def test_hung_queries_do_not_pile_up_on_the_server(trio):
    slow = target(address_of(trio.primary), type="query", query="SELECT SLEEP(20)", timeout_s=FAST)
    assert check(slow, times=3).status is Status.L7TOUT
    left = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
    wait_until(lambda: trio.primary.root(left)[0][0] == 0, 3, "hung check queries")


def test_stopped_server(mariadb_factory):
    server = mariadb_factory()
    server.pause()
    try:
        result = check(target(address_of(server), type="login", timeout_s=FAST))
    finally:
        server.resume()
    assert (result.status, result.definitive) == (Status.L7TOUT, False)


def test_hung_replication_status_leaves_the_server_alive():
    """SHOW REPLICA STATUS hangs while a STOP REPLICA waits; that must not cut the sessions."""

    def play(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(_packet(0, GREETING))
            _read_packet(connection)
            connection.sendall(_packet(2, OK))
            while command := _read_packet(connection)[1:]:
                row = (b"\x01", COLUMN, EOF_PACKET, b"\x010", EOF_PACKET)
                if command.startswith(b"SET"):
                    connection.sendall(_packet(1, OK))
                elif command.startswith(b"SELECT"):
                    connection.sendall(b"".join(_packet(n, one) for n, one in enumerate(row, 1)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=play, args=(listener,))
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        result = check(target(address, type="login", timeout_s=FAST))
        thread.join()
    assert result.status is Status.L7OK
    assert result.readings is not None
    assert (result.readings.read_only, result.readings.replica) == (False, None)
    assert "replication cannot be read" in result.readings.note


def test_server_that_hangs_after_its_greeting_frees_its_thread():
    accepted: list[socket.socket] = []

    def greet(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted.append(listener.accept()[0])
                accepted[-1].sendall(len(GREETING).to_bytes(3, "little") + b"\0" + GREETING)

    async def run(port: int) -> list[CheckResult]:
        prober = Prober(threads=2)
        mute = target(f"127.0.0.1:{port}", type="login", timeout_s=FAST)
        # Three times the threads there are: none may stay behind in recv().
        results = [await prober.check(mute) for _ in range(6)]
        await prober.close()
        return results

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet, args=(listener,))
        thread.start()
        results = asyncio.run(run(listener.getsockname()[1]))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for one in accepted:
        one.close()
    assert {one.status for one in results} == {Status.L7TOUT}
    assert "greeted, but" in results[0].detail


def test_unix_socket(trio):
    path = f"unix:{trio.primary.socket_path}"
    before = trio.primary.status("Connections"), trio.primary.status("Aborted_connects")
    assert check(target(path, type="tcp"), times=50).status is Status.L4OK
    # status() connects by itself: once for each counter read in between.
    assert trio.primary.status("Connections") - before[0] <= 3
    assert trio.primary.status("Aborted_connects") == before[1]
    trio.primary.root(f"CREATE USER IF NOT EXISTS {MONITOR_USER}@localhost IDENTIFIED BY 'u'")
    assert check(target(path, type="login", password="u")).status is Status.L7OK


def test_stale_unix_socket(tmp_path: Path):
    path = tmp_path / "gone.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    result = check(target(f"unix:{path}", type="tcp"))
    assert (result.status, "ECONNREFUSED" in result.detail) == (Status.L4CON, True)
    result = check(target(f"unix:{tmp_path}/none.sock", type="tcp"))
    assert (result.status, "ENOENT" in result.detail) == (Status.L4CON, True)


def test_source_address_is_used(trio):
    result = check(target(address_of(trio.primary), type="login", sources=("127.0.0.77",)))
    assert (result.status, result.destinations[0].source) == (Status.L7OK, "127.0.0.77")


def test_source_address_that_is_gone_is_not_the_servers_failure(trio):
    gone = target(address_of(trio.primary), type="tcp", sources=("192.0.2.7",))
    result = check(gone)
    assert result.status is Status.NO_SOURCE
    assert result.detail == "source address 192.0.2.7 is not on this host"
    partly = target(
        address_of(trio.primary), type="tcp", sources=("192.0.2.7", "127.0.0.1", "192.0.2.8")
    )
    assert check(partly, times=3).status is Status.L4OK


def test_one_of_two_addresses_is_enough(trio, chaos):
    chaos.behave(Behaviour.REFUSE)
    both = Target("db1", (chaos.address, address_of(trio.primary)), type="tcp")
    result = check(both)
    assert result.status is Status.L4OK
    assert [one.status for one in result.destinations] == [Status.L4CON, Status.L4OK]
    assert result.detail.startswith(f"{chaos.address}: connect")


def test_host_name(trio):
    assert check(target(f"localhost:{trio.primary.port}", type="login")).status is Status.L7OK
    result = check(target("no-such-host.invalid:3306", type="tcp"))
    assert result.status is Status.SOCKERR
    assert "no-such-host.invalid does not resolve" in result.detail


def test_server_that_wants_tls(mariadb_factory, tls_dir):
    server = mariadb_factory(tls_dir=tls_dir, options={"require-secure-transport": "ON"})
    before = server.status("Aborted_clients")
    result = check(target(address_of(server), type="login"), times=3)
    assert result.status is Status.L7OK
    assert result.readings is not None and result.readings.read_only is False
    assert server.status("Aborted_clients") == before


def test_account_that_wants_tls(mariadb_factory, tls_dir):
    server = mariadb_factory(tls_dir=tls_dir)
    server.root(f"ALTER USER {MONITOR_USER}@'127.0.0.%' REQUIRE SSL")
    assert check(target(address_of(server), type="login")).status is Status.L7OK


def test_proxy_header_is_sent_as_local(mariadb_factory):
    server = mariadb_factory(options={"proxy-protocol-networks": "*"})
    before = server.status("Aborted_connects")
    proxied = target(address_of(server), type="login", send_proxy=True)
    assert check(proxied, times=5).status is Status.L7OK
    assert server.status("Aborted_connects") == before


@pytest.mark.parametrize(
    ("to_server", "is_right"),
    [
        ("eof-reset", lambda theirs, ours: (theirs, ours) == (0, 0)),
        # Their FIN was first, and ours answered it.
        ("eof", lambda theirs, ours: (theirs, ours) == (6, 0)),
        # Over loopback their FIN may be faster than our close: then they keep it.
        ("linger2", lambda theirs, ours: ours == 0),
        ("fin", lambda theirs, ours: theirs + ours == 6),
    ],
)
def test_checks_close_by_the_rule_of_their_server(mariadb_factory, to_server, is_right):
    """Who keeps the TIME_WAITs, and that no login counts as aborted."""
    server = mariadb_factory()
    aborted = server.status("Aborted_clients"), server.status("Aborted_connects")
    before = sides(server.port)
    rule = CloseRule(to_server)
    assert check(target(address_of(server), type="login", close=rule), times=6).status.passed

    def left() -> tuple[int, int]:
        now = sides(server.port)
        return now[0] - before[0], now[1] - before[1]

    wait_until(lambda: is_right(*left()), 5, f"TIME_WAITs: {left()}")
    assert (server.status("Aborted_clients"), server.status("Aborted_connects")) == aborted


def test_ipv6():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        text = f"[::1]:{listener.getsockname()[1]}"
        assert check(target(text, type="tcp")).status is Status.L4OK
        assert check(target(text, type="tcp", sources=("::1", "127.0.0.1"))).status is Status.L4OK
        result = check(target(text, type="tcp", sources=("127.0.0.1",)))
        assert (result.status, "of IPv6" in result.detail) == (Status.NO_SOURCE, True)


@pytest.mark.mysql9
def test_mysql9_does_not_speak_proxy(mysql9_trio):
    address = address_of(mysql9_trio.primary)
    result = check(target(address, type="login", send_proxy=True, timeout_s=FAST))
    assert not result.status.passed
    assert "Oracle MySQL does not" in result.detail


@pytest.mark.mysql9
def test_mysql9(mysql9_trio):
    server = mysql9_trio.primary
    before = server.status("Aborted_connects")
    # Before the first full login of this account the server has no cached hash: RSA, no TLS.
    server.root("FLUSH PRIVILEGES")
    assert check(target(address_of(server), type="login"), times=3).status is Status.L7OK
    primary = check(target(address_of(server), type="query", query="SELECT 1")).readings
    replica = check(target(address_of(mysql9_trio.replica1), type="login")).readings
    assert primary is not None and replica is not None
    assert (primary.read_only, primary.replica) == (False, False)
    assert (replica.read_only, replica.replicating) == (True, True)
    assert replica.lag_s is not None and replica.lag_s < 5
    slow = target(address_of(server), type="query", query="SELECT SLEEP(20)", timeout_s=FAST)
    # MySQL ends it by max_execution_time: SLEEP() then says 1, without an error.
    assert check(slow).status in (Status.L7TOUT, Status.L7OK)
    assert server.status("Aborted_connects") == before
