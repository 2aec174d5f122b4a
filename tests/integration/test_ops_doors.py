"""The doors of an instance (metrics, admin API) against crowds that connect and say nothing."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
from collections.abc import Callable, Iterator

import pytest
from portside.admin.client import AdminClient
from portside.demo.held_port import HeldPort

from tests.support.instance import Instance
from tests.support.lab import Load, Sink
from tests.support.waiting import wait_until

TOKEN = "correct-horse-battery"
FILES = 1024
CONFIG = """
[portside]
workers = 1
[admin]
listen = "{admin}"
token = "{token}"
[metrics]
listen = "{metrics}"
[[server]]
name = "db1"
address = "{server}"
[[service]]
name = "a"
listen = "127.0.0.1:0"
servers = ["db1"]
"""


class Doors:
    """An instance that may have 1,024 descriptors, and where its doors are."""

    def __init__(self, run_portside: Callable[..., Instance]) -> None:
        with HeldPort() as admin, HeldPort() as metrics:
            self.metrics, self.admin = ("127.0.0.1", metrics.port), ("127.0.0.1", admin.port)
        self.sink = Sink()
        text = CONFIG.format(
            admin="{}:{}".format(*self.admin),
            metrics="{}:{}".format(*self.metrics),
            token=TOKEN,
            server=self.sink.address,
        )
        self.one = run_portside(text, prefix=["prlimit", f"--nofile={FILES}:{FILES}"])

    def connect(self, door: str) -> socket.socket:
        """A connection that says nothing."""
        made = socket.socket(socket.AF_UNIX if door == "unix" else socket.AF_INET)
        # Blocking: a unix socket whose queue is full does not let others wait.
        made.connect(str(self.one.socket) if door == "unix" else getattr(self, door))
        made.settimeout(10)
        return made

    def healthz(self, door: str) -> int:
        """The answer of ``/healthz``, asked as keepalived's script does."""
        asked = http.client.HTTPConnection("localhost", timeout=10)
        asked.sock = self.connect(door)
        token = {"Authorization": f"Bearer {TOKEN}"} if door == "admin" else {}
        try:
            asked.request("GET", "/healthz", headers=token)
            return asked.getresponse().status
        finally:
            asked.close()


@pytest.fixture
def doors(run_portside: Callable[..., Instance]) -> Doors:
    return Doors(run_portside)


@contextlib.contextmanager
def crowd(doors: Doors, door: str, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(doors.connect(door)) for _ in range(count)]


def is_closed(each: socket.socket) -> bool:
    each.setblocking(False)
    try:
        return each.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("door", ["metrics", "admin", "unix"])
def test_a_silent_crowd_takes_nothing_from_anybody(doors: Doors, door: str) -> None:
    one = doors.one
    before, cpu = one.open_files(), one.cpu_s()
    with crowd(doors, door, 1500) as silent:
        for _ in range(20):
            assert doors.healthz(door) == 200
        assert one.open_files() < before + 120, "the door holds more than its share"
        (address,) = one.service("a")["listen"]
        done = Load(address, connections=200, concurrency=50).wait()
        assert (done["sessions_ok"], done["sessions_failed"]) == (200, 0), done["errors"]
        wait_until(lambda: all(map(is_closed, silent)), 20, "silence is not ended")
    wait_until(lambda: one.open_files() <= before + 5, 10)
    assert one.cpu_s() - cpu < 8.0
    assert len(one.messages()) < 5000, one.messages()[:2000]
    assert one.messages().count("too many connections; for each") == 1
    assert "Traceback" not in one.messages()


def test_a_request_that_comes_in_crumbs_is_not_waited_for(doors: Doors) -> None:
    header, body = doors.connect("metrics"), doors.connect("unix")
    header.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
    body.sendall(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    with header, body:
        wait_until(lambda: is_closed(header), 20, "half a header is waited for")
        body.settimeout(20)
        answer = b""
        while b"within 5 s" not in answer:
            more = body.recv(4096)
            assert more, answer
            answer += more
        assert answer.startswith(b"HTTP/1.1 408 "), answer


def test_a_reload_replaces_the_token_also_on_open_connections(doors: Doors) -> None:
    def ask(over: http.client.HTTPConnection, token: str, path: str = "/v1/status") -> int:
        over.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = over.getresponse()
        if "stream" not in path:
            answer.read()
        return answer.status

    kept, stream, new = (http.client.HTTPConnection(*doors.admin, timeout=20) for _ in range(3))
    with contextlib.closing(kept), contextlib.closing(stream), contextlib.closing(new):
        assert ask(kept, TOKEN) == 200
        stream.request("GET", "/v1/events/stream", headers={"Authorization": f"Bearer {TOKEN}"})
        told = stream.getresponse()
        assert told.readline() == b"retry: 2000\n"
        doors.one.path.write_text(doors.one.path.read_text().replace(TOKEN, "another-token"))
        changes = doors.one.reload()["changes"]
        assert changes == ["[admin]: token changed"]
        assert ask(kept, TOKEN) == 401
        assert ask(kept, "another-token") == 200
        assert ask(new, TOKEN) == 401
        assert told.read() == b"\n", "a stream goes on with the old token"


def test_a_crowd_with_every_descriptor_gone_is_told_once_and_ends(doors: Doors) -> None:
    one = doors.one
    before = one.open_files()
    with crowd(doors, "metrics", 10):
        wait_until(lambda: one.open_files() >= before + 10)
        limits = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (one.open_files(), limits[1]))
        cpu = one.cpu_s()
        with crowd(doors, "metrics", 300):
            wait_until(lambda: "new connections wait" in one.messages(), 10)
            # The oldest that says nothing goes: whoever asks is answered.
            assert doors.healthz("metrics") == 200
        assert one.cpu_s() - cpu < 3.0
        resource.prlimit(one.pid, resource.RLIMIT_NOFILE, limits)
    assert one.messages().count("new connections wait") == 1
    assert "Traceback" not in one.messages()
    assert AdminClient(str(one.socket)).get("/v1/status")["sessions"] == 0
