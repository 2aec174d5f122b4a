"""Limits of the host and of the configuration: descriptors, sessions, who may come."""

from __future__ import annotations

import resource

import pytest

from tests.support.instance import Instance, settle
from tests.support.lab import Load, Sink
from tests.support.raw_client import QUIT, RawClient, query
from tests.support.waiting import wait_until


def config(sink: Sink, service: str = "", head: str = "workers = 1") -> str:
    return f"""
[portside]
{head}
[check]
interval = "200ms"
fast_interval = "100ms"
fall = 2
[[server]]
name = "db1"
address = "{sink.address}"
[[service]]
name = "a"
listen = "127.0.0.1:0"
servers = ["db1"]
{service}
"""


def address(one: Instance) -> tuple[str, int]:
    host, _, port = one.service("a")["listen"][0].rpartition(":")
    return host, int(port)


def client(one: Instance, source: str | None = None) -> RawClient:
    made = RawClient(address(one), source=source)
    made.login()
    return made


def ask(one: RawClient) -> None:
    one.send(query("SELECT 1"))
    assert one.rows() == [b"\x011"]


def soft_limit(pid: int, files: int) -> None:
    """Changes RLIMIT_NOFILE of a running process."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, hard))


def test_a_configuration_that_cannot_fit_is_refused_with_the_arithmetic(run_portside):
    one = run_portside(
        config(Sink(), "max_connections = 500", "workers = 2"),
        start=False,
        prefix=["prlimit", "--nofile=400:400"],
    )
    one.launch()
    assert one.wait() == 1
    # 500 sessions, one listener for each of two workers, a check and its successor, and the rest.
    assert (
        "the configuration does not fit: 500 sessions x 2 + 2 listening sockets (1 x 2 workers)"
        " + 2 for checks + 144 = 1,148 open files, but the limit is 400, enough for 126 sessions;"
        " raise it (LimitNOFILE= or ulimit -Hn) to 1,148, or lower max_connections"
    ) in one.messages()
    one.write(config(Sink(), "max_connections = 126", "workers = 2"))
    one.start()
    assert one.admin.get("/v1/status")["max_sessions"] == 126


def test_without_descriptors_accepting_pauses_and_goes_on(run_portside):
    sink = Sink()
    one = run_portside(config(sink))
    where = address(one)
    running = [client(one) for _ in range(5)]
    before = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
    soft_limit(one.pid, one.open_files() + 3)
    waiting = Load(f"{where[0]}:{where[1]}", connections=60, concurrency=60, timeout_ms=30_000)
    wait_until(lambda: "accepting pauses" in one.messages(), 10)
    began = one.cpu_s()
    for _ in range(10):
        for each in running:
            ask(each)
        settle(0.2)
    spent = one.cpu_s() - began
    assert spent < 0.6, f"{spent:.2f} s of CPU in 2 s without descriptors: it spins"
    resource.prlimit(one.pid, resource.RLIMIT_NOFILE, before)
    done = waiting.wait()
    # A client whose own descriptor was the last one is told that it is not the database.
    for error in done["errors"]:
        assert error["kind"] == "server" and "Too many open files" in error["text"], error
    assert done["sessions_ok"] >= 40, done
    wait_until(lambda: one.events("accept_resumed"), 5)
    assert len(one.events("accept_paused")) <= 2
    for each in running:
        ask(each)
        each.send(QUIT)
        each.close()
    assert one.server("db1")["state"] == "up"
    assert one.server("db1")["breaker"] == "closed"
    assert not one.events("server_down") and not one.events("breaker_open")
    wait_until(lambda: one.sessions_now() == 0)
    assert one.stats()["servers"][0]["sessions"] == 0


def test_max_sessions_lets_clients_wait_in_the_kernel(run_portside):
    sink = Sink()
    one = run_portside(config(sink, head="workers = 2\nmax_sessions = 5"))
    inside = [client(one) for _ in range(5)]
    with RawClient(address(one), timeout_s=0.5) as waiting:
        with pytest.raises(TimeoutError):
            waiting.packet()
        assert one.sessions_now() == 5
        began = one.cpu_s()
        settle(1.0)
        assert one.cpu_s() - began < 0.3
        inside[0].send(QUIT)
        inside[0].close()
        waiting.socket.settimeout(10)
        waiting.login()
        ask(waiting)
        waiting.send(QUIT)
    wait_until(lambda: one.events("accept_paused") and one.events("accept_resumed"))
    for each in inside[1:]:
        ask(each)
        each.close()


def test_who_may_come(run_portside):
    """deny wins over allow; everybody else outside allow is refused as well."""
    rules = 'allow = ["127.0.0.0/28", "127.0.1.0/24"]\ndeny = ["127.0.0.7", "127.0.1.128/25"]'
    sink = Sink()
    one = run_portside(config(sink, rules))
    for source in ("127.0.0.1", "127.0.0.15", "127.0.1.127"):
        with client(one, source) as allowed:
            ask(allowed)
            allowed.send(QUIT)
    before = sink.report()["accepted"]
    for source in ("127.0.0.7", "127.0.0.16", "127.0.1.128", "127.0.2.1"):
        with RawClient(address(one), source=source) as refused:
            number, text = refused.error()
            assert refused.at_eof()
        assert number == 1130, text
        assert "service a" in text and source in text, text
    assert sink.report()["accepted"] - before <= 20, "checks only: no session reached the server"
    wait_until(lambda: len(one.lines()) == 7)
    denied = [line for line in one.lines() if line["end"] == "denied/accept"]
    assert {line["client"].rpartition(":")[0] for line in denied} == {
        "127.0.0.7",
        "127.0.0.16",
        "127.0.1.128",
        "127.0.2.1",
    }
    assert all(line["server"] == "" for line in denied)
    # A reload changes it for new clients.
    one.write(config(sink, 'deny = ["127.0.0.1"]'))
    assert one.reload()["ok"]
    with client(one, "127.0.0.7") as allowed:
        ask(allowed)


def test_connections_per_client(run_portside):
    sink = Sink()
    one = run_portside(config(sink, "max_connections_per_client = 2", "workers = 2"))
    first, second = client(one, "127.0.0.5"), client(one, "127.0.0.5")
    with client(one, "127.0.0.6") as other:
        ask(other)
    for _ in range(3):
        with RawClient(address(one), source="127.0.0.5") as third:
            number, text = third.error()
        assert "127.0.0.5" in text and "max_connections_per_client" in text, (number, text)
    ask(first)
    first.send(QUIT)
    first.close()
    wait_until(lambda: one.sessions_now() == 1)
    with client(one, "127.0.0.5") as again:
        ask(again)
    second.close()
    # Exact over both workers, however many come at a time.
    many = [RawClient(address(one), source="127.0.0.9") for _ in range(40)]
    greeted = sum(each.packet()[0] == 10 for each in many)
    assert greeted == 2
    for each in many:
        each.close()


@pytest.mark.netns
def test_a_source_address_that_vanishes_and_returns(run_portside, namespace):
    for ip in ("10.77.0.1", "10.77.0.5", "10.77.0.6"):
        namespace.ip("addr", "add", f"{ip}/32", "dev", "lo")
    sink = namespace.inside(lambda: Sink(listen=["10.77.0.1:3306"]))
    text = config(sink).replace("127.0.0.1:0", "127.0.0.1:30010")
    one = run_portside(
        text + '[source]\naddresses = ["10.77.0.5", "10.77.0.6"]\n', prefix=namespace.prefix
    )

    def sources(connections: int = 200) -> dict[str, int]:
        """How many sessions went over each address; none may fail."""
        seen = len(one.lines())
        load = namespace.inside(lambda: Load("127.0.0.1:30010", connections=connections))
        done = load.wait()
        assert done["sessions_failed"] == 0, done["errors"]
        wait_until(lambda: len(one.lines()) == seen + connections)
        found: dict[str, int] = {}
        for line in one.lines()[seen:]:
            ip = line["source"].rpartition(":")[0]
            found[ip] = found.get(ip, 0) + 1
        return found

    assert sources() == {"10.77.0.5": 100, "10.77.0.6": 100}
    namespace.ip("addr", "del", "10.77.0.5/32", "dev", "lo")
    assert sources() == {"10.77.0.6": 200}
    wait_until(lambda: one.events("source_suspended"), 5)
    (told,) = one.events("source_suspended")
    assert "10.77.0.5" in told["message"]
    settle(1.5)  # several checks, of which each must take the other address
    assert one.server("db1")["state"] == "up"
    assert not one.events("server_down")
    namespace.ip("addr", "add", "10.77.0.5/32", "dev", "lo")

    def is_back() -> bool:
        return sources(20).get("10.77.0.5", 0) > 0

    wait_until(is_back, 5)
    wait_until(lambda: one.events("source_back"), 5)


@pytest.mark.netns
def test_without_any_source_address_clients_are_told_that_it_is_not_the_database(
    run_portside, namespace
):
    ours = ("10.77.0.5", "10.77.0.6")
    for ip in ("10.77.0.1", *ours):
        namespace.ip("addr", "add", f"{ip}/32", "dev", "lo")
    sink = namespace.inside(lambda: Sink(listen=["10.77.0.1:3306"]))
    text = config(sink).replace("127.0.0.1:0", "127.0.0.1:30010")
    one = run_portside(
        text + '[source]\naddresses = ["10.77.0.5", "10.77.0.6"]\n', prefix=namespace.prefix
    )
    for ip in ours:
        namespace.ip("addr", "del", f"{ip}/32", "dev", "lo")
    load = namespace.inside(lambda: Load("127.0.0.1:30010", connections=4, timeout_ms=9000))
    errors = load.wait()["errors"]
    assert errors and {error["kind"] for error in errors} == {"server"}, errors
    assert all("not the database" in error["text"].lower() for error in errors), errors
    wait_until(lambda: one.server("db1")["check"] == "NO_SOURCE", 5)
    assert one.server("db1")["is_up"] is True and not one.events("server_down")
    for ip in ours:
        namespace.ip("addr", "add", f"{ip}/32", "dev", "lo")
    wait_until(lambda: one.service("a")["members"][0]["eligible"], 5)
    settle(1.1)  # an address that is gone is left alone for 1 s
    done = namespace.inside(lambda: Load("127.0.0.1:30010", connections=100)).wait()
    assert done["sessions_ok"] == 100, done["errors"]
