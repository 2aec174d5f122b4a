"""Programs that people run against a database, through a pool: dumps, load, PyMySQL's tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.fetch import CACHE, HERE
from tests.integration.test_pool_clients import PRODUCTS, Pool, pool_in_front, server_for
from tests.support.client_matrix import missing
from tests.support.servers import APP_PASSWORD, APP_USER, MySQL9, find_program, peers_bin


@pytest.fixture(scope="module", params=PRODUCTS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    # PyMySQL's tests keep connections, with transactions in them.
    with pool_in_front(server_for(request), "max = 12", "local_infile = true") as made:
        yield made


FLAGS = (
    "--single-transaction",
    "--routines",
    "--triggers",
    "--events",
    "--hex-blob",
    "--skip-dump-date",
)

# Tests of PyMySQL 0.9.1 that tell the pool from the server, and why (docs/pooling.md).
DIFFERENT = {
    # Reads the server's ids in SHOW PROCESSLIST and kills by them: a pool gives ids of its own.
    "pymysql/tests/test_issues.py::TestNewIssues::test_issue_36",
    # SET wait_timeout: the server ends idle connections, and a pool's clients have none.
    "pymysql/tests/test_connection.py::TestConnection::test_connection_gone_away",
}


def ended(command: Sequence[str], **options: object) -> str:
    """Standard output of a program that must succeed."""
    done = subprocess.run(
        list(command), capture_output=True, text=True, timeout=60, check=False, **options
    )  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-500:]}{done.stderr[-1500:]}"
    return str(done.stdout)


class Tools:
    """The command-line programs that belong to a server, with their way to log in."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.is_mysql = pool, isinstance(pool.server, MySQL9)
        names = ("mysql9", "mysqldump9") if self.is_mysql else ("mariadb", "mariadb-dump")
        folder = str(peers_bin()) if self.is_mysql else os.environ["PATH"]
        found = [shutil.which(name, path=folder) for name in names]
        if None in found:
            pytest.skip(f"{names[found.index(None)]} is missing: apt-get install mariadb-client")
        self.client, self.dump_program = map(str, found)

    def login(self, through_pool: bool) -> list[str]:
        server = self.pool.server
        host, port = server.address, server.port
        if through_pool:
            host, port = self.pool.host, self.pool.port
        tls = "--ssl-mode=DISABLED" if self.is_mysql else "--skip-ssl"
        return ["--no-defaults", tls, f"--host={host}", f"--port={port}", f"--user={APP_USER}",
                f"--password={APP_PASSWORD}", "--default-character-set=utf8mb4"]  # fmt: skip

    def dump(self, schema: str, *, through_pool: bool) -> str:
        own = ["--no-tablespaces", "--set-gtid-purged=OFF"] if self.is_mysql else []
        return ended([self.dump_program, *self.login(through_pool), *FLAGS, *own, schema])

    def restore(self, text: str, schema: str, *, through_pool: bool) -> None:
        ended([self.client, *self.login(through_pool), schema], input=text)


def test_a_dump_through_the_pool_restores_through_the_pool(pool: Pool) -> None:
    tools = Tools(pool)
    for schema in ("books", "restored"):
        pool.server.root(f"DROP DATABASE IF EXISTS {schema}")
        pool.server.root(f"CREATE DATABASE {schema} CHARACTER SET utf8mb4")
    schema_text = (HERE / "dump.sql").read_text()
    tools.restore(f"DELIMITER ;;\n{schema_text}", "books", through_pool=True)
    want = tools.dump("books", through_pool=False)
    for part in ("CREATE TABLE `visit`", "PARTITION BY", "nightly", "rename_author", "after_book"):
        assert part in want
    got = tools.dump("books", through_pool=True)
    assert same_host(got, pool) == same_host(want, pool)
    tools.restore(got, "restored", through_pool=True)
    again = tools.dump("restored", through_pool=False)
    assert same_host(again.replace("restored", "books"), pool) == same_host(want, pool)


def same_host(dump: str, pool: Pool) -> list[str]:
    """A dump's lines; its head names the host it was asked for."""
    return [line for line in dump.splitlines() if not line.startswith("-- Host:")]


