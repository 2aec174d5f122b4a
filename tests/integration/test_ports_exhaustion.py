"""When the source ports are all in use: wait, say so, recover; and never blame the database."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter

import pytest
from portside.balancer import Balancer
from portside.health.probe import Prober
from portside.health.target import target_of

from tests.support.instance import Instance, settle
from tests.support.lab import Load, Sink
from tests.support.servers import MONITOR_PASSWORD, MONITOR_USER
from tests.support.waiting import wait_until

NO_PORT = re.compile(
    r"portside: service a: server db1: no source port towards 127\.0\.0\.1:\d+"
    r" \(10 of 10 busy\), waited 2\.\d s\. Not the database\."
    r" On the proxy: portside show ports db1"
)


def config(address: str, ports: str, more: str = "", reserve: int = 0) -> str:
    return f"""
[portside]
workers = 2
[log]
sessions = "all"
[source]
addresses = ["127.0.0.4"]
ports = "{ports}"
reserve = {reserve}
[timeouts]
queue = "2s"
{more}
[[server]]
name = "db1"
address = "{address}"
[[service]]
name = "a"
listen = "127.0.0.1:0"
servers = ["db1"]
"""


def row(one: Instance) -> dict:
    (found,) = one.admin.get("/v1/ports")
    return found


def test_fifty_held_sessions_on_ten_ports(run_portside):
    """10 run, 40 wait for 2 s and hear why; then everything recovers."""
    sink = Sink()
    one = run_portside(config(sink.address, "22000-22009", "[check]\ninterval = '100ms'"))
    (address,) = one.service("a")["listen"]
    load = Load(address, concurrency=50, connections=50, hold_ms=6_000, timeout_ms=10_000)
    wait_until(lambda: one.service("a")["queued"] == 40, 5)
    assert row(one)["in_use"] == 10 and row(one)["exhausted_in_s"] == 0.0
    assert "no source port is left, of 10" in one.cli("show", "ports").stdout
    assert "no source port is left" in " ".join(one.admin.get("/v1/status")["alerts"])
    wait_until(lambda: load.report()["sessions_failed"] == 40, 8)
    server = one.server("db1")
    assert server["state"] == "up" and server["connect_failures_total"] == 0
    assert server["breaker"] == "closed"
    report = load.wait()
    assert report["sessions_ok"] == 10
    assert sum(error["count"] for error in report["errors"]) == 40
    for error in report["errors"]:  # they differ in how long they waited
        assert (error["kind"], error["errno"]) == ("server", 1041)
        assert NO_PORT.fullmatch(error["text"]), error["text"]
    wait_until(lambda: row(one)["in_use"] == 0 and len(one.lines()) == 50, 5)
    ends = [line["end"] for line in one.lines()]
    assert ends.count("no-source/queue") == 40 and ends.count("quit/command") == 10

    again = Load(address, concurrency=10, connections=500).wait()
    assert (again["sessions_ok"], again["errors"]) == (500, [])


def test_waiting_sessions_get_the_ports_that_come_free(run_portside):
    """40 clients, 10 ports, 100 ms each: all are served, in turn, none fails."""
    sink = Sink()
    one = run_portside(config(sink.address, "22010-22019"))
    (address,) = one.service("a")["listen"]
    report = Load(address, concurrency=40, connections=160, hold_ms=100).wait()
    assert (report["sessions_ok"], report["errors"]) == (160, [])
    assert report["seconds"] < 6, "16 rounds of 100 ms"


def test_a_port_that_a_check_gives_back_is_a_sessions(run_portside):
    """One port and no reserve: checks and sessions take turns, and nobody waits for a timer."""
    sink = Sink()
    one = run_portside(config(sink.address, "22025-22025", "[check]\ninterval = '20ms'"))
    (address,) = one.service("a")["listen"]
    report = Load(address, concurrency=1, connections=1000, timeout_ms=8_000).wait()
    assert (report["sessions_ok"], report["errors"]) == (1000, [])
    # Some ms for a check's turn. One SYN in tens of thousands is lost even here: a second more.
    assert report["p99_us"] < 200_000 and report["max_us"] < 1_900_000, report
    assert one.events("server_down") == []


def test_exhaustion_is_one_event_a_second_at_most(run_portside):
    sink = Sink()
    one = run_portside(config(sink.address, "22020-22021"))
    (address,) = one.service("a")["listen"]
    held = Load(address, concurrency=2, connections=2, hold_ms=60_000)
    wait_until(lambda: held.report()["sessions_open"] == 2, 5)
    crowd = Load(address, concurrency=200, rate=400, timeout_ms=8_000)
    began = time.monotonic()
    settle(4.0)
    events = one.events("ports_exhausted")
    assert 1 <= len(events) <= time.monotonic() - began
    assert "no source port towards" in events[0]["message"]
    assert "(2 of 2 busy)" in events[0]["message"]
    cpu_s = one.cpu_s()
    settle(1.0)
    assert one.cpu_s() - cpu_s < 0.9, "it spins"
    crowd.finish()
    held.finish()


def test_time_wait_that_becomes_due_is_found_by_whoever_is_first(run_portside):
    """Ports that another program holds for 3 s are used as soon as they are due again."""
    sink = Sink()
    one = run_portside(config(sink.address, "22030-22031", "").replace('"2s"', '"12s"'))
    (address,) = one.service("a")["listen"]
    foreign = [socket.create_server(("127.0.0.4", port)) for port in (22030, 22031)]
    load = Load(address, concurrency=4, connections=4, timeout_ms=14_000)
    wait_until(lambda: row(one)["blocked"] == 2, 5)
    for each in foreign:
        each.close()
    report = load.wait(15)
    assert (report["sessions_ok"], report["errors"]) == (4, [])
    assert row(one)["wasted_probes"] >= 2


def test_beyond_sixty_four_ports_of_others_the_search_goes_on(run_portside):
    """295 of 300 ports are another program's: an attempt has 64 tries, a session many attempts."""
    sink = Sink()
    one = run_portside(config(sink.address, "22200-22499", "[check]\ninterval = '1h'"))
    (address,) = one.service("a")["listen"]
    free = range(22490, 22495)
    foreign = [
        socket.create_server(("127.0.0.4", port))
        for port in range(22200, 22500)
        if port not in free
    ]
    report = Load(address, concurrency=1, connections=20, timeout_ms=8_000).wait()
    assert (report["sessions_ok"], report["errors"]) == (20, [])
    assert report["max_us"] < 1_000_000, "nobody waits for the two seconds of a blocked port"
    assert one.events("ports_exhausted") == []
    for each in foreign:
        each.close()


