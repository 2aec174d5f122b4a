"""Many at once: a thousand clients that stop reading, eight that read in bulk, no descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.support.lab_process import LabProcess, load, sink
from tests.support.proxy import Proxy
from tests.support.raw_client import QUIT, RawClient, query
from tests.support.waiting import wait_until

STUCK = 1_000
MIB = 1 << 20
# The largest answer of the sink; five of them are the 64 MiB that each client asks for.
ANSWER_BYTES = 64 * MIB // 5
# What two shared cores added to a p99 that Python measures: 15 to 28 ms were seen. With this much
# room the test finds a worker that starves others, not one that misses "three times idle" a little.
FLOOR_MS = 40.0


def toml(servers: dict[str, str]) -> str:
    text = ""
    for name, address in servers.items():
        text += f'[[server]]\nname = "{name}"\naddress = "{address}"\ncheck = false\n'
        text += f'[[service]]\nname = "{name}"\nlisten = "127.0.0.1:0"\nservers = ["{name}"]\n'
    return text


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Three per stuck client: ours, Portside's two are its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = STUCK + 500
    if hard != resource.RLIM_INFINITY and hard < 2 * STUCK + 500:
        pytest.skip(f"needs a hard limit of {2 * STUCK + 500} open files, has {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_clients_that_do_not_read(server_dir, many_descriptors):
    with (
        sink(result_bytes=ANSWER_BYTES) as big,
        Proxy(server_dir / "stuck", toml({"big": big.addresses[0]})) as proxy,
        contextlib.ExitStack() as stack,
    ):
        address = proxy.address("big")
        clients = []
        resident = proxy.resident()
        for _ in range(STUCK):
            clients.append(stack.enter_context(RawClient(address, receive_buffer=4096)))
        for client in clients:
            client.login()
            client.send(5 * query("SELECT 1"))
        wait_until(lambda: big.report()["queries"] == 5 * STUCK, 30, "all have asked")

        def stuck() -> bool:
            before = proxy.service("big")["sessions"], moved(proxy)
            time.sleep(0.3)
            return before == (STUCK, moved(proxy))

        wait_until(stuck, 30, "nothing moves any more")
        grown = proxy.resident() - resident
        assert grown <= 64 * MIB, f"+{grown / MIB:.1f} MiB resident"
        # Waiting costs nothing: no spin over a thousand full sockets.
        cpu, start = proxy.cpu_s(), time.monotonic()
        time.sleep(0.5)
        assert proxy.cpu_s() - cpu < 0.2 * (time.monotonic() - start)
        # And somebody who reads is served as ever.
        with RawClient(address) as reader:
            reader.login()
            reader.send(query("SELECT 1"))
            assert len(reader.rows()[0]) == ANSWER_BYTES + 4
            reader.send(QUIT)
        for client in clients[: STUCK // 2]:
            client.reset()
        for client in clients[STUCK // 2 :]:
            client.close()
        proxy.assert_at_rest(30)
        wait_until(lambda: big.report()["open"] == 0, 10, "the server's side ended too")
        proxy.stop()


def moved(proxy: Proxy) -> int:
    return sum(s["to_client_bytes"] for s in proxy.sessions())


def test_bulk_readers_do_not_hold_up_a_small_query(server_dir):
    """One worker, so that all of them share it: p99 of one row at most three times idle.

    "Idle" is Portside, not the machine: meanwhile the same readers go through another instance, so
    that the processors are as busy in both measurements.
    """
    with (
        sink() as small,
        sink(result_bytes=15 * MIB, nice=19) as bulk,
        contextlib.ExitStack() as stack,
    ):
        text = toml({"small": small.addresses[0], "bulk": bulk.addresses[0]})
        # On a machine that is busy with other things a worker that works waits for the processor,
        # one that sleeps does not. Root can rule that out.
        first = ["nice", "-n", "-15"] if os.geteuid() == 0 else []
        proxy, other = (
            stack.enter_context(Proxy(server_dir / f"bulk{n}", text, workers=1, prefix=first))
            for n in (1, 2)
        )
        client = stack.enter_context(RawClient(proxy.address("small")))
        client.login()
        rounds: list[tuple[float, float]] = []
        # One round in which nobody else took the processor is enough: unfairness shows in all.
        while not rounds or (rounds[-1][1] > 3 * rounds[-1][0] + FLOOR_MS and len(rounds) < 8):
            rounds.append((p99_beside(other, client, bulk), p99_beside(proxy, client, bulk)))
        idle, busy = rounds[-1]
        assert busy <= 3 * idle + FLOOR_MS, f"p99 in ms, idle and beside bulk: {rounds}"
        client.send(QUIT)
        client.close()
        proxy.assert_at_rest()
        proxy.stop()


def p99_beside(proxy: Proxy, client: RawClient, bulk: LabProcess) -> float:
    """While eight readers go through ``proxy``."""
    host, port = proxy.address("bulk")
    plan = {"concurrency": 8, "repeat": 20, "timeout_ms": 60_000, "nice": 19}
    before = bulk.report()["queries"]
    with load(target=f"{host}:{port}", **plan) as readers:
        wait_until(lambda: bulk.report()["queries"] >= before + 16, 10, "bulk readers run")
        found = p99_ms(client)
        before = bulk.report()["queries"]
        wait_until(lambda: bulk.report()["queries"] > before, 10, "they still run")
        report = readers.report("stop")
        assert report["sessions_failed"] == 0, report["errors"]
    return found


def p99_ms(client: RawClient, count: int = 300) -> float:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        client.send(query("SELECT 1"))
        assert client.rows() == [b"\x011"]
        times.append((time.perf_counter() - start) * 1000)
        time.sleep(0.003)
    return statistics.quantiles(times, n=100)[98]


def test_descriptors_run_out_and_come_back(server_dir):
    """Accepting pauses and resumes; who is in goes on; nothing spins."""
    with (
        sink() as quick,
        Proxy(
            server_dir / "fds",
            toml({"quick": quick.addresses[0]}),
        ) as proxy,
        contextlib.ExitStack() as stack,
    ):
        address = proxy.address("quick")
        inside = [stack.enter_context(RawClient(address)) for _ in range(20)]
        for client in inside:
            client.login()
        # Every descriptor but the few that a handful of connections need.
        fds = proxy.fds()
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (fds + 3, fds + 3))
        waiting = [stack.enter_context(RawClient(address)) for _ in range(10)]
        # The admin socket needs a descriptor too, so only /proc is looked at now.
        wait_until(lambda: proxy.fds() >= fds + 2, 5, "they are in use")
        cpu, start = proxy.cpu_s(), time.monotonic()
        for client in inside:
            client.send(query("SELECT 1"))
            assert client.rows() == [b"\x011"]
        time.sleep(0.5)
        assert proxy.cpu_s() - cpu < 0.3 * (time.monotonic() - start) + 0.05, "it spins"
        for client in inside:
            client.send(QUIT)
            assert client.at_eof()
        for client in waiting:
            client.login()
            client.send(QUIT)
            assert client.at_eof()
            client.close()
        proxy.assert_at_rest()
        assert "Too many open files" in proxy.events("accept_paused")[-1]["message"]
        proxy.stop()
