"""A start into a table full of our own TIME_WAIT, with and without TCP timestamps."""

from __future__ import annotations

import socket
import subprocess

import pytest
from portside.health.target import join_address
from portside.ports import timewait

from tests.support.instance import Instance
from tests.support.lab import Load, Sink
from tests.support.namespace import Namespace
from tests.support.waiting import wait_until

SESSIONS = 12


def config(address: str, source: str = "127.0.0.5") -> str:
    """We close first: each session leaves a TIME_WAIT on our side."""
    return f"""
[portside]
workers = 1
[log]
sessions = "errors"
[source]
addresses = ["{source}"]
ports = "23000-23019"
reserve = 0
[close]
to_server = "fin"
[timeouts]
queue = "1s"
[[server]]
name = "db1"
address = "{address}"
check = false
[[service]]
name = "a"
listen = "127.0.0.1:3400"
servers = ["db1"]
"""


def row(one: Instance) -> dict:
    (found,) = one.admin.get("/v1/ports")
    return found


def total(one: Instance, count: str) -> int:
    return sum(found[count] for found in one.admin.get("/v1/ports"))


def sysctl(namespace, name: str, value: int) -> None:
    command = [*namespace.prefix, "sysctl", "-qw", f"{name}={value}"]
    subprocess.run(command, check=True)


def serve(namespace, run_portside, timestamps: int) -> tuple[Instance, Sink]:
    """A run that left ``SESSIONS`` TIME_WAITs, and the next one after it."""
    sysctl(namespace, "net.ipv4.tcp_timestamps", timestamps)
    sink = namespace.inside(lambda: Sink(close="wait"))
    one = run_portside(config(sink.address), prefix=namespace.prefix)
    report = load(namespace, SESSIONS)
    assert (report["sessions_ok"], report["errors"]) == (SESSIONS, [])
    wait_until(lambda: row(one)["in_use"] == 0, 5)
    one.stop()
    held = namespace.inside(lambda: timewait.held([sink.address]))
    assert len(held) == SESSIONS
    assert {each["source"] for each in held} == {"127.0.0.5"}
    assert all(23000 <= each["port"] <= 23019 for each in held)
    assert all(50_000 < each["left_ms"] <= 61_000 for each in held)
    one.start()
    return one, sink


def load(namespace, connections: int) -> dict:
    made = namespace.inside(
        lambda: Load("127.0.0.1:3400", concurrency=1, connections=connections, timeout_ms=5_000)
    )
    return made.wait()


def test_without_timestamps_the_ledger_is_seeded(namespace, run_portside):
    one, _sink = serve(namespace, run_portside, timestamps=0)
    seen = row(one)
    assert (seen["time_wait"], seen["free"], seen["size"]) == (SESSIONS, 20 - SESSIONS, 20)
    assert f"{SESSIONS} source ports are still in TIME_WAIT" in one.messages()
    report = load(namespace, 20 - SESSIONS)
    assert (report["sessions_ok"], report["errors"]) == (20 - SESSIONS, [])
    seen = row(one)
    assert (seen["wasted_probes"], seen["peer_timestamps"]) == (0, False)
    assert (seen["time_wait"], seen["exhausted_in_s"]) == (20, 0.0)
    text = one.cli("show", "ports").stdout
    assert "no source port is left, of 20" in text and "has no timestamps" in text
    report = load(namespace, 1)
    assert report["errors"][0]["errno"] == 1041, "not before they are due"


@pytest.mark.parametrize("timestamps", [0, 1])
def test_a_server_without_timestamps_is_seeded_by_its_first_check(
    namespace, run_portside, timestamps
):
    """Our own sysctl says nothing of the other end, which the kernel asks just as well."""
    sources = [f"10.213.77.{host}" for host in range(1, 9)]
    with Namespace() as far:
        peer = ("type", "veth", "peer", "name", "far", "netns", far.name)
        namespace.ip("link", "add", "near", *peer)
        for host in sources:
            namespace.ip("addr", "add", f"{host}/24", "dev", "near")
        namespace.ip("link", "set", "near", "up")
        far.ip("addr", "add", "10.213.77.9/24", "dev", "far")
        far.ip("link", "set", "far", "up")
        sysctl(far, "net.ipv4.tcp_timestamps", timestamps)
        sink = far.inside(lambda: Sink(close="wait", listen=["10.213.77.9:3306"]))
        text = config(sink.address, '", "'.join(sources)).replace("check = false", "")
        one = run_portside(text.replace("reserve = 0", "reserve = 1"), prefix=namespace.prefix)
        assert load(namespace, 80)["sessions_ok"] == 80
        wait_until(lambda: total(one, "in_use") == 0, 5)
        one.stop()
        one.start()
        if timestamps:
            assert total(one, "time_wait") == 0
            assert load(namespace, 150)["sessions_ok"] == 150
            assert "still in TIME_WAIT" not in one.messages()
        else:
            assert "80 source ports are still in TIME_WAIT" in one.messages()
            assert total(one, "time_wait") == 80
            report = load(namespace, 60)
            assert (report["sessions_ok"], report["errors"]) == (60, [])
        assert total(one, "wasted_probes") == 0


def test_with_timestamps_every_port_works_at_once(namespace, run_portside):
    one, _sink = serve(namespace, run_portside, timestamps=1)
    assert row(one)["time_wait"] == 0 and row(one)["free"] == 20
    report = load(namespace, 60)
    assert (report["sessions_ok"], report["errors"]) == (60, [])
    seen = row(one)
    assert (seen["wasted_probes"], seen["peer_timestamps"]) == (0, True)


def closed_first(host: str, count: int) -> tuple[socket.socket, str]:
    """A listener and its address, with ``count`` connections that the client closed first."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    for _ in range(count):
        client = socket.create_connection(listener.getsockname()[:2])
        accepted, _ = listener.accept()
        client.close()
        accepted.close()
    return listener, join_address(host, listener.getsockname()[1])


def test_the_dump_knows_ipv6_and_only_what_was_asked(namespace):
    def make() -> None:
        six, address = closed_first("::1", 3)
        four, other = closed_first("127.0.0.1", 2)
        held = timewait.held([address, "unix:/run/x.sock"])
        assert len(held) == 3 and {each["destination"] for each in held} == {address}
        assert {each["source"] for each in held} == {"::1"}
        assert len(timewait.held([address, other])) == 5
        assert timewait.held(["[::1]:1", "127.0.0.1:3306"]) == []
        assert timewait.held([]) == []
        six.close()
        four.close()

    namespace.inside(make)


def test_a_half_closed_connection_that_was_left_counts_too(namespace):
    def make() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = join_address(*listener.getsockname())
            client = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
            assert timewait.held([address]) == []
            client.close()
            wait_until(lambda: len(timewait.held([address])) == 1, 5)
            accepted.close()

    namespace.inside(make)


@pytest.mark.parametrize(("text", "on"), [("0\n", False), ("1\n", True), ("2\n", True)])
def test_timestamps_of_this_host(tmp_path, monkeypatch, text, on):
    path = tmp_path / "tcp_timestamps"
    path.write_text(text)
    monkeypatch.setattr(timewait, "TIMESTAMPS", path)
    assert timewait.timestamps_are_on() is on
    path.unlink()
    assert timewait.timestamps_are_on() is True