# ---- checks


LOGIN_CHECK = f"""[check]
user = "{MONITOR_USER}"
password = "{MONITOR_PASSWORD}"
interval = "100ms"
fall = 1
"""


@pytest.fixture
def database(trio) -> str:
    return f"{trio.primary.address}:{trio.primary.port}"


def test_checks_live_on_their_reserve(database, run_portside):
    """Every port for sessions is in use: login checks go on from the other half."""
    text = config(database, "22040-22059", LOGIN_CHECK, reserve=10)
    one = run_portside(text)
    (address,) = one.service("a")["listen"]
    load = Load(
        address,
        concurrency=10,
        connections=10,
        hold_ms=60_000,
        user=MONITOR_USER,
        password=MONITOR_PASSWORD,
        queries=["SELECT 1"],
    )
    wait_until(lambda: load.report()["sessions_open"] == 10, 10)
    assert row(one)["in_use"] >= 10 and row(one)["free"] + row(one)["resting"] == 0
    began = one.server("db1")["since_s"]
    settle(3.0)
    server = one.server("db1")
    assert (server["state"], server["check"]) == ("up", "L7OK")
    assert server["since_s"] >= began + 3 and one.events("server_down") == []
    load.finish()


def test_a_thousand_login_checks_with_the_traffic_rings_exhausted(database):
    """None fails, none leaves a TIME_WAIT or a lease behind, none takes a session's port."""
    text = config(database, "22064-22083", LOGIN_CHECK, reserve=10)
    with Balancer(text.replace('sessions = "all"', 'sessions = "errors"')) as balancer:
        balancer.wait_ready()
        target = target_of(balancer.config.servers[0])
        assert target is not None and target.leases_ports
        load = Load(
            "{}:{}".format(*balancer.address("a")),
            concurrency=10,
            connections=10,
            hold_ms=60_000,
            user=MONITOR_USER,
            password=MONITOR_PASSWORD,
            queries=["SELECT 1"],
        )
        wait_until(lambda: load.report()["sessions_open"] == 10, 10)
        assert balancer._host is not None
        plane = balancer._host.instance.plane

        async def check_all() -> Counter[str]:
            prober = Prober(ports=plane)
            gate = asyncio.Semaphore(4)

            async def check() -> str:
                async with gate:
                    result = await prober.check(target)
                    assert {one.source for one in result.destinations} == {"127.0.0.4"}
                    return str(result.status)

            try:
                return Counter(await asyncio.gather(*(check() for _ in range(1000))))
            finally:
                await prober.close()

        assert asyncio.run(check_all()) == {"L7OK": 1000}
        (seen,) = balancer.ports()
        assert (seen.in_use - 10, seen.free + seen.resting) in {(0, 0), (1, 0)}, seen
        assert (seen.wasted_probes, seen.time_wait, seen.blocked) == (0, 0, 0)
        assert balancer.servers()[0].state == "up"
        kinds = {event.kind for event in balancer.events()}
        assert not kinds & {"server_down", "ports_exhausted"}, kinds
        load.finish()


