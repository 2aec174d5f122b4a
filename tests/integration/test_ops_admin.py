"""The admin API, its commands and the metrics, against a real instance with real sessions."""

from __future__ import annotations

import http.client
import re
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from portside.admin.client import AdminClient, Refused
from portside.demo.held_port import HeldPort
from prometheus_client.parser import text_string_to_metric_families

from tests.support.chaos import ChaosServer
from tests.support.instance import Instance
from tests.support.lab import Load, Sink
from tests.support.raw_client import RawClient, query
from tests.support.waiting import wait_until

TOKEN = "correct-horse-battery"
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def servers() -> Iterator[list[ChaosServer]]:
    """Three servers that hold sessions and answer queries."""
    made = [ChaosServer() for _ in range(3)]
    yield made
    for each in made:
        each.stop()


@pytest.fixture
def one(run_portside: Callable[..., Instance], servers: list[ChaosServer]) -> Instance:
    text = "[portside]\nworkers = 2\n"
    for number, each in enumerate(servers, 1):
        text += f'[[server]]\nname = "db{number}"\naddress = "{each.address}"\n'
    text += """
[[service]]
name = "read"
listen = "127.0.0.1:0"
servers = ["db1", "db2"]
queue = 10
[service.timeouts]
queue = "10s"
[[service]]
name = "write"
listen = "127.0.0.1:0"
failback = "manual"
servers = ["db1", { name = "db3", backup = true }]
"""
    return run_portside(text)


def connect(one: Instance, service: str = "read") -> pymysql.connections.Connection:
    host, _, port = one.service(service)["listen"][0].rpartition(":")
    return pymysql.connect(
        host=host, port=int(port), user="app", password="x", ssl_disabled=True, read_timeout=10
    )


def ask(connection: pymysql.connections.Connection) -> None:
    with connection.cursor() as cursor:
        assert cursor.execute("SELECT 1") == 1


def said(one: Instance, *verb: str) -> str:
    """A command that must succeed; its sentence."""
    done = one.cli(*verb)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.strip()


def servers_of(one: Instance, count: int, service: str = "read") -> set[str]:
    """The servers that ``count`` new sessions land on."""
    clients = [connect(one, service) for _ in range(count)]
    found = {s["server"] for s in one.admin.get("/v1/sessions") if s["service"] == service}
    for client in clients:
        client.close()
    wait_until(lambda: one.service(service)["sessions"] == 0)
    return found


def test_drain_and_ready(one):
    with connect(one) as first, connect(one) as second:
        where = {s["server"] for s in one.admin.get("/v1/sessions")}
        assert where == {"db1", "db2"}
        assert said(one, "drain", "db2").startswith(
            "server db2 is now in drain: no new sessions, 1 session may go on."
        )
        ask(first)
        ask(second)
    wait_until(lambda: one.sessions_now() == 0)
    assert servers_of(one, 6) == {"db1"}
    assert "server db2 is now ready" in said(one, "ready", "db2")
    assert servers_of(one, 6) == {"db1", "db2"}
    assert [e["server"] for e in one.events("admin_drain")] == ["db2"]


def test_maint_ends_sessions_between_two_commands(one):
    idle = connect(one)
    (session,) = one.admin.get("/v1/sessions")
    said(one, "maint", session["server"])
    wait_until(lambda: one.sessions_now() == 0)
    with pytest.raises(pymysql.err.OperationalError):
        ask(idle)
    assert servers_of(one, 4) == {"db1", "db2"} - {session["server"]}


def test_weights(one):
    said(one, "weight", "read/db1", "3")
    (address,) = one.service("read")["listen"]
    assert Load(address, connections=80).wait()["sessions_ok"] == 80
    totals = {m["server"]: m["sessions_total"] for m in one.service("read")["members"]}
    # 3:1 over two workers, each exact by itself.
    assert abs(totals["db1"] - 60) <= 2, totals
    assert "gets no new sessions" in said(one, "weight", "read/db1", "0")
    assert servers_of(one, 4) == {"db2"}
    assert "has weight 1 again" in said(one, "weight", "read/db1", "file")
    assert servers_of(one, 4) == {"db1", "db2"}


def test_pause_and_resume(one):
    assert "service read is paused: up to 10 new clients wait" in said(one, "pause", "read")
    done: list[float] = []

    def client() -> None:
        with connect(one) as connection:
            ask(connection)
            done.append(1)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: one.service("read")["queued"] == 4)
    assert one.service("read")["state"] == "paused" and not done
    assert {s["state"] for s in one.admin.get("/v1/sessions")} == {"queued"}
    said(one, "resume", "read")
    for thread in threads:
        thread.join(10)
    assert len(done) == 4


