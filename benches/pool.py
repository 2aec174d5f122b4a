"""Pool mode against relays and MySQL Router: CPU, rate, latency, memory.

``python benches/pool.py [--runs 5] [--only sink mariadb mysql idle] [--json FILE]``.

Four parts. *sink*: before the MySQL-speaking sink of crates/lab, one worker each: CPU per short
connection and per query, memory. *mariadb*: PHP-like load on a real MariaDB, two workers each, all
on the same processors: connections per second, the proxy's and the database's CPU, latency.
*mysql*: MySQL 9.7, beside MySQL Router with connection sharing. *idle*: 10,000 logged-in clients on
50 server connections.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pymysql
from portside import _core
from portside.demo.database import APP_PASSWORD, APP_USER, Database
from portside.demo.mariadb import MariaDB
from results import Row, host, measure, show
from ways import (
    NO_PROXY,
    ROOT,
    Way,
    bare_relay,
    bytes_per_idle_client,
    cpu_of,
    cpu_s,
    direct,
    haproxy,
    hold_clients,
    portside,
    raise_file_limit,
    router,
    run_load,
)

POOL = "Portside pool"
IDLE_CLIENTS = 4000
MANY_CLIENTS = 10_000


class Measures:
    """The measurements; ``scale`` shrinks them for a quick look."""

    def __init__(self, scale: float) -> None:
        self.connections = max(200, int(10_000 * scale))
        self.queries = max(20, int(1000 * scale))

    def short_connection(self, way: Way) -> float:
        """Microseconds of CPU per connect, login, query, quit."""
        seconds, figures = cpu_of(way, connections=self.connections, concurrency=32)
        return seconds / figures.sessions_ok * 1e6

    def query(self, way: Way) -> float:
        """Microseconds of CPU per query, 16 sessions of many queries each."""
        seconds, figures = cpu_of(way, connections=16, concurrency=16, repeat=self.queries)
        return seconds / figures.queries_ok * 1e6

    def latency(self, way: Way) -> tuple[float, float]:
        """Microseconds of one client's session (connect to the one answer): median, 99 of 100."""
        figures = run_load(way, connections=self.connections // 5, concurrency=1)
        return figures.p50_us, figures.p99_us

    def query_latency(self, way: Way) -> float:
        """Microseconds per query of one client alone, in sessions of many queries."""
        figures = run_load(way, connections=4, concurrency=1, repeat=self.queries)
        return figures.p50_us / self.queries

    def idle_client(self, way: Way) -> float:
        """Bytes of resident memory."""
        return bytes_per_idle_client(way, IDLE_CLIENTS)


def side(name: str, unit: str) -> Row:
    """A row that is noted while another is measured."""
    return Row(name, unit, lambda _: 0.0, [])


@contextmanager
def started(*ways: Way | None) -> Iterator[list[Way]]:
    """The ways that are there, answering."""
    with ExitStack() as stack:
        there = [way for way in ways if way is not None]
        for way in there:
            stack.callback(way.end)
            way.start()
        yield there


def on_sink(do: Measures, folder: Path, runs: int) -> list[Row]:
    """CPU and memory before a backend that costs next to nothing."""
    sink = _core.Sink("{}")
    at = sink.addresses()[0]
    with started(direct(at), bare_relay(folder, at), haproxy(folder, at), portside(folder, at),
                 portside(folder, at, "pool")) as ways:  # fmt: skip
        proxies = [way for way in ways if way.name != NO_PROXY]
        rows = [
            Row("CPU per short connection", "us", do.short_connection, ways, POOL, "HAProxy",
                "0.50 x"),
            Row("CPU per query", "us", do.query, proxies, POOL, "bare", "bare relay + 4 us"),
            Row("resident per idle client", "bytes", do.idle_client, proxies, target="4,096 bytes"),
        ]  # fmt: skip
        measure(rows, runs)
    return rows


def end_to_end(do: Measures, database: Database, sides: dict[str, Row]) -> Callable[[Way], float]:
    """Connections per second of 16 clients; notes what they cost the proxy and the database."""

    def rate(way: Way) -> float:
        before = cpu_s(database.pid)
        seconds, figures = cpu_of(way, connections=do.connections, concurrency=16)
        per = 1e6 / figures.sessions_ok
        sides["database"].note(way.name, (cpu_s(database.pid) - before) * per)
        sides["proxy"].note(way.name, seconds * per)
        sides["p50"].note(way.name, figures.p50_us)
        sides["p99"].note(way.name, figures.p99_us)
        return figures.sessions_per_s

    return rate


def on_mariadb(do: Measures, folder: Path, runs: int) -> list[Row]:
    """PHP-like load, everything on the same processors."""
    database = MariaDB(folder / "mariadb")
    database.start()
    at = f"{database.address}:{database.port}"
    sides = {
        "proxy": side("  the proxy's CPU per connection", "us"),
        "database": side("  the database's CPU per connection", "us"),
        "p50": side("  a session's time, median", "us"),
        "p99": side("  a session's time, 99 of 100", "us"),
    }
    try:
        with started(direct(at), haproxy(folder, at, workers=2), portside(folder, at, workers=2),
                     portside(folder, at, "pool", workers=2)) as ways:  # fmt: skip
            rate = Row("connections/s, MariaDB", "", end_to_end(do, database, sides), ways, POOL,
                       "HAProxy", "at least 1.6 x")  # fmt: skip
            slow = side("one client's session, 99 of 100", "us")

            def alone(way: Way) -> float:
                median, late = do.latency(way)
                slow.note(way.name, late)
                return median

            session = Row("one client's session, median", "us", alone, ways, POOL, NO_PROXY)
            query = Row("one client's query", "us", do.query_latency, ways, POOL, NO_PROXY)
            measure([rate, session, query], runs)
    finally:
        database.kill()
    return [rate, *sides.values(), session, slow, query]


def on_mysql(do: Measures, folder: Path, runs: int) -> list[Row]:
    """MySQL Router's home: MySQL 9.7, caching_sha2_password, connections shared."""
    sys.path.insert(0, str(ROOT))
    from tests.support.servers import MySQL9, fetch_mysql9  # not beside this file

    if missing := fetch_mysql9():
        print(f"MySQL 9.7 skipped: {missing}")
        return []
    database = MySQL9(folder / "mysql")
    database.start()
    try:
        # The full login: from now on the server has the password in its cache.
        pymysql.connect(host=database.address, port=database.port, user=APP_USER,
                        password=APP_PASSWORD).close()  # fmt: skip
        at = f"{database.address}:{database.port}"
        with started(direct(at), bare_relay(folder, at), router(folder, at),
                     portside(folder, at, "pool")) as ways:  # fmt: skip
            proxies = ways[1:]
            rows = [
                Row("CPU per query, MySQL 9.7", "us", do.query, proxies, POOL, "MySQL", "0.35 x"),
                Row("CPU per short connection, MySQL 9.7", "us", do.short_connection, proxies, POOL,
                    "MySQL"),
                Row("one client's query, MySQL 9.7", "us", do.query_latency, ways, POOL, NO_PROXY),
            ]  # fmt: skip
            measure(rows, runs)
    finally:
        database.kill()
    return rows


def many_idle(folder: Path) -> None:
    """Thousands of clients on 50 server connections, and what a query of one of them takes."""
    sink = _core.Sink("{}")
    with started(portside(folder, sink.addresses()[0], "pool")) as (pool,):
        before = pool.resident_bytes()
        held = hold_clients(pool, MANY_CLIENTS)
        grown = (pool.resident_bytes() - before) / MANY_CLIENTS
        report = json.loads(sink.report())
        seconds, figures = cpu_of(pool, connections=64, concurrency=64, repeat=500)
        opened = json.loads(sink.report())["open"]
        rate = figures.queries_ok / figures.seconds
        print(
            f"{MANY_CLIENTS:,} idle clients: {report['open']} server connections, {grown:,.0f} "
            f"bytes each; 64 more ask meanwhile: {rate:,.0f} queries/s, "
            f"{seconds / figures.queries_ok * 1e6:.1f} us of CPU each, {opened} server connections"
        )
        held.stop()
        held.wait(60)


PARTS: dict[str, Callable[[Measures, Path, int], list[Row]]] = {
    "sink": on_sink,
    "mariadb": on_mariadb,
    "mysql": on_mysql,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="alternating runs (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of each run")
    parser.add_argument("--only", choices=[*PARTS, "idle"], nargs="*")
    parser.add_argument("--json", type=Path, help="also write every value to this file")
    options = parser.parse_args()
    raise_file_limit(20_000)
    wanted: Sequence[str] = options.only or [*PARTS, "idle"]
    tables = []
    for name, part in PARTS.items():
        if name in wanted:
            with tempfile.TemporaryDirectory(prefix="portside-bench-") as folder:
                tables.append(part(Measures(options.scale), Path(folder), options.runs))
    for rows in tables:
        show(rows)
    if "idle" in wanted:
        with tempfile.TemporaryDirectory(prefix="portside-bench-") as folder:
            many_idle(Path(folder))
    if options.json:
        values = {row.name: row.values for rows in tables for row in rows}
        options.json.write_text(json.dumps({"host": host(), "rows": values}))


if __name__ == "__main__":
    main()
