"""The job by asyncmy or aiomysql, over the library's own pool: ``aio.py LIBRARY host port ...``."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import warnings
from typing import Any

TEXT = "naïve Ω 漢字 🐬 ' \" \\"


async def ask(connection: Any, statement: str, arguments: Any = None) -> list[Any]:
    async with connection.cursor() as cursor:
        try:
            await cursor.execute(statement, arguments)
            return [
                [list(map(repr, row)) for row in await cursor.fetchall()],
                cursor.rowcount,
                cursor.lastrowid,
            ]
        except Exception as error:
            return [type(error).__name__, *map(str, error.args)]


async def one(pool: Any, number: int) -> int:
    async with pool.acquire() as connection:
        await connection.begin()
        found = await ask(connection, "SELECT %s + COUNT(*) FROM v", (number,))
        await connection.commit()
        return int(found[0][0][0])


async def job(library: Any, **to: Any) -> list[Any]:
    seen: list[Any] = []
    connection = await library.connect(**to)
    for statement, arguments in (
        ("SELECT DATABASE(), @@autocommit", None),
        ("INSERT INTO v (n, s, b) VALUES (%s, %s, %s)", (1, TEXT, "bytes")),
        ("SELECT n, s, b, f FROM v", None),
        ("UPDATE v SET s = 'x'; SELECT ROW_COUNT()", None),
        ("SELECT * FROM nowhere", None),
        ("INSERT INTO v (n) VALUES (1)", None),
        ("SELECT 1/0", None),
        ("SHOW WARNINGS", None),
        ("SELECT LAST_INSERT_ID()", None),
        ("SET @mine = 3", None),
        ("SELECT @mine", None),
    ):
        seen.append([statement, await ask(connection, statement, arguments)])
    await connection.rollback()
    seen.append(["rolled back", await ask(connection, "SELECT COUNT(*) FROM v")])
    await connection.ping()
    connection.close()
    pool = await library.create_pool(minsize=0, maxsize=2, **to)
    seen.append(["pool", await asyncio.gather(*(one(pool, number) for number in range(40)))])
    pool.close()
    await pool.wait_closed()
    return seen


def main() -> None:
    name, host, port, user, password, schema = sys.argv[1:]
    warnings.simplefilter("ignore")  # aiomysql shows warnings of the server as Python's
    library = importlib.import_module(name)
    to = {"host": host, "port": int(port), "user": user, "password": password, "db": schema}
    print(json.dumps(asyncio.run(job(library, **to))))


main()
