"""A pool behind another balancer: PROXY header first, TLS next, and whose address counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from tests.integration.test_pool import config, refused
from tests.integration.test_pool_logins import user
from tests.integration.test_pool_tls import address, context, tls_table
from tests.integration.test_relay_proxy_header import BALANCER, HEADERS, SHOWN
from tests.support.instance import Instance
from tests.support.raw_client import RawClient
from tests.support.servers import APP_PASSWORD, APP_USER, MariaDB
from tests.support.waiting import wait_until

Run = Callable[..., Instance]
Connection = pymysql.connections.Connection


@pytest.fixture(scope="module")
def database(server_dir: Path) -> Iterator[MariaDB]:
    """It takes PROXY headers from here."""
    options = {"proxy-protocol-networks": "127.0.0.0/8"}
    with MariaDB(server_dir / "pool-proxy", client_hosts="%", options=options) as one:
        assert isinstance(one, MariaDB)
        yield one


def log_in(
    portside: Instance, tls_dir: Path, header: bytes, name: str = APP_USER, password: str = ""
) -> Connection:
    raw = RawClient(address(portside), source=BALANCER)
    raw.send(header)
    connection = pymysql.connect(
        host="127.0.0.1",
        user=name,
        password=password or f"{name}-pw",
        ssl=context(tls_dir),
        autocommit=True,
        defer_connect=True,
    )
    connection.connect(raw.socket)
    return connection


def ask(connection: Connection, statement: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return str(cursor.fetchone()[0])


def behind_balancer(database: MariaDB, tls_dir: Path, *, sends: bool) -> str:
    service = f'accept_proxy = ["{BALANCER}/32"]\n{tls_table(tls_dir, ", required = true")}'
    near = {"password": "near-pw", "server_user": APP_USER, "server_password": APP_PASSWORD}
    users = user("near", **near) + 'from = "10.9.8.0/24"\n'
    text = config(database, service=service, users=users)
    return text.replace("check = false", f"check = false\nsend_proxy = {str(sends).lower()}")


@pytest.mark.parametrize("sends", [False, True])
def test_the_client_is_who_the_header_says(
    database: MariaDB, tls_dir: Path, run_portside: Run, sends: bool
) -> None:
    portside = run_portside(behind_balancer(database, tls_dir, sends=sends))
    for name, header in HEADERS.items():
        connection = log_in(portside, tls_dir, header)
        (session,) = portside.admin.get("/v1/sessions")
        assert (session["client"], session["tls"]) == (SHOWN[name], "TLSv1.3")
        seen = ask(connection, "SELECT SUBSTRING_INDEX(USER(), '@', -1)")
        assert seen == (SHOWN[name].rpartition(":")[0].strip("[]") if sends else "127.0.0.1")
        connection.close()
        wait_until(lambda: portside.sessions_now() == 0, 5.0, "the session does not end")
    wait_until(lambda: len(portside.lines()) == len(HEADERS), 5.0, "no session lines")
    assert sorted(line["client"] for line in portside.lines()) == sorted(SHOWN.values())
    assert {(line["tls"], line["end"]) for line in portside.lines()} == {
        ("TLSv1.3", "quit/command")
    }


def test_limits_go_by_the_header(database: MariaDB, tls_dir: Path, run_portside: Run) -> None:
    portside = run_portside(behind_balancer(database, tls_dir, sends=False))
    header = HEADERS["v1"]
    assert ask(log_in(portside, tls_dir, header, "near"), "SELECT 1") == "1"
    with refused(1045) as texts:
        log_in(portside, tls_dir, HEADERS["v1-ipv6"], "near")
    assert "'near'@'2001:db8::7'" in texts[0]
    # Who guesses keeps nobody out who comes through the same balancer.
    for _ in range(60):
        with refused(1045) as texts:
            log_in(portside, tls_dir, header, password="wrong")
        if "too many failed logins" in texts[0]:
            break
    else:
        raise AssertionError("never limited")
    assert ask(log_in(portside, tls_dir, header.replace(b"8.7", b"8.9")), "SELECT 1") == "1"


def test_connections_are_not_shared_between_addresses(
    database: MariaDB, tls_dir: Path, run_portside: Run
) -> None:
    portside = run_portside(behind_balancer(database, tls_dir, sends=True))
    hosts = [f"10.9.8.{n}" for n in range(1, 5)]
    clients = []
    for _ in range(2):
        for host in hosts:
            header = HEADERS["v1"].replace(b"10.9.8.7", host.encode())
            clients.append((host, log_in(portside, tls_dir, header)))
    for _ in range(3):
        for host, client in clients:
            assert ask(client, "SELECT SUBSTRING_INDEX(USER(), '@', -1)") == host
