"""Some sessions for each way to close, over a path with a delay and with packets lost on purpose.

A program of its own, run in a private /run: three hosts as namespaces, one real database behind
5 ms, PyMySQL on the web host. The last line of its output is a JSON object by row: what the
database counted as aborted, the TIME_WAITs of the three hosts, Portside's closes by outcome.

    close_path.py mariadb|mysql9 FOLDER CERTIFICATES SESSIONS
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pymysql
from portside._core import Line
from portside.balancer import Balancer
from portside.lab.hosts import DB_ADDRESS, WEB_SIDE, Hosts
from portside.lab.path import PathPlan, line

from tests.support.servers import APP_PASSWORD, APP_USER, Database, MariaDB, MySQL9
from tests.support.waiting import wait_until

CONFIG = """
[portside]
workers = 1
[log]
sessions = "errors"
[close]
to_server = "{to_server}"
to_client = "{to_client}"
[[server]]
name = "db1"
address = "{db}:3306"
check = false
[[service]]
name = "db"
listen = "{web_side}:3306"
servers = ["db1"]
"""


@dataclass
class Row:
    """One way to close.

    Attributes:
        drop: packets from the proxy ("a") or the database ("b") that get lost, for all sessions.
        lose: the same, from the moment at which each client leaves.
        leave: how a client goes.
        ssl: the client's TLS, passed through.
    """

    name: str
    to_server: str = "eof-reset"
    to_client: str = "fin-reset"
    drop: dict | None = None
    lose: dict | None = None
    leave: Callable[[pymysql.connections.Connection], None] = pymysql.connections.Connection.close
    ssl: dict | None = None


def vanish(connection: pymysql.connections.Connection) -> None:
    connection._force_close()


def vanish_in_a_query(connection: pymysql.connections.Connection) -> None:
    connection._execute_command(3, "SELECT SLEEP(0.2)")
    connection._force_close()


QUIT_LOST = {"from": "a", "flag": "psh", "count": 1}
ROWS = (
    Row("eof-reset"),
    Row("eof", to_server="eof"),
    Row("linger2", to_server="linger2"),
    Row("reset-now", to_server="reset-now"),
    Row("fin", to_server="fin"),
    Row("to_client fin", to_client="fin"),
    Row("QUIT lost once", lose=QUIT_LOST),
    Row("QUIT lost once, linger2", to_server="linger2", lose=QUIT_LOST),
    Row("QUIT lost, reset-now", to_server="reset-now", lose=QUIT_LOST),
    Row("server's FIN lost once", lose={"from": "b", "flag": "fin", "count": 1}),
    Row("no QUIT", leave=vanish),
    Row("gone in a query", leave=vanish_in_a_query),
    Row("TLS", ssl={"ssl": {"check_hostname": False}}),
    Row("TLS, no QUIT", leave=vanish, ssl={"ssl": {"check_hostname": False}}),
    # The last, since a rule without a count stays.
    Row("RST lost", drop={"from": "a", "flag": "rst"}),
)


def aborted(database: Database) -> int:
    return database.status("Aborted_clients") + database.status("Aborted_connects")


def session(row: Row, path: Line) -> None:
    connection = pymysql.connect(
        host=WEB_SIDE, user=APP_USER, password=APP_PASSWORD, **(row.ssl or {"ssl_disabled": True})
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    if row.lose:
        path.drop_also(json.dumps(row.lose))
    row.leave(connection)


def run(row: Row, hosts: Hosts, path: Line, database: Database, sessions: int) -> dict:
    text = CONFIG.format(
        to_server=row.to_server, to_client=row.to_client, db=DB_ADDRESS, web_side=WEB_SIDE
    )

    def balance() -> dict:
        with Balancer(text) as balancer:
            balancer.wait_ready()
            if row.drop:
                path.drop_also(json.dumps(row.drop))
            for _ in range(sessions):
                hosts.web.inside(lambda: session(row, path))
            wait_until(lambda: database.status("Threads_connected") == 1, 20, "all have left")
            # What a peer still answers, and a resent FIN, are on their way for some round trips.
            time.sleep(0.3)
            closes = balancer.stats()["closes"]
            return {side: {how: n for how, n in closes[side].items() if n} for side in closes}

    before, waits = aborted(database), hosts.time_waits()
    closes = hosts.proxy.inside(balance)
    after = [now - then for now, then in zip(hosts.time_waits(), waits, strict=True)]
    return {
        "aborted": aborted(database) - before,
        "web": after[0],
        "proxy": after[1],
        "db": after[2],
        **closes,
    }


def main() -> None:
    kind = {"mariadb": MariaDB, "mysql9": MySQL9}[sys.argv[1]]
    folder, certificates, sessions = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    with Hosts() as hosts, contextlib.ExitStack() as stack:
        database = kind(
            folder / "db",
            3306,
            address=DB_ADDRESS,
            client_hosts="%",
            prefix=hosts.db.prefix,
            tls_dir=certificates,
        )
        stack.callback(database.kill)
        path = stack.enter_context(line(hosts, PathPlan(delay_us=5_000)))
        database.start()
        found = {row.name: run(row, hosts, path, database, sessions) for row in ROWS}
    print()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
