"""Servers and clients that say anything at all: others are served, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
import pytest

from tests.conftest import Trio
from tests.integration.test_pool import Client, config, listens
from tests.integration.test_pool_tls import resident_kib
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database
from tests.support.spoiler import Spoiler
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

Run = Callable[..., Instance]

SECONDS = float(os.environ.get("PORTSIDE_HOSTILE_SECONDS", "4"))
CLIENTS = 8


@pytest.fixture(params=["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def primary(request: pytest.FixtureRequest) -> Database:
    fixture = "trio" if request.param == "mariadb" else "mysql9_trio"
    servers: Trio = request.getfixturevalue(fixture)
    servers.primary.root("DROP TABLE IF EXISTS app.dice")
    servers.primary.root("CREATE TABLE app.dice AS SELECT 1 AS a UNION SELECT 2")
    return servers.primary


def seeded() -> int:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return seed


class Talker:
    """Comes, says what a client may say, reads what it gets, and leaves; again and again."""

    def __init__(self, at: str, number: int) -> None:
        self.at, self.name = at, f"talker-{number}-"
        self.good = 0
        self.strange: list[str] = []
        self.errors: list[str] = []

    def run(self, over: threading.Event, seed: int) -> None:
        rng = random.Random(seed)
        while not over.is_set():
            try:
                self.visit(rng, over)
            except Exception as error:  # also struct, Unicode, index: PyMySQL at its wits' end
                self.errors.append(f"{type(error).__name__}: {error}"[:150])

    def visit(self, rng: random.Random, over: threading.Event) -> None:
        host, _, port = self.at.rpartition(":")
        connection = pymysql.connect(
            host=host,
            port=int(port),
            user=APP_USER,
            password=APP_PASSWORD,
            autocommit=True,
            database=rng.choice(("app", None)),
            connect_timeout=1,
            read_timeout=1,
            write_timeout=1,
        )
        with contextlib.closing(connection):
            for _ in range(rng.randrange(1, 12)):
                if over.is_set():
                    return
                self.say(connection, rng)

    def say(self, connection: Any, rng: random.Random) -> None:
        number = rng.randrange(1 << 30)
        kind = rng.randrange(8)
        with connection.cursor() as cursor:
            if kind == 0:
                connection.begin()
                cursor.execute("SELECT 1")
                connection.commit()
            elif kind == 1:
                cursor.execute(f"SET @mine = '{self.name}{number}'")
                cursor.execute("SELECT @mine")
                self.look(cursor.fetchall(), self.name)
            elif kind == 2:
                cursor.execute("SET SESSION sql_mode = 'ANSI'")
                cursor.execute("USE app")
            elif kind == 3:
                cursor.execute(f"SELECT REPEAT('{self.name}', 20000)")
                self.look(cursor.fetchall(), self.name)
            elif kind == 4:
                connection._execute_command(0x16, f"SELECT '{self.name}{number}', ?")
                # OK, a parameter, EOF, two columns, EOF.
                for _ in range(6):
                    connection._read_packet()
            elif kind == 5:
                connection.ping(reconnect=False)
                cursor.execute("SELECT CONNECTION_ID()")
            else:
                cursor.execute(f"SELECT '{self.name}{number}' FROM app.dice")
                self.look(cursor.fetchall(), f"{self.name}{number}")
        self.good += 1

    def look(self, rows: Any, wanted: str) -> None:
        text = str(rows)
        if "talker-" in text and wanted not in text:
            self.strange.append(f"{wanted}: {text[:200]}")


def crowd(at: str, seconds: float, seed: int) -> list[Talker]:
    """So many clients for so long."""
    over, talkers = threading.Event(), [Talker(at, n) for n in range(CLIENTS)]
    threads = [
        threading.Thread(target=one.run, args=(over, seed + n)) for n, one in enumerate(talkers)
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a client hangs"
    return talkers


def at_rest(portside: Instance, files: int, memory_kib: int) -> None:
    """Nobody is left, nothing was lost, and it serves."""
    wait_until(lambda: portside.sessions_now() == 0, 15.0, "sessions are left")
    pools = portside.stats()["servers"]
    wait_until(lambda: all(one["pool_busy"] == 0 for one in pools), 5.0, "connections are lent")
    assert portside.events("worker_died") == []
    assert all(worker["alive"] for worker in portside.stats()["workers"])
    assert resident_kib(portside) - memory_kib < 48 * 1024

    def is_served() -> bool:
        with contextlib.suppress(pymysql.MySQLError):
            return Client(portside).ask("SELECT 1") == [(1,)]
        return False

    wait_until(is_served, 15.0, "nobody is served any more", 0.2)
    wait_until(lambda: portside.open_files() <= files + 40, 10.0, "descriptors are left")


@pytest.fixture
def spoiler(primary: Database) -> Iterator[Spoiler]:
    one = Spoiler(lambda: (primary.address, primary.port), server=True, seed=seeded())
    yield one
    one.close()


def test_a_server_that_says_anything(
    primary: Database, spoiler: Spoiler, run_portside: Run
) -> None:
    text = config(spoiler, pool='max = 20\nopen_rate = 1000\nmax_lifetime = "1s"')  # type: ignore[arg-type]
    portside = run_portside(text + '[timeouts]\nlogin = "1s"\nqueue = "1s"\n')
    assert Client(portside).ask("SELECT 1") == [(1,)]
    files, memory = portside.open_files(), resident_kib(portside)
    spoiler.rate = 3.0
    talkers = crowd(listens(portside), SECONDS, seeded())
    spoiler.rate = 0.0
    at_rest(portside, files, memory)
    assert spoiler.count > 20 and sum(one.good for one in talkers) > 100
    assert [one.strange for one in talkers if one.strange] == []


def test_a_client_that_says_anything(primary: Database, run_portside: Run) -> None:
    text = config(primary, pool="max = 20\nopen_rate = 1000")
    portside = run_portside(text + '[timeouts]\nlogin = "1s"\nqueue = "1s"\n')
    at = listens(portside)
    host, _, port = at.rpartition(":")
    assert Client(portside).ask("SELECT 1") == [(1,)]
    files, memory = portside.open_files(), resident_kib(portside)
    spoiler = Spoiler(lambda: (host, int(port)), server=False, seed=seeded(), source="127.0.0.9")
    spoiler.rate = 10.0
    honest: list[Talker] = []
    beside = threading.Thread(target=lambda: honest.extend(crowd(at, SECONDS, seeded())))
    beside.start()
    crowd(f"127.0.0.1:{spoiler.port}", SECONDS, seeded())
    beside.join()
    spoiler.close()
    at_rest(portside, files, memory)
    assert spoiler.count > 20
    # The others notice nothing.
    assert [one.strange for one in honest if one.strange] == []
    assert [one.errors for one in honest if one.errors] == []
    assert sum(one.good for one in honest) > 100
