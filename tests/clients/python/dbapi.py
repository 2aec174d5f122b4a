"""The job by a DB-API library: ``dbapi.py LIBRARY host port user password schema``.

Prints what it saw as JSON: a list of [step, value]. Runs with the Python of .cache/clients/python.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

TEXT = "naïve Ω 漢字 🐬 ' \" \\ \0 %"
BYTES = bytes(range(256)) * 3
BIG = 3 * 512 * 1024  # above what Portside reads of a statement, below a tenth of the redo log
SAVE = "INSERT INTO v (n, d, f, s, b, dt, u) VALUES (%s, %s, %s, %s, %s, %s, %s)"
LOAD = "SELECT n, d, f, s, b, dt, u FROM v WHERE id = %s"


def opener(library: str) -> Callable[..., Any]:
    """How a library connects; the arguments are PyMySQL's names."""
    if library == "pymysql":
        import pymysql

        return lambda **to: pymysql.connect(
            **to, client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS, ssl_disabled=True
        )
    if library == "mysqlclient":
        import MySQLdb

        return lambda **to: MySQLdb.connect(**to, ssl_mode="DISABLED", charset="utf8mb4")
    import mysql.connector

    pure = library == "connector-pure"
    return lambda **to: mysql.connector.connect(**to, use_pure=pure, ssl_disabled=True)


