"""Clients that leave before login, and servers that refuse our address: nobody else suffers.

From an address that MariaDB resolves (skip_name_resolve=OFF, an entry in /etc/hosts): only such
addresses are counted against max_connect_errors. The control does what Portside spares them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from tests.support.proxy import Proxy
from tests.support.raw_client import RawClient
from tests.support.servers import (
    APP_PASSWORD,
    APP_USER,
    MONITOR_PASSWORD,
    MONITOR_USER,
    MariaDB,
)
from tests.support.waiting import wait_until

FIRST, SECOND = "127.0.0.29", "127.0.0.30"
NAMES = {FIRST: "portside-one.portside.test", SECOND: "portside-two.portside.test"}
HOSTS = Path("/etc/hosts")
LEAVERS = 200
# max_connect_errors of the server.
ERRORS = 100


@pytest.fixture(scope="module")
def database(server_dir) -> Iterator[MariaDB]:
    if os.geteuid() != 0:
        pytest.skip("needs root: writes two entries into /etc/hosts")
    lines = "".join(f"{address} {name}\n" for address, name in NAMES.items())
    # Written in place, not replaced: in a container the file is a mount.
    HOSTS.write_text(f"{HOSTS.read_text().rstrip()}\n{lines}")
    one = MariaDB(
        server_dir / "hosts-db",
        client_hosts="%",
        options={
            "skip-name-resolve": None,
            "performance-schema": "ON",
            "max-connect-errors": str(ERRORS),
        },
    )
    try:
        one.start()
        yield one
    finally:
        one.kill()
        HOSTS.write_text(HOSTS.read_text().replace(lines, ""))


def toml(database: MariaDB, addresses: list[str], service: str = "") -> str:
    sources = ", ".join(f'"{one}"' for one in addresses)
    return (
        f"[source]\naddresses = [{sources}]\n"
        f'[[server]]\nname = "db1"\naddress = "127.0.0.1:{database.port}"\ncheck = false\n'
        f'[[service]]\nname = "s"\nlisten = "127.0.0.1:0"\nservers = ["db1"]\n{service}\n'
    )


def errors(database: MariaDB, address: str) -> int:
    """What counts towards max_connect_errors."""
    rows = database.root(
        f"SELECT SUM_CONNECT_ERRORS FROM performance_schema.host_cache WHERE ip = '{address}'"
    )
    return sum(int(row[0]) for row in rows)


def log_in(where: tuple[str, int], bind: str | None = None) -> None:
    host, port = where
    with pymysql.connect(
        host=host, port=port, user=APP_USER, password=APP_PASSWORD, bind_address=bind
    ) as connection:
        connection.ping()


def block(database: MariaDB, address: str) -> None:
    """The control: what leavers do to their own address without Portside."""
    for _ in range(ERRORS + 1):
        with RawClient(("127.0.0.1", database.port), source=address) as client:
            client.exactly(1)
    with pytest.raises(pymysql.OperationalError) as refused:
        log_in(("127.0.0.1", database.port), address)
    assert refused.value.args[0] == 1129


@pytest.fixture(autouse=True)
def nobody_blocked(database) -> None:
    database.root("FLUSH HOSTS")


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_200_leavers_do_not_stop_anybody(server_dir, database, leave):
    with Proxy(server_dir / f"leavers-{leave}", toml(database, [FIRST])) as proxy:
        where = proxy.address("s")
        for number in range(LEAVERS):
            client = RawClient(where)
            client.packet()
            getattr(client, leave)()
            if number == ERRORS:
                log_in(where)  # in the middle too, which also clears what was counted
        proxy.assert_at_rest()
        wait_until(lambda: database.status("Threads_connected") == 1, 5)
        assert errors(database, FIRST) == 0
        log_in(where)
        assert proxy.server("db1")["left_before_login_total"] == LEAVERS
        assert proxy.server("db1")["hosts_blocked"] == []
        proxy.stop()


def test_leavers_before_the_greeting_do_not_stop_anybody(server_dir, database):
    """Gone at once: some before Portside has connected, some before the server has greeted."""
    with Proxy(server_dir / "leavers-early", toml(database, [FIRST])) as proxy:
        where = proxy.address("s")
        for number in range(LEAVERS):
            client = RawClient(where)
            client.reset() if number % 2 else client.close()
        proxy.assert_at_rest()
        log_in(where)
        assert errors(database, FIRST) == 0
        assert proxy.server("db1")["hosts_blocked"] == []
        proxy.stop()


def test_control_leavers_block_their_own_address(database):
    block(database, FIRST)
    assert errors(database, FIRST) >= ERRORS


def test_a_blocked_address_is_told_and_another_is_used(server_dir, database):
    block(database, FIRST)
    check = f'user = "{MONITOR_USER}", password = "{MONITOR_PASSWORD}", interval = "100ms"'
    text = toml(database, [FIRST, SECOND]).replace("check = false", f"check = {{ {check} }}")
    with Proxy(server_dir / "blocked", text) as proxy:
        for _ in range(20):
            log_in(proxy.address("s"))
        (blocked,) = proxy.server("db1")["hosts_blocked"]
        assert blocked["source"] == FIRST
        assert blocked["destination"] == f"127.0.0.1:{database.port}"
        message = proxy.events("host_blocked")[-1]["message"]
        place = (
            f"server db1: 127.0.0.1:{database.port} refuses our address {FIRST}: ERR 1129: Host "
        )
        assert message.startswith(place) and "; cure: FLUSH HOSTS there" in message
        assert proxy.server("db1")["breaker"] == "closed", "the server is up"
        database.root("FLUSH HOSTS")

        def unblocked() -> bool:
            log_in(proxy.address("s"))
            return not proxy.server("db1")["hosts_blocked"]

        wait_until(unblocked, 12, "the cure is noticed", step_s=0.2)
        for kind in ("host_blocked", "host_unblocked"):
            found = [one["message"] for one in proxy.events(kind)]
            assert len(found) == 1, f"sessions and checks tell of one cause: {found}"
        proxy.assert_at_rest()
        proxy.stop()


def test_an_only_address_that_is_blocked_says_so(server_dir, database):
    block(database, FIRST)
    with Proxy(server_dir / "blocked-only", toml(database, [FIRST])) as proxy:
        with pytest.raises(pymysql.OperationalError) as first:
            log_in(proxy.address("s"))
        assert first.value.args[0] == 1129
        assert "is blocked because of many connection errors" in first.value.args[1]
        # For the next seconds nobody asks the server again, and still everybody learns why.
        with pytest.raises(pymysql.OperationalError) as second:
            log_in(proxy.address("s"))
        assert second.value.args[0] == 1129
        proxy.assert_at_rest()
        proxy.stop()


def test_probes_cost_no_connection(server_dir, database):
    """probe_networks: accepted and closed; not even a refusal is written on the database."""
    text = toml(database, [FIRST], 'probe_networks = ["127.0.0.40/32"]')
    with Proxy(server_dir / "probes", text) as proxy:
        where, connections = proxy.address("s"), database.status("Connections")
        for _ in range(LEAVERS):
            with RawClient(where, source="127.0.0.40") as probe:
                assert probe.at_eof()
        proxy.assert_at_rest()
        # status() is one.
        assert database.status("Connections") - connections == 1
        assert proxy.terminations() == {"probe/accept": LEAVERS}
        assert proxy.service("s")["refused_total"] == 0
        log_in(where)
        proxy.stop()
