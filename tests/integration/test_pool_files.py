"""LOAD DATA LOCAL INFILE through a pool, and packets that are longer than one packet can be."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from tests.conftest import Trio
from tests.integration.test_pool import Client, config, connections
from tests.integration.test_pool_flags import direct, options, through
from tests.support import flag_client as flags
from tests.support.file_thief import FileThief
from tests.support.flag_client import FlagClient
from tests.support.instance import Instance
from tests.support.raw_client import packet
from tests.support.servers import APP_PASSWORD, APP_USER, Database, peers_bin
from tests.support.waiting import wait_until

Run = Callable[..., Instance]

FILES = "local_infile = true"
LOAD = "LOAD DATA LOCAL INFILE '{}' INTO TABLE app.files FIELDS TERMINATED BY ','"


@pytest.fixture(params=["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def primary(request: pytest.FixtureRequest) -> Iterator[Database]:
    fixture = "trio" if request.param == "mariadb" else "mysql9_trio"
    servers: Trio = request.getfixturevalue(fixture)
    server = servers.primary
    server.root("SET GLOBAL local_infile = 1")
    server.root("DROP TABLE IF EXISTS app.files")
    server.root("CREATE TABLE app.files (a INT, b TEXT)")
    yield server
    server.root("SET GLOBAL local_infile = DEFAULT")


def client(address: tuple[str, int]) -> FlagClient:
    wanted = flags.LOCAL_FILES | flags.MULTI_STATEMENTS | flags.MULTI_RESULTS
    return FlagClient(address, APP_USER, APP_PASSWORD, wanted)


def loaded(server: Database) -> int:
    return int(server.root("SELECT COUNT(*) FROM app.files")[0][0])


def test_files_of_clients_are_loaded(primary: Database, run_portside: Run, folder: Path) -> None:
    small, big = folder / "small.csv", folder / "big.csv"
    small.write_text("1,a\n2,b\n")
    line = "x" * 10_000
    with big.open("w") as out:
        out.writelines(f"{n},{line}\n" for n in range(10_500))
    assert big.stat().st_size > 100 << 20
    portside = run_portside(config(primary, service=FILES, workers=1))
    one = Client(portside, local_infile=True, client_flag=flags.MULTI_STATEMENTS)
    with one.connection.cursor() as cursor:
        assert cursor.execute(LOAD.format(small)) == 2
        before = memory_kib(portside)
        assert cursor.execute(LOAD.format(big)) == 10_500
        assert memory_kib(portside) - before < 4096
        # Amid other statements, and two of them.
        load = LOAD.format(small)
        found = [cursor.execute(f"SELECT 1; {load}; SELECT 5; {load}")]
        while cursor.nextset():
            found.append(cursor.rowcount)
        assert found == [1, 2, 1, 2]
        with pytest.raises(pymysql.MySQLError, match="no-such"):
            cursor.execute(LOAD.format("/no-such"))
        with pytest.raises(pymysql.MySQLError) as caught:
            cursor.execute(load.replace("app.files", "app.no_such"))
        assert caught.value.args[0] == 1146
        assert cursor.execute("SELECT 1") == 1
    one.connection.close()
    assert loaded(primary) == 10_506
    is_mysql = primary.product == "MySQL 9.7"
    program = str(peers_bin() / "mysql9") if is_mysql else "mariadb"
    done = subprocess.run(
        [program, *options(through(portside)), "--local-infile=1", "-e", load],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert loaded(primary) == 10_508


def memory_kib(portside: Instance) -> int:
    status = Path(f"/proc/{portside.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_without_the_key_nobody_is_asked_for_a_file(primary: Database, run_portside: Run) -> None:
    portside = run_portside(config(primary))
    one = client(through(portside))
    assert not one.offered & flags.LOCAL_FILES
    # As on a direct connection whose client does not offer it.
    plain = FlagClient(direct(primary), APP_USER, APP_PASSWORD)
    assert one.query(LOAD.format("x")) == plain.query(LOAD.format("x"))
    assert one.query("SELECT 1")[0] == b"\x01"
    one.close()
    plain.close()


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_a_client_that_vanishes_in_the_middle_of_its_file(
    primary: Database, run_portside: Run, end: str
) -> None:
    portside = run_portside(config(primary, service=FILES))
    one = begun(client(through(portside)))
    one.write(b"1,a\n2,b\n")
    one.send(packet(one.sequence, b"3,c\n")[:6])
    one.close() if end == "fin" else one.reset()
    wait_until(lambda: not connections(primary), 10.0, "its connection is still there")
    assert loaded(primary) == 0


def begun(one: FlagClient) -> FlagClient:
    """It has been asked for its file."""
    one.say(b"\x03" + LOAD.format("f").encode())
    assert one.read() == b"\xfbf"
    return one


def test_a_server_that_fails_in_the_middle_of_a_file(primary: Database, run_portside: Run) -> None:
    portside = run_portside(config(primary, service=FILES))
    for query in ("KILL QUERY", "KILL"):
        one = begun(client(through(portside)))
        one.write(b"1,a\n")
        rows = primary.root("SELECT id FROM information_schema.processlist WHERE info LIKE 'LOAD%'")
        primary.root(f"{query} {rows[0][0]}")
        if query == "KILL":
            # The server is gone; what is sent goes nowhere.
            with pytest.raises(OSError):
                for _ in range(1000):
                    one.write(b"2,b\n")
                    time.sleep(0.01)
        else:
            one.write(b"2,b\n")
            one.write(b"")
            assert one.read()[1:3] == (1317).to_bytes(2, "little")
            assert one.query("SELECT 1")[0] == b"\x01"
        one.close()
        assert loaded(primary) == 0


def test_no_more_is_read_of_a_file_than_the_server_takes(
    mariadb_factory: Callable[..., Database], run_portside: Run
) -> None:
    server = mariadb_factory()
    server.root("CREATE TABLE app.files (a INT, b TEXT)")
    portside = run_portside(config(server, service=FILES, workers=1))
    one = begun(client(through(portside)))
    before, data = memory_kib(portside), packet(2, b"1,a\n" * 4_000_000)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        one.socket.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            one.socket.sendall(data)
            raise AssertionError("16 MiB were taken from the client")
        assert memory_kib(portside) - before < 4096
    finally:
        os.kill(server.pid, signal.SIGCONT)
    one.close()


@pytest.mark.parametrize(
    ("text", "is_theft"),
    [
        ("SELECT 1", True),
        ("SELECT 'LOAD DATA LOCAL INFILE ''/etc/hostname'''", True),
        (LOAD.format("/tmp/mine"), True),
        # Run by the server, so that nobody here has read it.
        ("EXECUTE IMMEDIATE \"LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE t\"", True),
        ("PREPARE s FROM \"LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE t\"", True),
        ("EXECUTE s", True),
        ("CALL load_it('/etc/hostname')", True),
        (LOAD.format("/etc/hostname"), False),
    ],
)
def test_a_hostile_server_gets_no_file_that_was_not_named(
    run_portside: Run, text: str, is_theft: bool
) -> None:
    with FileThief(b"/etc/hostname") as thief:
        portside = run_portside(config(thief, service=FILES))  # type: ignore[arg-type]
        one = client(through(portside))
        one.say(b"\x03" + text.encode())
        said = one.read()
        if not is_theft:
            assert said == b"\xfb/etc/hostname"
            one.write(b"name\n")
            wait_until(lambda: thief.got == [b"name\n"])
            one.close()
            return
        assert said[:3] == b"\xff\x1d\x04"
        text = 'it asked for the local file "/etc/hostname", which the client\'s statement does not'
        assert text in said[3:].decode()
        assert one.at_eof()
        one.close()
        assert [got for got in thief.got if got] == []


@pytest.fixture
def large(primary: Database) -> Iterator[Database]:
    """It takes packets of 64 MiB."""
    old = primary.root("SELECT @@global.max_allowed_packet")[0][0]
    primary.root("SET GLOBAL max_allowed_packet = 67108864")
    yield primary
    primary.root(f"SET GLOBAL max_allowed_packet = {old}")


def test_40_mib_both_ways(large: Database, run_portside: Run) -> None:
    portside = run_portside(config(large, workers=1))
    large.root("CREATE TABLE IF NOT EXISTS app.large (a LONGBLOB)")
    size = 40 << 20
    one = client(through(portside))
    ok = b"\x00\x01\x00\x02\x00\x00\x00"
    assert one.query("INSERT INTO app.large VALUES ('" + "x" * size + "')") == [ok]
    row = one.query("SELECT a FROM app.large")[3]
    assert (len(row), row[-size:].count(b"x")) == (size + 9, size)
    one.close()
    large.root("DROP TABLE app.large")


def test_a_packet_that_the_server_does_not_take(large: Database, run_portside: Run) -> None:
    large.root("SET GLOBAL max_allowed_packet = 16777216")
    portside = run_portside(config(large, workers=1))
    begins = packet(0, b"\x03SELECT '" + b"x" * (0xFFFFFF - 9))
    for address in (direct(large), through(portside)):
        one = client(address)
        # Only the second packet's header: its bytes would make the server's close a reset.
        one.send(begins + (1 << 20).to_bytes(3, "little") + b"\x01")
        one.sequence = 2
        said = one.packet()
        assert said[1:3] == (1153).to_bytes(2, "little")
        one.close()
