"""What an administrator sees of pool mode: ids, counts, failed logins, what the verbs say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from portside.demo.held_port import HeldPort

from tests.conftest import Trio
from tests.integration.test_ops_admin import request
from tests.integration.test_pool import Client, config, connections, refused
from tests.support.chaos import Behaviour, ChaosServer
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database
from tests.support.tls import Authority
from tests.support.waiting import wait_until

Run = Callable[..., Instance]


def session_of(portside: Instance, client: Client) -> dict[str, Any]:
    """Found as an administrator finds it: by what the application logged as its id."""
    mine = client.connection.thread_id()
    (row,) = [s for s in portside.admin.get("/v1/sessions") if s["connection_id"] == mine]
    return dict(row)


def test_from_the_process_list_to_the_client_and_back(trio: Trio, run_portside: Run) -> None:
    portside = run_portside(config(trio.primary, pool="max = 2"))
    pinned, free = Client(portside), Client(portside)
    pinned.ask("SET @a = 1")
    free.ask("SELECT 1")
    there = connections(trio.primary)
    row = session_of(portside, pinned)
    assert row["server_connection_id"] in there and row["pinned"] == "user-variable"
    idle = session_of(portside, free)
    assert (idle["server_connection_id"], idle["pinned"]) == (None, "")
    assert [idle[key] for key in ("server", "source", "destination")] == [""] * 3
    heads, *lines = portside.cli("show", "sessions").stdout.splitlines()
    assert heads.split()[:4] == ["ID", "CONNECTION_ID", "ON", "SERVER"]
    ids = [str(row[key]) for key in ("id", "connection_id", "server_connection_id")]
    assert ids in [line.split()[:3] for line in lines]
    free.connection.close()
    wait_until(portside.lines)
    assert portside.lines()[0]["connection_id"] == idle["connection_id"]
    said = portside.cli("kill", str(row["connection_id"]))
    name = f"session {row['id']}, whose client has the CONNECTION_ID {row['connection_id']},"
    assert said.stdout == f"{name} is being closed.\n"
    wait_until(lambda: len(portside.lines()) == 2)
    assert portside.lines()[1]["end"] == "killed/command"
    again = portside.cli("kill", str(row["connection_id"]))
    assert again.returncode == 1 and "Nor is it a CONNECTION_ID of now" in again.stderr


def test_a_session_whose_connection_is_lost_is_nowhere(trio: Trio, run_portside: Run) -> None:
    portside = run_portside(config(trio.primary, workers=1))
    client = Client(portside)
    client.ask("SET @a = 1")
    row = session_of(portside, client)
    place = (row["server"], row["destination"], row["pinned"])
    assert place == ("db0", f"127.0.0.1:{trio.primary.port}", "user-variable")
    trio.primary.root(f"KILL {row['server_connection_id']}")
    wait_until(lambda: session_of(portside, client)["server_connection_id"] is None)
    row = session_of(portside, client)
    keys = ("server", "source", "destination", "pinned")
    assert [row[key] for key in keys] == [""] * 4
    line = portside.cli("show", "sessions").stdout.splitlines()[1]
    assert line.split()[3:6] == ["s", "-", "-"], line
    with refused(1053):
        client.ask("SELECT @a")
    wait_until(portside.lines)
    (ended,) = portside.lines()
    assert (ended["server"], ended["pinned"]) == ("db0", "user-variable"), "as documented"


def test_drain_and_maint_say_what_is_there(trio: Trio, run_portside: Run) -> None:
    portside = run_portside(config(trio.primary, trio.replica1, workers=1, pool="max = 2"))
    said = portside.cli("drain", "db1").stdout
    assert said == "server db1 is now in drain: no new sessions.\n"
    pinned, other = Client(portside), Client(portside)
    pinned.ask("SET @a = 1")
    other.ask("SELECT 1")
    assert portside.cli("ready", "db1").returncode == 0
    assert portside.cli("drain", "db0").stdout == (
        "server db0 is now in drain: no new sessions, 2 pooled connections will go, 1 of them when"
        " a client is done with it.\n"
    )
    wait_until(lambda: portside.server("db0")["pool_open"] == 1)
    assert portside.cli("maint", "db0").stdout == (
        "server db0 is now in maint: no new sessions, 1 pooled connection will go, and 1 client"
        " that uses one now will end between two commands.\n"
    )
    wait_until(lambda: portside.server("db0")["pool_open"] == 0)
    assert other.ask("SELECT 1") == [(1,)]


def test_an_open_transaction_outlives_neither_maint_nor_its_idle_time(
    trio: Trio, run_portside: Run
) -> None:
    trio.primary.root("CREATE TABLE IF NOT EXISTS app.outlived (a INT)")
    portside = run_portside(config(trio.primary, service='timeouts = { idle = "2s" }'))
    forgotten, held = Client(portside), Client(portside)
    for client in (forgotten, held):
        client.ask("BEGIN")
        client.ask("INSERT INTO app.outlived VALUES (1)")
    portside.cli("maint", "db0")
    with refused(1053) as texts:
        held.ask("SELECT 1")
    assert texts[0].startswith("portside: server db0: it takes no sessions any more")
    assert texts[0].endswith("; the transaction is lost")
    (event,) = portside.events("sessions_closed")
    assert event["message"] == "server db0: maint: closing 2 sessions"
    portside.cli("ready", "db0")
    again = Client(portside)
    again.ask("BEGIN")
    wait_until(lambda: not connections(trio.primary) or portside.server("db0")["pool_busy"] == 0)
    assert again.connection._sock.recv(1) == b""
    assert trio.primary.root("SELECT COUNT(*) FROM app.outlived") == [(0,)]


def test_a_full_pool_and_a_pause(trio: Trio, run_portside: Run) -> None:
    keys = 'timeouts = { queue = "1s" }'
    portside = run_portside(config(trio.primary, pool="max = 1", service=keys))
    pinned, other = Client(portside), Client(portside)
    pinned.ask("SET @a = 1")
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(other.ask, "SELECT 1")
        (alert,) = wait_until(lambda: portside.admin.get("/v1/status")["alerts"])
        assert alert == (
            "server db0: 1 of 1 pooled connections are in use and clients wait: portside show"
            " sessions, PINNED, says who keeps one"
        )
        with refused(1040):
            waiting.result()
    assert portside.stats()["services"][0]["commands_refused_total"] == 1
    # It is over, and still to be found.
    (event,) = wait_until(lambda: portside.events("pool_exhausted"))
    assert event["message"].endswith(
        "PINNED, says who keeps one (1 commands refused so far)"
    ) and event["message"].startswith("service s: waited 1.0 s for a free server connection")
    (line,) = [s for s in portside.cli("show").stdout.splitlines() if s.startswith("s  ")]
    assert line.split()[5] == "1"
    assert portside.cli("pause", "s").stdout == (
        "service s is paused: up to 1000 clients wait with their next command, but for those that"
        " keep a connection, at most 1 s each.\n"
    )
    assert pinned.ask("SELECT @a") == [(1,)]
    with refused(1040) as texts:
        other.ask("SELECT 1")
    assert texts[0].endswith("it is paused")


def test_a_server_that_only_sessions_find_wanting(
    trio: Trio, tls_dir: Path, run_portside: Run
) -> None:
    """Its check does not log in, so it does not see the certificate."""
    with HeldPort() as held:
        address = f"127.0.0.1:{held.port}"
    wrong = tls_dir.parent / "another-ca.pem"
    wrong.write_bytes(Authority().pem)
    check = 'check = {{ type = "tcp" }}\ntls = {{ mode = {} }}'
    text = f'[metrics]\nlisten = "{address}"\n{config(trio.primary, pool="max = 2")}'
    bad = check.format(f'"verify-ca", ca = "{wrong}"')
    portside = run_portside(text.replace("check = false", bad))

    def health() -> tuple[int, bytes]:
        return request(address, "GET", "/healthz?service=s", {})

    with refused(1429):
        Client(portside)
    wait_until(lambda: portside.events("breaker_open"))
    assert portside.server("db0")["state"] == "up"
    assert health() == (503, b"no server\n")
    (alert,) = portside.admin.get("/v1/status")["alerts"]
    assert alert.startswith("service s has no server: connects fail: server db0: ")
    assert "certificate" in alert
    member = portside.service("s")["members"][0]
    assert (member["eligible"], member["active"]) == (False, False)
    assert f"  db0: sessions cannot connect; server db0: {trio.primary.address}:" in (
        portside.cli("show", "servers").stdout
    )
    portside.write(text.replace("check = false", check.format('"preferred"')))
    portside.reload()
    assert Client(portside).ask("SELECT 1") == [(1,)]
    assert health() == (200, b"ok\n")
    assert portside.admin.get("/v1/status")["alerts"] == []


def test_an_account_that_a_server_keeps_out(
    mariadb_factory: Callable[..., Database], run_portside: Run
) -> None:
    server = mariadb_factory()
    portside = run_portside(config(server, pool="max = 2"))
    old = Client(portside)
    old.ask("SET @a = 1")
    account = f"{APP_USER}@'{server.client_hosts}'"
    server.root(f"ALTER USER {account} IDENTIFIED BY 'changed'")
    with refused(1429) as texts:
        Client(portside).ask("SELECT 1")
    assert "ERR 1045" in texts[0] and "CREATE USER and GRANT there" in texts[0]
    (event,) = wait_until(lambda: portside.events("login_refused"))
    text = f"server db0: account {APP_USER}: the server refused the login: ERR 1045: "
    assert event["message"].startswith(text) and event["message"].endswith(" so far)")
    # A connection from before is cleaned: that is no login.
    old.connection.close()
    wait_until(lambda: portside.server("db0")["pool_busy"] == 0)
    (alert,) = portside.admin.get("/v1/status")["alerts"]
    assert alert.startswith(text)
    assert alert.endswith("; portside check --connect tries every account")
    (counted,) = portside.stats()["servers"]
    assert counted["pool_logins_failed_total"] >= 1
    with refused(1045):
        Client(portside, password="wrong")
    assert portside.stats()["services"][0]["logins_failed_total"] == 1
    server.root(f"ALTER USER {account} IDENTIFIED BY '{APP_PASSWORD}'; KILL USER {APP_USER}")
    assert Client(portside).ask("SELECT 1") == [(1,)]
    assert portside.admin.get("/v1/status")["alerts"] == []


def test_the_first_clients_are_told_why(trio: Trio, chaos: ChaosServer, run_portside: Run) -> None:
    chaos.error = (1130, "Host '10.0.0.5' is not allowed to connect to this MySQL server")
    chaos.behave(Behaviour.ERR)
    text = config(trio.primary)
    address = f"{trio.primary.address}:{trio.primary.port}"
    portside = run_portside(text.replace(address, chaos.address))
    with refused(1429) as texts:
        Client(portside)
    begin = (
        "portside: service s: no server could be logged in to yet, so its version is not known:"
        " server db0: "
    )
    (alert,) = wait_until(lambda: portside.admin.get("/v1/status")["alerts"])
    assert alert == (
        "server db0 refuses our address: ERR 1130: Host '10.0.0.5' is not allowed to connect to"
        " this MySQL server; cure: CREATE USER and GRANT for this address there"
    )
    # By the first try, or by the next one, for which no address is left.
    first = f"{chaos.address}: ERR 1130: Host '10.0.0.5' is not allowed to connect to this"
    later = "it refuses our source addresses (ERR 1129 or 1130: portside explain host_blocked)"
    assert texts[0].startswith((begin + first, begin + later))
    assert texts[0].endswith(". On the proxy: portside show events")


def test_a_pause_holds_what_would_rather_have_its_last_connection(
    trio: Trio, run_portside: Run
) -> None:
    portside = run_portside(config(trio.primary, workers=1, service='timeouts = { queue = "1s" }'))
    client = Client(portside)
    client.ask("SELECT 1")
    portside.cli("pause", "s")
    # It may ask for FOUND_ROWS().
    with refused(1040) as texts:
        client.ask("CALL app.never_run()")
    assert texts[0].endswith("it is paused")
