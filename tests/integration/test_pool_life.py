"""The life of pooled connections: how many there are, for whom they lie ready, and when they go."""

from __future__ import annotations

import bisect
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pymysql
import pytest
from portside.demo.held_port import free_port

from tests.conftest import Trio
from tests.integration.test_pool import Client, closed, config, connections, listens, refused
from tests.support.instance import Instance, settle
from tests.support.servers import Database
from tests.support.waiting import wait_until

# Seconds on a machine of its own; CI shares its two cores.
pytestmark = pytest.mark.timeout(120)

Run = Callable[..., Instance]

# 2,000 by hand: so many threads of Python take a minute to connect.
CLIENTS = int(os.environ.get("PORTSIDE_CLIENTS", "200"))


def pool(portside: Instance, name: str = "db0") -> tuple[int, int, int]:
    """Connections open, busy, and opened so far."""
    server = next(s for s in portside.stats()["servers"] if s["name"] == name)
    return server["pool_connections"], server["pool_busy"], server["pool_opened_total"]


def together(count: int, work: Callable[[int], None]) -> list[BaseException]:
    """Runs ``work(n)`` on so many threads; what they raised."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except pymysql.MySQLError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_connections_lie_ready_for_the_account_that_came_last(
    mariadb_factory: Callable[..., Database], run_portside: Run
) -> None:
    server = mariadb_factory()
    text = config(server, workers=2, pool='min_idle = 3\nmax = 6\nidle = "1s"')
    portside = run_portside(text)
    # At the start: a guess, for the first account by name.
    wait_until(lambda: len(connections(server)) == 3)
    client = Client(portside)
    assert client.ask("SELECT 1") == [(1,)]

    def is_warm() -> bool:
        opened = pool(portside)[2]
        assert client.ask("SELECT 1") == [(1,)]
        return pool(portside)[2] == opened and len(connections(server)) == 3

    # By now they are of the client's class: it needs no new one, and idleness closes the others.
    wait_until(is_warm, 15.0, step_s=1.2)
    # They come back by themselves after a restart, and after an administrator's KILL.
    server.restart()
    wait_until(lambda: len(connections(server)) == 3)
    for number in connections(server):
        server.root(f"KILL {number}")
    wait_until(lambda: len(connections(server)) == 3)
    # A busy one does not count as ready; `max` holds.
    holders = [Client(portside) for _ in range(5)]
    for holder in holders:
        holder.ask("BEGIN")
    wait_until(lambda: len(connections(server)) == 6)
    settle(0.6)
    assert pool(portside)[:2] == (6, 5)
    for holder in holders:
        holder.ask("COMMIT")
    portside.write(text.replace("min_idle = 3", "min_idle = 5"))
    assert portside.reload()["ok"]
    wait_until(lambda: len(connections(server)) == 5, 15.0)
    assert portside.cli("drain", "db0").returncode == 0
    wait_until(lambda: not connections(server))
    settle(0.6)
    assert not connections(server)
    assert portside.cli("ready", "db0").returncode == 0
    wait_until(lambda: len(connections(server)) == 5)
    aborted = server.status("Aborted_clients")
    closed(server, portside)
    assert server.status("Aborted_clients") == aborted


def test_idle_and_age_end_connections(trio: Trio, run_portside: Run) -> None:
    portside = run_portside(
        config(trio.primary, workers=1, pool='idle = "700ms"\nmax_lifetime = "never"')
    )
    client = Client(portside)
    client.ask("SELECT 1")
    assert len(connections(trio.primary)) == 1
    wait_until(lambda: not connections(trio.primary), 5.0)
    portside.stop()
    portside = run_portside(
        config(trio.primary, workers=1, pool='idle = "never"\nmax_lifetime = "1s"')
    )
    client = Client(portside)
    ids = set()

    def is_replaced() -> bool:
        client.ask("SELECT 1")
        ids.update(connections(trio.primary))
        return len(ids) >= 3

    # One that is in use all the time goes as well, and its client notices nothing.
    wait_until(is_replaced, 8.0)
    client.ask("BEGIN")
    kept = connections(trio.primary)
    settle(1.5)
    assert client.ask("SELECT 1") == [(1,)]
    assert set(kept) <= set(connections(trio.primary))


class Counts:
    """The server's own count of connections over time."""

    def __init__(self, server: Database) -> None:
        self.seen: list[tuple[float, int]] = []
        self._server, self._over = server, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        with pymysql.connect(unix_socket=str(self._server.socket_path), user="root") as connection:
            while not self._over.wait(0.02):
                with connection.cursor() as cursor:
                    cursor.execute("SHOW GLOBAL STATUS LIKE 'Connections'")
                    self.seen.append((time.monotonic(), int(cursor.fetchall()[0][1])))

    def __enter__(self) -> Counts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def worst_second(self) -> int:
        """The most connections that came within a second."""
        times = [at for at, _ in self.seen]
        most = 0
        for number, (at, count) in enumerate(self.seen):
            first = self.seen[bisect.bisect_left(times, at - 1.0, 0, number)]
            most = max(most, count - first[1])
        return most


