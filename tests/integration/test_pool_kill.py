"""KILL by the ids that Portside gives: what it hits, what it may not, and clients that vanish."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

import pymysql
import pytest

from tests.conftest import Trio
from tests.integration.test_pool import Client, config, connections, listens, refused, runs
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database
from tests.support.waiting import wait_until

# Seconds on a machine of its own; CI shares its two cores.
pytestmark = pytest.mark.timeout(120)

Run = Callable[..., Instance]

# 10,000 by hand (docs/pooling.md, "KILL").
KILLS = int(os.environ.get("PORTSIDE_KILLS", "600"))

# SLEEP() alone would end with a result on MySQL.
SLOW = "SELECT COUNT(*) FROM (SELECT 1 AS a UNION SELECT 2) AS two WHERE SLEEP(30) = 0"


@pytest.fixture(params=["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def primary(request: pytest.FixtureRequest) -> Database:
    fixture = "trio" if request.param == "mariadb" else "mysql9_trio"
    servers: Trio = request.getfixturevalue(fixture)
    return servers.primary


def begin(client: Client, statement: str) -> None:
    """Sends a query and does not wait for its answer."""
    client.connection._execute_command(3, statement)


def end(client: Client) -> int:
    """The error number that the query ended with; 0: with a result."""
    try:
        client.connection._read_query_result()
    except pymysql.MySQLError as error:
        return int(error.args[0])
    return 0


def busy(server: Database) -> list[int]:
    """Connections of the account that run something."""
    rows = server.root(
        "SELECT id FROM information_schema.processlist "
        f"WHERE user = '{APP_USER}' AND command <> 'Sleep'"
    )
    return [row[0] for row in rows]


def test_the_only_connection_can_be_killed(primary: Database, run_portside: Run) -> None:
    portside = run_portside(config(primary, pool="max = 1", workers=2))
    victims = [Client(portside) for _ in range(3)]
    killer = Client(portside)
    for victim in victims:
        begin(victim, SLOW)
        wait_until(lambda: runs(primary, "SLEEP(30)"))
        # Needs no place: the answer is Portside's own.
        killer.ask(f"KILL QUERY {victim.connection.thread_id()}")
        assert end(victim) == 1317
        wait_until(lambda: len(connections(primary)) <= 1)
        assert victim.ask("SELECT 1") == [(1,)]
    begin(victims[0], SLOW)
    wait_until(lambda: runs(primary, "SLEEP(30)"))
    killer.ask(f"KILL {victims[0].connection.thread_id()}")
    assert end(victims[0]) == 2013
    wait_until(lambda: not runs(primary, "SLEEP(30)"), 5.0)
    assert killer.ask("SELECT 1") == [(1,)]


def test_a_query_that_waits_for_a_connection_is_killed(
    primary: Database, run_portside: Run
) -> None:
    portside = run_portside(config(primary, pool="max = 1"))
    holder, waiter, killer = Client(portside), Client(portside), Client(portside)
    holder.ask("SET @a = 1")
    begin(waiter, "INSERT INTO app.never_run VALUES (1)")
    wait_until(lambda: portside.service("s")["queued"] == 1)
    killer.ask(f"KILL QUERY {waiter.connection.thread_id()}")
    assert end(waiter) == 1317
    holder.connection.close()
    assert waiter.ask("SELECT 1") == [(1,)]


def test_an_account_kills_its_own_sessions_only(primary: Database, run_portside: Run) -> None:
    primary.root(
        "CREATE USER IF NOT EXISTS root2@'%' IDENTIFIED BY 'root2-pw';"
        "GRANT SELECT ON app.* TO root2@'%'"
    )
    users = (
        '[[user]]\nname = "other"\npassword = "other-pw"\nserver_user = "root2"\n'
        'server_password = "root2-pw"\n'
        '[[user]]\nname = "alias"\npassword = "alias-pw"\n'
        f'server_user = "{APP_USER}"\nserver_password = "{APP_PASSWORD}"\n'
    )
    portside = run_portside(config(primary, users=users))
    victim = Client(portside)
    number = victim.connection.thread_id()
    other = Client(portside, user="other", password="other-pw")
    for statement in (f"KILL QUERY {number}", f"KILL {number}"):
        with refused(1095) as texts:
            other.ask(statement)
        assert texts == [
            f"portside: you are not owner of thread {number}: through a pool an account ends its "
            "own sessions only. On the proxy: portside kill"
        ]
    with refused(1095):
        other.connection.kill(number)
    for statement in ("KILL 4000000000", "KILL QUERY 4000000000", "KILL 99999999999999"):
        with refused(1094):
            other.ask(statement)
    assert victim.ask("SELECT 1") == [(1,)]
    # The same account on the server: the server would let it.
    alias = Client(portside, user="alias", password="alias-pw")
    alias.ask(f"KILL {number}")
    with refused(2013):
        begin(victim, "SELECT 1")
        victim.connection._read_query_result()


def test_no_stranger_is_hit(trio: Trio, run_portside: Run) -> None:
    """KILL QUERY against queries that are about to finish, on connections that others share."""
    portside = run_portside(config(trio.primary, pool="max = 4", workers=2))
    address, over = listens(portside), threading.Event()
    strangers, hits, asked = [Client(portside) for _ in range(4)], [0], [0]
    wrong: list[BaseException] = []

    def be_strange(client: Client) -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                assert client.ask(f"SELECT {number} + SLEEP(0.001)") == [(number,)]
            except (pymysql.MySQLError, AssertionError) as error:
                wrong.append(error)
                return
        asked[0] += number

    def be_killed(share: int) -> None:
        victim, killer = Client(portside, at=address), Client(portside, at=address)
        for number in range(share):
            # Ends by itself at about the time of the KILL.
            begin(victim, f"SELECT {number} FROM app.dice WHERE a + SLEEP(0.0015) >= 0")
            time.sleep(0.0002 * (number % 10))
            killer.ask(f"KILL QUERY {victim.connection.thread_id()}")
            error = end(victim)
            assert error in (0, 1317), error
            hits[0] += error != 0
        # What came too late must not hit the next one either, long after.
        assert victim.ask("SELECT 1") == [(1,)]

    trio.primary.root("CREATE OR REPLACE TABLE app.dice AS SELECT 1 AS a UNION SELECT 2")
    crowd = [threading.Thread(target=be_strange, args=(client,)) for client in strangers]
    hunters = [threading.Thread(target=be_killed, args=(KILLS // 4,)) for _ in range(4)]
    for thread in (*crowd, *hunters):
        thread.start()
    for thread in hunters:
        thread.join()
    over.set()
    for thread in crowd:
        thread.join()
    assert wrong == []
    # Some were hit and some were spared, else nothing was proved.
    assert KILLS // 20 < hits[0] < KILLS
    assert asked[0] > KILLS // 4


def test_clients_that_vanish_amid_a_large_result(primary: Database, run_portside: Run) -> None:
    portside = run_portside(config(primary, pool="max = 3", workers=2))
    # 1 GiB, of a plan that looks for KILL at each row; MariaDB's join buffer does not.
    ones = "SELECT 1 AS a" + " UNION ALL SELECT 1" * 31
    primary.root("DROP TABLE IF EXISTS app.many; CREATE TABLE app.many (a INT)")
    primary.root(f"INSERT INTO app.many SELECT 1 FROM ({ones}) AS b, ({ones}) AS c")
    aborted = primary.status("Aborted_clients")
    for _ in range(3):
        client = Client(portside, cursorclass=pymysql.cursors.SSCursor)
        begin(client, "SELECT REPEAT('x', 1048576) FROM app.many")
        # Some of it has come.
        assert len(client.connection._sock.recv(1 << 16)) > 0
        client.connection._force_close()
    wait_until(lambda: not runs(primary, "app.many"), 3.0, "the queries still run")
    assert Client(portside).ask("SELECT 1") == [(1,)]
    wait_until(lambda: not busy(primary))
    assert primary.status("Aborted_clients") == aborted


def test_200_clients_that_vanish_leave_the_pool_free(trio: Trio, run_portside: Run) -> None:
    portside = run_portside(config(trio.primary, pool="max = 200\nopen_rate = 1000", workers=2))
    address = listens(portside)
    aborted = trio.primary.status("Aborted_clients")
    clients = [Client(portside, at=address) for _ in range(200)]
    for client in clients:
        begin(client, "SELECT SLEEP(60)")
    wait_until(lambda: len(connections(trio.primary)) >= 200, 30.0)
    for client in clients:
        client.connection._force_close()
    wait_until(lambda: not runs(trio.primary, "SLEEP(60)"), 30.0, "queries still run")
    assert Client(portside, at=address).ask("SELECT 1") == [(1,)]
    assert trio.primary.status("Aborted_clients") == aborted
    with contextlib.suppress(pymysql.MySQLError):
        clients[0].connection.close()
