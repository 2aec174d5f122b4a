"""The client programs of tests/clients: how each is started, and why it cannot be.

Every program does the same job with its library's own means and prints what it saw; its arguments
end with host, port, user, password, schema. A new one is a line in ``PROGRAMS``.
"""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import dataclass
from typing import Any

from tests.clients.fetch import CACHE, HERE, fetch
from tests.support import client_programs
from tests.support.servers import APP_PASSWORD, APP_USER, peers_bin

# What every program finds in its schema.
SCHEMA = (
    """CREATE TABLE v (id INT PRIMARY KEY AUTO_INCREMENT, n BIGINT UNIQUE, d DECIMAL(20, 6),
    f DOUBLE, s VARCHAR(190), b LONGBLOB, dt DATETIME(6), u BIGINT UNSIGNED)""",
    "CREATE PROCEDURE two() BEGIN SELECT 1 AS one; SELECT 'zwei' AS two, NULL AS three; END",
)

PYTHON = (str(CACHE / "python" / "venv" / "bin" / "python"), "-W", "ignore")


@dataclass(frozen=True)
class Program:
    """One library in one way of use: the command in front of the arguments, and its part."""

    command: tuple[str, ...]
    part: str


def _python(file: str, library: str) -> Program:
    part = "mysqlclient" if library in ("mysqlclient", "mysqldb") else "python"
    return Program((*PYTHON, str(HERE / "python" / file), library), part)


def _php(file: str, kind: str) -> Program:
    return Program(("php", str(HERE / "php" / file), kind), "php")


def _node(kind: str) -> Program:
    return Program(("node", str(HERE / "node" / "main.js"), kind), "node")


def _java(kind: str) -> Program:
    folder = CACHE / "java"
    small = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
    return Program(
        ("java", *small, "-cp", f"{folder}/jars/*:{folder}/classes", "Main", kind), "java"
    )


PROGRAMS: dict[str, Program] = {
    "pymysql": _python("dbapi.py", "pymysql"),
    "mysqlclient": _python("dbapi.py", "mysqlclient"),
    "connector-python": _python("dbapi.py", "connector-pure"),
    "asyncmy": _python("aio.py", "asyncmy"),
    "aiomysql": _python("aio.py", "aiomysql"),
    "sqlalchemy": _python("orm.py", "mysqldb"),
    "mysqli": _php("mysqli.php", "plain"),
    "mysqli-persistent": _php("mysqli.php", "persistent"),
    "pdo-emulated": _php("pdo.php", "emulated"),
    "pdo-native": _php("pdo.php", "native"),
    "pdo-persistent": _php("pdo.php", "persistent-native"),
    "go": Program((str(CACHE / "go" / "client"), "prepared"), "go"),
    "go-interpolated": Program((str(CACHE / "go" / "client"), "interpolated"), "go"),
    "node-mysql2": _node("mysql2-query"),
    "node-mysql2-execute": _node("mysql2-execute"),
    "node-mariadb": _node("mariadb-execute"),
    "connector-j": _java("mysql"),
    "connector-j-prepared": _java("mysql-prepared"),
    "mariadb-java": _java("mariadb-prepared"),
    "mariadb-cli": Program(("mariadb", "--no-defaults", "--skip-ssl"), "mariadb"),
    "mysql9-cli": Program(
        (str(peers_bin() / "mysql9"), "--no-defaults", "--ssl-mode=DISABLED"), "mysql9"
    ),
}


@functools.cache
def missing(part: str) -> str | None:
    """Why the programs of a part cannot run here, or None; fetches what can be fetched."""
    if part in ("php", "mariadb", "mysql9"):
        return client_programs.missing(part)
    if part == "mysqlclient":
        if (reason := missing("python")) is not None:
            return reason
        note = CACHE / "python" / "mysqlclient.missing"
        return note.read_text() if note.exists() else None
    return fetch(part)


def run(program: Program, host: str, port: int, schema: str) -> list[Any]:
    """What a program saw, step by step; one line each for a command-line client."""
    script = None
    if program.part in ("mariadb", "mysql9"):
        script = (HERE / "cli.sql").read_text()
        arguments = [f"--host={host}", f"--port={port}", f"--user={APP_USER}", schema, "--force",
                     f"--password={APP_PASSWORD}", "--show-warnings", "-vv", "--table",
                     "--default-character-set=utf8mb4"]  # fmt: skip
    else:
        arguments = [host, str(port), APP_USER, APP_PASSWORD, schema]
    done = subprocess.run(
        [*program.command, *arguments], input=script, capture_output=True, text=True, timeout=100,
        check=False, errors="replace",
    )  # fmt: skip
    if script is not None:
        return [*done.stdout.splitlines(), *done.stderr.splitlines()]
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    return list(json.loads(done.stdout))