SYSBENCH = find_program("sysbench")


@pytest.mark.skipif(SYSBENCH is None, reason="sysbench is not installed: apt-get install sysbench")
@pytest.mark.timeout(120)
def test_sysbench_runs_without_an_error(pool: Pool) -> None:
    pool.server.root("CREATE DATABASE IF NOT EXISTS sbtest")

    def sysbench(to: Pool, test: str, what: str, *more: str) -> str:
        login = [f"--mysql-host={to.host}", f"--mysql-port={to.port}", "--mysql-ssl=off",
                 f"--mysql-user={APP_USER}", f"--mysql-password={APP_PASSWORD}"]  # fmt: skip
        size = ["--tables=2", "--table-size=500", "--threads=8", "--time=3"]
        return ended([str(SYSBENCH), test, *login, *size, *more, what])

    sysbench(pool, "oltp_read_write", "prepare", "--threads=1")
    with pool_in_front(pool.server, "max = 4") as small:
        for test in ("oltp_read_write", "oltp_read_only"):
            for mode in ("auto", "disable"):
                # Deadlocks are the workload's own; any other error ends sysbench.
                said = sysbench(small, test, "run", f"--db-ps-mode={mode}")
                done = re.search(r"transactions:\s+(\d+)", said)
                lost = re.search(r"reconnects:\s+(\d+)", said)
                assert done is not None and int(done[1]) > 8, said
                assert lost is not None and int(lost[1]) == 0, said
    sysbench(pool, "oltp_read_write", "cleanup", "--threads=1")


@pytest.mark.mysql9
def test_mysqlslap_runs_without_an_error(pool: Pool) -> None:
    program = peers_bin() / "mysqlslap9"
    if not program.exists() or not isinstance(pool.server, MySQL9):
        pytest.skip("mysqlslap is of MySQL 9.7, which has no mysql_native_password")
    login = Tools(pool).login(through_pool=True)[:-1]
    said = ended([str(program), *login, "--auto-generate-sql", "--concurrency=10",
                  "--auto-generate-sql-load-type=mixed",
                  "--number-of-queries=500", "--detach=7"])  # fmt: skip
    assert "Number of clients running queries: 10" in said


@pytest.mark.timeout(120)
def test_pymysqls_own_tests_pass_as_on_the_server(pool: Pool, tmp_path: Path) -> None:
    if (reason := missing("python")) is not None:
        pytest.skip(reason)
    server = pool.server
    old = server.root("SELECT @@global.local_infile")[0][0]
    server.root("SET GLOBAL local_infile = 1")
    for name in ("direct1", "direct2", "pooled1", "pooled2"):
        server.root(f"DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name}")
    with ThreadPoolExecutor() as both:
        direct = both.submit(suite, tmp_path / "direct", server.address, server.port)
        pooled = both.submit(suite, tmp_path / "pooled", pool.host, pool.port)
        want, got = direct.result(), pooled.result()
    server.root(f"SET GLOBAL local_infile = {old}")
    assert len(want) > 140
    assert {test for test in want ^ got if test not in DIFFERENT} == set()


def suite(folder: Path, host: str, port: int) -> set[str]:
    """Runs the tests that PyMySQL 0.9.1 brings, with itself; the names of those that pass."""
    shutil.copytree(CACHE / "python" / "suite", folder)
    databases = [
        {"host": host, "port": port, "user": APP_USER, "passwd": APP_PASSWORD, "db": name,
         "use_unicode": True, "local_infile": True}
        for name in (f"{folder.name}1", f"{folder.name}2")
    ]  # fmt: skip
    (folder / "pymysql" / "tests" / "databases.json").write_text(json.dumps(databases))
    # Its name on Python 2.
    (folder / "unittest2.py").write_text("from unittest import *\n")
    python = str(CACHE / "python" / "venv" / "bin" / "python")
    command = [python, "-m", "pytest", "-rp", "-q", "-p", "no:cacheprovider", "pymysql/tests"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    return set(re.findall(r"^PASSED (\S+)", done.stdout, re.M))
