"""Pool mode when servers fail: replaced unnoticed before anything was sent, an error ever after."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pymysql
import pytest

from tests.conftest import Trio
from tests.integration.test_pool import Client, config, connections, listens, refused, works
from tests.support.instance import Instance
from tests.support.namespace import Namespace
from tests.support.servers import Database
from tests.support.waiting import wait_until

# Seconds on a machine of its own; CI shares its two cores.
pytestmark = pytest.mark.timeout(120)

Run = Callable[..., Instance]
Make = Callable[..., Database]


def test_connections_that_die_while_idle_are_replaced(
    mariadb_factory: Make, run_portside: Run
) -> None:
    server = mariadb_factory(options={"wait-timeout": "1"})
    portside = run_portside(config(server))
    clients = [Client(portside) for _ in range(4)]
    for client in clients:
        client.ask("CREATE TABLE IF NOT EXISTS app.t (a INT)")
    # The server's own wait_timeout, an administrator's KILL, a restart.
    wait_until(lambda: not connections(server))
    for client in clients:
        assert client.ask("SELECT 1") == [(1,)]
        # Kept for ROW_COUNT() and dead before the next statement: nothing of value is lost.
        client.ask("INSERT INTO app.t VALUES (1)")
    for number in connections(server):
        with contextlib.suppress(pymysql.MySQLError):  # gone by itself meanwhile
            server.root(f"KILL {number}")
    for client in clients:
        assert client.ask("SELECT 1") == [(1,)]
    server.restart()
    for client in clients:
        assert client.ask("SELECT 1") == [(1,)]


@pytest.mark.parametrize("end", ["wait_timeout", "kill"])
def test_a_transaction_lost_between_two_statements_is_told(
    mariadb_factory: Make, run_portside: Run, end: str
) -> None:
    server = mariadb_factory(options={"wait-timeout": "1"} if end == "wait_timeout" else {})
    portside = run_portside(config(server))
    server.root("CREATE TABLE app.t (a INT)")
    for ping in (False, True):
        client = Client(portside)
        client.ask("BEGIN")
        client.ask("INSERT INTO app.t VALUES (1)")
        for number in connections(server) if end == "kill" else ():
            server.root(f"KILL {number}")
        wait_until(lambda: not connections(server))
        with refused(1053) as texts:
            if ping:
                client.connection.ping(reconnect=False)
            # As if nothing had happened it would be the first statement of another transaction.
            client.ask("INSERT INTO app.t VALUES (2)")
        assert texts[0].startswith("portside: server db0: ")
        assert texts[0].endswith("the transaction is lost")
        with pytest.raises(pymysql.MySQLError):
            client.ask("SELECT 1")
    assert server.root("SELECT COUNT(*) FROM app.t") == [(0,)]


def test_a_server_killed_under_load_has_what_was_acknowledged(
    mariadb_factory: Make, run_portside: Run
) -> None:
    server = mariadb_factory(options={"innodb-flush-log-at-trx-commit": "1"})
    portside = run_portside(config(server, pool="max = 6"))
    server.root("CREATE TABLE app.t (client INT, number INT) ENGINE=InnoDB")
    address, done, doubtful, over = listens(portside), {}, set(), threading.Event()

    def work(name: int) -> None:
        number, client = 0, Client(portside, at=address)
        while not over.is_set():
            number += 1
            try:
                client.ask(f"INSERT INTO app.t VALUES ({name}, {number})")
                done[name, number] = True
            except pymysql.MySQLError:
                # It may have been done; it must not have been done twice.
                doubtful.add((name, number))
                with contextlib.suppress(pymysql.MySQLError):
                    client = Client(portside, at=address)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(12)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(done) > 100)
    server.kill()
    before = len(done)
    server.start()
    wait_until(lambda: len(done) > before + 100, 30.0)
    over.set()
    for thread in threads:
        thread.join()
    rows = server.root("SELECT client, number FROM app.t")
    assert len(rows) == len(set(rows)), "a statement was repeated"
    assert set(done) <= set(rows), "an acknowledged row is missing"
    assert set(rows) <= set(done) | doubtful


def test_a_write_to_a_read_only_server_is_told_to_both(trio: Trio, run_portside: Run) -> None:
    trio.primary.root("CREATE TABLE IF NOT EXISTS app.ro (a INT)")
    trio.replica1.wait_for(trio.primary)
    portside = run_portside(config(trio.replica1))
    client = Client(portside)
    for _ in range(3):
        with refused(1290) as texts:
            client.ask("INSERT INTO app.ro VALUES (1)")
    # The server's own words.
    assert "--read-only" in texts[0] and "portside" not in texts[0]

    def counted() -> int:
        server = next(s for s in portside.stats()["servers"] if s["name"] == "db0")
        return int(server["read_only_errors_total"])

    # The client has its answer before the count.
    wait_until(lambda: counted() == 3)
    told = wait_until(lambda: portside.events("write_refused"))
    assert [event["message"] for event in told] == [
        "service s: server db0 refused a write because it is read-only (1 so far)"
    ]
    assert client.ask("SELECT 1") == [(1,)]


def test_a_server_without_places_makes_clients_wait(
    mariadb_factory: Make, run_portside: Run
) -> None:
    # The fewest that MariaDB allows, and one more for accounts with CONNECTION ADMIN, as this one.
    server = mariadb_factory(options={"max-connections": "10"})
    others = [server.connect() for _ in range(9)]
    portside = run_portside(
        config(server, pool="max = 20", service='timeouts = { queue = "1500ms" }')
    )
    clients = [Client(portside) for _ in range(6)]
    for client in clients[:2]:
        # The connection that asked the server what it is may still have one of the two places.
        wait_until(partial(works, client, "BEGIN"))
    before = time.monotonic()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(clients[2].ask, "SELECT 1")
        (alert,) = wait_until(lambda: portside.admin.get("/v1/status")["alerts"])
        with refused(1040) as texts:
            waiting.result()
    assert alert == (
        "server db0: ERR 1040: Too many connections: clients wait: raise the server's limit, or"
        " lower [pool] max, which is 20"
    )
    (event,) = wait_until(lambda: portside.events("server_full"))
    assert event["message"] == "server db0: ERR 1040: Too many connections"
    assert time.monotonic() - before >= 1.4
    assert "server db0: ERR 1040: Too many connections" in texts[0]
    assert portside.admin.get("/v1/status")["alerts"] == []
    clients[0].ask("COMMIT")
    for client in (clients[0], *clients[2:]):
        assert client.ask("SELECT 1") == [(1,)]
    for other in others:
        other.close()
    clients[0].ask("BEGIN")
    wait_until(lambda: works(clients[2]))


def test_an_account_that_was_locked_is_named(mariadb_factory: Make, run_portside: Run) -> None:
    server = mariadb_factory()
    server.root("CREATE USER locked@'%' IDENTIFIED BY 'pw'")
    users = '[[user]]\nname = "locked"\npassword = "pw"\n'
    portside = run_portside(config(server, users=users))
    client = Client(portside, user="locked", password="pw")
    server.root("ALTER USER locked@'%' ACCOUNT LOCK")
    for number in connections(server, "locked"):
        server.root(f"KILL {number}")
    with refused(1429) as texts:
        client.ask("SELECT 1")
    assert "4151" in texts[0] and "locked" in texts[0]
    server.root("ALTER USER locked@'%' ACCOUNT UNLOCK")
    assert client.ask("SELECT 1") == [(1,)]


@pytest.mark.mysql9
def test_another_product_at_the_same_address(
    mariadb_factory: Make, mysql9_trio: Trio, run_portside: Run
) -> None:
    """Sessions of before keep to their family: they are told, and connect again."""
    old, new = mariadb_factory(), mysql9_trio.replica2
    text = config(old)
    portside = run_portside(text)
    client = Client(portside)
    assert "MariaDB" in client.ask("SELECT VERSION()")[0][0]
    portside.write(text.replace(f":{old.port}", f":{new.port}"))
    assert portside.reload()["ok"]
    with refused(1429) as texts:
        client.ask("SELECT VERSION()")
    assert "connect again" in texts[0]
    assert Client(portside).ask("SELECT VERSION()")[0][0].startswith("9.")
    wait_until(lambda: not connections(old))


@pytest.fixture
def wire() -> Iterator[tuple[Namespace, Callable[[bool], None]]]:
    """A namespace with a cable to here (10.231.7.1), and what cuts it (False) or mends it."""
    with Namespace() as there:
        subprocess.run(
            f"ip link add ps-life0 type veth peer name ps-life1 netns {there.name}"
            " && ip addr add 10.231.7.1/24 dev ps-life0 && ip link set ps-life0 up",
            shell=True,
            check=True,
        )
        try:
            there.ip("addr", "add", "10.231.7.2/24", "dev", "ps-life1")
            there.ip("link", "set", "ps-life1", "up")

            def connect(is_whole: bool) -> None:
                # Packets vanish without a word, as behind a firewall.
                state = "up" if is_whole else "down"
                subprocess.run(["ip", "link", "set", "ps-life0", state], check=True)

            yield there, connect
        finally:
            subprocess.run(["ip", "link", "del", "ps-life0"], check=False)


@pytest.mark.netns
def test_a_firewall_that_drops_silently(
    wire: tuple[Namespace, Callable[[bool], None]], mariadb_factory: Make, run_portside: Run
) -> None:
    there, connect = wire
    server = mariadb_factory(address="10.231.7.1", client_hosts="%")
    keys = '[source]\nuser_timeout = "1s"\nkeepalive = "1s"\n[timeouts]\nconnect = "1s"\n'
    portside = run_portside(keys + config(server, pool="max = 4"), prefix=there.prefix)
    clients = [there.inside(lambda: Client(portside)) for _ in range(3)]
    for client in clients:
        client.ask("BEGIN")
    clients[2].ask("COMMIT")
    connect(False)
    before = time.monotonic()
    # Something was sent: an error, in bounded time.
    with refused(1053) as texts:
        clients[0].ask("SELECT 1")
    assert "server db0" in texts[0] and "the transaction is lost" in texts[0]
    assert time.monotonic() - before < 15.0
    # Nothing was sent and nobody waits: keepalive finds out.
    wait_until(lambda: pool_open(portside) == 0, 20.0)
    connect(True)
    with refused(1053):
        clients[1].ask("SELECT 1")
    wait_until(lambda: works(clients[2]))


def pool_open(portside: Instance) -> int:
    return int(portside.stats()["servers"][0]["pool_connections"])
