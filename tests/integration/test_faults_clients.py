"""Clients that misbehave, on real sockets: what the server sees of it, and that nothing is left.

The sink counts what a database would count as aborted; the session log says in which phase each
session ended and how each side was closed.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pymysql
import pytest

from tests.support.chaos import Behaviour, ChaosServer
from tests.support.lab_process import LabProcess, sink
from tests.support.proxy import Proxy
from tests.support.raw_client import LOGIN, QUIT, RawClient, packet, query
from tests.support.servers import APP_PASSWORD, APP_USER
from tests.support.waiting import wait_until

RESULT_BYTES = 15 * 1024 * 1024
LOGIN_S = 1.0


class World(NamedTuple):
    """Portside before three sinks and a silent server."""

    proxy: Proxy
    sinks: dict[str, LabProcess]

    def client(self, service: str, **options) -> RawClient:
        return RawClient(self.proxy.address(service), **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory, server_dir) -> Iterator[World]:
    with (
        sink() as quick,
        sink(delay_ms=300) as slow,
        sink(result_bytes=RESULT_BYTES) as big,
        ChaosServer(Behaviour.SILENT) as silent,
    ):
        toml = '[timeouts]\nlogin = "1s"\nqueue = "1m"\nconnect = "1s"\n[close]\ndeadline = "1s"\n'
        toml += '[source]\nports = "auto"\n'
        servers = {
            "quick": quick.addresses[0],
            "slow": slow.addresses[0],
            "big": big.addresses[0],
            "silent": silent.address,
        }
        for name, address in servers.items():
            toml += f'[[server]]\nname = "{name}"\naddress = "{address}"\ncheck = false\n'
        for name in [*servers, "paused", "proxied"]:
            server = name if name in servers else "quick"
            toml += (
                f'[[service]]\nname = "{name}"\nlisten = "127.0.0.1:0"\nservers = ["{server}"]\n'
            )
            toml += 'accept_proxy = ["127.0.0.0/8"]\n' if name == "proxied" else ""
        with Proxy(server_dir / "faults-clients", toml) as proxy:
            proxy.admin.post("/v1/services/paused/pause")
            yield World(proxy, {"quick": quick, "slow": slow, "big": big})
            proxy.stop()


@pytest.fixture(autouse=True)
def nothing_left(world) -> Iterator[None]:
    yield
    world.proxy.assert_at_rest()
    for one in world.sinks.values():
        wait_until(lambda one=one: one.report()["open"] == 0, 5, "the sink's connections ended")


def in_accept(world: World) -> RawClient:
    """Before the PROXY header is complete: no service, no server yet."""
    client = world.client("proxied")
    client.send(b"PROXY TCP4 10.1.")
    wait_until(lambda: world.proxy.service("proxied")["accepted_total"] > 0)
    return client


def in_queue(world: World) -> RawClient:
    client = world.client("paused")
    wait_until(lambda: world.proxy.service("paused")["queued"] == 1)
    return client


def in_greeting(world: World) -> RawClient:
    client = world.client("silent")
    # The source is known once the connect is done.
    wait_until(lambda: [s for s in world.proxy.sessions() if s["server"] and s["source"]])
    return client


def in_login(world: World) -> RawClient:
    client = world.client("quick")
    assert client.packet()[0] == 10
    return client


def in_half_login(world: World) -> RawClient:
    client = in_login(world)
    client.send(LOGIN[:20])
    wait_until(lambda: [s for s in world.proxy.sessions() if s["to_server_bytes"] == 20])
    return client


def at_boundary(world: World) -> RawClient:
    client = world.client("quick")
    client.login()
    client.send(query("SELECT 1"))
    assert len(client.rows()) == 1
    return client


def behind_part_of_a_packet(world: World, size: int) -> RawClient:
    client = at_boundary(world)
    client.send(query("SELECT 'a'")[:size])
    sent = len(LOGIN) + len(query("SELECT 1")) + size
    wait_until(lambda: [s for s in world.proxy.sessions() if s["to_server_bytes"] == sent])
    return client


def in_query(world: World) -> RawClient:
    client = world.client("slow")
    client.login()
    client.send(query("SELECT 1"))
    sent = len(LOGIN) + len(query("SELECT 1"))
    wait_until(lambda: [s for s in world.proxy.sessions() if s["to_server_bytes"] == sent])
    return client


def in_result(world: World) -> RawClient:
    client = world.client("big")
    client.login()
    client.send(query("SELECT 1"))
    client.exactly(1000)
    return client


# phase -> (how to get there, phase in the log, aborted on the server, close towards the server)
PHASES: dict[str, tuple[Callable[[World], RawClient], str, int, str]] = {
    "accept": (in_accept, "accept", 0, "none"),
    "queue": (in_queue, "queue", 0, "none"),
    "greeting": (in_greeting, "greeting", 0, "cut"),
    # The sink lets the login that ends this in order in, so QUIT follows.
    "login": (in_login, "login", 0, "eof-reset"),
    # What the client began cannot be ended by somebody else.
    "half-login": (in_half_login, "login", 1, "cut"),
    "idle": (at_boundary, "command", 0, "eof-reset"),
    "half-header": (lambda world: behind_part_of_a_packet(world, 2), "command", 1, "cut"),
    "half-packet": (lambda world: behind_part_of_a_packet(world, 6), "query", 1, "cut"),
    "query": (in_query, "query", 0, "eof-reset"),
    # More than abandon_bytes are left: drained no further. A relay sees replies begin, not end.
    "result": (in_result, "command", 1, "abandoned"),
}


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("phase", PHASES)
def test_client_leaves_in_each_phase(world, phase, leave):
    reach, logged, aborted, close = PHASES[phase]
    before = {name: one.report() for name, one in world.sinks.items()}
    mark = world.proxy.log_size()
    client = reach(world)
    getattr(client, leave)()
    line = world.proxy.last_line(mark)
    # A close with unread data in the socket is a reset too: PHP's exit in the middle of a result.
    cause = "client-eof" if leave == "close" and phase != "result" else "client-reset"
    assert line["end"] == f"{cause}/{logged}"
    assert line["close_server"] == close
    assert line["close_client"] == ("fin-reset" if cause == "client-eof" else "lost")
    world.proxy.assert_at_rest()

    def new_aborts() -> int:
        return sum(s.report()["aborted"] - before[n]["aborted"] for n, s in world.sinks.items())

    if aborted:
        wait_until(lambda: new_aborts() == aborted, 5, "the server counts it")
    else:
        wait_until(lambda: all(s.report()["open"] == 0 for s in world.sinks.values()))
        assert new_aborts() == 0


def test_client_that_says_nothing_is_sent_away(world):
    before = world.sinks["quick"].report()
    mark, start = world.proxy.log_size(), time.monotonic()
    with in_login(world) as client:
        assert client.at_eof()
        assert LOGIN_S - 0.1 < time.monotonic() - start < LOGIN_S + 2
        line = world.proxy.last_line(mark)
    assert line["end"] == "login-timeout/login"
    world.proxy.assert_at_rest()
    wait_until(lambda: world.sinks["quick"].report()["open"] == 0)
    assert world.sinks["quick"].report()["aborted"] == before["aborted"]


def test_client_that_says_nothing_behind_half_a_login(world):
    mark = world.proxy.log_size()
    with in_half_login(world) as client:
        with pytest.raises(ConnectionError):
            client.exactly(1)
        assert world.proxy.last_line(mark)["end"] == "login-timeout/login"


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: db\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + bytes(200),
    "zeros": bytes(4096),
    "largest-length": b"\xff\xff\xff\x01" + b"x" * 100,
    "empty-packet": packet(1, b""),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_instead_of_a_login(world, trio, what):
    """MariaDB answers or closes as it likes; Portside neither hangs nor hides the answer."""
    with RawClient(mariadb_service(world, trio)) as client:
        greeting = client.packet()
        assert greeting[0] == 10, greeting
        client.send(GARBAGE[what])
        start = time.monotonic()
        try:
            while client.socket.recv(4096):
                pass
        except ConnectionResetError:
            pass
        assert time.monotonic() - start < LOGIN_S + 3


def mariadb_service(world: World, trio) -> tuple[str, int]:
    """A service before a real MariaDB, added on first use."""
    try:
        return world.proxy.address("mariadb")
    except KeyError:
        pass
    text = world.proxy.toml + (
        f'[[server]]\nname = "mariadb"\naddress = "127.0.0.1:{trio.primary.port}"\n'
        "check = false\n"
        '[[service]]\nname = "mariadb"\nlisten = "127.0.0.1:0"\nservers = ["mariadb"]\n'
    )
    world.proxy.reload(text)
    return world.proxy.address("mariadb")


def test_random_bytes_in_every_phase(world, trio):
    """300 seeds: bytes that are anything, cut anywhere. The seed is in the failing message."""
    address = mariadb_service(world, trio)
    for seed in range(300):
        chance = random.Random(seed)
        valid = LOGIN + query("SELECT 1") + packet(0, b"\x0e") + QUIT
        data = bytearray(valid[: chance.randrange(len(valid))])
        for _ in range(chance.randrange(4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        data += chance.randbytes(chance.choice((0, 1, 3, 4, 100, 3000)))
        client = RawClient(address)
        try:
            client.packet()
            while data:
                part = chance.randrange(1, len(data) + 1)
                client.send(bytes(data[:part]))
                del data[:part]
        except (ConnectionError, BrokenPipeError):
            pass  # the server had enough
        except TimeoutError:
            pytest.fail(f"seed {seed}: no greeting or no progress")
        if chance.random() < 0.5:
            client.reset()
        else:
            client.close()
    world.proxy.assert_at_rest(LOGIN_S + 10)


def test_bytes_behind_quit_are_no_quit(world):
    """QUIT counts only as the last word; what follows cancels it and the session goes on."""
    mark = world.proxy.log_size()
    with world.client("big") as client:
        client.login()
        client.send(QUIT + b"x")
        client.socket.shutdown(socket.SHUT_WR)
        line = world.proxy.last_line(mark)
    # The sink has answered the QUIT by closing; either end is right, "quit" is not.
    assert line["end"].split("/")[0] in ("server-eof", "server-reset", "client-eof")


def test_half_close_still_gets_its_answer(world, trio):
    """A client that shuts its writing side behind a query reads the whole answer."""
    host, port = mariadb_service(world, trio)
    aborted = trio.primary.status("Aborted_clients")
    connection = pymysql.connect(
        host=host, port=port, user=APP_USER, password=APP_PASSWORD, ssl_disabled=True
    )
    raw = connection._sock
    raw.sendall(query("SELECT SLEEP(0.5), REPEAT('x', 3000000)"))
    raw.shutdown(socket.SHUT_WR)
    received = 0
    while data := raw.recv(65536):
        received += len(data)
    assert received > 3_000_000
    connection._force_close()
    world.proxy.assert_at_rest()
    assert trio.primary.status("Aborted_clients") == aborted


def test_half_close_behind_an_answer_that_is_still_on_its_way(world, trio):
    """Everything was handed to our kernel when the FIN came; none of it may be reset away."""
    host, port = mariadb_service(world, trio)
    with RawClient((host, port), receive_buffer=4096) as client:
        connection = pymysql.connect(
            user=APP_USER, password=APP_PASSWORD, ssl_disabled=True, defer_connect=True
        )
        connection.connect(client.socket)
        mark = world.proxy.log_size()
        client.send(query("SELECT REPEAT('x', 1000000)"))
        wait_until(lambda: [s for s in world.proxy.sessions() if s["to_client_bytes"] > 1_000_000])
        client.socket.shutdown(socket.SHUT_WR)
        assert world.proxy.last_line(mark)["end"] == "client-eof/command"
        client.exactly(1_000_000)
        connection._force_close()


def test_client_that_stops_reading_holds_nobody_up(world):
    """One that stops in a large result, and then reads on: every byte arrives."""
    with world.client("big", receive_buffer=4096) as stuck:
        stuck.login()
        stuck.send(query("SELECT 1"))
        for _ in range(20):
            with world.client("big") as other:
                other.login()
                start = time.monotonic()
                other.send(packet(0, b"\x0e"))
                other.packet()
                assert time.monotonic() - start < 0.5
                other.send(QUIT)
        row = stuck.rows()[0]
        assert len(row) == RESULT_BYTES + 4 and row[4:] == b"x" * RESULT_BYTES
        stuck.send(QUIT)
        assert stuck.at_eof()
