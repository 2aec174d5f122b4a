"""HAProxy and the imported Portside on the same files: shares, backups and source addresses agree.

Each file of tests/data/haproxy is taken by the real ``haproxy -c``, imported, passes ``portside
check``, and both balancers run on it, one after the other, before the same servers. Where both
listen is in the files' variables, so that the files themselves stay as an administrator has them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from portside.cli import run_command
from portside.demo.held_port import free_port

from tests.support.haproxy import HAProxy
from tests.support.instance import Instance
from tests.support.lab import Load
from tests.support.raw_client import LOGIN, QUIT, query
from tests.support.seen_servers import SeenServers, seen_servers
from tests.support.waiting import wait_until

FILES = Path(__file__).parents[1] / "data" / "haproxy"
pytestmark = pytest.mark.haproxy

Seen = list[dict[str, int]]
"""For each server: sessions by the address they came from."""


@dataclass(frozen=True)
class Case:
    """What is done with one file.

    Attributes:
        fronts: variables of the ports that are loaded, one after the other.
        off_by: how far a server's share may differ between the two; smooth weights are exact, each
            of Portside's two workers by itself.
        concurrency: sessions at a time.
        down: the server that dies and comes back in the middle.
    """

    name: str
    fronts: tuple[str, ...] = ("PORT1",)
    off_by: float = 0.02
    concurrency: int = 8
    down: int | None = None
    sessions: int = 210


CASES = [
    Case("article-sources", ("PORT1", "PORT2")),
    Case("article-ports", ("PORT1", "PORT2")),
    Case("article-sources-differ", ("PORT1", "PORT2")),
    Case("weighted-reads"),
    Case("write-backup", down=0),
    Case("several-backups", down=0),
    Case("backups-in-order", down=0),
    # Few sessions at a time leave leastconn nothing to go by but its own order among equals.
    Case("galera-leastconn", off_by=0.1, concurrency=30),
    Case("galera-clustercheck"),
    Case("frontend-backend", ("PORT1", "PORT2")),
    Case("default-server"),
    Case("server-template"),
    Case("environment"),
    Case("unix-socket"),
    Case("port-range", ("PORT1", "PORT2")),
    Case("quoting"),
    Case("tcp-check"),
    Case("maxconn", concurrency=4),
    Case("disabled"),
    Case("mixed-http", off_by=0.25),
    Case("latin-1"),
]


@pytest.fixture(scope="module")
def servers() -> Iterator[SeenServers]:
    with seen_servers(3) as found:
        yield found


@dataclass
class Bench:
    """One file, its variables, and both balancers on it."""

    case: Case
    servers: SeenServers
    folder: Path
    haproxy: str
    run_portside: Callable[..., Instance]
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return FILES / f"{self.case.name}.cfg"

    def env(self) -> dict[str, str]:
        """New ports for whoever comes next."""
        self._ports = {name: free_port() for name in ("PORT1", "PORT2", "HTTP_FRONT", "STATS_PORT")}
        found = {f"DB{n}": f"127.0.0.1:{port}" for n, port in enumerate(self.servers.ports, 1)}
        found |= {name: str(port) for name, port in self._ports.items()}
        found |= {"DB2_PORT": str(self.servers.ports[1]), "HTTP_PORT": str(self.servers.http_port)}
        return {**found, "FOLDER": str(self.folder), "CHECK_WORDS": "check weight 2"}

    def imported(self, env: Mapping[str, str], monkeypatch, capsys) -> str:
        """``portside import`` asks HAProxy first, and ``portside check`` takes the result."""
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        assert run_command(["import", str(self.file)]) == 0
        out = capsys.readouterr()
        assert f"{self.haproxy} takes the file" in out.err
        result = self.folder / "checked.toml"
        result.write_text(out.out)
        assert run_command(["check", "-c", str(result)]) == 0
        capsys.readouterr()
        return out.out

    def target(self, front: str) -> str:
        path = f"{self.folder}/{self._ports[front]}.sock"
        if self.case.name == "unix-socket":
            return f"unix:{path}"
        return f"127.0.0.1:{self._ports[front]}"

    def listens(self) -> list[tuple[str, int] | str]:
        if self.case.name == "unix-socket":
            return [self.target("PORT1").removeprefix("unix:")]
        return [("127.0.0.1", self._ports[front]) for front in self.case.fronts]

    def load(self, front: str, sessions: int) -> Seen:
        self.servers.tell("reset")
        load = Load(
            self.target(front), connections=sessions, concurrency=self.case.concurrency
        ).wait()
        assert load["sessions_failed"] == 0, load["errors"]
        return self.servers.tell("report")

    def observe(self) -> list[Seen]:
        """What the servers saw: per front, and with ``down`` also without that server and after."""
        front = self.case.fronts[0]
        found = [self.load(one, self.case.sessions) for one in self.case.fronts]
        if self.case.down is not None:
            self.servers.tell(f"stop {self.case.down}")
            self._wait_for(front, lambda seen: not seen[self.case.down])
            found.append(self.load(front, self.case.sessions))
            self.servers.tell(f"start {self.case.down}")
            self._wait_for(front, lambda seen: bool(seen[self.case.down]))
            found.append(self.load(front, self.case.sessions))
        return found

    def _wait_for(self, front: str, settled: Callable[[Seen], bool]) -> None:
        def look() -> bool:
            self.servers.tell("reset")
            load = Load(self.target(front), connections=8, concurrency=2).wait()
            return load["sessions_failed"] == 0 and settled(self.servers.tell("report"))

        wait_until(look, 10, "the servers in use do not change")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_treat_clients_alike(
    case, servers, folder, haproxy, run_portside, monkeypatch, capsys
):
    bench = Bench(case, servers, folder, haproxy, run_portside)
    with HAProxy(haproxy, bench.file, bench.env(), folder, bench.listens()):
        theirs = bench.observe()
    text = bench.imported(bench.env(), monkeypatch, capsys)
    run_portside(text)
    ours = bench.observe()
    for one, other in zip(theirs, ours, strict=True):
        assert [set(seen) for seen in one] == [set(seen) for seen in other], (one, other)
        for mine, your in zip(shares(one), shares(other), strict=True):
            assert abs(mine - your) <= case.off_by, (one, other)


def shares(seen: Seen) -> list[float]:
    sums = [sum(server.values()) for server in seen]
    return [each / sum(sums) for each in sums]


def test_every_file_is_compared():
    compared = {case.name for case in CASES} | {"balance-source", "access", "proxy-protocol"}
    assert compared == {file.stem for file in FILES.glob("*.cfg")}


def both(bench: Bench, monkeypatch, capsys, look: Callable[[], object]) -> list[object]:
    """What ``look`` finds behind HAProxy, then behind Portside."""
    found = []
    with HAProxy(bench.haproxy, bench.file, bench.env(), bench.folder, bench.listens()):
        found.append(look())
    bench.run_portside(bench.imported(bench.env(), monkeypatch, capsys))
    return [*found, look()]


@pytest.fixture
def bench(request, servers, folder, haproxy, run_portside) -> Bench:
    return Bench(Case(request.param), servers, folder, haproxy, run_portside)


def session(bench: Bench, *, source: str = "", first: bytes = b"") -> bool:
    """Whether a client from an address gets an answer; ``first`` goes before everything."""
    with socket.socket() as client:
        client.settimeout(5)
        if source:
            client.bind((source, 0))
        try:
            client.connect(("127.0.0.1", bench._ports["PORT1"]))
            client.sendall(first)
            greeting = client.recv(4096)
            if len(greeting) < 5 or greeting[4] == 0xFF:
                return False
            client.sendall(LOGIN)
            client.recv(4096)
            client.sendall(query("SELECT 1"))
            answered = len(client.recv(4096)) > 0
            client.sendall(QUIT)
            return answered
        except ConnectionError:
            return False


@pytest.mark.parametrize("bench", ["balance-source"], indirect=True)
def test_a_client_keeps_its_server(bench, monkeypatch, capsys):
    """Which server a client meets differs (another hash); that it stays there does not."""

    def look() -> list[int]:
        bench.servers.tell("reset")
        for host in range(40, 60):
            for _ in range(3):
                assert session(bench, source=f"127.0.0.{host}")
        seen = bench.servers.tell("report")
        return [sum(server.values()) for server in seen]

    for found in both(bench, monkeypatch, capsys, look):
        assert sum(found) == 60 and all(count % 3 == 0 for count in found), found
        assert sum(count > 0 for count in found) >= 2, found


@pytest.mark.parametrize("bench", ["access"], indirect=True)
def test_the_same_clients_are_let_in(bench, monkeypatch, capsys):
    hosts = ["127.0.0.1", "127.0.0.33", "127.0.0.62", "127.0.0.65", "127.0.1.9", "127.0.2.9"]

    def look() -> list[bool]:
        return [session(bench, source=host) for host in hosts]

    theirs, ours = both(bench, monkeypatch, capsys, look)
    assert theirs == ours == [True, False, True, False, True, False]


@pytest.mark.parametrize("bench", ["proxy-protocol"], indirect=True)
def test_client_addresses_survive(bench, monkeypatch, capsys):
    bench.servers.tell("header 1")
    header = b"PROXY TCP4 203.0.113.%d 127.0.0.1 51234 3306\r\n"

    def look() -> list[set[str]]:
        bench.servers.tell("reset")
        for host in (5, 6, 7, 8):
            assert session(bench, first=header % host)
        return [set(seen) for seen in bench.servers.tell("report")]

    try:
        theirs, ours = both(bench, monkeypatch, capsys, look)
    finally:
        bench.servers.tell("header 0")
    everybody = {f"203.0.113.{host}" for host in (5, 6, 7, 8)}
    assert set.union(*theirs[:2]) == set.union(*ours[:2]) == everybody
    assert all(theirs[:2]) and all(ours[:2])


def test_what_haproxy_refuses_is_refused_with_its_line(haproxy, tmp_path, capsys):
    file = tmp_path / "haproxy.cfg"
    file.write_text("defaults\n    mode tcp\n    balanse roundrobin\nlisten x\n    bind :3306\n")
    assert run_command(["import", str(file)]) == 1
    out = capsys.readouterr()
    assert out.out == ""
    assert f"{file}:3:1: unknown keyword 'balanse'" in out.err
    assert "haproxy -c refuses it; --no-haproxy imports it without asking" in out.err
    assert os.listdir(tmp_path) == ["haproxy.cfg"]
