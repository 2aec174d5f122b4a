"""Nothing that a pool says or does not say to a server may get our address blocked there.

From an address that the server resolves (see test_refusals_hosts.py): only such ones are counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_pool import Client, refused
from tests.integration.test_pool_logins import config, user
from tests.integration.test_refusals_hosts import FIRST, HOSTS, NAMES, SECOND, block, errors
from tests.support.instance import Instance
from tests.support.plugins import mariadb_plugins
from tests.support.servers import APP_PASSWORD, APP_USER, MONITOR_USER, MariaDB
from tests.support.tls import make_certificates
from tests.support.waiting import wait_until

Run = Callable[..., Instance]

TWICE = "*" + hashlib.sha1(hashlib.sha1(b"curve-pw").digest()).hexdigest()
GOOD = user(APP_USER, password=APP_PASSWORD)
# Accounts that Portside cannot log in for, and what it says.
HOPELESS = {
    "curve": (user("curve", password_hash=TWICE), "needs the account's password"),
    "asked": (user("asked", password="asked-pw"), 'the authentication plugin "dialog"'),
    APP_USER: (user(APP_USER, password="bad-pw"), "ERR 1045: Access denied"),
}


@pytest.fixture(scope="module")
def database(server_dir: Path, tls_dir: Path) -> Iterator[MariaDB]:
    plugins = mariadb_plugins()
    if isinstance(plugins, str):
        pytest.skip(plugins)
    lines = "".join(f"{address} {name}\n" for address, name in NAMES.items())
    HOSTS.write_text(f"{HOSTS.read_text().rstrip()}\n{lines}")
    options = {
        "skip-name-resolve": None,
        "performance-schema": "ON",
        "max-connect-errors": "100",
        "plugin-dir": str(plugins),
        "plugin-load-add": "auth_ed25519;auth_pam",
    }
    folder = server_dir / "pool-hosts"
    with MariaDB(folder, client_hosts="%", options=options, tls_dir=tls_dir) as one:
        one.root(
            "CREATE USER curve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('curve-pw');"
            "CREATE USER asked@'%' IDENTIFIED VIA pam USING 'portside-none'"
        )
        assert isinstance(one, MariaDB)
        yield one
    HOSTS.write_text(HOSTS.read_text().replace(lines, ""))


@pytest.fixture(autouse=True)
def nobody_blocked(database: MariaDB) -> None:
    database.root("FLUSH HOSTS")


def from_first(text: str, *more: str) -> str:
    sources = ", ".join(f'"{one}"' for one in (FIRST, *more))
    return f"[source]\naddresses = [{sources}]\n{text}"


@pytest.mark.parametrize("name", list(HOPELESS))
def test_logins_that_cannot_succeed(database: MariaDB, run_portside: Run, name: str) -> None:
    account, why = HOPELESS[name]
    password = "bad-pw" if name == APP_USER else f"{name}-pw"
    portside = run_portside(from_first(config(database, users=account, pool="open_rate = 1000")))
    for _ in range(5):
        with refused(1429) as texts:
            Client(portside, user=name, password=password)
        assert why in texts[0]
    assert errors(database, FIRST) == 0


@pytest.mark.parametrize("check", ["", f'user = "{MONITOR_USER}", password = "monitor-pw"'])
def test_a_server_with_the_wrong_certificate(
    database: MariaDB, folder: Path, run_portside: Run, check: str
) -> None:
    make_certificates(folder / "other")
    tls = f'tls = {{ mode = "verify-ca", ca = "{folder}/other/ca.pem" }}'
    text = from_first(config(database, users=GOOD, server=tls))
    if check:
        text = text.replace("check = false", f'check = {{ {check}, interval = "100ms" }}')
    denied = database.status("Access_denied_errors")
    portside = run_portside(text)
    why = "TLS: the server's certificate is signed by another ca of the same name"
    if check:
        wait_until(lambda: why in str(portside.server("db0")["reason"]), 10.0, "no verdict")
    else:
        wait_until(lambda: portside.events("breaker_open"), 10.0, "no breaker opens")
        assert why in portside.events("breaker_open")[0]["message"]
    # The passwords stayed here: what came is the login of nobody, which counts for nothing.
    wait_until(lambda: database.status("Access_denied_errors") >= denied + 3)
    assert errors(database, FIRST) == 0


def test_an_address_that_is_blocked(database: MariaDB, run_portside: Run) -> None:
    portside = run_portside(from_first(config(database, users=GOOD), SECOND))
    client = Client(portside)
    assert client.ask("SELECT 1") == [(1,)]
    block(database, FIRST)
    # The connections that are there go on; new ones are of the other address.
    holders = [Client(portside) for _ in range(6)]
    for holder in holders:
        holder.ask("BEGIN")
    (server,) = portside.stats()["servers"]
    assert [blocked["source"] for blocked in server["hosts_blocked"]] == [FIRST]
    note = f"db0: refuses our address {FIRST}; why: portside show events"
    assert note in portside.cli("show", "servers").stdout
    (alert,) = portside.admin.get("/v1/status")["alerts"]
    assert alert.startswith(f"server db0 refuses our address {FIRST}: ERR 1129: Host ")
    assert alert.endswith("; cure: FLUSH HOSTS there")
    message = portside.events("host_blocked")[-1]["message"]
    assert FIRST in message and "1129" in message and "FLUSH HOSTS" in message
    portside.stop()
    portside = run_portside(from_first(config(database, users=GOOD)))
    with refused(1429) as texts:
        Client(portside)
    assert "1129" in texts[0] and "FLUSH HOSTS" in str(portside.events("host_blocked"))
    assert portside.stats()["servers"][0]["breaker"] == "closed", "the server is up"
