"""Servers that misbehave: what the client is told, who else is tried, and that nothing is left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pymysql
import pytest

from tests.support.chaos import GREETING, Behaviour, ChaosServer
from tests.support.lab_process import sink
from tests.support.proxy import Proxy
from tests.support.raw_client import QUIT, RawClient, query
from tests.support.servers import APP_PASSWORD, APP_USER
from tests.support.waiting import wait_until

# One attempt: a second one would only repeat the wait. Both time limits differ, to tell them apart.
SETTINGS = (
    '[timeouts]\nconnect = "300ms"\nlogin = "500ms"\nqueue = "2s"\n[source]\nports = "auto"\n'
)
PORTSIDE = "portside: service alone: "
SEEK = ". On the proxy: portside show servers"


def server(name: str, address: str, more: str = "check = false") -> str:
    return f'[[server]]\nname = "{name}"\naddress = "{address}"\n{more}\n'


def service(name: str, *servers: str, more: str = "") -> str:
    members = ", ".join(f'"{one}"' for one in servers)
    return f'[[service]]\nname = "{name}"\nlisten = "127.0.0.1:0"\nservers = [{members}]\n{more}\n'


@pytest.fixture(scope="module")
def broken() -> Iterator[ChaosServer]:
    with ChaosServer() as one:
        yield one


@pytest.fixture(scope="module")
def proxy(server_dir, broken) -> Iterator[Proxy]:
    """``alone``: the misbehaving server; ``both``: it comes first, and a sink behind it."""
    with sink(answer="from the sink") as good:
        toml = (
            SETTINGS
            + server("broken", broken.address)
            + server("good", good.addresses[0])
            + service("alone", "broken", more="retries = 0")
            + service("both", "broken", "good", more='balance = "first"')
        )
        with Proxy(server_dir / "faults-servers", toml) as one:
            yield one
            one.stop()


@pytest.fixture(autouse=True)
def nothing_left(proxy, broken) -> Iterator[None]:
    yield
    broken.behave(Behaviour.SERVE)
    broken.close_connections()
    proxy.assert_at_rest()
    assert ready_again(proxy)


def ready_again(proxy: Proxy) -> bool:
    """The breaker has closed: the next test starts as the first did."""

    def served() -> bool:
        with RawClient(proxy.address("alone")) as client:
            if client.exactly(5)[4] == 0xFF:
                return False
            client.exactly(10)
        return proxy.server("broken")["breaker"] == "closed"

    wait_until(served, 5, "the breaker closes", step_s=0.2)
    proxy.assert_at_rest()
    return True


# behaviour -> (what the ERR says, end in the log, least and most seconds)
SAID = {
    Behaviour.REFUSE: ("Connection refused", "connect-failed", 0, 0.3),
    Behaviour.HANG: ("no answer to connect within 300 ms", "connect-timeout", 0.25, 1.5),
    Behaviour.SILENT: ("connected, but no MySQL greeting came", "no-greeting", 0.45, 1.5),
    Behaviour.HALF_GREETING: ("connected, but no MySQL greeting came", "no-greeting", 0.45, 1.5),
    Behaviour.CLOSE: ("connected, but no MySQL greeting came", "no-greeting", 0, 0.3),
    Behaviour.RESET: ("connection reset by the server", "no-greeting", 0, 0.3),
    Behaviour.GARBAGE: ("it does not greet like a MySQL server", "no-greeting", 0, 0.3),
}


@pytest.mark.parametrize("behaviour", SAID)
def test_client_is_told(proxy, broken, behaviour):
    said, end, least, most = SAID[behaviour]
    broken.behave(behaviour)
    mark, start = proxy.log_size(), time.monotonic()
    with RawClient(proxy.address("alone")) as client:
        number, text = client.error()
        took = time.monotonic() - start
    assert least <= took <= most + 1.0  # a second for a busy machine
    line = proxy.last_line(mark)
    if behaviour is Behaviour.RESET and line["end"].startswith("connect-failed"):
        # On a busy machine the reset is there before the connect has been seen to succeed.
        said, end = "Connection reset by peer", "connect-failed"
    assert (number, text) == (1429, f"{PORTSIDE}server broken: {broken.address}: {said}{SEEK}")
    assert line["end"].startswith(end + "/")
    assert line["error"] == text
    assert line["close_client"] == "fin-reset"


@pytest.mark.parametrize("behaviour", SAID)
def test_another_server_takes_the_session(proxy, broken, behaviour):
    """No byte of the bad server reaches the client."""
    broken.behave(behaviour)
    mark = proxy.log_size()
    with RawClient(proxy.address("both")) as client:
        client.login()
        client.send(query("SELECT 1"))
        assert client.rows() == [b"\x0dfrom the sink"]
        client.send(QUIT)
        assert client.at_eof()
    line = proxy.last_line(mark)
    assert (line["server"], line["end"], line["retries"]) == ("good", "quit/command", 1)


def test_own_err_of_a_server_is_passed_on(proxy, broken):
    broken.behave(Behaviour.ERR, (1040, "Too many connections"))
    mark = proxy.log_size()
    with RawClient(proxy.address("alone")) as client:
        assert client.error() == (1040, "Too many connections")
    assert proxy.last_line(mark)["end"].startswith("refused-by-server/")
    assert proxy.server("broken")["breaker"] == "closed", "a full server is alive"


def test_own_err_of_a_server_is_not_seen_where_another_has_room(proxy, broken):
    broken.behave(Behaviour.ERR, (1040, "Too many connections"))
    with RawClient(proxy.address("both")) as client:
        client.login()
        client.send(QUIT)


def test_reset_after_login_reaches_the_client(proxy, broken):
    """The greeting was sent on: from here nobody else may be tried, and nothing is invented."""
    broken.behave(Behaviour.RESET_AFTER_LOGIN)
    mark = proxy.log_size()
    with RawClient(proxy.address("both")) as client:
        assert client.packet()[0] == 10
        client.send(b"\x01\0\0\x01x")
        with contextlib.suppress(ConnectionResetError):
            assert client.socket.recv(1) == b""
    assert proxy.last_line(mark)["end"] == "server-reset/login"


def test_three_failures_open_the_breaker_and_its_return_closes_it(proxy, broken):
    broken.behave(Behaviour.REFUSE)
    for _ in range(3):
        with RawClient(proxy.address("alone")) as client:
            assert client.error()[0] == 1429
    assert proxy.server("broken")["breaker"] == "open"
    with RawClient(proxy.address("alone")) as client:
        assert client.error() == (
            1429,
            f"{PORTSIDE}no eligible server: broken (three connect failures in a row){SEEK}",
        )
    assert proxy.events("breaker_open")[-1]["server"] == "broken"
    before = broken.accepted
    broken.behave(Behaviour.SERVE)
    start = time.monotonic()
    assert ready_again(proxy)
    assert time.monotonic() - start < 2.5, "tried again every second"
    assert broken.accepted > before
    closed = proxy.events("breaker_closed")[-1]
    said = "server broken greets again: sessions go there"
    assert (closed["server"], closed["message"]) == ("broken", said)


def test_an_open_breaker_lets_one_session_try(proxy, broken):
    """Half open: of many clients at once, one connection is risked."""
    broken.behave(Behaviour.REFUSE)
    for _ in range(3):
        with RawClient(proxy.address("alone")) as client:
            client.error()
    wait_until(lambda: proxy.server("broken")["breaker"] == "open")
    broken.behave(Behaviour.SILENT)
    accepted = broken.accepted
    time.sleep(1.05)  # the breaker's own second; nothing observable ends it
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.address("alone"))) for _ in range(20)]
        assert sorted({client.error()[0] for client in clients}) == [1429]
    assert broken.accepted - accepted == 1


def test_all_down_lists_each_server_and_why(server_dir):
    with ChaosServer(Behaviour.REFUSE) as one, ChaosServer(Behaviour.HANG) as two:
        check = (
            'check = { type = "tcp", interval = "100ms", timeout = "200ms", fall = 1, rise = 1 }'
        )
        toml = (
            SETTINGS
            + server("db1", one.address, check)
            + server("db2", two.address, check)
            + server("db3", "127.0.0.1:9", "check = false")
            + '[[service]]\nname = "all"\nlisten = "127.0.0.1:0"\n'
            + 'servers = ["db1", "db2", { name = "db3", weight = 0 }]\n'
        )
        with Proxy(server_dir / "faults-all-down", toml) as proxy:

            def down() -> bool:
                return all(s["state"] == "down" for s in proxy.admin.get("/v1/servers")[:2])

            wait_until(down, 5)
            with RawClient(proxy.address("all")) as client:
                number, text = client.error()
            assert number == 1429
            assert text.startswith("portside: service all: no eligible server: db1 (")
            for words in ("db1 (", "L4CON", "refused", "db2 (", "L4TOUT", "db3 (weight 0"):
                assert words in text, text
            assert text.endswith(SEEK)
            one.behave(Behaviour.SERVE)

            def served() -> bool:
                with RawClient(proxy.address("all")) as client:
                    return client.packet()[0] == 10

            wait_until(served, 5, "db1 came back", step_s=0.1)
            proxy.assert_at_rest()
            proxy.stop()


@pytest.mark.parametrize("size", [1, 20, 4 + len(GREETING) - 1])
def test_a_split_greeting_arrives_whole(proxy, broken, size, monkeypatch):
    """Held until it is complete, then handed on byte for byte."""
    whole = len(GREETING).to_bytes(3, "little") + b"\0" + GREETING

    def in_two_parts(_: ChaosServer, connection) -> None:
        connection.sendall(whole[:size])
        time.sleep(0.1)
        connection.sendall(whole[size:])
        connection.recv(1)

    monkeypatch.setattr("tests.support.chaos._PLAYS", {Behaviour.SERVE: in_two_parts})
    with RawClient(proxy.address("alone")) as client:
        assert client.exactly(len(whole)) == whole


def test_server_killed_in_a_large_result(mariadb_factory, server_dir):
    """kill -9 in 64 MiB: the client gets what was sent, then the end; the server comes back."""
    database = mariadb_factory()
    toml = SETTINGS + server("db1", f"127.0.0.1:{database.port}") + service("read", "db1")
    with Proxy(server_dir / "faults-killed", toml) as proxy:
        host, port = proxy.address("read")
        login = {"host": host, "port": port, "user": APP_USER, "password": APP_PASSWORD}
        connection = pymysql.connect(**login, ssl_disabled=True, read_timeout=20)
        raw, mark, received = connection._sock, proxy.log_size(), 0
        # 64 rows of 1 MiB
        raw.sendall(query("SELECT REPEAT('x', 1048576) FROM app.seq_1_to_64"))
        while received < 4 << 20:
            received += len(raw.recv(65536))
        database.kill()
        try:
            while data := raw.recv(65536):
                received += len(data)
        except ConnectionResetError:
            pass
        assert 4 << 20 <= received < 64 << 20
        connection._force_close()
        line = proxy.last_line(mark)
        assert line["end"].split("/")[0] in ("server-reset", "server-eof")
        assert line["to_client_bytes"] >= received, "nothing that came was withheld"
        proxy.assert_at_rest()
        with pytest.raises(pymysql.OperationalError) as refused:
            pymysql.connect(**login)
        assert refused.value.args[0] == 1429
        assert "Connection refused" in refused.value.args[1]
        database.start()

        def works() -> bool:
            try:
                with pymysql.connect(**login) as again, again.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    return cursor.fetchone() == (1,)
            except pymysql.OperationalError:
                return False

        wait_until(works, 5, "the server is used again")
        proxy.assert_at_rest()
        proxy.stop()


def test_a_server_that_stops_reading_holds_only_its_client(proxy, broken, monkeypatch):
    """Back-pressure towards the server: the client's sends stop, memory does not grow."""
    stalled = threading.Event()
    monkeypatch.setattr("tests.support.chaos._read_packet", lambda _: stalled.wait(20) and b"")
    resident = proxy.resident()
    with RawClient(proxy.address("alone"), timeout_s=1.0) as client:
        assert client.packet()[0] == 10
        chunk = b"\xff\xff\xff\x01" + bytes(1 << 20)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 256 << 20:
                client.send(chunk)
                sent += len(chunk)
        assert proxy.resident() - resident < 4 << 20
        start = time.monotonic()
        with RawClient(proxy.address("both")) as other:
            assert other.packet()[0] == 10
        assert time.monotonic() - start < 1
    stalled.set()
