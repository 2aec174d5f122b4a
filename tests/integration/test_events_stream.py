"""The event stream of a running instance: resumed, beaten, read by many who do not read."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import portside
import pytest
from portside.admin import server
from portside.admin.client import AdminClient, Refused
from portside.errors import PortsideError

from tests.support.chaos import Behaviour
from tests.support.instance import Instance
from tests.support.raw_client import QUIT, RawClient, query
from tests.support.waiting import wait_until

TEXT = """
[portside]
workers = 1
[admin]
socket = "{socket}"
[[server]]
name = "db1"
address = "{server}"
{more}
[[service]]
name = "a"
listen = "127.0.0.1:0"
servers = ["db1"]
"""


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "admin.sock"


@pytest.fixture
def balancer(path: Path) -> Iterator[portside.Balancer]:
    """One whose only server is not there and not checked."""
    text = TEXT.format(socket=path, server="127.0.0.1:1", more="check = false")
    with portside.Balancer(text) as made:
        yield made


def say(balancer: portside.Balancer, times: int) -> None:
    """Makes so many events."""
    for number in range(times):
        balancer.set_weight("a", "db1", 1 + number % 200)


def followers(balancer: portside.Balancer) -> int:
    """How many streams are open."""
    return balancer._now(lambda host: host.instance.ring.followers)


def raw_stream(path: Path, header: str = "") -> socket.socket:
    """A reader's connection, its request sent."""
    reader = socket.socket(socket.AF_UNIX)
    reader.settimeout(10)
    reader.connect(str(path))
    reader.sendall(f"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
    return reader


def receive_until(reader: socket.socket, mark: bytes) -> bytes:
    got = b""
    while mark not in got:
        more = reader.recv(65536)
        assert more, got
        got += more
    return got


def test_the_wire_format_and_last_event_id(balancer, path):
    say(balancer, 3)
    first, second, third = balancer.events()
    with raw_stream(path, f"Last-Event-ID: {second.id}\r\n") as reader:
        got = receive_until(reader, b"}\n\n")
    text = got.decode()
    assert "content-type: text/event-stream" in text.lower()
    assert "retry: 2000\n\n" in text
    assert f"id: {third.id}\nevent: admin_weight\ndata: {{" in text
    assert f"id: {second.id}\n" not in text
    data = json.loads(text.partition("data: ")[2].partition("\n")[0])
    assert data["message"] == third.message and data["server"] == "db1"
    assert first.id > time.time() * 1000 - 600_000, "ids go on over a restart"


def test_a_reader_resumes_where_it_was(balancer, path):
    client = AdminClient(str(path))
    say(balancer, 2)
    stream = client.stream_events(after=0)
    one, two = next(stream), next(stream)
    stream.close()
    say(balancer, 2)
    again = client.stream_events(after=two["id"])
    three, four = next(again), next(again)
    again.close()
    assert [one["id"], two["id"], three["id"], four["id"]] == [e.id for e in balancer.events()]


def test_the_end_of_the_instance_ends_the_stream(path):
    text = TEXT.format(socket=path, server="127.0.0.1:1", more="check = false")
    heard: list[str] = []
    with portside.Balancer(text) as made:
        say(made, 1)
        stream = AdminClient(str(path)).stream_events(after=0)
        thread = threading.Thread(target=lambda: heard.extend(e["kind"] for e in stream))
        thread.start()
        wait_until(lambda: heard)
    thread.join(10)
    assert not thread.is_alive() and heard == ["admin_weight"]


@pytest.mark.parametrize("told", ["-1", "x", "9" * 17, "٣", "9" * 5000])
def test_a_wrong_id_is_refused(balancer, path, told):
    with pytest.raises(Refused, match="must be a whole number from 0 to 9007199254740992"):
        AdminClient(str(path)).get("/v1/events/stream", after=told)


def test_silence_is_broken_by_comments_and_a_reader_that_is_gone_is_noticed(
    balancer, path, monkeypatch
):
    monkeypatch.setattr(server, "BEAT_S", 0.05)
    with raw_stream(path) as reader:
        got = receive_until(reader, b": still here\n\n")
        assert b"data: " not in got
        wait_until(lambda: followers(balancer) == 1)
    wait_until(lambda: followers(balancer) == 0)


def test_readers_that_do_not_read_cost_nothing(balancer, path, monkeypatch):
    monkeypatch.setattr(server, "MAX_STREAMS", 40)
    readers = [raw_stream(path) for _ in range(40)]
    wait_until(lambda: followers(balancer) == 40)
    with pytest.raises(Refused, match=r"40 readers follow the events already\. Ask /v1/events"):
        AdminClient(str(path)).get("/v1/events/stream")
    before = resident_bytes()
    say(balancer, 3000)  # 600 KiB for each of them: more than a socket holds
    began = time.monotonic()
    AdminClient(str(path)).get("/v1/status")
    assert time.monotonic() - began < 5.0
    # What each may hold is a socket's buffer and uvicorn's 64 KiB, whatever it does not read.
    assert resident_bytes() - before < 40 * 200 * 1024
    # The first of them wakes up, and hears what it has missed.
    text = b""
    while b"events_missed" not in text:
        text += readers[0].recv(65536)
    for reader in readers:
        reader.close()
    say(balancer, 1)
    wait_until(lambda: followers(balancer) == 0, 15)


def test_idle_connections_do_not_keep_commands_out(balancer, path):
    """More than the door takes; streams that are read stay, silent connections make room."""
    with raw_stream(path) as reader:
        receive_until(reader, b"retry:")
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(260)]
        try:
            for each in crowd:
                each.connect(str(path))
            assert AdminClient(str(path)).get("/v1/status")["sessions"] == 0
        finally:
            for each in crowd:
                each.close()
        say(balancer, 1)
        receive_until(reader, b"admin_weight")


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def instance_of(run_portside: Callable[..., Instance], server: str, more: str) -> Instance:
    text = TEXT.replace('[admin]\nsocket = "{socket}"\n', "").format(server=server, more=more)
    return run_portside(text)


