"""Two kinds of clients on one connection: with DEPRECATE_EOF, and without.

Each client's replies are compared, packet by packet, with those that the server gives it directly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pymysql
import pytest

from tests.conftest import Trio
from tests.integration.test_pool import config
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database
from tests.support.wire_client import FLAGS, Packet, WireClient, masked
from tests.support.wire_play import (
    Command,
    Execute,
    OfStatement,
    Parameter,
    Player,
    Prepare,
    Query,
    Step,
)

Run = Callable[..., Instance]

EOF = FLAGS["DEPRECATE_EOF"]
BASE = sum(FLAGS[f] for f in ("MULTI_STATEMENTS", "MULTI_RESULTS", "PS_MULTI_RESULTS"))
MAKE = (
    "DROP DATABASE IF EXISTS kinds; CREATE DATABASE kinds; USE kinds;"
    "CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(9), c DECIMAL(9, 2), d DATETIME, e BLOB);"
    "INSERT INTO t VALUES (1, 'x', 1.5, '2026-01-02', NULL), (2, '', NULL, NULL, 'y'),"
    "(3, 'z', 0, NULL, '');"
    "CREATE TABLE digits (n INT);"
    "INSERT INTO digits VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)",
    "CREATE PROCEDURE p() BEGIN SELECT CAST('x' AS SIGNED); SELECT a FROM t; SELECT 2 FROM t; END",
    "CREATE PROCEDURE o(OUT x INT) BEGIN SELECT 5; SET x = 7; END",
)
# 300 rows: sequence numbers begin anew.
ROWS = "SELECT x.n, y.n, z.n FROM digits x, digits y, digits z WHERE z.n < 3 ORDER BY 3, 2, 1"
READS: tuple[Step, ...] = tuple(
    Query(text.encode())
    for text in (
        "SELECT 1",
        "SELECT * FROM t ORDER BY a",
        "SELECT * FROM t WHERE 0",
        ROWS,
        "SELECT CAST('q' AS SIGNED) FROM t",
        "SHOW WARNINGS",
        "SELECT a FROM t WHERE b = 1",
        "SELECT @@warning_count",
        "SELECT a, (SELECT n FROM digits WHERE n < 4 - a) FROM t ORDER BY a DESC",
        "SHOW ERRORS",
        "SELECT * FROM nowhere",
        "SELECT FROM",
        "(SELECT 1) UNION (SELECT 2);",
        "SHOW TABLES",
        "SHOW CREATE TABLE t",
        "SELECT COUNT(*), NULL, '' FROM t",
        "SELECT FOUND_ROWS()",
        f"SELECT {', '.join(map(str, range(300)))}",
    )
)
OTHERS: tuple[Step, ...] = (
    Query(b"SELECT CAST('q' AS SIGNED) FROM t"),
    Command(14),
    Query(b"SHOW WARNINGS"),
    # It leaves the connection on which it waited.
    Query(b"UPDATE t SET b = b WHERE a = 3"),
    Query(b"SHOW WARNINGS"),
    Query(b"CALL p()"),
    Query(b"SHOW WARNINGS"),
    Query(b"SELECT 1; SELECT a FROM t WHERE 0; DO 1; SELECT 2"),
    Query(b"DESCRIBE t"),
    Query(b"EXPLAIN SELECT b FROM t"),
    Query(b"BEGIN"),
    Query(b"UPDATE t SET b = 'v' WHERE a = 1"),
    Query(b"SELECT b FROM t"),
    Query(b"ROLLBACK"),
    Query(b"SELECT b FROM t"),
    Query(b"SET sql_mode = 'NO_SUCH_MODE'"),
    Query(b"SELECT 1"),
    Prepare(0, b"SELECT a, ? FROM t ORDER BY a"),
    Query(b"SELECT 2"),
    Execute(0, (Parameter(3, bytes(4)),)),
    Execute(0, (Parameter(3, bytes(4)),), cursor=True),
    OfStatement(0, 28, 2),
    OfStatement(0, 28, 9),
    OfStatement(0, 25),
    Prepare(1, b"CALL o(?)"),
    Execute(1, (Parameter(3, bytes(4)),)),
    Command(2, b"kinds"),
    Query(b"SELECT DATABASE()"),
)


@pytest.fixture(params=["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def server(request: pytest.FixtureRequest) -> Database:
    fixture = "trio" if request.param == "mariadb" else "mysql9_trio"
    servers: Trio = request.getfixturevalue(fixture)
    server = servers.primary
    # Afterwards the server's cache knows the account: no RSA for the raw client.
    address = {"host": server.address, "port": server.port}
    pymysql.connect(user=APP_USER, password=APP_PASSWORD, **address).close()
    with direct(server, BASE, None) as client:
        for text in MAKE:
            assert client.query(text)[-1].payload[0] == 0, text
    return server


def direct(server: Database, flags: int, schema: str | None = "kinds") -> WireClient:
    address = (server.address, server.port)
    return WireClient(address, APP_USER, APP_PASSWORD, flags=flags, database=schema)


def through(portside: Instance, flags: int, schema: str | None = "kinds") -> WireClient:
    host, _, port = portside.service("s")["listen"][0].rpartition(":")
    return WireClient(
        (host, int(port)), APP_USER, APP_PASSWORD, flags=flags, database=schema, timeout_s=20
    )


def opened(portside: Instance) -> int:
    return int(portside.stats()["servers"][0]["pool_opened_total"])


def replies(connect: Callable[[], WireClient], steps: tuple[Step, ...]) -> list[list[Packet]]:
    with Player(connect) as player:
        return [masked(player.play(step)) for step in steps]


@pytest.mark.parametrize("own", [0, EOF])
def test_reads_on_a_connection_of_the_other_kind(
    server: Database, run_portside: Run, own: int
) -> None:
    portside = run_portside(config(server, workers=1, pool="max = 1"))
    with through(portside, BASE | EOF ^ own) as other:
        other.query("SELECT 1")
        before = opened(portside)
        want = replies(partial(direct, server, BASE | own), READS)
        got = replies(partial(through, portside, BASE | own), READS)
        # Nothing was opened for any of them.
        assert opened(portside) == before
        for step, *pair in zip(READS, want, got, strict=True):
            assert pair[1] == pair[0], step
        # Its own kind's client sees the server's packets as ever, the EOF behind definitions, too.
        with direct(server, BASE | EOF ^ own) as one:
            assert other.query("SELECT a FROM kinds.t") == one.query("SELECT a FROM kinds.t")


def test_what_is_not_translated_has_a_connection_of_its_own_kind(
    server: Database, run_portside: Run
) -> None:
    own = EOF if server.product == "MySQL 9.7" else 0
    portside = run_portside(config(server, workers=1, pool="max = 1\nopen_rate = 1000"))
    with through(portside, BASE | EOF ^ own) as other:
        other.query("SELECT 1")
        before = opened(portside)
        want = replies(partial(direct, server, BASE | own), OTHERS)
        got = replies(partial(through, portside, BASE | own), OTHERS)
        for step, *pair in zip(OTHERS, want, got, strict=True):
            assert pair[1] == pair[0], step
    assert opened(portside) > before


def test_a_row_of_more_than_a_packet(server: Database, run_portside: Run) -> None:
    old = server.root("SELECT @@GLOBAL.max_allowed_packet")[0][0]
    server.root("SET GLOBAL max_allowed_packet = 64 * 1024 * 1024")
    own = EOF if server.product == "MySQL 9.7" else 0
    # The first packet is full, so an empty one follows.
    steps: tuple[Step, ...] = (Query(b"SELECT REPEAT('x', %d), 1" % (0xFFFFFF - 6)), READS[0])
    try:
        portside = run_portside(config(server, workers=1, pool="max = 1"))
        with through(portside, BASE | EOF ^ own) as other:
            other.query("SELECT 1")
            before = opened(portside)
            want = replies(partial(direct, server, BASE | own), steps)
            got = replies(partial(through, portside, BASE | own), steps)
            assert len(want[0][-2].payload) == 0xFFFFFF
            assert got == want, "they differ"
            assert opened(portside) == before
    finally:
        server.root(f"SET GLOBAL max_allowed_packet = {old}")