def test_a_restart_is_no_storm(mariadb_factory: Callable[..., Database], run_portside: Run) -> None:
    """All at once when the server is back: the budget of open_rate holds, and nobody fails."""
    rate = 20
    server = mariadb_factory()
    text = config(
        server,
        workers=2,
        pool=f"max = 200\nopen_rate = {rate}",
        service='timeouts = { queue = "30s", login = "60s" }\nqueue = 4000',
    )
    portside = run_portside(text)
    address = listens(portside)

    def work(_: int) -> None:
        client = Client(portside, at=address, connect_timeout=60)
        for _ in range(2):
            client.ask("SELECT SLEEP(0.2)")
        client.connection.close()

    assert together(20, work) == []
    server.restart()
    with Counts(server) as counts:
        assert together(CLIENTS, work) == []
    # The rate, one second's worth at once, and what the sampling may misplace; a busy machine
    # may be slower than the rate.
    assert rate / 2 <= counts.worst_second() <= 2 * rate + 4


def test_max_is_exact_with_a_crowd(
    mariadb_factory: Callable[..., Database], run_portside: Run
) -> None:
    server = mariadb_factory()
    portside = run_portside(
        config(
            server,
            workers=4,
            pool="max = 8\nopen_rate = 1000",
            service='timeouts = { queue = "30s" }\nqueue = 1000',
        )
    )
    server.root("FLUSH STATUS")
    before, address = server.status("Max_used_connections"), listens(portside)

    def work(_: int) -> None:
        client = Client(portside, at=address)
        client.ask("SELECT SLEEP(0.002)")
        client.ask("BEGIN")
        client.ask("COMMIT")
        client.connection.close()

    assert together(CLIENTS, work) == []
    assert pool(portside)[0] <= 8
    # The server counts the connection that asks, and one that it has closed and not yet forgotten.
    assert server.status("Max_used_connections") <= 8 + before + 1


def with_batch(text: str, keys: str) -> str:
    """A second service, "batch", for the same server."""
    table = (
        f'[[service]]\nname = "batch"\nlisten = "127.0.0.1:{free_port()}"\nmode = "pool"\n'
        f'servers = ["db0"]\n{keys}\n'
    )
    return text.replace("[[user]]", f"{table}[[user]]", 1)


def test_each_service_has_its_part_of_the_servers_max(trio: Trio, run_portside: Run) -> None:
    keys = 'pool = { max = 2 }\ntimeouts = { queue = "300ms" }'
    portside = run_portside(with_batch(config(trio.primary, pool="max = 6"), keys))

    def batch() -> Client:
        return Client(portside, service="batch")

    web = [Client(portside) for _ in range(4)]
    for client in web:
        client.ask("BEGIN")
    # The other service's connections are no obstacle, and its own limit holds.
    jobs = [batch() for _ in range(3)]
    for job in jobs[:2]:
        job.ask("BEGIN")
    with refused(1040):
        jobs[2].ask("SELECT 1")
    assert len(connections(trio.primary)) == 6
    for client in web:
        client.ask("COMMIT")
    # Also with idle ones to be had.
    with refused(1040):
        jobs[2].ask("SELECT 1")
    jobs[0].ask("COMMIT")
    assert jobs[2].ask("SELECT 1") == [(1,)]
    assert len(connections(trio.primary)) == 6


def test_a_paused_service_holds_up_no_other(trio: Trio, run_portside: Run) -> None:
    text = config(trio.primary, workers=1, pool="max = 30")
    portside = run_portside(with_batch(text, 'timeouts = { queue = "30s" }'))
    stuck = [Client(portside, service="batch") for _ in range(40)]
    assert portside.cli("pause", "batch").returncode == 0
    for client in stuck:
        client.connection._execute_command(3, "SELECT 1")
    wait_until(lambda: portside.service("batch")["queued"] == 40)
    # Each of these has to wait for a new connection behind the others.
    others = [Client(portside) for _ in range(20)]
    for other in others:
        other.ask("BEGIN")
    assert portside.cli("resume", "batch").returncode == 0
    for client in stuck:
        client.connection._read_query_result()
        assert client.connection._result.rows == ((1,),)


