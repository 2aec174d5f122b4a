"""Prepared statements of the binary protocol through a pool: which move and which bind."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from portside.demo.held_port import free_port

from tests.conftest import Trio
from tests.integration.test_pool import Client, config, refused
from tests.support.binary import LAST_PREPARED, TEXT, Statement
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database

Run = Callable[..., Instance]
NEED_REPREPARE = 1615


@pytest.fixture(params=["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def servers(request: pytest.FixtureRequest) -> Trio:
    trio: Trio = request.getfixturevalue("trio" if request.param == "mariadb" else "mysql9_trio")
    return trio


@contextlib.contextmanager
def busy(portside: Instance, **options: Any) -> Iterator[Client]:
    """Somebody else who keeps the connection that was used last."""
    other = Client(portside, **options)
    other.ask("BEGIN")
    yield other
    other.connection.close()


def number(row: bytes, columns: int = 1, at: int = 0) -> int:
    """A BIGINT of a binary row."""
    start = 1 + (columns + 9) // 8 + 8 * at
    return int(struct.unpack_from("<q", row, start)[0])


def open_on(server: Database) -> int:
    """Prepared statements on a server."""
    return server.status("Prepared_stmt_count")


def reprepares(metrics: str) -> int:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    name = "portside_pool_reprepares_total{"
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(name)))


def pinned(portside: Instance) -> str:
    """Why the first session keeps its connection."""
    pin: str = portside.admin.get("/v1/sessions")[0]["pinned"]
    return pin


def test_it_moves_each_time_and_gets_its_types_along(servers: Trio, run_portside: Run) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    text = config(servers.primary, servers.replica1, workers=1)
    portside = run_portside(f'{text}\n[metrics]\nlisten = "{metrics}"\n')
    # Both before the first statement: a new session's SET NAMES resets its connection.
    client, late = Client(portside), Client(portside)
    ids = {server.root("SELECT @@server_id")[0][0] for server in servers[:2]}
    statement = Statement(client.connection, "SELECT CAST(@@server_id AS SIGNED), ? + 1")
    seen = []
    for n in range(8):
        _, rows, *_ = statement.execute(n, bind=n == 0)
        assert number(rows[0], 2, 1) == n + 1
        seen.append(number(rows[0], 2))
    # The first one runs where it was prepared, then it is one after the other.
    assert set(seen) == ids and seen[1:] == (seen[1:3] * 4)[:7]
    assert pinned(portside) == ""
    assert reprepares(metrics) == 1
    # Another session with the same text finds it on both.
    other = Statement(late.connection, "SELECT CAST(@@server_id AS SIGNED), ? + 1")
    for n in range(4):
        assert number(other.execute(n)[1][0], 2, 1) == n + 1
    assert reprepares(metrics) == 1
    statement.close()
    with refused(1243):
        statement.execute(1)


def test_others_take_its_connection_each_time(servers: Trio, run_portside: Run) -> None:
    portside = run_portside(config(servers.primary, workers=1, pool="max = 8"))
    client = Client(portside)
    statement = Statement(client.connection, "SELECT ? + 1")
    with contextlib.ExitStack() as others:
        for n in range(4):
            assert number(statement.execute(n, bind=n == 0)[1][0]) == n + 1
            others.enter_context(busy(portside))


def test_in_a_transaction_it_comes_along(servers: Trio, run_portside: Run) -> None:
    servers.primary.root("CREATE OR REPLACE VIEW app.v AS SELECT 1; DROP TABLE IF EXISTS app.moved")
    servers.primary.root("CREATE TABLE app.moved (a INT PRIMARY KEY)")
    portside = run_portside(config(servers.primary, workers=1, pool="max = 8"))
    client = Client(portside, database="app")
    insert = Statement(client.connection, "INSERT INTO moved VALUES (?)")
    with busy(portside, database="app"):
        client.ask("BEGIN")
        assert insert.execute(1)[2] == 1
        # An error is the client's; the types are not taken for granted after it.
        with refused(1062):
            insert.execute(1, bind=False)
        assert insert.execute(2, bind=False)[2] == 1
        client.ask("ROLLBACK")
    assert client.ask("SELECT COUNT(*) FROM moved") == [(0,)]
    assert insert.execute(3, bind=False)[2] == 1
    assert client.ask("SELECT a FROM moved") == [(3,)]


def test_what_a_session_sets_binds_its_statements(servers: Trio, run_portside: Run) -> None:
    """A statement belongs to the schema and the settings under which it was prepared."""
    for schema in ("one", "two"):
        servers.primary.root(
            f"CREATE DATABASE IF NOT EXISTS {schema}; DROP TABLE IF EXISTS {schema}.t;"
            f"CREATE TABLE {schema}.t AS SELECT '{schema}' AS name"
        )
    portside = run_portside(config(servers.primary, workers=1, pool="max = 8"))
    client = Client(portside, database="one")
    names = Statement(client.connection, "SELECT name FROM t")
    pipes = Statement(client.connection, "SELECT 1 || 0")
    with busy(portside, database="one"):  # they are elsewhere
        client.ask("USE two")
        assert pinned(portside) == "statements"
        assert b"one" in names.execute()[1][0]
        client.ask("SET sql_mode = 'PIPES_AS_CONCAT'")
        assert b"10" not in pipes.execute()[1][0]
    concat = Statement(client.connection, "SELECT 1 || 0")
    assert b"10" in concat.execute()[1][0]
    names.close()
    pipes.close()
    assert pinned(portside) == ""
    assert b"10" in concat.execute()[1][0]


def test_changed_columns_ask_the_client_to_prepare_again(servers: Trio, run_portside: Run) -> None:
    servers.primary.root("DROP TABLE IF EXISTS app.altered")
    servers.primary.root("CREATE TABLE app.altered AS SELECT 1 AS a")
    portside = run_portside(config(servers.primary, workers=1, pool="max = 8"))
    client = Client(portside, database="app")
    statement = Statement(client.connection, "SELECT * FROM altered")
    assert len(statement.execute()[0]) == 1
    servers.primary.root("ALTER TABLE app.altered ADD b VARCHAR(10) DEFAULT 'new'")
    # On its connection the server helps itself, as ever.
    assert len(statement.execute()[0]) == 2
    with busy(portside, database="app"):
        with refused(NEED_REPREPARE) as texts:
            statement.execute()
        assert texts[0].startswith("Prepared statement needs to be re-prepared")
        assert Statement(client.connection, "SELECT * FROM altered").execute()[1]
        servers.primary.root("ALTER TABLE app.altered MODIFY a BIGINT")
        servers.primary.root("DROP TABLE app.altered")
    with busy(portside, database="app"), busy(portside, database="app"), refused(1146):
        statement.execute()
    assert client.ask("SELECT 1") == [(1,)]


def test_long_data_and_cursors_bind(servers: Trio, run_portside: Run) -> None:
    portside = run_portside(config(servers.primary, workers=1, pool="max = 8"))
    client = Client(portside, database="app")
    statement = Statement(client.connection, "SELECT LENGTH(?)")
    statement.execute("x")
    size = 3 * 1024 * 1024
    for _ in range(2):
        statement.long_data(0, b"y" * size)
        statement.long_data(0, b"z" * 5)
        with busy(portside, database="app"):
            assert pinned(portside) == "statements"
            # The value was sent already: nothing stands where it would.
            statement.send(b"", types=[TEXT])
            columns, rows, *_ = statement.read()
            assert columns and int.from_bytes(rows[0][2:6], "little") == size + 5
        assert pinned(portside) == ""
    three = Statement(client.connection, "SELECT 1 UNION SELECT 2 UNION SELECT 3")
    with busy(portside, database="app"):
        three.execute(flags=1)
        assert pinned(portside) == "statements"
    assert [len(three.fetch(2)), len(three.fetch(2))] == [2, 1]
    # MySQL 9.7 itself cannot do without a cursor any more: it stays bound.
    three.reset()
    assert pinned(portside) == "statements"
    three.close()
    assert pinned(portside) == ""


def test_the_statement_prepared_last_has_a_name_of_its_own(
    servers: Trio, run_portside: Run
) -> None:
    portside = run_portside(config(servers.primary, workers=1))
    client = Client(portside)
    statement = Statement(client.connection, "SELECT 5")
    if servers.primary.product.startswith("MySQL"):
        with refused(1243):
            statement.execute(number=LAST_PREPARED)
        return
    assert number(b"\0\0" + statement.execute(number=LAST_PREPARED)[1][0][2:] + b"\0" * 4) == 5
    assert pinned(portside) == "statements"


def test_types_that_change(servers: Trio, run_portside: Run) -> None:
    """MySQL remembers types of earlier executions: such a statement keeps its connection."""
    portside = run_portside(config(servers.primary, workers=1, pool="max = 8"))
    direct = pymysql.connect(
        host=servers.primary.address,
        port=servers.primary.port,
        user=APP_USER,
        password=APP_PASSWORD,
    )
    client = Client(portside)
    for values in ((1.5, 1), (1, 1.5), (None, 1, None), ("a", 2, "3")):
        statements = [Statement(c, "SELECT ?, ?") for c in (direct, client.connection)]
        for value in values:
            want, got = (s.execute(value, 7) for s in statements)
            assert got == want, (values, value)
            with busy(portside):
                want, got = (s.execute(value, 7, bind=False) for s in statements)
                assert got == want, (values, value)
        is_mysql = servers.primary.product.startswith("MySQL")
        assert pinned(portside) == ("statements" if is_mysql else "")
        for statement in statements:
            statement.close()
    with refused(1210):
        Statement(client.connection, "SELECT ?").execute(1, bind=False)
    direct.close()


def test_a_thousand_statements_and_the_bound_per_connection(
    servers: Trio, run_portside: Run
) -> None:
    before = open_on(servers.primary)
    portside = run_portside(config(servers.primary, workers=1, pool="max = 2"))
    client = Client(portside)
    statements = [Statement(client.connection, f"SELECT {n} + ?") for n in range(1000)]
    assert pinned(portside) == ""
    assert open_on(servers.primary) - before <= 2 * 64
    for n in (0, 999, 500, 0):
        assert number(statements[n].execute(1)[1][0]) == n + 1
    with busy(portside):
        assert number(statements[7].execute(1)[1][0]) == 8
    assert open_on(servers.primary) - before <= 2 * 64
    more = [Statement(client.connection, f"SELECT {n} - ?") for n in range(100)]
    assert pinned(portside) == "statements"
    assert number(more[99].execute(1)[1][0]) == 98
    for statement in statements + more:
        statement.close()
    assert pinned(portside) == ""


def test_a_server_with_too_many_statements_says_so(servers: Trio, run_portside: Run) -> None:
    old = servers.primary.root("SELECT @@global.max_prepared_stmt_count")[0][0]
    portside = run_portside(config(servers.primary, workers=1, pool="max = 4"))
    client = Client(portside)
    statement = Statement(client.connection, "SELECT 1 + ?")
    statement.execute(1)
    try:
        servers.primary.root("SET GLOBAL max_prepared_stmt_count = 0")
        with busy(portside), refused(1461) as texts:
            statement.execute(2)
        assert "max_prepared_stmt_count" in texts[0]
        with refused(1461):
            Statement(client.connection, "SELECT 2")
    finally:
        servers.primary.root(f"SET GLOBAL max_prepared_stmt_count = {old}")
    assert number(statement.execute(2)[1][0]) == 3


def test_what_an_execution_leaves_behind(servers: Trio, run_portside: Run) -> None:
    servers.primary.root("DROP TABLE IF EXISTS app.made")
    servers.primary.root("CREATE TABLE app.made (id INT PRIMARY KEY AUTO_INCREMENT, b INT)")
    portside = run_portside(config(servers.primary, workers=1, pool="max = 8"))
    client = Client(portside, database="app")
    found = Statement(client.connection, "SELECT SQL_CALC_FOUND_ROWS 1 UNION SELECT 2 LIMIT 1")
    found.execute()
    assert pinned(portside) == "found-rows"
    assert client.ask("SELECT FOUND_ROWS()") == [(2,)]
    warns = Statement(client.connection, "SELECT 1/0")
    assert pinned(portside) == ""
    warns.execute()
    warns.close()  # says nothing about warnings
    with busy(portside, database="app"):
        assert client.ask("SHOW WARNINGS")[0][1] == 1365
    insert = Statement(client.connection, "INSERT INTO made (b) VALUES (?), (?)")
    assert insert.execute(1, 2)[2:4] == (2, 1)
    with busy(portside, database="app"):
        assert client.ask("SELECT LAST_INSERT_ID()") == [(1,)]
    counts = Statement(client.connection, "SELECT ROW_COUNT()")
    client.ask("UPDATE made SET b = 5")
    assert number(counts.execute()[1][0]) == 2
    other = Client(portside)
    variable = Statement(other.connection, "SELECT @a := ?")
    variable.execute(1)
    other_pin = [s["pinned"] for s in portside.admin.get("/v1/sessions")]
    assert "user-variable" in other_pin


PROGRAM = Path(__file__).parents[1] / "support" / "prepared.c"


@pytest.fixture(scope="session")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program against libmariadb."""
    if not (shutil.which("gcc") and shutil.which("mariadb_config")):
        pytest.skip("needs gcc and libmariadb-dev")
    program = tmp_path_factory.mktemp("c") / "prepared"
    options = subprocess.run(
        ["mariadb_config", "--cflags", "--libs"], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["gcc", "-o", program, PROGRAM, *options], check=True)
    return program


