"""Random programs of SQL statements, and what a client sees of each.

For comparing two ways to one server. A program is made from a seed alone, so a failing one can be
run again. Every statement is meant to be legal on MariaDB and MySQL alike, or wrong on both.
"""

from __future__ import annotations

import random
from typing import Any

import pymysql
from pymysql.constants import CLIENT

SETTINGS = (
    "SET NAMES utf8mb4",
    "SET NAMES latin1",
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "SET sql_mode = ''",
    "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ZERO_DATE'",
    "SET time_zone = '+02:00', lock_wait_timeout = 7",
    "SET @@session.group_concat_max_len = 1234",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET foreign_key_checks = 0",
    "SET sql_select_limit = 2",
    "SET sql_select_limit = DEFAULT",
    "SET autocommit = 0",
    "SET autocommit = 1",
    "SET @a = 5, @b = 'x'",
    "SET sql_mode = 'ANSI_QUOTES'",
    "SET no_such_variable = 1",
)

LOOKS = (
    "SELECT DATABASE(), @@autocommit, @@sql_mode, @@time_zone",
    "SELECT @@character_set_client, @@collation_connection, @@character_set_results",
    "SELECT @@group_concat_max_len, @@foreign_key_checks, @@sql_select_limit, @@lock_wait_timeout",
    "SELECT @a, @b",
    "SELECT LAST_INSERT_ID()",
    "SELECT ROW_COUNT()",
    "SELECT FOUND_ROWS()",
    "SELECT @@warning_count, @@error_count",
    "SHOW WARNINGS",
    "SHOW COUNT(*) WARNINGS",
    "SELECT COUNT(*), MIN(id), MAX(id) FROM t",
    "SELECT id, name, amount, data FROM t ORDER BY id LIMIT 5",
    "SELECT SQL_CALC_FOUND_ROWS id FROM t ORDER BY id LIMIT 1",
    "SELECT * FROM tmp",
    "SELECT IS_FREE_LOCK('{schema}')",
    "SELECT 'a;b', \"it's @x\", /* @y */ 'c' -- @z",
    "SELECT REPEAT('x', 300000)",
    "SELECT id FROM t WHERE id < 0",
    "SELECT * FROM no_such_table",
    "SELEC 1",
    "SELECT 1/0, CAST('abc' AS SIGNED)",
    "SHOW TABLES",
    "CALL two_results()",
    "SELECT add_one(@@autocommit)",
)

WRITES = (
    "INSERT INTO t (name, amount) VALUES ('n{n}', {n})",
    "INSERT INTO t (name) VALUES ('a'), ('b'), (NULL)",
    "INSERT INTO t (id, name) VALUES ({n}, 'given')",
    "INSERT INTO t (id, name) VALUES ({n}, 'again') ON DUPLICATE KEY UPDATE name = 'again'",
    "INSERT INTO t (name, amount) VALUES ('{long}', 'abc')",
    "REPLACE INTO t (id, name) VALUES ({n}, 'replaced')",
    "UPDATE t SET amount = amount + 1 WHERE id % 2 = 0",
    "UPDATE t SET name = 'same' WHERE id = {n}",
    "UPDATE t SET id = LAST_INSERT_ID(id) WHERE id = {n}",
    "DELETE FROM t WHERE id = {n}",
    "DELETE FROM t WHERE id > 60",
    "INSERT INTO t (data) VALUES ('{binary}')",
)

BLOCKS = (
    ("BEGIN", "{write}", "{look}", "COMMIT"),
    ("START TRANSACTION", "{write}", "SAVEPOINT s", "{write}", "ROLLBACK TO s", "COMMIT"),
    ("BEGIN", "{write}", "{look}", "ROLLBACK"),
    ("CREATE TEMPORARY TABLE tmp (a INT)", "INSERT INTO tmp VALUES (1), (2)", "{look}"),
    ("DROP TEMPORARY TABLE IF EXISTS tmp",),
    ("SELECT GET_LOCK('{schema}', 1)", "{look}", "SELECT RELEASE_LOCK('{schema}')"),
    ("LOCK TABLES t WRITE", "{write}", "UNLOCK TABLES"),
    ("PREPARE p FROM 'SELECT ? + 1'", "SET @v = 4", "EXECUTE p USING @v", "DEALLOCATE PREPARE p"),
    ("SELECT 1; SELECT 2, 3; INSERT INTO t (name) VALUES ('multi')", "{look}"),
    ("{write}", "SELECT ROW_COUNT()"),
    ("{write}", "SHOW WARNINGS", "SELECT @@warning_count"),
    (
        "INSERT INTO t (name) VALUES ('id')",
        "SELECT LAST_INSERT_ID()",
        "{look}",
        "SELECT LAST_INSERT_ID()",
    ),
    ("SELECT SQL_CALC_FOUND_ROWS id FROM t LIMIT 1", "SELECT FOUND_ROWS()"),
    ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "BEGIN", "{look}", "COMMIT"),
    ("USE `{schema}`", "{look}"),
    ("TRUNCATE TABLE t",),
    ("ALTER TABLE t COMMENT = 'c{n}'", "{look}"),
)

TABLES = (
    "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(10), amount INT, data BLOB)",
    "CREATE PROCEDURE two_results() BEGIN SELECT 1 AS one; SELECT 2 AS two, 3 AS three; END",
    "CREATE FUNCTION add_one(n INT) RETURNS INT DETERMINISTIC BEGIN SET @b = n; RETURN n + 1; END",
)


def program(seed: int, length: int, schema: str) -> list[str]:
    """At least ``length`` statements."""
    dice = random.Random(seed)
    statements: list[str] = []

    def fill(text: str) -> str:
        text = text.replace("{write}", dice.choice(WRITES)).replace("{look}", dice.choice(LOOKS))
        return (
            text.replace("{n}", str(dice.randint(1, 70)))
            .replace("{schema}", schema)
            .replace("{long}", "l" * dice.randint(1, 20))
            .replace("{binary}", dice.choice(["\\0\\n\\'", "", "zz"]))
        )

    while len(statements) < length:
        kind = dice.random()
        if kind < 0.25:
            chosen: tuple[str, ...] = (dice.choice(WRITES),)
        elif kind < 0.65:
            chosen = (dice.choice(LOOKS),)
        elif kind < 0.75:
            chosen = (dice.choice(SETTINGS),)
        else:
            chosen = dice.choice(BLOCKS)
        statements += map(fill, chosen)
    return statements


def connect(host: str, port: int, user: str, password: str, **options: Any) -> Any:
    """A connection that sees bytes as they are, with several statements allowed."""
    options.setdefault("autocommit", None)
    return pymysql.connect(
        host=host,
        port=port,
        user=user,
        password=password,
        client_flag=CLIENT.MULTI_STATEMENTS | options.pop("flags", 0),
        **options,
    )


def see(connection: Any, statement: str) -> list[Any]:
    """Everything that a client sees: of each result columns, rows and counts, or the error."""
    seen: list[Any] = []
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        while True:
            result = cursor._result
            columns = [(f.name, f.type_code, f.flags) for f in getattr(result, "fields", ())]
            seen.append(
                (
                    columns,
                    result.rows,
                    result.affected_rows,
                    result.insert_id,
                    connection.server_status,
                    result.warning_count,
                    result.message,
                )
            )
            if not cursor.nextset():
                return seen
    except pymysql.Error as error:
        seen.append((type(error).__name__, *error.args))
        return seen