def test_late_closes_are_one_event_with_their_number(run_portside, chaos):
    """In the log, in ``show events``, in the stream and in the metric's source: the same."""
    chaos.behave(Behaviour.IGNORE_QUIT)
    more = 'check = false\nclose = { deadline = "50ms" }'
    one = instance_of(run_portside, chaos.address, more)
    host, _, port = one.service("a")["listen"][0].rpartition(":")
    for _ in range(20):
        with RawClient((host, int(port))) as client:
            client.login()
            client.send(query("SELECT 1"))
            client.rows()
            client.send(QUIT)
    wait_until(lambda: one.server("db1")["close_deadlines_total"] == 20)
    wait_until(lambda: one.events("close_deadlines"))
    (told,) = one.events("close_deadlines")
    assert told["server"] == "db1" and "went without its FIN" in told["message"]
    assert told["message"] in one.messages()
    assert told["message"] in one.cli("show", "events").stdout
    assert next(one.admin.stream_events(after=told["id"] - 1)) == told


def test_what_a_server_says_cannot_reach_a_terminal_or_forge_a_line(run_portside, chaos):
    """By a check, by a session, and in every place where it is shown."""
    evil = "no \x1b[2J\x1b]0;owned\x07 \r\n2026-01-01T00:00:00.000Z error   forged\u202e"
    chaos.behave(Behaviour.ERR, (1129, evil))
    for more in ('check = { type = "mysql", interval = "100ms" }', "check = false"):
        one = instance_of(run_portside, chaos.address, more)
        host, _, port = one.service("a")["listen"][0].rpartition(":")
        with RawClient((host, int(port))) as client:
            client.error()
        wait_until(lambda one=one: one.events())
        said = one.messages() + "".join(
            one.cli(*command).stdout
            for command in (
                ("show",),
                ("show", "servers"),
                ("show", "events"),
                ("top", "-d", "200ms"),
            )
        )
        assert "owned" in said
        assert all(each.isprintable() or each == "\n" for each in said)
        assert not any(line.lstrip().startswith("2026-01-01") for line in said.splitlines())


def test_show_events_follows_until_the_instance_ends(run_portside, chaos):
    one = instance_of(run_portside, chaos.address, "check = false")
    one.cli("drain", "db1")
    with (one.folder / "heard").open("wb") as heard:
        following = subprocess.Popen(
            [sys.executable, "-m", "portside", "show", "events", "-f", "--json", "-a", one.socket],
            stdout=heard,
            stderr=subprocess.PIPE,
        )

    def kinds() -> list[str]:
        return [event["kind"] for event in one.lines("heard")]

    wait_until(lambda: kinds() == ["admin_drain"], 15)
    one.cli("ready", "db1")
    wait_until(lambda: kinds() == ["admin_drain", "admin_ready"])
    one.stop()
    _, said = following.communicate(timeout=15)
    assert following.returncode == 1
    assert f"the instance at {one.socket} has ended, and with it its events." in said.decode()


def test_follow_belongs_to_events(run_portside, chaos):
    one = run_portside("", start=False)
    said = one.cli("show", "servers", "--follow")
    assert said.returncode == 2
    assert "--follow belongs to: portside show events --follow" in said.stderr


def test_no_instance(folder):
    with pytest.raises(PortsideError, match="no running instance at"):
        next(AdminClient(str(folder / "none.sock")).stream_events())
