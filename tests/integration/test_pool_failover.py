"""A primary that goes, under a pool: who is told what, and where the next statement runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import pymysql
import pytest

from tests.integration.test_ops_writes import active, pair
from tests.integration.test_ops_writes import config as relay
from tests.integration.test_pool import Client, refused
from tests.support.instance import Instance, settle
from tests.support.servers import APP_PASSWORD, APP_USER, MariaDB
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

__all__ = ["pair"]

Run = Callable[..., Instance]
Pair = tuple[MariaDB, MariaDB]


class Writers:
    """Threads that insert row after row on a connection that they keep as long as it is good."""

    def __init__(self, instance: Instance, count: int = 6) -> None:
        self.instance, self.written = instance, 0
        self.address = instance.service("write")["listen"][0]
        self.errors: dict[int, list[str]] = {number: [] for number in range(count)}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in self.errors]
        for thread in self._threads:
            thread.start()

    def _write(self, number: int) -> None:
        client = None
        while not self._over.is_set():
            try:
                client = client or Client(self.instance, at=self.address, read_timeout=20)
                client.ask(f"INSERT INTO app.writes VALUES (NULL, @@server_id, {number})")
                self.written += 1
                time.sleep(0.005)
            except pymysql.MySQLError as error:
                if client is None:  # nobody takes writes for now
                    time.sleep(0.05)
                    continue
                self.errors[number].append(str(error))
                with contextlib.suppress(pymysql.MySQLError):
                    client.connection.ping(reconnect=False)
                    continue
                client.connection._force_close()
                client = None
        if client is not None:
            client.connection.close()

    def go_on(self) -> None:
        before = self.written
        wait_until(lambda: self.written > before + 30, 15, "no write succeeds")

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def pooled(primary: MariaDB, replica: MariaDB) -> str:
    text = relay(primary, replica).replace('name = "write"\n', 'name = "write"\nmode = "pool"\n')
    return f'{text}\n[[user]]\nname = "{APP_USER}"\npassword = "{APP_PASSWORD}"\n'


def rows(server: MariaDB, of: MariaDB) -> int:
    number = of.root("SELECT @@server_id")[0][0]
    return int(server.root(f"SELECT COUNT(*) FROM app.writes WHERE server = {number}")[0][0])


@pytest.mark.parametrize("how", ["hangs", "is_killed", "is_demoted"])
def test_the_next_statement_goes_to_the_new_primary(
    run_portside: Run, pair: Pair, how: str
) -> None:
    primary, replica = pair
    portside = run_portside(pooled(primary, replica))
    wait_until(lambda: active(portside) == ["db1"])
    holder = Client(portside, "write")
    with Writers(portside) as writers:
        writers.go_on()
        holder.ask("BEGIN")
        holder.ask("INSERT INTO app.writes VALUES (NULL, @@server_id, 99)")
        if how == "hangs":
            primary.pause()
        elif how == "is_killed":
            primary.kill()
        else:
            primary.root("SET GLOBAL read_only = ON")
        wait_until(lambda: active(portside) != ["db1"])
        replica.promote()
        wait_until(lambda: active(portside) == ["db2"])
        writers.go_on()
        if how == "hangs":
            primary.resume()
        elif how == "is_killed":
            primary.start()
        # It takes writes as before, and gets none: but for what was under way when it stopped.
        primary.root("SET GLOBAL read_only = OFF")
        settle(0.3)
        late = rows(primary, primary)
        writers.go_on()
        settle(0.5)
        assert rows(primary, primary) == late
        with refused(1053) as lost:
            holder.ask("INSERT INTO app.writes VALUES (NULL, @@server_id, 99)")
    assert lost[0].startswith("portside: server db1: ")
    assert lost[0].endswith("; the transaction is lost")
    # Each was told once, in words; its next statement succeeded.
    for texts in writers.errors.values():
        assert len(texts) == 1 and "1053" in texts[0] and "server db1: " in texts[0], texts
    assert rows(primary, primary) == late
    assert primary.root("SELECT COUNT(*) FROM app.writes WHERE writer = 99") == [(0,)]