def test_draining_with_200_busy_clients_loses_nothing(trio: Trio, run_portside: Run) -> None:
    primary, replica = trio.primary, trio.replica1
    portside = run_portside(config(primary, replica, workers=2, pool="max = 40\nopen_rate = 1000"))
    over, failures, address = threading.Event(), [], listens(portside)

    def work(_: int) -> None:
        client = Client(portside, at=address)
        while not over.is_set():
            client.ask("START TRANSACTION READ ONLY")
            first = client.ask("SELECT @@server_id")
            assert client.ask("SELECT @@server_id") == first
            client.ask("COMMIT")
        client.connection.close()

    crowd = threading.Thread(target=lambda: failures.extend(together(200, work)))
    crowd.start()
    try:
        for server, name in ((primary, "db0"), (replica, "db1")):
            wait_until(lambda server=server: connections(server))
            assert portside.cli("drain", name).returncode == 0
            wait_until(lambda server=server: not connections(server))
            assert portside.cli("ready", name).returncode == 0
    finally:
        over.set()
        crowd.join()
    assert failures == []


def test_a_reload_changes_limits_passwords_and_accounts(
    mariadb_factory: Callable[..., Database], run_portside: Run
) -> None:
    server = mariadb_factory()
    server.root(
        "CREATE USER moved@'%' IDENTIFIED BY 'old'; GRANT ALL ON *.* TO moved@'%';"
        "CREATE USER gone@'%' IDENTIFIED BY 'pw'; GRANT ALL ON *.* TO gone@'%'"
    )
    gone = '[[user]]\nname = "gone"\npassword = "pw"\n'
    users = '[[user]]\nname = "moved"\npassword = "old"\n'
    text = config(server, workers=1, pool="max = 4", users=users + gone)
    portside = run_portside(text)
    moved = Client(portside, user="moved", password="old")
    leaving = [Client(portside, user="gone", password="pw") for _ in range(2)]
    for client in (moved, *leaving):
        client.ask("SELECT 1")
    leaving[1].ask("BEGIN")
    old = connections(server, "moved")
    assert len(old) == 1
    server.root("ALTER USER moved@'%' IDENTIFIED BY 'new'")
    portside.write(text.replace('"old"', '"new"').replace(gone, "").replace("max = 4", "max = 2"))
    assert portside.reload()["ok"]
    with refused(1045):
        Client(portside, user="moved", password="old")
    # The session lives on, on connections of the new password; those of the old one go.
    assert moved.ask("SELECT 1") == [(1,)]
    fresh = Client(portside, user="moved", password="new")
    assert fresh.ask("SELECT 1") == [(1,)]
    wait_until(lambda: not set(old) & set(connections(server, "moved")))
    # A transaction of a removed account ends as it likes; after that there is nothing for it.
    assert leaving[1].ask("SELECT 1") == [(1,)]
    leaving[1].ask("COMMIT")
    for client in leaving:
        with refused(1045) as texts:
            client.ask("SELECT 1")
        assert texts == ["portside: the account gone is not in the configuration any more"]
    wait_until(lambda: not connections(server, "gone"))
    wait_until(lambda: pool(portside)[0] <= 2)


@pytest.mark.parametrize("workers", [1, 3])
def test_sigterm_lets_those_finish_who_wait(trio: Trio, run_portside: Run, workers: int) -> None:
    portside = run_portside(config(trio.primary, workers=workers, pool="max = 2"))
    clients = [Client(portside) for _ in range(12)]
    answers: list[Any] = []
    aborted = trio.primary.status("Aborted_clients")

    def ask(number: int) -> None:
        answers.append(clients[number].ask("SELECT 7 + SLEEP(0.1)"))

    crowd = threading.Thread(target=lambda: answers.extend(together(12, ask)))
    crowd.start()
    wait_until(lambda: portside.service("s")["queued"] >= 8)
    portside.signal(15)
    crowd.join()
    for client in clients:
        client.connection.close()
    assert answers == [[(7,)]] * 12
    assert portside.wait() == 0
    wait_until(lambda: not connections(trio.primary))
    assert trio.primary.status("Aborted_clients") == aborted
