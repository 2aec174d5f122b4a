"""max_connections is exact, the queue is bounded and in order, and a free slot is used at once."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time

import pytest

from tests.support.chaos import Behaviour, ChaosServer
from tests.support.counting_server import counting_server
from tests.support.lab_process import load
from tests.support.proxy import Proxy
from tests.support.raw_client import QUIT, RawClient, query
from tests.support.waiting import wait_until

SLOTS = 10
CLIENTS = 1_000
SESSIONS = 2_500


def one_server(address: str, server: str = "", service: str = "") -> str:
    return (
        f'[timeouts]\nqueue = "20s"\n'
        f'[[server]]\nname = "db1"\naddress = "{address}"\ncheck = false\n{server}\n'
        f'[[service]]\nname = "s"\nlisten = "127.0.0.1:0"\nservers = ["db1"]\n{service}\n'
    )


@pytest.mark.parametrize("limit", ["server", "service"])
def test_ten_slots_eight_workers_a_thousand_clients(server_dir, limit):
    """Never eleven, and a slot that comes free is taken within 10 ms while anybody waits."""
    with counting_server() as server:
        slots = f"max_connections = {SLOTS}\n"
        text = one_server(
            server.address,
            server=slots if limit == "server" else "",
            service=slots if limit == "service" else "",
        )
        with Proxy(server_dir / f"slots-{limit}", text, workers=8) as proxy:
            host, port = proxy.address("s")
            plan = {
                "concurrency": CLIENTS,
                "connections": SESSIONS,
                "timeout_ms": 30_000,
                "nice": 19,
            }
            with load(target=f"{host}:{port}", **plan) as clients:
                report = clients.report("wait")
            seen = server.report()
            assert report["sessions_failed"] == 0, report["errors"]
            assert report["sessions_ok"] == len(seen["arrived"]) == SESSIONS
            assert seen["most"] == SLOTS
            waits = slot_waits_ms(seen, SESSIONS - CLIENTS)
            # The server's, Portside's and the clients' threads share what processors there are:
            # a few handovers wait for one. A wakeup that is lost waits for seconds, or for ever.
            assert statistics.quantiles(waits, n=100)[98] <= 10, describe(waits)
            assert max(waits) <= 200, describe(waits)
            proxy.assert_at_rest()
            proxy.stop()


def slot_waits_ms(seen: dict, count: int) -> list[float]:
    """From each departure to the arrival that takes its slot, while clients wait.

    The n-th departure makes room for the arrival n + SLOTS; the last clients, when nobody waits any
    more, are left out.
    """
    pairs = zip(seen["left"], seen["arrived"][SLOTS:], strict=False)
    return [(arrived - left) * 1000 for left, arrived in list(pairs)[:count]]


def describe(waits: list[float]) -> str:
    points = statistics.quantiles(waits, n=1000)
    return (
        f"p50 {points[499]:.2f} p99 {points[989]:.2f} p99.9 {points[998]:.2f} max {max(waits):.2f}"
    )


def test_queue_is_bounded_and_first_come_first_served(server_dir):
    with (
        ChaosServer() as server,
        Proxy(
            server_dir / "queue",
            one_server(server.address, "max_connections = 1", "queue = 5"),
            workers=1,
        ) as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = []
        for number in range(6):
            clients.append(stack.enter_context(RawClient(proxy.address("s"))))
            wait_until(lambda n=number: proxy.service("s")["accepted_total"] == n + 1)
        wait_until(lambda: proxy.service("s")["queued"] == 5)
        with RawClient(proxy.address("s")) as seventh:
            assert seventh.error() == (
                1040,
                "portside: service s: no free slot and the queue is full (5 wait)",
            )
        wait_until(lambda: proxy.events("queue_full"))
        assert "5 sessions wait already" in proxy.events("queue_full")[-1]["message"]
        for number, client in enumerate(clients):
            client.login()
            wait_until(lambda n=number: proxy.service("s")["queued"] == 5 - n)
            for later in clients[number + 1 :]:
                later.socket.setblocking(False)
                with pytest.raises(BlockingIOError):
                    later.socket.recv(1)
                later.socket.settimeout(10)
            client.send(QUIT)
            assert client.at_eof()
        proxy.assert_at_rest()
        assert server.accepted == 6
        proxy.stop()


def test_a_queued_client_that_leaves_gives_its_place_up(server_dir):
    """No server connection is made for it, and who came behind it is next."""
    with (
        ChaosServer() as server,
        Proxy(
            server_dir / "leave",
            one_server(server.address, "max_connections = 1", "queue = 2"),
        ) as proxy,
        RawClient(proxy.address("s")) as first,
    ):
        first.login()
        for leave in ("close", "reset"):
            second = RawClient(proxy.address("s"))
            wait_until(lambda: proxy.service("s")["queued"] == 1)
            getattr(second, leave)()
            wait_until(lambda: proxy.service("s")["queued"] == 0)
        with RawClient(proxy.address("s")) as third:
            wait_until(lambda: proxy.service("s")["queued"] == 1)
            first.send(QUIT)
            start = time.monotonic()
            third.login()
            assert time.monotonic() - start < 0.5
            third.send(QUIT)
            assert third.at_eof()
        assert server.accepted == 2
        proxy.assert_at_rest()
        proxy.stop()


def test_a_pause_holds_clients_and_a_resume_serves_them(server_dir):
    with (
        ChaosServer() as server,
        Proxy(server_dir / "pause", one_server(server.address)) as proxy,
        contextlib.ExitStack() as stack,
    ):
        proxy.admin.post("/v1/services/s/pause")
        clients = [stack.enter_context(RawClient(proxy.address("s"))) for _ in range(50)]
        wait_until(lambda: proxy.service("s")["queued"] == 50)
        assert server.accepted == 0
        proxy.admin.post("/v1/services/s/resume")
        for client in clients:
            client.login()
            client.send(QUIT)
        for client in clients:
            assert client.at_eof()
        proxy.assert_at_rest()
        proxy.stop()


def test_a_server_that_restarts_within_the_retries_costs_no_error(server_dir):
    with (
        ChaosServer(Behaviour.REFUSE) as server,
        Proxy(server_dir / "retry", one_server(server.address)) as proxy,
    ):
        back = threading.Timer(0.7, server.behave, [Behaviour.SERVE])
        back.start()
        start = time.monotonic()
        with RawClient(proxy.address("s")) as client:
            client.login()
            assert time.monotonic() - start >= 0.5, "it was tried again"
            client.send(query("SELECT 1"))
            assert client.rows() == [b"\x011"]
            client.send(QUIT)
            assert client.at_eof()
        back.join()
        assert proxy.log_size() and proxy.log_lines()[-1]["retries"] >= 1
        proxy.assert_at_rest()
        proxy.stop()