def test_switch_moves_a_service_and_stays(one):
    assert servers_of(one, 3, "write") == {"db1"}
    assert "db3" in said(one, "switch", "write", "db3")
    assert servers_of(one, 3, "write") == {"db3"}
    assert servers_of(one, 4, "read") == {"db1", "db2"}, "the other service is not concerned"
    said(one, "switch", "write", "db1")
    assert servers_of(one, 3, "write") == {"db1"}
    said(one, "drain", "db3")
    refused = one.cli("switch", "write", "db3")
    assert refused.returncode == 1
    assert "server db3 is in drain. First: portside ready db3" in refused.stderr


def test_kill_cuts_one_session(one):
    victim, other = connect(one), connect(one)
    port = victim._sock.getsockname()[1]  # type: ignore[attr-defined]
    session = next(s for s in one.admin.get("/v1/sessions") if s["client"].endswith(f":{port}"))
    said(one, "kill", str(session["id"]))
    wait_until(lambda: one.sessions_now() == 1)
    with pytest.raises(pymysql.err.OperationalError):
        ask(victim)
    ask(other)
    other.close()
    again = one.cli("kill", str(session["id"]))
    assert again.returncode == 1 and "there is no session" in again.stderr
    wait_until(lambda: len(one.lines()) == 2)
    ends = {line["session"]: line["end"] for line in one.lines()}
    assert ends[session["id"]] == "killed/command"


def test_wrong_names_are_refused_with_the_nearest(one):
    for verb, text in (
        (("drain", "bd1"), "there is no server 'bd1'. Did you mean 'db1'?"),
        (("weight", "raed/db1", "3"), "there is no service 'raed'. Did you mean 'read'?"),
        (("weight", "read/db3", "3"), "there is no server in service read 'db3'."),
        (("weight", "read/db1", "300"), "a weight is a number from 0 to 256."),
        (("pause", "nothing"), "there is no service 'nothing'."),
        (("switch", "write", "db2"), "there is no server in service write 'db2'."),
    ):
        refused = one.cli(*verb)
        assert refused.returncode == 1
        assert text in refused.stderr, (verb, refused.stderr)
    assert one.admin.get("/v1/status")["overrides"] == []


def test_the_views_agree_with_what_is_there(one, servers):
    clients = [connect(one) for _ in range(5)] + [connect(one, "write")]
    status = one.admin.get("/v1/status")
    assert status["pid"] == one.pid
    assert (status["sessions"], status["accepting"], status["workers"]) == (6, True, 2)
    assert one.service("read")["sessions"] == 5 and one.service("write")["sessions"] == 1
    sessions = one.admin.get("/v1/sessions", service="read", server="db2")
    assert {(s["service"], s["server"], s["state"]) for s in sessions} == {
        ("read", "db2", "command")
    }
    assert {s["destination"] for s in sessions} == {servers[1].address}
    clients_seen = {s["client"] for s in one.admin.get("/v1/sessions")}
    assert clients_seen == {
        f"127.0.0.1:{c._sock.getsockname()[1]}"  # type: ignore[attr-defined]
        for c in clients
    }
    assert len(one.admin.get("/v1/sessions", limit=2)) == 2
    for each in clients:
        each.close()
    shown = said(one, "show", "servers")
    assert all(name in shown for name in ("db1", "db2", "db3"))
    wait_until(lambda: one.sessions_now() == 0)


def test_events_are_streamed_as_they_happen(one):
    heard: list[dict[str, Any]] = []
    connected = threading.Event()

    def follow() -> None:
        stream = AdminClient(str(one.socket)).stream_events()
        connected.set()
        for event in stream:
            heard.append(event)
            if event["kind"] == "admin_ready":
                return

    thread = threading.Thread(target=follow)
    thread.start()
    connected.wait(5)
    # The generator sends its request when it is first asked: repeat until it has arrived.
    wait_until(lambda: said(one, "drain", "db1") and said(one, "ready", "db1") and heard, 15)
    thread.join(10)
    assert not thread.is_alive()
    assert heard[-1]["server"] == "db1"
    kept = one.admin.get("/v1/events", after=heard[0]["id"] - 1, limit=len(heard))
    assert [e["id"] for e in kept] == [e["id"] for e in heard]


def test_the_socket_is_for_its_owner_and_group_only(one):
    assert stat.S_IMODE(one.socket.stat().st_mode) == 0o660


# ---- TCP


@pytest.fixture
def tcp(run_portside: Callable[..., Instance], folder: Path) -> Iterator[tuple[Instance, str, str]]:
    """An instance with a sink, its admin address and its metrics address."""
    (folder / "token").write_text(f"{TOKEN}\n")
    sink = Sink()
    with HeldPort() as admin, HeldPort() as metrics:
        made = run_portside(f"""
[admin]
listen = "127.0.0.1:{admin.port}"
token = {{ file = "{folder}/token" }}
[metrics]
listen = "127.0.0.1:{metrics.port}"
[[server]]
name = "db1"
address = "{sink.address}"
[[service]]
name = "a"
listen = "127.0.0.1:0"
servers = ["db1"]
""")
        yield made, f"127.0.0.1:{admin.port}", f"127.0.0.1:{metrics.port}"
    del sink