def test_without_a_reserve_a_check_says_so_and_the_verdict_stays(database, run_portside):
    one = run_portside(config(database, "22060-22063", LOGIN_CHECK, reserve=0))
    (address,) = one.service("a")["listen"]
    load = Load(
        address,
        concurrency=4,
        connections=4,
        hold_ms=60_000,
        user=MONITOR_USER,
        password=MONITOR_PASSWORD,
        queries=["SELECT 1"],
        timeout_ms=20_000,
    )
    wait_until(lambda: one.server("db1")["check"] == "SOCKERR", 15)
    server = one.server("db1")
    assert server["state"] == "up", server
    assert "no source port towards" in server["reason"] and "not the database" in server["reason"]
    assert one.events("server_down") == []
    assert one.service("a")["state"] == "open", "sessions may still wait for a port"
    assert "SOCKERR" in one.cli("show", "servers").stdout
    load.finish()
    wait_until(lambda: one.server("db1")["check"] == "L7OK", 5)


def test_no_source_when_our_address_is_gone_and_it_comes_back(run_portside, namespace):
    """Checks find the address gone, other servers would be used; and find it back, without load."""
    namespace.ip("addr", "add", "10.77.0.1/32", "dev", "lo")
    namespace.ip("addr", "add", "10.77.0.5/32", "dev", "lo")
    sink = namespace.inside(lambda: Sink(listen=["10.77.0.1:3306"]))
    text = config(sink.address, "22090-22099", "[check]\ninterval = '100ms'", reserve=4)
    one = run_portside(text.replace("127.0.0.4", "10.77.0.5"), prefix=namespace.prefix)
    wait_until(lambda: one.server("db1")["check"] == "L4OK", 5)
    namespace.ip("addr", "del", "10.77.0.5/32", "dev", "lo")
    wait_until(lambda: one.server("db1")["check"] == "NO_SOURCE", 5)
    assert one.server("db1")["state"] == "up" and one.events("server_down") == []
    assert "10.77.0.5 is not on this host" in one.events("source_suspended")[0]["message"]
    wait_until(lambda: row(one)["blocked"] >= 4, 5)
    namespace.ip("addr", "add", "10.77.0.5/32", "dev", "lo")
    wait_until(lambda: one.server("db1")["check"] == "L4OK", 5)


def test_two_servers_at_one_address_keep_their_own_source_addresses(run_portside):
    """As a write and a read listen of HAProxy with different `source` lines; reloads too."""
    sink = Sink()
    text = f"""
[log]
sessions = "all"
[[server]]
name = "w"
address = "{sink.address}"
check = false
source = {{ addresses = ["127.0.0.11", "127.0.0.12"], ports = "24000-24099" }}
[[server]]
name = "r"
address = "{sink.address}"
check = false
source = {{ addresses = ["127.0.0.12", "127.0.0.13"], ports = "24000-24099" }}
[[service]]
name = "write"
listen = "127.0.0.1:0"
servers = ["w"]
[[service]]
name = "read"
listen = "127.0.0.1:0"
servers = ["r"]
"""
    one = run_portside(text)
    for round_ in range(2):
        for service in ("write", "read"):
            (address,) = one.service(service)["listen"]
            report = Load(address, concurrency=4, connections=200).wait()
            assert (report["sessions_ok"], report["errors"]) == (200, [])
        wait_until(lambda done=400 * (round_ + 1): len(one.lines()) == done, 5)
        found = {(line["service"], line["source"].partition(":")[0]) for line in one.lines()}
        assert found == {
            ("write", "127.0.0.11"),
            ("write", "127.0.0.12"),
            ("read", "127.0.0.12"),
            ("read", "127.0.0.13"),
        }
        one.write(text + f"# round {round_}\n")
        assert one.reload()["ok"]
    # A tuple of the other's is met in passing, and costs nobody a session.
    assert sum(port["wasted_probes"] for port in one.admin.get("/v1/ports")) < 50
