"""What a session leaves on a connection never reaches the next client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import pymysql
import pytest

from tests.conftest import Trio
from tests.integration.test_pool import Client, config, connections, listens
from tests.integration.test_pool_logins import account, user
from tests.support.instance import Instance
from tests.support.old_server import CHANGE_USER, RESET, OldServer
from tests.support.servers import Database
from tests.support.waiting import wait_until

# Seconds on a machine of its own; CI shares its two cores.
pytestmark = pytest.mark.timeout(120)

Run = Callable[..., Instance]
Leave = Callable[[Client, str], None]


class Trace(NamedTuple):
    """Statements that leave something, a question about it, and the answer of a fresh session."""

    left: tuple[str, ...]
    ask: str
    fresh: object


ROLE = ("SET ROLE tracer",)
TRACES = {
    "user variable": Trace(("SET @left = 7",), "SELECT @left", None),
    "assigned in a query": Trace(("SELECT @left := 7",), "SELECT @left", None),
    "temporary table": Trace(
        ("CREATE TEMPORARY TABLE app.left_here (a INT)",), "SELECT * FROM app.left_here", 1146
    ),
    "GET_LOCK": Trace(("SELECT GET_LOCK('left', 0)",), "SELECT IS_FREE_LOCK('left')", 1),
    "SET": Trace(("SET SESSION sql_mode = 'ANSI_QUOTES'",), 'SELECT "left"', "left"),
    "SET in a comment": Trace(
        ("/* x */ SET time_zone = '+07:00'",), "SELECT @@time_zone", "SYSTEM"
    ),
    "SET of an expression": Trace(
        ("SET lock_wait_timeout = 3 + 4",), "SELECT @@lock_wait_timeout < 8", 0
    ),
    "prepared statement": Trace(("PREPARE mine FROM 'SELECT 1'",), "EXECUTE mine", 1243),
    "LAST_INSERT_ID": Trace(("SELECT LAST_INSERT_ID(7)",), "SELECT LAST_INSERT_ID()", 0),
    "isolation once": Trace(
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET TRANSACTION READ ONLY"),
        "INSERT INTO app.traced VALUES (7)",
        None,
    ),
    "SET ROLE": Trace(ROLE, "SELECT CURRENT_ROLE() IN ('NONE', '') OR CURRENT_ROLE() IS NULL", 1),
    "HANDLER": Trace(("HANDLER app.traced OPEN AS h",), "HANDLER h READ FIRST", 1109),
    "LOCK TABLES": Trace(
        ("LOCK TABLES app.traced READ",), "INSERT INTO app.traced VALUES (7)", None
    ),
    "open transaction": Trace(
        ("BEGIN", "INSERT INTO app.traced VALUES (99)"),
        "SELECT COUNT(*) FROM app.traced WHERE a = 99",
        0,
    ),
    "autocommit": Trace(("SET autocommit = 0",), "SELECT @@autocommit", 1),
    "XA": Trace(("XA START 'left'",), "BEGIN", None),
    "default schema": Trace(("USE app",), "SELECT DATABASE()", None),
    "character set": Trace(
        ("SET CHARACTER SET latin1",), "SELECT @@character_set_client", "utf8mb4"
    ),
    "warnings": Trace(("SELECT 1/0",), "SHOW WARNINGS", None),
    "an error": Trace(("SELECT nothing",), "SHOW ERRORS", None),
    "an error, asked for unseen": Trace(("SELECT nothing",), "CALL app.traced_told()", None),
    "a failed trigger": Trace(
        ("INSERT INTO app.traced_ids (a) VALUES (1)",), "SELECT LAST_INSERT_ID()", 0
    ),
}


def polite(client: Client, _: str) -> None:
    client.connection.close()


def vanishes(client: Client, _: str) -> None:
    client.connection._force_close()


def vanishes_mid_result(client: Client, _: str) -> None:
    client.connection._execute_command(3, "SELECT REPEAT('x', 1000000) FROM app.traces_rows")
    client.connection._sock.recv(100)
    client.connection._force_close()


@pytest.fixture(
    scope="module", params=["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)]
)
def primary(request: pytest.FixtureRequest) -> Database:
    fixture = "trio" if request.param == "mariadb" else "mysql9_trio"
    servers: Trio = request.getfixturevalue(fixture)
    server = servers.primary
    server.root("DROP TABLE IF EXISTS app.traced, app.traces_rows")
    server.root("CREATE TABLE app.traced (a INT) ENGINE=InnoDB; INSERT INTO app.traced VALUES (1)")
    server.root(
        "DROP TABLE IF EXISTS app.traced_ids; DROP PROCEDURE IF EXISTS app.traced_told;"
        "CREATE TABLE app.traced_ids (id INT AUTO_INCREMENT PRIMARY KEY, a INT);"
        "CREATE TRIGGER app.traced_fails AFTER INSERT ON app.traced_ids FOR EACH ROW"
        " SIGNAL SQLSTATE '45000';"
        "CREATE PROCEDURE app.traced_told() SHOW WARNINGS"
    )
    ones = "SELECT 1 AS a" + " UNION ALL SELECT 1" * 63
    server.root(f"CREATE TABLE app.traces_rows AS {ones}")
    with contextlib.suppress(pymysql.MySQLError):
        server.root("CREATE ROLE tracer")
    host = "%" if request.param == "mysql9" else server.client_hosts
    server.root(f"GRANT tracer TO app@'{server.client_hosts or host}'")
    return server


def answer(client: Client, question: str) -> object:
    """The first value, None for no row, or the error's number."""
    try:
        rows = client.ask(question)
    except pymysql.MySQLError as error:
        return error.args[0]
    return rows[0][0] if rows else None