def request(address: str, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_without_the_token_nothing_is_told_and_nothing_done(tcp):
    one, admin, _ = tcp
    wrong = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"bearer {TOKEN.upper()}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer \xe9"},
    ]
    paths = [
        ("GET", "/v1/status"),
        ("GET", "/v1/config"),
        ("GET", "/healthz"),
        ("GET", "/nothing"),
        ("POST", "/v1/servers/db1/drain"),
        ("POST", "/v1/servers/nobody/drain"),
        ("POST", "/v1/reload"),
    ]
    # One answer for all: neither the guess nor the path tells anything.
    answers = {request(admin, *path, headers) for headers in wrong for path in paths}
    assert answers == {
        (401, b'{"error":"a token is needed.","hint":"Send Authorization: Bearer TOKEN."}')
    }
    assert one.server("db1")["admin"] == "ready"
    assert one.admin.get("/v1/status")["last_reload"] is None
    assert TOKEN not in one.messages()


def test_with_the_token_everything_works(tcp):
    one, admin, _ = tcp
    client = AdminClient(admin, token=TOKEN)
    assert client.get("/v1/status")["pid"] == one.pid
    client.post("/v1/servers/db1/drain")
    assert one.server("db1")["state"] == "drain"
    with pytest.raises(Refused, match="there is no server 'db7'"):
        client.post("/v1/servers/db7/drain")
    assert TOKEN not in str(client.get("/v1/config"))
    with pytest.raises(Refused, match="a token is needed"):
        AdminClient(admin, token="guess").get("/v1/status")


def test_metrics_say_what_the_clients_did(tcp):
    one, _, metrics = tcp
    (address,) = one.service("a")["listen"]
    assert Load(address, connections=300).wait()["sessions_ok"] == 300
    wait_until(lambda: one.sessions_now() == 0)
    wait_until(lambda: one.stats()["log"]["written_total"] == 300)
    status, body = request(metrics, "GET", "/metrics", {})
    assert status == 200
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value

    def value(name: str, **labels: str) -> float:
        return found[f"portside_{name}", tuple(sorted(labels.items()))]

    assert value("service_accepted_total", service="a") == 300
    assert value("member_sessions_total", service="a", server="db1") == 300
    assert value("server_up", server="db1") == 1
    assert value("closes_total", side="server", code="eof-reset") == 300
    assert value("terminations_total", code="quit/command") == 300
    assert value("log_lines_total") == 300
    assert value("service_sessions", service="a") == 0
    assert value("service_bytes_total", service="a", direction="to_client") == sum(
        line["to_client_bytes"] for line in one.lines()
    )
    # Every family of ours is documented, and every documented one is there.
    here = {re.sub("_created$", "", name) for name, _ in found if name.startswith("portside_")}
    documented = set(re.findall(r"^\| `(portside_\w+)`", (DOCS / "metrics.md").read_text(), re.M))
    assert here <= documented
    # A replica's, those of ports that Portside chooses itself, limits of pools, certificates.
    optional = {name for name in documented if name.startswith("portside_source_")}
    optional |= {
        "portside_server_replication_lag_seconds",
        "portside_server_pool_max",
        "portside_server_pool_open_rate",
        "portside_tls_certificate_not_after_timestamp_seconds",
    }
    assert documented - here <= optional, documented - here


def test_metrics_are_read_only(tcp):
    one, _, metrics = tcp
    for method, path in (
        ("POST", "/v1/servers/db1/drain"),
        ("GET", "/v1/status"),
        ("POST", "/metrics"),
    ):
        status, _ = request(metrics, method, path, {"Authorization": f"Bearer {TOKEN}"})
        assert status in (404, 405)
    assert one.server("db1")["admin"] == "ready"


def test_healthz_turns_with_the_service_and_with_the_drain(tcp):
    one, _, metrics = tcp

    def health(path: str) -> tuple[int, bytes]:
        return request(metrics, "GET", path, {})

    assert health("/healthz") == (200, b"ok\n")
    assert health("/healthz?service=a") == (200, b"ok\n")
    said(one, "pause", "a")
    assert health("/healthz") == (200, b"ok\n")
    assert health("/healthz?service=a") == (503, b"paused\n")
    said(one, "resume", "a")
    said(one, "drain", "db1")
    assert health("/healthz?service=a") == (503, b"no server\n")
    assert health("/healthz?service=b") == (503, b"there is no service b\n")
    said(one, "ready", "db1")
    host, _, port = one.service("a")["listen"][0].rpartition(":")
    held = RawClient((host, int(port)))
    held.login()
    one.signal(signal.SIGTERM)
    wait_until(lambda: health("/healthz") == (503, b"draining\n"))
    held.send(query("SELECT 1"))
    assert held.rows() == [b"\x011"]
    held.close()
    assert one.wait() == 0
