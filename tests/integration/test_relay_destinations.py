"""A server with several addresses: one that is dead costs nothing while another one serves."""

from __future__ import annotations

import pytest

from tests.support.chaos import Behaviour
from tests.support.instance import settle
from tests.support.lab import Load, Sink
from tests.support.waiting import wait_until

CONFIG = """
[portside]
workers = 2
[log]
sessions = "all"
[timeouts]
connect = "{connect}"
{more}
[[server]]
name = "db1"
address = {addresses}
[[service]]
name = "a"
listen = "127.0.0.1:0"
servers = ["db1"]
"""


def run(run_portside, addresses: list[str], connect: str = "3s", more: str = ""):
    listed = str(addresses).replace("'", '"')
    one = run_portside(CONFIG.format(addresses=listed, connect=connect, more=more))
    return one, one.service("a")["listen"][0]


@pytest.mark.parametrize("more", ["", '[source]\naddresses = ["127.0.0.7"]\nports = "auto"'])
def test_a_refusing_address_costs_no_client(run_portside, chaos, more):
    chaos.behave(Behaviour.REFUSE)
    sink = Sink()
    one, address = run(run_portside, [chaos.address, sink.address], more=more)
    for concurrency, connections in ((1, 50), (40, 2_000)):
        report = Load(address, concurrency=concurrency, connections=connections).wait()
        assert (report["sessions_ok"], report["errors"]) == (connections, [])
        # Not one pause: the other address is tried at once.
        assert report["max_us"] < 400_000, report
    server = one.server("db1")
    assert server["state"] == "up" and server["breaker"] == "closed"
    # Asked once a second at most, not by every second session.
    assert server["connect_failures_total"] < 100, server


def test_an_address_that_swallows_connects_costs_few_clients_a_timeout(run_portside, chaos):
    chaos.behave(Behaviour.HANG)
    sink = Sink()
    one, address = run(run_portside, [chaos.address, sink.address], connect="500ms")
    first = Load(address, concurrency=20, connections=200, timeout_ms=10_000).wait()
    assert (first["sessions_ok"], first["errors"]) == (200, [])
    # What came at the same time as the first, and then one session a second, two, four ...
    report = Load(address, concurrency=20, connections=2_000, timeout_ms=10_000).wait()
    assert (report["sessions_ok"], report["errors"]) == (2_000, [])
    assert report["p99_us"] < 300_000 and one.server("db1")["breaker"] == "closed", report


def test_a_dead_address_is_used_again_when_it_is_back(run_portside, chaos):
    chaos.behave(Behaviour.REFUSE)
    sink = Sink()
    _, address = run(run_portside, [chaos.address, sink.address])
    assert Load(address, connections=100, concurrency=4).wait()["sessions_failed"] == 0
    assert chaos.accepted == 0
    chaos.behave(Behaviour.SERVE)

    def both_serve() -> bool:
        assert Load(address, connections=40, concurrency=4).wait()["sessions_failed"] == 0
        return chaos.accepted > 20

    wait_until(both_serve, 15, "half of the sessions go there again")


def test_with_every_address_dead_it_is_the_server(run_portside, chaos):
    chaos.behave(Behaviour.REFUSE)
    one, address = run(run_portside, [chaos.address, "127.0.0.9:3"])
    report = Load(address, connections=10, concurrency=1, timeout_ms=10_000).wait()
    assert report["sessions_ok"] == 0
    assert {error["errno"] for error in report["errors"]} == {1429}, report
    wait_until(lambda: one.server("db1")["state"] == "down", 15)
    chaos.behave(Behaviour.SERVE)
    wait_until(lambda: one.server("db1")["state"] == "up", 15)
    settle(1.2)  # the breaker's pause
    assert Load(address, connections=10, concurrency=1).wait()["sessions_ok"] == 10


def test_exhausted_towards_one_address_the_other_is_used(run_portside):
    """Ten ports each: eleven sessions at a time, and nobody is told that none is left."""
    two = [Sink(), Sink()]
    more = '[source]\naddresses = ["127.0.0.7"]\nports = "23000-23009"\nreserve = 0'
    one, address = run(run_portside, [sink.address for sink in two], more=more)
    held = Load(address, concurrency=20, connections=20, hold_ms=3_000)
    wait_until(lambda: held.report()["sessions_open"] == 20, 5)
    assert one.events("ports_exhausted") == []
    assert [sink.report()["open"] for sink in two] == [10, 10]
    assert held.wait()["sessions_ok"] == 20
