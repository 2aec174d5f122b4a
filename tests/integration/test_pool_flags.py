"""Capability flags through a pool: what is offered, and replies that are the server's own."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pymysql
import pytest

from tests.conftest import Trio
from tests.integration.test_pool import config
from tests.support import flag_client as flags
from tests.support.flag_client import FlagClient
from tests.support.flag_program import MAKE, program
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database, peers_bin
from tests.support.waiting import wait_until

Run = Callable[..., Instance]
Connect = Callable[..., FlagClient]

COMMON = [
    flags.MULTI_STATEMENTS | flags.MULTI_RESULTS | flags.PS_MULTI_RESULTS,
    flags.SESSION_TRACK,
    flags.DEPRECATE_EOF,
]
OWN = {
    "MariaDB 10.11": [flags.PROGRESS, flags.BULK | flags.EXTENDED_METADATA],
    "MySQL 9.7": [flags.OPTIONAL_METADATA, flags.QUERY_ATTRIBUTES],
}


@pytest.fixture(params=["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def primary(request: pytest.FixtureRequest) -> Database:
    fixture = "trio" if request.param == "mariadb" else "mysql9_trio"
    servers: Trio = request.getfixturevalue(fixture)
    return servers.primary


def through(portside: Instance) -> tuple[str, int]:
    host, _, port = portside.service("s")["listen"][0].rpartition(":")
    return host, int(port)


@pytest.fixture
def client() -> Iterator[Connect]:
    """Makes clients with these flags; closed after the test."""
    made: list[FlagClient] = []

    def make(address: tuple[str, int], wanted: int = 0, schema: str = "") -> FlagClient:
        made.append(FlagClient(address, APP_USER, APP_PASSWORD, wanted, schema=schema))
        return made[-1]

    yield make
    for one in made:
        one.close()


def direct(server: Database) -> tuple[str, int]:
    """The server's address; it knows the password from now on (caching_sha2_password)."""
    address = (server.address, server.port)
    pymysql.connect(host=address[0], port=address[1], user=APP_USER, password=APP_PASSWORD).close()
    return address


def options(address: tuple[str, int]) -> list[str]:
    """Of a command-line client."""
    host, port = address
    login = [f"--user={APP_USER}", f"--password={APP_PASSWORD}"]
    return ["--no-defaults", f"--host={host}", f"--port={port}", *login]


def own_flags(server: Database) -> list[int]:
    return COMMON + OWN["MySQL 9.7" if server.product == "MySQL 9.7" else "MariaDB 10.11"]


def test_every_reply_is_the_servers_byte_for_byte(
    primary: Database, run_portside: Run, client: Connect
) -> None:
    portside = run_portside(config(primary, workers=1))
    own = own_flags(primary)
    every = sum(own)
    for wanted in [0, every, *own]:
        seen = []
        for address in (direct(primary), through(portside)):
            for statement in MAKE:
                primary.root(statement)
            one = client(address, wanted, schema="app" if wanted & flags.SESSION_TRACK else "")
            seen.append({"login": [one.logged_in], **program(one)})
            one.close()
        for what, packets in seen[0].items():
            if b"last_gtid" not in b"".join(packets):
                assert seen[1][what] == packets, f"{wanted:#x}: {what}"


def have_greeted(portside: Instance) -> bool:
    return all(server["sessions_total"] for server in portside.stats()["servers"])


@pytest.mark.mysql9
def test_a_service_offers_what_all_servers_of_a_family_have(
    trio: Trio, mysql9_trio: Trio, run_portside: Run, client: Connect
) -> None:
    mariadb, mysql = trio.replica1, mysql9_trio.replica1
    mariadb_only = flags.PROGRESS | flags.BULK | flags.EXTENDED_METADATA
    mysql_only = flags.OPTIONAL_METADATA | flags.QUERY_ATTRIBUTES
    for servers in ([mariadb], [mysql], [mariadb, mysql]):
        portside = run_portside(config(*servers))
        wait_until(partial(have_greeted, portside))
        looks = set()
        for _ in range(4):  # a mixed service's clients are given to one family or the other
            offered = client(through(portside)).offered
            assert not offered & (1 << 5 | 1 << 26), "compression is never offered"
            assert not offered & (flags.LOCAL_FILES | flags.CACHE_METADATA)
            is_mariadb = not offered & 1
            assert offered & mariadb_only == (mariadb_only if is_mariadb else 0)
            assert offered & mysql_only == (0 if is_mariadb else mysql_only)
            looks.add(is_mariadb)
        assert looks == {server is mariadb for server in servers}