def test_a_c_client(servers: Trio, run_portside: Run, c_client: Path) -> None:
    service = 'balance = "roundrobin"'
    portside = run_portside(
        config(servers.primary, servers.replica1, workers=1, service=service, pool="max = 8")
    )
    host, _, port = portside.service("s")["listen"][0].rpartition(":")
    done = subprocess.run(
        [c_client, host, port, APP_USER, APP_PASSWORD], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:6] == [
        "1 one",
        "2 two",
        "3 three",
        "null",
        "direct 7",
        "moved 1",
    ]


def test_php(servers: Trio, run_portside: Run) -> None:
    php = shutil.which("php")
    if php is None:
        pytest.skip("needs php")
    portside = run_portside(config(servers.primary, servers.replica1, workers=1, pool="max = 8"))
    host, _, port = portside.service("s")["listen"][0].rpartition(":")
    code = """
    mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
    [$host, $port, $user, $password] = array_slice($argv, 1);
    $db = new mysqli($host, $user, $password, 'app', $port);
    $s = $db->prepare('SELECT ? + 1, ?');
    $n = 0; $text = 'x';
    $s->bind_param('is', $n, $text);
    for ($n = 0; $n < 5; $n++) {
        $s->execute();
        echo implode(' ', $s->get_result()->fetch_row()), "\n";
    }
    $s->close();
    $pdo = new PDO("mysql:host=$host;port=$port;dbname=app", $user, $password,
                   [PDO::ATTR_EMULATE_PREPARES => false]);
    $s = $pdo->prepare('SELECT ? + 1, ?');
    foreach ([[1, 'a'], [2, null], [3, 'b']] as $values) {
        $s->execute($values);
        echo json_encode($s->fetch(PDO::FETCH_NUM)), "\n";
    }
    """
    command = [php, "-r", code, "--", host, port, APP_USER, APP_PASSWORD]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.split("\n")
    assert lines[:5] == [f"{n + 1} x" for n in range(5)]
    assert [line.replace('"', "").replace(".0", "") for line in lines[5:8]] == [
        "[2,a]",
        "[3,null]",
        "[4,b]",
    ]