@pytest.mark.parametrize("leave", [polite, vanishes, vanishes_mid_result])
def test_nothing_reaches_the_next_client(
    primary: Database, run_portside: Run, leave: Leave
) -> None:
    pool = "max = 1\nopen_rate = 1000"
    leave_and_follow(run_portside(config(primary, pool=pool, workers=1)), primary, leave)


def leave_and_follow(portside: Instance, primary: Database, leave: Leave) -> None:
    """Each trace is left by a client whom another follows on the only connection there may be."""
    address, leaks, kept = listens(portside), {}, 0
    for name, trace in TRACES.items():
        client = Client(portside, at=address, charset="utf8mb4")
        for statement in trace.left:
            with contextlib.suppress(pymysql.MySQLError):
                client.ask(statement)
        before = connections(primary)
        leave(client, name)
        # It gets the same connection, cleaned, or a new one.
        following = Client(portside, at=address, charset="utf8mb4")
        if (found := answer(following, trace.ask)) != trace.fresh:
            leaks[name] = found
        kept += connections(primary) == before
        following.connection.close()
        primary.root("DELETE FROM app.traced WHERE a <> 1")
    assert leaks == {}
    # Most were cleaned and kept where the client's end allows it.
    assert kept >= (8 if leave is not vanishes_mid_result else 0)
    wait_until(lambda: portside.stats()["servers"][0]["pool_busy"] == 0)


def test_a_server_without_reset_is_logged_in_to_again(primary: Database, run_portside: Run) -> None:
    with OldServer(primary) as old:
        leave_and_follow(
            run_portside(config(old, pool="max = 1\nopen_rate = 1000", workers=1)), primary, polite
        )
        # At the end of nearly every session; the connection was kept.
        assert old.commands[CHANGE_USER] >= 8
        assert old.commands[RESET] == 0


def test_init_connect_has_run_for_every_session(primary: Database, run_portside: Run) -> None:
    # Neither COM_RESET_CONNECTION nor COM_CHANGE_USER runs it again: a new connection does.
    # It spares accounts that may do everything.
    account(primary, "spared_not", "IDENTIFIED BY 'spared-pw'")
    users = user("spared_not", password="spared-pw")
    portside = run_portside(config(primary, pool="max = 1", workers=1, users=users))
    primary.root("SET GLOBAL init_connect = 'SET @first = 7'")
    try:
        for _ in range(3):
            client = Client(portside, user="spared_not", password="spared-pw", charset="utf8mb4")
            assert client.ask("SELECT @first, @mine") == [(7, None)]
            client.ask("SET @first = 8, @mine = 9")
            client.connection.close()
    finally:
        primary.root("SET GLOBAL init_connect = ''")
