"""The same random program directly and through a busy pool: everything seen must be equal."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT

from tests.conftest import Trio
from tests.integration.test_pool import config
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database
from tests.support.sql_program import TABLES, connect, program, see

STATEMENTS = 60
PROGRAMS = 4
NEIGHBOURS = 3
FLAGS = (0, CLIENT.FOUND_ROWS, CLIENT.INTERACTIVE)


def make_schema(server: Database, name: str) -> None:
    for statement in (f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}"):
        server.root(statement)
    direct = connect(server.address, server.port, APP_USER, APP_PASSWORD, database=name)
    for statement in TABLES:
        assert isinstance(see(direct, statement)[0], tuple)
    direct.close()


class Neighbours:
    """Other clients on the same pool, who also leave without good-bye."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make, self._over = make, threading.Event()
        self.statements = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(NEIGHBOURS)
        ]

    def _run(self, seed: int) -> None:
        dice = random.Random(seed)
        while not self._over.is_set():
            connection = self._make(database="beside", flags=dice.choice(FLAGS))
            for statement in program(dice.randrange(1 << 30), dice.randint(1, 12), "beside"):
                see(connection, statement)
                self.statements += 1
            if dice.random() < 0.7:
                connection.close()
            else:
                connection._force_close()

    def __enter__(self) -> Neighbours:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("product", ["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def test_a_client_cannot_tell_the_pool_from_the_server(
    product: str, request: pytest.FixtureRequest, run_portside: Callable[..., Instance]
) -> None:
    trio: Trio = request.getfixturevalue("trio" if product == "mariadb" else "mysql9_trio")
    server = trio.primary
    server.root("SET GLOBAL log_bin_trust_function_creators = 1")
    portside = run_portside(config(server, pool="max = 6", workers=2))
    host, _, port = portside.service("s")["listen"][0].rpartition(":")

    def pooled(**options: Any) -> Any:
        return connect(host, int(port), APP_USER, APP_PASSWORD, **options)

    def direct(**options: Any) -> Any:
        return connect(server.address, server.port, APP_USER, APP_PASSWORD, **options)

    make_schema(server, "beside")
    compared = unknown = 0
    with Neighbours(pooled) as neighbours:
        for seed in range(PROGRAMS):
            statements = program(seed, STATEMENTS, "same")
            flags = FLAGS[seed % len(FLAGS)]
            seen = []
            for make in (direct, pooled):
                make_schema(server, "same")
                connection = make(database="same", flags=flags)
                seen.append([see(connection, statement) for statement in statements])
                connection.close()
            for statement, want, got in zip(statements, *seen, strict=True):
                compared += 1
                if is_unknown(got):
                    unknown += 1
                    continue
                assert got == want, f"seed {seed}: {statement!r}"
    assert neighbours.statements > 20
    # An honest "not known any more" is rare.
    assert unknown <= compared // 50


def is_unknown(seen: list[Any]) -> bool:
    error = seen[-1]
    return error[0] == pymysql.NotSupportedError.__name__ and "are not known" in error[2]
