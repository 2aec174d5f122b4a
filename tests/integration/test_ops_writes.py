"""Writes and a flapping primary, on a real MariaDB primary and replica: never two writers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pymysql
import pytest

from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, MONITOR_PASSWORD, MONITOR_USER, MariaDB
from tests.support.waiting import wait_until

FLAPS = 20
KILLS = 3  # of these; the others are read_only flips


class Writers:
    """Threads that insert one row per connection, as a web application does.

    Each row holds the server that it was written on.
    """

    def __init__(self, address: str, count: int = 4) -> None:
        host, _, port = address.rpartition(":")
        self._where = {"host": host, "port": int(port)}
        self._ended = threading.Event()
        self.written = 0
        self.errors: set[int] = set()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _write(self, writer: int) -> None:
        while not self._ended.is_set():
            try:
                with contextlib.closing(
                    pymysql.connect(
                        **self._where,  # type: ignore[arg-type]
                        user=APP_USER,
                        password=APP_PASSWORD,
                        autocommit=True,
                        connect_timeout=5,
                        read_timeout=5,
                        ssl_disabled=True,
                    )
                ) as connection:
                    for _ in range(5):  # long enough to be there when the primary goes
                        with connection.cursor() as cursor:
                            cursor.execute(
                                f"INSERT INTO app.writes VALUES (NULL, @@server_id, {writer})"
                            )
                        self.written += 1
                        time.sleep(0.01)
            except (pymysql.Error, OSError) as error:
                self.errors.add(error.args[0])
                time.sleep(0.02)

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(15)
            assert not thread.is_alive()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def go_on(self) -> None:
        """Waits until writes succeed again."""
        before = self.written
        wait_until(lambda: self.written > before + 8, 15, "no write succeeds")


@pytest.fixture
def pair(mariadb_factory) -> Iterator[tuple[MariaDB, MariaDB]]:
    """A primary and a replica on which the application may write although it is read only.

    So a session that reaches the replica does write there: read_only would hide the mistake.
    """
    primary, replica = mariadb_factory(), mariadb_factory()
    replica.replica_of(primary)
    primary.root(
        f"""GRANT READ_ONLY ADMIN ON *.* TO {APP_USER}@'127.0.0.%';
        CREATE DATABASE IF NOT EXISTS app;
        CREATE TABLE app.writes (id BIGINT AUTO_INCREMENT PRIMARY KEY, server INT, writer INT)"""
    )
    replica.wait_for(primary)
    yield primary, replica


def config(primary: MariaDB, replica: MariaDB) -> str:
    return f"""
[portside]
workers = 2
[check]
user = "{MONITOR_USER}"
password = "{MONITOR_PASSWORD}"
interval = "150ms"
fast_interval = "75ms"
timeout = "1s"
fall = 2
rise = 2
[timeouts]
queue = "1s"
[[server]]
name = "db1"
address = "127.0.0.1:{primary.port}"
[[server]]
name = "db2"
address = "127.0.0.1:{replica.port}"
[[service]]
name = "write"
listen = "127.0.0.1:0"
require = "writable"
failback = "manual"
servers = ["db1", {{ name = "db2", backup = true }}]
"""


def active(one: Instance) -> list[str]:
    """Where new sessions go."""
    return [m["server"] for m in one.service("write")["members"] if m["active"]]


def written_on(server: MariaDB) -> set[int]:
    """Server ids in the rows that a server has."""
    return {row[0] for row in server.root("SELECT DISTINCT server FROM app.writes")}


@pytest.mark.timeout(180)
def test_a_flapping_primary_leaves_no_row_on_the_replica(run_portside, pair):
    primary, replica = pair
    one = run_portside(config(primary, replica))
    wait_until(lambda: active(one) == ["db1"])
    with Writers(one.service("write")["listen"][0]) as writers:
        writers.go_on()
        for flap in range(FLAPS):
            if flap % (FLAPS // KILLS) == 1 and flap // (FLAPS // KILLS) < KILLS:
                primary.kill()
                wait_until(lambda: active(one) == [], 10)
                primary.start()
            else:
                primary.root("SET GLOBAL read_only=ON")
                wait_until(lambda: active(one) == [], 10)
                primary.root("SET GLOBAL read_only=OFF")
            wait_until(lambda: active(one) == ["db1"], 10)
        writers.go_on()
    assert one.stats()["servers"][1]["sessions_total"] == 0, "a session reached the replica"
    replica.wait_for(primary)
    assert written_on(replica) == written_on(primary) == {primary.port}
    # Nothing was ever written there: its own binary log has the primary's events only.
    positions = replica.root("SELECT @@gtid_binlog_pos")[0][0]
    assert {part.split("-")[1] for part in positions.split(",")} == {str(primary.port)}
    count = primary.root("SELECT COUNT(*) FROM app.writes")[0][0]
    assert replica.root("SELECT COUNT(*) FROM app.writes")[0][0] == count >= writers.written
    assert not one.events("failover") and not one.events("two_writers")


@pytest.mark.timeout(120)
def test_a_returned_primary_waits_for_switch(run_portside, pair):
    """Failover to the promoted replica, return of the old primary, and the way back by hand."""
    primary, replica = pair
    one = run_portside(config(primary, replica))
    with Writers(one.service("write")["listen"][0]) as writers:
        writers.go_on()
        primary.kill()
        wait_until(lambda: active(one) == [], 10)
        replica.promote()
        wait_until(lambda: active(one) == ["db2"], 10)
        writers.go_on()

        # The old primary comes back and believes that it still is one.
        primary.start()
        wait_until(lambda: one.server("db1")["role"] == "primary", 10)
        writers.go_on()
        assert active(one) == ["db2"], "it took writes back by itself"
        wait_until(lambda: one.events("two_writers"), 10)
        assert written_on(primary) == {primary.port}

        # It is made a replica, catches up, and the roles are changed again by hand.
        primary.root("SET GLOBAL read_only=ON")
        wait_until(lambda: one.server("db1")["role"] != "primary", 10)
        refused = one.cli("switch", "write", "db1")
        assert refused.returncode == 1 and "db1" in refused.stderr, refused
        assert active(one) == ["db2"]
        before = one.stats()["servers"][0]["sessions_total"]
        replica.root("SET GLOBAL read_only=ON")
        primary.root("SET GLOBAL read_only=OFF")
        wait_until(lambda: one.server("db1")["role"] == "primary", 10)
        moved = one.cli("switch", "write", "db1")
        assert moved.returncode == 0, moved
        wait_until(lambda: active(one) == ["db1"], 10)
        writers.go_on()
        wait_until(lambda: one.server("db2")["sessions"] == 0, 10)
        assert one.stats()["servers"][0]["sessions_total"] > before
    assert primary.port in written_on(primary)
    assert written_on(replica) == {primary.port, replica.port}
    # Rows that were written on the replica while it was the writer, and none after the switch.
    last = replica.root("SELECT COUNT(*) FROM app.writes")[0][0]
    time.sleep(0.3)
    assert replica.root("SELECT COUNT(*) FROM app.writes")[0][0] == last