@pytest.mark.mysql9
def test_query_attributes_of_the_mysql_cli(
    mysql9_trio: Trio, run_portside: Run, client: Connect
) -> None:
    server = mysql9_trio.primary
    server.root("INSTALL COMPONENT 'file://component_query_attributes'")
    try:
        portside = run_portside(config(server))
        text = "SELECT mysql_query_attribute_string('n1'), mysql_query_attribute_string('n2');\n"
        done = subprocess.run(
            [peers_bin() / "mysql9", *options(through(portside)), "--commands", "-N"],
            input=f"query_attributes n1 KILL\\ 1 n2 v2\n{text}{text}",
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        # They are those of the next statement alone.
        assert done.stdout.splitlines() == ["KILL 1\tv2", "NULL\tNULL"]
        # The function is a component's: where that is missing it may be anybody's.
        assert [line["pinned"] for line in wait_until(portside.lines)] == ["function"]
        one = client(through(portside), flags.QUERY_ATTRIBUTES)
        for malformed in (b"SELECT 1", b"\x01\x01\x00\x01\xfe\x00\x01n\x50SELECT 1"):
            [error] = one.ask(b"\x03" + malformed)
            assert error[1:3] == struct.pack("<H", 1835)
        assert one.query("SELECT 1")[0] == b"\x01"
    finally:
        server.root("UNINSTALL COMPONENT 'file://component_query_attributes'")


def test_reports_of_progress_are_passed_on(trio: Trio, run_portside: Run, client: Connect) -> None:
    portside = run_portside(config(trio.primary))
    one = client(through(portside), flags.PROGRESS)
    one.query("CREATE OR REPLACE TABLE app.progress AS SELECT seq AS a FROM app.seq_1_to_100000")
    one.query("SET progress_report_time = 1")
    packets = one.query("ALTER TABLE app.progress ADD COLUMN b INT, ALGORITHM = COPY")
    assert packets[0].startswith(b"\xff\xff\xff") and b"copy to tmp table" in packets[0]
    assert packets[-1][0] == 0
    assert one.query("SELECT COUNT(b) FROM app.progress")[-2] == b"\x010"
    text = "SET progress_report_time = 1; ALTER TABLE app.progress DROP COLUMN b, ALGORITHM = COPY"
    done = subprocess.run(
        ["mariadb", *options(through(portside)), "--skip-ssl", "--progress-reports", "-e", text],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bulk_execution_of_the_mariadb_client(trio: Trio, run_portside: Run, folder: Path) -> None:
    if shutil.which("gcc") is None or shutil.which("mariadb_config") is None:
        pytest.skip("no C client can be built: apt-get install gcc libmariadb-dev")
    source = Path(__file__).parents[1] / "support" / "bulk_client.c"
    program = str(folder / "bulk")
    where = subprocess.run(
        ["mariadb_config", "--include", "--libs"], capture_output=True, text=True, check=True
    )
    subprocess.run(["gcc", "-o", program, str(source), *where.stdout.split()], check=True)
    portside = run_portside(config(trio.primary))
    said = []
    for host, port in (direct(trio.primary), through(portside)):
        done = subprocess.run(
            [program, host, str(port), APP_USER, APP_PASSWORD],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        said.append((done.returncode, done.stdout, done.stderr))
    assert said[0] == said[1] == (0, "bulk 3\nbulk 3\ndirect 1\nrows 7 16 26\n", "")
    # A client that is not offered bulk execution sends each row by itself.
    assert wait_until(portside.lines)[0]["commands"] <= 9


# Command, the error numbers that are right through a pool; none: the direct answer.
COMMANDS = {
    "init db": (b"\x02app", None),
    "init db, unknown": (b"\x02nope", None),
    "field list": (b"\x04flags\0", None),
    "create db": (b"\x05x", 1047),
    "drop db": (b"\x06x", 1047),
    "refresh": (b"\x07\x01", 1047),
    "shutdown": (b"\x08", 1047),
    "process info": (b"\x0a", 1047),
    "connect": (b"\x0b", 1047),
    "process kill": (b"\x0c\xff\xff\xff\x7f", 1094),
    "debug": (b"\x0d", 1047),
    "ping": (b"\x0e", None),
    "time": (b"\x0f", 1047),
    "delayed insert": (b"\x10", 1047),
    "binlog dump": (b"\x12\x04\0\0\0\0\0\x01\0\0\0x", 1235),
    "table dump": (b"\x13app\0t", 1047),
    "connect out": (b"\x14", 1047),
    "register slave": (b"\x15\x01" + bytes(20), 1235),
    "execute, unknown": (b"\x17\x01\0\0\0\0\x01\0\0\0", 1243),
    "reset statement, unknown": (b"\x1a\x01\0\0\0", 1243),
    "set option": (b"\x1b\x00\x00", None),
    "set option, unknown": (b"\x1b\x07\x00", None),
    "fetch, unknown": (b"\x1c\x01\0\0\0\x01\0\0\0", 1243),
    "daemon": (b"\x1d", 1047),
    "binlog dump gtid": (b"\x1e" + bytes(22), 1235),
    "reset connection": (b"\x1f", None),
    "clone": (b"\x20", 1047),
    "subscribe": (b"\x21", 1047),
    "sleep": (b"\x00", 1047),
    "multi": (b"\xfe", 1047),
    "unknown": (b"\xf0", 1047),
}


def test_every_command_has_the_direct_answer_or_a_clear_error(
    primary: Database, run_portside: Run, client: Connect
) -> None:
    portside = run_portside(config(primary, workers=1))
    addresses = (direct(primary), through(portside))
    for name, (command, number) in COMMANDS.items():
        if number is None:
            answers = []
            for address in addresses:
                one = client(address)
                one.say(command)
                answers.append(one.read())
                one.close()
            assert answers[1] == answers[0], name
            continue
        one = client(addresses[1])
        one.say(command)
        error = one.read()
        assert (error[0], struct.unpack("<H", error[1:3])[0]) == (0xFF, number), name
        # A statement that is nobody's is refused by the server, under a number that is nobody's.
        said_by = b"Unknown prepared statement handler (0)" if number == 1243 else b"portside: "
        assert error[9:].startswith(said_by), name
        # The session goes on.
        assert one.query("SELECT 1")[0] == b"\x01", name
        one.close()
    one = client(addresses[1])
    one.say(b"\x09")
    assert one.read().startswith(b"Uptime: ")


def test_a_change_of_user_with_a_collation_that_no_login_can_have(
    trio: Trio, run_portside: Run, client: Connect
) -> None:
    portside = run_portside(config(trio.primary))
    one = client(through(portside))
    name = APP_USER.encode() + b"\0\0app\0"
    [error] = one.ask(b"\x11" + name + struct.pack("<H", 309) + b"mysql_native_password\0")
    assert b"portside: collation 309 in a change of user" in error
    assert one.query("SELECT 1")[0] == b"\x01"
