"""The same program on the server and through a poisoned pool: every packet must be equal.

Programs are hypothesis' (a failing one is made small), flags are such that each pair of them
occurs, the pool has one or two connections, and after each step others leave on them what they can.
`PORTSIDE_FIDELITY=minutes` goes on with new programs for so long.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pymysql
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.conftest import Trio
from tests.integration.test_pool import config
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database
from tests.support.waiting import wait_until
from tests.support.wire_client import FLAGS, Packet, Shape, WireClient, masked
from tests.support.wire_play import (
    Execute,
    LongData,
    Neighbour,
    OfStatement,
    Parameter,
    Player,
    Prepare,
    Query,
    Step,
    poison,
)
from tests.support.wire_programs import ROUTINES, SCHEMA, TABLES, pairwise, programs

PROGRAMS = 3  # per row of flags, in CI
MINUTES = float(os.environ.get("PORTSIDE_FIDELITY", "0"))
# To make a failing program small takes minutes.
PHASES = (Phase.generate, Phase.shrink) if MINUTES else (Phase.generate,)
BESIDE = (
    "DROP DATABASE IF EXISTS beside; CREATE DATABASE beside; USE beside;"
    "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(10))"
)
# What each neighbour leaves on the connection when it goes.
POISON = (
    ("INSERT INTO t (name) VALUES ('a'), ('b')", "SELECT SQL_CALC_FOUND_ROWS * FROM t LIMIT 1"),
    ("SET @a = 77, @b = 'poison', @left = 1", "CREATE TEMPORARY TABLE tmp (x INT)"),
    ("SET sql_mode = '', time_zone = '+07:00', sql_select_limit = 1", "SELECT CAST('x' AS SIGNED)"),
    ("SET NAMES latin1 COLLATE latin1_bin", "SELECT 1 UNION SELECT 2", "SELECT 1/0"),
    ("SET autocommit = 0", "UPDATE t SET name = 'u'", "SELECT * FROM nowhere.nothing"),
    ("BEGIN", "DELETE FROM t", "SELECT GET_LOCK('beside', 0)"),
    ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT 1 FROM t"),
    ("SELECT LAST_INSERT_ID(4711)", "SET timestamp = 5", "LOCK TABLES t READ"),
    ("PREPARE p FROM 'SELECT 99'", "SET sql_mode = 'ANSI_QUOTES'", "SELECT 1/0"),
    ("SELECT 1 FROM (SELECT 1 UNION SELECT 2) q", "USE other", "SELECT CAST('q' AS SIGNED)"),
)


class Seen(NamedTuple):
    """One step directly and through the pool."""

    step: Step
    direct: list[Packet]
    pooled: list[Packet]

    @property
    def is_unknown(self) -> bool:
        """An honest "not known any more" (FOUND_ROWS, ROW_COUNT)."""
        return len(self.pooled) == 1 and b"not known" in self.pooled[0].payload


class Pair:
    """A server and a Portside with so many connections in front of it, and what was compared."""

    def __init__(self, server: Database, portside: Instance, size: int = 1) -> None:
        self.server, self._size = server, size
        host, _, port = portside.service("s")["listen"][0].rpartition(":")
        self._pool = (host, int(port))
        self.steps = self.shared = self.unknown = self.programs = 0
        server.root("SET GLOBAL log_bin_trust_function_creators = 1")
        # Afterwards the server's cache knows the account: no RSA for the raw client.
        pymysql.connect(
            host=server.address, port=server.port, user=APP_USER, password=APP_PASSWORD
        ).close()
        with self.direct(FLAGS["MULTI_STATEMENTS"], None) as client:
            client.query(BESIDE)

    def direct(self, flags: int, database: str | None = SCHEMA) -> WireClient:
        address = (self.server.address, self.server.port)
        return WireClient(address, APP_USER, APP_PASSWORD, flags=flags, database=database)

    def pooled(self, flags: int, database: str | None = SCHEMA) -> WireClient:
        return WireClient(self._pool, APP_USER, APP_PASSWORD, flags=flags, database=database)

    def of_neighbours(self, flags: int) -> int:
        """The flags of those who use the pool besides a client with these."""
        return flags

    def fresh(self) -> None:
        """The schema as each program finds it."""
        with self.direct(FLAGS["MULTI_STATEMENTS"], None) as client:
            for text in (TABLES, *ROUTINES):
                assert client.query(text)[-1].payload[0] == 0, text

    def run(self, program: list[Step], flags: int) -> None:
        """Plays the program both ways and compares."""
        self.fresh()
        with Player(lambda: self.direct(flags), self._is_gone) as player:
            direct = [player.play(step) for step in program]
        self.fresh()
        pooled = self._among_neighbours(program, flags)
        self.programs += 1
        for seen in map(Seen._make, zip(program, direct, pooled, strict=True)):
            self.steps += 1
            if seen.is_unknown:
                # What follows may ask for the statement that was refused.
                self.unknown += 1
                break
            assert self.alike(seen.pooled) == self.alike(seen.direct), difference(seen)

    def alike(self, reply: list[Packet]) -> list[Packet]:
        """A reply without what may differ."""
        return reply

    def _is_gone(self, connection: int) -> None:
        """Its locks, too: servers let go of them after they have closed the socket."""
        query = f"SELECT 1 FROM information_schema.processlist WHERE id = {connection}"
        wait_until(lambda: not self.server.root(query), 10.0, "the connection does not go")

    def _among_neighbours(self, program: list[Step], flags: int) -> list[list[Packet]]:
        """Plays it while others leave what they can on every connection of the pool."""
        pooled = []
        with contextlib.ExitStack() as stack:
            neighbours = []
            for number in range(self._size):
                bursts = POISON[number:] + POISON[:number]
                others = partial(self.pooled, self.of_neighbours(flags), "beside")
                neighbours.append(Neighbour(others, bursts))
                stack.callback(neighbours[-1].end)
            player = stack.enter_context(Player(lambda: self.pooled(flags)))
            # Nothing keeps the connection yet.
            assert poison(neighbours, 20.0), [one.failures for one in neighbours]
            for step in program:
                pooled.append(player.play(step))
                self.shared += poison(neighbours, 0.05)
        assert not [failure for one in neighbours for failure in one.failures]
        return pooled


def difference(seen: Seen) -> str:
    """The first packet that differs."""
    pairs = zip(seen.direct, seen.pooled, strict=False)
    first = next((pair for pair in pairs if pair[0] != pair[1]), (len(seen.direct), "shorter"))
    return f"{seen.step!r}:\n directly {first[0]!r:.400}\n pooled   {first[1]!r:.400}"


def rows(pair: Pair) -> list[int]:
    """Flags to log in with: each pair of those that the pool offers, in all four ways."""
    with pair.pooled(0, None) as client:
        names = [name for name, bit in FLAGS.items() if client.offered & bit]
    assert {"FOUND_ROWS", "SESSION_TRACK", "DEPRECATE_EOF", "MULTI_STATEMENTS"} <= set(names)
    return [sum(FLAGS[name] for name in row) for row in pairwise(names)]


def compare(pair: Pair, flags: int, number: int, *, is_mariadb: bool) -> None:
    """Runs some programs; hypothesis makes one small that shows a difference."""

    @seed(number)
    @settings(
        max_examples=PROGRAMS,
        database=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(is_mariadb=is_mariadb))
    def run(program: list[Step]) -> None:
        pair.run(program, flags)

    run()


def seeds() -> Iterator[int]:
    """One in CI, else new ones as long as PORTSIDE_FIDELITY says."""
    end, number = time.monotonic() + 60 * MINUTES, 0
    while number == 0 or time.monotonic() < end:
        yield number
        number += 1


@pytest.mark.timeout(180 + 60 * MINUTES)
@pytest.mark.parametrize("maximum", [1, 2])
@pytest.mark.parametrize("product", ["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def test_a_client_cannot_tell_the_pool_from_the_server(
    product: str,
    maximum: int,
    request: pytest.FixtureRequest,
    run_portside: Callable[..., Instance],
) -> None:
    trio: Trio = request.getfixturevalue("trio" if product == "mariadb" else "mysql9_trio")
    pool = f'max = {maximum}\nopen_rate = 10000\n[timeouts]\nqueue = "20s"'
    pair = Pair(trio.primary, run_portside(config(trio.primary, pool=pool)), maximum)
    for number in seeds():
        for row, flags in enumerate(rows(pair)):
            if MINUTES == 0 and row % 2 != maximum % 2:
                continue  # in CI each row with one of the two sizes

            compare(pair, flags, number * 100 + row, is_mariadb=product == "mariadb")
    report(pair, f"{product}, max = {maximum}")


def report(pair: Pair, what: str) -> None:
    """What was compared; nothing is proved where nothing was shared."""
    print(f"{what}: {pair.programs} programs, {pair.steps} steps compared")
    print(f"all connections in other hands after {pair.shared}, not known: {pair.unknown}")
    # Before the first step they always were.
    assert pair.shared > pair.steps // 8
    assert pair.unknown <= pair.programs


class MixedPair(Pair):
    """One server of a service that mixes families, for sessions that were given to its family."""

    def pooled(self, flags: int, database: str | None = SCHEMA) -> WireClient:
        while True:
            # The other family's server does not have the schema.
            client = super().pooled(flags, None)
            if ("MariaDB" in client.version) == (self.server.product == "MariaDB"):
                if database is not None:
                    client.command(b"\x02" + database.encode(), Shape.ONE)
                return client
            client.quit()


@pytest.mark.timeout(180)
@pytest.mark.mysql9
def test_a_session_of_a_mixed_service_keeps_to_one_family(
    trio: Trio, mysql9_trio: Trio, run_portside: Callable[..., Instance]
) -> None:
    servers = (trio.primary, mysql9_trio.primary)
    pool = 'max = 1\nopen_rate = 10000\n[timeouts]\nqueue = "20s"'
    portside = run_portside(config(*servers, pool=pool))
    for number, server in enumerate(servers):
        pair = MixedPair(server, portside)
        for row, flags in enumerate(rows(pair)[:3]):
            compare(pair, flags, 7000 + 10 * number + row, is_mariadb=number == 0)
        report(pair, f"mixed, {server.product}")


class TwoKinds(Pair):
    """The neighbours have DEPRECATE_EOF where the tested client has not, and vice versa."""

    def of_neighbours(self, flags: int) -> int:
        return flags ^ FLAGS["DEPRECATE_EOF"]

    def alike(self, reply: list[Packet]) -> list[Packet]:
        return masked(reply)


@pytest.mark.timeout(180 + 60 * MINUTES)
@pytest.mark.parametrize("product", ["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def test_a_client_cannot_tell_that_another_kind_shares_its_connections(
    product: str,
    request: pytest.FixtureRequest,
    run_portside: Callable[..., Instance],
) -> None:
    trio: Trio = request.getfixturevalue("trio" if product == "mariadb" else "mysql9_trio")
    pool = 'max = 1\nopen_rate = 10000\n[timeouts]\nqueue = "20s"'
    pair = TwoKinds(trio.primary, run_portside(config(trio.primary, workers=1, pool=pool)))
    usual = FLAGS["MULTI_STATEMENTS"] | FLAGS["MULTI_RESULTS"] | FLAGS["PS_MULTI_RESULTS"]
    for number in seeds():
        for row, flags in enumerate((usual, usual | FLAGS["DEPRECATE_EOF"])):
            if MINUTES == 0 and row == (product == "mariadb"):
                continue  # in CI each with one server

            compare(pair, flags, 9000 + 10 * number + row, is_mariadb=product == "mariadb")
    report(pair, f"{product}, two kinds")


# With MariaDB a number of its own; both end the connection behind it.
KILLED = {"MariaDB": (1927, "Connection was killed"), "MySQL": (1317, "Query execution was inter")}


@pytest.mark.parametrize("statement", ["KILL {}", "KILL CONNECTION CONNECTION_ID()"])
@pytest.mark.parametrize("product", ["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def test_who_kills_himself_is_told_as_by_the_server(
    product: str,
    statement: str,
    request: pytest.FixtureRequest,
    run_portside: Callable[..., Instance],
) -> None:
    trio: Trio = request.getfixturevalue("trio" if product == "mariadb" else "mysql9_trio")
    pair = Pair(trio.primary, run_portside(config(trio.primary)))
    number, text = KILLED[trio.primary.product.split()[0]]
    for connect in (pair.direct, pair.pooled):
        with connect(0, None) as client:
            (reply,) = client.query(statement.format(client.thread_id))
            assert reply.payload[:9] == b"\xff" + number.to_bytes(2, "little") + b"#70100"
            assert reply.payload[9:].startswith(text.encode())
            with pytest.raises(ConnectionError):
                client.query("SELECT 1")


# A row that ends with its first packet (an empty one follows), and one that fills two.
SIZES = (0xFFFFFF - 6, 2 * 0xFFFFFF - 11)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("product", ["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def test_rows_of_16_mib_and_more(
    product: str, request: pytest.FixtureRequest, run_portside: Callable[..., Instance]
) -> None:
    trio: Trio = request.getfixturevalue("trio" if product == "mariadb" else "mysql9_trio")
    server = trio.primary
    old = server.root("SELECT @@GLOBAL.max_allowed_packet")[0][0]
    server.root("SET GLOBAL max_allowed_packet = 64 * 1024 * 1024")
    try:
        pair = Pair(server, run_portside(config(server, pool="max = 1")))
        for number, size in enumerate(SIZES):
            flags = FLAGS["DEPRECATE_EOF"] * (number % 2)
            direct, pooled = (
                play_long(partial(make, flags, None), size) for make in (pair.direct, pair.pooled)
            )
            assert direct == pooled, size
    finally:
        server.root(f"SET GLOBAL max_allowed_packet = {old}")


def play_long(connect: Callable[[], WireClient], size: int) -> list[list[tuple[int, int, bytes]]]:
    """Results, parameters, statements of about so many bytes; of each packet what can be shown."""
    value = b"x" * size
    long = Parameter(252, b"\xfe" + size.to_bytes(8, "little") + value)
    number = Parameter(3, bytes(4))
    steps: list[Step] = [
        Query(b"SELECT REPEAT('x', %d), 1" % size),
        Prepare(0, b"SELECT LENGTH(?), ?"),
        Execute(0, (long, number)),
        Execute(0, (number, long)),
        LongData(0, 1, value),
        Query(b"SELECT 1"),
        OfStatement(0, 25),
        Query(b"SELECT '%s'" % value[: size - 4]),
        Query(b"SELECT LENGTH('%s')" % value),
    ]
    with Player(connect) as player:
        replies = [player.play(step) for step in steps]
    return [[(p.sequence, len(p.payload), p.payload[:99]) for p in reply] for reply in replies]
