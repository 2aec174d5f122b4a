"""Pool mode on real servers: who shares, who keeps a connection, and what goes wrong."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
import pytest
from portside.demo.held_port import free_port

from tests.conftest import Trio
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database
from tests.support.waiting import wait_until

Run = Callable[..., Instance]


def config(
    *servers: Database, workers: int = 2, pool: str = "", service: str = "", users: str = ""
) -> str:
    names = ", ".join(f'"db{n}"' for n, _ in enumerate(servers))
    tables = "".join(
        f'[[server]]\nname = "db{n}"\naddress = "{server.address}:{server.port}"\ncheck = false\n'
        for n, server in enumerate(servers)
    )
    return (
        f"[portside]\nworkers = {workers}\n[pool]\n{pool}\n{tables}"
        f'[[service]]\nname = "s"\nlisten = "127.0.0.1:{free_port()}"\nmode = "pool"\n'
        f"servers = [{names}]\n"
        f'{service}\n[[user]]\nname = "{APP_USER}"\npassword = "{APP_PASSWORD}"\n{users}'
    )


def listens(instance: Instance, service: str = "s") -> str:
    return str(instance.service(service)["listen"][0])


class Client:
    """A PyMySQL connection through an instance."""

    def __init__(
        self, instance: Instance, service: str = "s", at: str = "", **options: Any
    ) -> None:
        # `at`: for crowds, who need not ask the instance one by one.
        host, _, port = (at or listens(instance, service)).rpartition(":")
        given = {"user": APP_USER, "password": APP_PASSWORD, "autocommit": True, **options}
        self.connection = pymysql.connect(host=host, port=int(port), **given)

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())


@contextlib.contextmanager
def refused(number: int) -> Iterator[list[str]]:
    texts: list[str] = []
    with pytest.raises(pymysql.MySQLError) as caught:
        yield texts
    assert caught.value.args[0] == number, caught.value
    texts.append(str(caught.value.args[1]))


def connections(server: Database, user: str = APP_USER) -> list[int]:
    """Ids of the connections that an account has."""
    rows = server.root(f"SELECT id FROM information_schema.processlist WHERE user = '{user}'")
    return [row[0] for row in rows]


def closed(server: Database, run: Instance) -> None:
    run.stop()
    wait_until(lambda: not connections(server), 10.0, "connections are left on the server")


@pytest.fixture(params=["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def primary(request: pytest.FixtureRequest) -> Database:
    fixture = "trio" if request.param == "mariadb" else "mysql9_trio"
    servers: Trio = request.getfixturevalue(fixture)
    return servers.primary


def test_many_clients_share_two_connections(primary: Database, run_portside: Run) -> None:
    portside = run_portside(config(primary, pool="max = 2", workers=4))
    clients = [Client(portside) for _ in range(20)]
    for _ in range(3):
        for client in clients:
            assert client.ask("SELECT 1") == [(1,)]
            assert len(connections(primary)) <= 2
    for client in clients:
        assert client.ask("SELECT CONNECTION_ID()") == [(client.connection.thread_id(),)]
    assert len({client.connection.thread_id() for client in clients}) == len(clients)
    aborted = primary.status("Aborted_clients")
    for client in clients:
        client.connection.close()
    closed(primary, portside)
    assert primary.status("Aborted_clients") == aborted


def test_max_is_exact_over_workers_and_nobody_starves(trio: Trio, run_portside: Run) -> None:
    portside = run_portside(config(trio.primary, pool="max = 3", workers=4))
    most, failures = [0], []

    def work() -> None:
        try:
            client = Client(portside)
            for _ in range(10):
                client.ask("SELECT SLEEP(0.005)")
            client.connection.close()
        except pymysql.MySQLError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(24)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most[0] = max(most[0], len(connections(trio.primary)))
    assert failures == []
    assert most[0] <= 3


def test_logins(primary: Database, run_portside: Run) -> None:
    users = (
        '[[user]]\nname = "one"\npassword = "one-pw"\nmax_connections = 1\nschema = "app"\n'
        f'server_user = "{APP_USER}"\nserver_password = "{APP_PASSWORD}"\n'
        '[[user]]\nname = "far"\npassword = "far-pw"\nfrom = "10.99.0.0/16"\n'
        '[[user]]\nname = "stranger"\npassword = "stranger-pw"\n'
        f'server_user = "{APP_USER}"\nserver_password = "wrong-pw"\n'
    )
    portside = run_portside(config(primary, users=users))
    denied = []
    for name, password in ((APP_USER, "wrong"), ("nobody", "wrong"), ("far", "far-pw")):
        with refused(1045) as texts:
            Client(portside, user=name, password=password)
        denied.append(texts[0].replace(name, "X"))
    assert set(denied) == {"Access denied for user 'X'@'127.0.0.1' (using password: YES)"}
    with refused(1049) as texts:
        Client(portside, database="no_such")
    assert "no_such" in texts[0]
    one = Client(portside, user="one", password="one-pw")
    assert one.ask("SELECT DATABASE(), SUBSTRING_INDEX(USER(), '@', 1)") == [("app", APP_USER)]
    with refused(1203) as texts:
        Client(portside, user="one", password="one-pw")
    assert texts == ["portside: user one has 1 sessions already (max_connections)"]
    # The account is good here and not on the server.
    with refused(1429) as texts:
        Client(portside, user="stranger", password="stranger-pw").ask("SELECT 1")
    assert "1045" in texts[0] and "server db0" in texts[0]
    assert "-pw" not in texts[0]


def test_failed_logins_are_limited_by_address(trio: Trio, run_portside: Run) -> None:
    portside = run_portside(config(trio.primary))
    for _ in range(30):
        with refused(1045) as texts:
            Client(portside, password="wrong")
        if "too many failed logins" in texts[0]:
            break
    else:
        raise AssertionError("never limited")
    # The right password is not looked at either, until the time has forgiven one failure.
    with refused(1045):
        Client(portside)
    wait_until(lambda: can_login(portside), 10.0, "never forgiven")


def can_login(portside: Instance) -> bool:
    with contextlib.suppress(pymysql.MySQLError):
        Client(portside).connection.close()
        return True
    return False


@pytest.mark.parametrize(
    ("statement", "reason", "ends"),
    [
        ("BEGIN", "transaction", "COMMIT"),
        ("SET autocommit = 0", "autocommit", "SET autocommit = 1"),
        ("SET @a = 1", "user-variable", ""),
        ("CREATE TEMPORARY TABLE app.x (a INT)", "temporary-table", ""),
        ("SELECT GET_LOCK('portside', 0)", "lock", ""),
        ("SELECT 1/0", "warnings", "SELECT 1 FROM information_schema.engines"),
    ],
)
def test_what_pins_is_shown(
    trio: Trio, run_portside: Run, statement: str, reason: str, ends: str
) -> None:
    portside = run_portside(config(trio.primary, pool="max = 1", workers=1))
    client = Client(portside)
    client.ask(statement)
    shown = portside.admin.get("/v1/sessions")
    assert [(s["user"], s["pinned"]) for s in shown] == [(APP_USER, reason)]
    if ends:
        client.ask(ends)
        assert portside.admin.get("/v1/sessions")[0]["pinned"] == ""
        # The one connection is free for another client.
        assert Client(portside).ask("SELECT 1") == [(1,)]
    client.connection.close()
    wait_until(lambda: not portside.admin.get("/v1/sessions"))
    fresh = Client(portside)
    assert fresh.ask("SELECT @a, @@autocommit, IS_FREE_LOCK('portside')") == [(None, 1, 1)]
    assert [line["pinned"] for line in portside.lines()][:1] == ([""] if ends else [reason])


def test_kill(primary: Database, run_portside: Run) -> None:
    portside = run_portside(config(primary))
    victim, killer = Client(portside), Client(portside)
    number = victim.connection.thread_id()
    for command, error in (("KILL QUERY", 1317), ("KILL", 2013)):
        ended: list[pymysql.MySQLError] = []

        def sleep(ended: list[pymysql.MySQLError] = ended) -> None:
            try:
                # SLEEP() alone would end with a result on MySQL.
                victim.ask("SELECT COUNT(*) FROM app.three WHERE SLEEP(30) = 0")
            except pymysql.MySQLError as reason:
                ended.append(reason)

        killer.ask("CREATE TABLE IF NOT EXISTS app.three AS SELECT 1 AS a UNION SELECT 2")
        thread = threading.Thread(target=sleep)
        thread.start()
        wait_until(lambda: runs(primary, "SLEEP(30)"))
        killer.ask(f"{command} {number}")
        thread.join(10.0)
        assert not thread.is_alive()
        assert [e.args[0] for e in ended] == [error]
        wait_until(lambda: not runs(primary, "SLEEP(30)"))
        if error == 1317:
            assert victim.ask("SELECT 1") == [(1,)]
    with refused(1094):
        killer.ask("KILL QUERY 4000000000")


def runs(server: Database, text: str) -> bool:
    rows = server.root("SELECT info FROM information_schema.processlist WHERE info IS NOT NULL")
    return any(text in str(row[0]) and "processlist" not in str(row[0]) for row in rows)


def test_a_client_that_vanishes_takes_its_query_along(primary: Database, run_portside: Run) -> None:
    portside = run_portside(config(primary))
    client = Client(portside)
    client.connection._execute_command(3, "SELECT SLEEP(60)")
    wait_until(lambda: runs(primary, "SLEEP(60)"))
    aborted = primary.status("Aborted_clients")
    client.connection._force_close()
    wait_until(lambda: not runs(primary, "SLEEP(60)"), 10.0, "the query still runs")
    assert Client(portside).ask("SELECT 1") == [(1,)]
    assert primary.status("Aborted_clients") == aborted


def test_a_connection_found_dead_is_replaced_unnoticed(
    primary: Database, run_portside: Run
) -> None:
    portside = run_portside(config(primary))
    client = Client(portside)
    for _ in range(5):
        assert client.ask("SELECT 1") == [(1,)]
        for number in connections(primary):
            primary.root(f"KILL {number}")
        wait_until(lambda: not connections(primary))
    assert client.ask("SELECT 1") == [(1,)]


def test_a_server_that_goes_in_a_transaction_is_told(
    mariadb_factory: Callable[..., Database], run_portside: Run
) -> None:
    server = mariadb_factory()
    portside = run_portside(config(server))
    client, idle = Client(portside), Client(portside)
    idle.ask("SELECT 1")
    client.ask("BEGIN")
    server.stop()
    with refused(1053) as texts:
        client.ask("SELECT 1")
    assert "server db0" in texts[0] and "transaction is lost" in texts[0]
    with refused(1429):
        idle.ask("SELECT 1")
    server.start()
    # The session without state lives on.
    wait_until(lambda: works(idle), 10.0, "the session is not served again")


def works(client: Client, statement: str = "SELECT 1") -> bool:
    with contextlib.suppress(pymysql.MySQLError):
        client.ask(statement)
        return True
    return False


def test_who_waits_too_long_gets_an_error_and_goes_on(trio: Trio, run_portside: Run) -> None:
    service = 'timeouts = { queue = "700ms" }'
    portside = run_portside(config(trio.primary, pool="max = 1", service=service))
    holder, waiting = Client(portside), Client(portside)
    holder.ask("BEGIN")
    before, started = portside.cpu_s(), time.monotonic()
    with refused(1040) as texts:
        waiting.ask("SELECT 1")
    assert 0.6 <= time.monotonic() - started <= 5.0
    assert "free server connection ([pool] max" in texts[0]
    # Waiting is not spinning.
    assert portside.cpu_s() - before <= 0.35
    holder.ask("COMMIT")
    assert waiting.ask("SELECT 1") == [(1,)]
    waiting.connection.close()
    holder.connection.close()
    portside.stop()
    waits = sorted(line["queue_ms"] for line in portside.lines() if "queue_ms" in line)
    assert waits[0] < 500 and 700 <= waits[1] < 5_000, waits


def test_queries_are_spread_one_by_one(trio: Trio, run_portside: Run) -> None:
    portside = run_portside(config(trio.primary, trio.replica1, workers=1))
    client = Client(portside)
    seen = [client.ask("SELECT @@server_id")[0][0] for _ in range(20)]
    assert sorted(map(seen.count, set(seen))) == [10, 10]
    client.ask("START TRANSACTION READ ONLY")
    assert len({client.ask("SELECT @@server_id")[0][0] for _ in range(10)}) == 1


def test_packets_beyond_16_mib_both_ways(primary: Database, run_portside: Run) -> None:
    old = primary.root("SELECT @@global.max_allowed_packet")[0][0]
    primary.root("SET GLOBAL max_allowed_packet = 67108864")
    try:
        portside = run_portside(config(primary))
        client = Client(portside, max_allowed_packet=1 << 26)
        size = 20 * 1024 * 1024
        text = "x" * size
        assert client.ask(f"SELECT LENGTH('{text}')") == [(size,)]
        rows = client.ask(f"SELECT REPEAT('x', {size}), 1")
        assert len(rows[0][0]) == size
        assert client.ask("SELECT 1") == [(1,)]
    finally:
        primary.root(f"SET GLOBAL max_allowed_packet = {old}")


@pytest.mark.mysql9
def test_a_restart_of_mysql_under_load_fails_no_login(mysql9_trio: Trio, run_portside: Run) -> None:
    """The server's cache of passwords is empty afterwards: every new connection needs RSA."""
    server = mysql9_trio.replica2
    portside = run_portside(config(server, workers=2))
    stop, wrong = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            try:
                client = Client(portside)
                client.ask("SELECT 1")
                client.connection.close()
            except pymysql.MySQLError as error:
                # While the server is away there is none; a login must never be wrong.
                if error.args[0] == 1045 or "1045" in str(error):
                    wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    server.restart()
    wait_until(lambda: can_login(portside), 20.0)
    time.sleep(0.5)  # load goes on against the server that has just come back
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert Client(portside).ask("SELECT 1") == [(1,)]