class Job:
    """What every program of the matrix does; ``seen`` is what it prints."""

    def __init__(self, library: str, to: dict[str, Any]) -> None:
        self.connect = lambda **more: opener(library)(**to, **more)
        self.library, self.seen = library, []
        self.error = importlib.import_module(
            {"pymysql": "pymysql", "mysqlclient": "MySQLdb"}.get(library, "mysql.connector")
        ).Error

    def see(self, step: str, value: Any) -> None:
        self.seen.append([step, plain(value)])

    def ask(self, statement: str, arguments: Any = None, **how: Any) -> Any:
        cursor = self.connection.cursor(**how)
        try:
            cursor.execute(statement, arguments)
            rows = cursor.fetchall() if cursor.description else []
            return [rows, cursor.rowcount, cursor.lastrowid, columns(cursor)]
        except self.error as error:
            return [type(error).__name__, *error.args]
        finally:
            cursor.close()

    def run(self) -> None:
        self.connection = self.connect()
        self.hello()
        self.values()
        self.prepared()
        self.transactions()
        self.ids()
        self.errors()
        self.several()
        self.settings()
        self.streamed()
        self.ended()
        self.many()

    def hello(self) -> None:
        connection = self.connection
        number = getattr(connection, "connection_id", None) or connection.thread_id()
        self.see("id", self.ask("SELECT CONNECTION_ID()")[0][0][0] == number)
        self.see("hello", self.ask("SELECT DATABASE(), VERSION(), CURRENT_USER(), @@autocommit"))
        connection.ping()

    def values(self) -> None:
        moment = datetime.datetime(2026, 2, 28, 23, 59, 59, 123456)
        rows = [
            (-1, decimal.Decimal("-12345678901234.123456"), 1.5, TEXT, BYTES, moment, 2**64 - 1),
            (2, None, None, None, None, None, None),
            (3, decimal.Decimal("0"), -0.25, "", b"", moment.replace(microsecond=0), 0),
        ]
        for row in rows:
            number = self.ask(SAVE, row)
            self.see("saved", number[1:3])
            self.see("loaded", self.ask(LOAD, (number[2],)))
        big = "x" * BIG
        self.see("big", self.ask(SAVE, (4, None, None, None, big.encode(), None, None))[1:3])
        row = self.ask("SELECT b, LENGTH(b), SHA2(b, 256) FROM v WHERE n = 4")[0][0]
        self.see("big", [hashlib.sha256(row[0]).hexdigest(), *row[1:]])
        self.connection.commit()

    def prepared(self) -> None:
        """The binary protocol, where the library has it."""
        if not self.library.startswith("connector"):
            return
        cursor = self.connection.cursor(prepared=True)
        for row in [(11, 1.5, "a", None), (12, None, TEXT, b"\0\xff"), (13, 2.5, None, b"")]:
            cursor.execute("INSERT INTO v (n, f, s, b) VALUES (%s, %s, %s, %s)", row)
            self.see("executed", [cursor.rowcount, cursor.lastrowid])
        other = self.connection.cursor(prepared=True)
        for number in (11, 12, 13, 11, 99):
            other.execute("SELECT n, d, f, s, b, dt, u FROM v WHERE n = %s", (number,))
            self.see("fetched", other.fetchall())
        other.close()
        cursor.close()
        self.connection.commit()

    def transactions(self) -> None:
        count = "SELECT COUNT(*), SUM(n) FROM v"
        connection = self.connection
        for end in (connection.rollback, connection.commit):
            self.see("inserted", self.ask("INSERT INTO v (n) VALUES (21), (22)"))
            self.see("inside", self.ask(count))
            end()
            self.see("outside", self.ask(count))
            connection.commit()
        autocommit(connection, True)
        self.see("autocommit", self.ask("SELECT @@autocommit"))
        self.see("savepoint", [
            self.ask(statement)[:2]
            for statement in ("BEGIN", "DELETE FROM v WHERE n = 21", "SAVEPOINT one",
                              "DELETE FROM v", "ROLLBACK TO one", "COMMIT", count)
        ])  # fmt: skip

    def ids(self) -> None:
        for statement in (
            "INSERT INTO v (s) VALUES ('a'), ('b')",
            "SELECT LAST_INSERT_ID(), ROW_COUNT()",
            "UPDATE v SET s = 'a' WHERE s IN ('a', 'b')",
            "SELECT ROW_COUNT()",
            "INSERT INTO v (n, s) VALUES (2, 'c') ON DUPLICATE KEY UPDATE s = 'd'",
            "UPDATE v SET id = LAST_INSERT_ID(id) WHERE n = 2",
            "SELECT LAST_INSERT_ID()",
            "SELECT SQL_CALC_FOUND_ROWS id FROM v LIMIT 1",
            "SELECT FOUND_ROWS()",
            "DELETE FROM v WHERE s = 'a'",
        ):
            self.see(statement, self.ask(statement))

    def errors(self) -> None:
        for statement in (
            "SELEC 1",
            "SELECT * FROM no_such_table",
            "INSERT INTO v (id) VALUES (1)",
            "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'mine', MYSQL_ERRNO = 31001",
            "SHOW WARNINGS",
            "SELECT 1/0, CAST('abc' AS SIGNED)",
            "SHOW WARNINGS",
            "SELECT 1",
        ):
            self.see(statement, self.ask(statement))

    def several(self) -> None:
        cursor = self.connection.cursor()
        if self.library in ("pymysql", "mysqlclient"):
            for statement in ("SELECT 1; SELECT 2, 'x'; DO 1; SELEC", "CALL two()"):
                cursor.execute(statement)
                more: Any = True
                while more:
                    self.see(statement, [cursor.fetchall(), cursor.rowcount, columns(cursor)])
                    try:
                        more = cursor.nextset()
                    except self.error as error:
                        more = self.see(statement, list(error.args))
        elif hasattr(cursor, "stored_results"):
            cursor.callproc("two")
            self.see("two", [[r.fetchall(), columns(r)] for r in cursor.stored_results()])
        cursor.close()
        cursor = self.connection.cursor()
        cursor.executemany(
            "INSERT INTO v (s, u) VALUES (%s, %s)", [("many", n) for n in range(500)]
        )
        self.see("many", [cursor.rowcount, cursor.lastrowid])
        cursor.close()

    def settings(self) -> None:
        state = "SELECT DATABASE(), @@sql_mode, @@time_zone, @@collation_connection, @mine"
        for statement in (
            "SET NAMES utf8mb4",
            "SET SESSION sql_mode = 'STRICT_TRANS_TABLES', time_zone = '+03:00'",
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET @mine = 'kept'",
            "CREATE TEMPORARY TABLE tmp (a INT) SELECT 7 AS a",
            "SELECT GET_LOCK('clients-lock', 2)",
        ):
            self.see(statement, self.ask(statement)[:2])
            self.see("state", self.ask(state))
        self.see("tmp", self.ask("SELECT * FROM tmp"))
        self.see("unlock", self.ask("SELECT RELEASE_LOCK('clients-lock')"))

    def streamed(self) -> None:
        digest = hashlib.md5()
        cursor = unbuffered(self.library, self.connection)
        cursor.execute(
            """SELECT a.u, b.u, REPEAT('y', 30) FROM v a, v b WHERE a.s = 'many' AND b.s = 'many'
            AND b.u < 40 ORDER BY a.u, b.u"""
        )
        count = 0
        for row in cursor:
            count += 1
            digest.update(repr(row).encode())
        cursor.close()
        self.see("streamed", [count, digest.hexdigest()])

    def ended(self) -> None:
        connection = self.connection
        if hasattr(connection, "cmd_reset_connection"):
            connection.cmd_reset_connection()
            self.see("reset", self.ask("SELECT @mine, @@time_zone, DATABASE()"))
        self.see("tmp", self.ask("SELECT * FROM tmp")[:2])
        connection.close()

    def many(self) -> None:
        total = 0
        for number in range(60):
            self.connection = self.connect()
            total += self.ask("SELECT %s + 1", (number,))[0][0][0]
            self.connection.close()
        self.see("many connections", total)
        # A pool of its own: two at once, each in a transaction.
        pair = [self.connect(), self.connect()]
        for turn in range(4):
            for connection in pair:
                self.connection = connection
                self.see(
                    "pair",
                    self.ask(
                        "UPDATE v SET u = u + 1 WHERE n = %s", (3 if connection is pair[0] else 21,)
                    ),
                )
            for connection in pair:
                connection.commit() if turn % 2 else connection.rollback()
        self.connection = pair[0]
        self.see("pair", self.ask("SELECT n, u FROM v WHERE n IN (3, 21) ORDER BY n"))
        for connection in pair:
            connection.close()


def columns(cursor: Any) -> list[Any]:
    return [[part for part in column[:2]] for column in cursor.description or ()]


def autocommit(connection: Any, value: bool) -> None:
    if callable(connection.autocommit):
        connection.autocommit(value)
    else:
        connection.autocommit = value


def unbuffered(library: str, connection: Any) -> Any:
    if library == "pymysql":
        import pymysql

        return connection.cursor(pymysql.cursors.SSCursor)
    if library == "mysqlclient":
        import MySQLdb.cursors

        return connection.cursor(MySQLdb.cursors.SSCursor)
    return connection.cursor(buffered=False)


def plain(value: Any) -> Any:
    """As JSON can show it, without losing what a value is."""
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return repr(value)


def main() -> None:
    library, host, port, user, password, schema = sys.argv[1:]
    to = {"host": host, "port": int(port), "user": user, "password": password, "database": schema}
    job = Job(library, to)
    job.run()
    print(json.dumps(job.seen))


main()
