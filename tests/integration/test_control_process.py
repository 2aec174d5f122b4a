"""``portside run`` as a process: start, signals, reload, inherited sockets, a second instance."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest
from portside.admin.client import AdminClient
from portside.demo.held_port import HeldPort

from tests.support.chaos import Behaviour, ChaosServer
from tests.support.waiting import wait_until

START_S = 20.0  # a busy machine imports Python slowly
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "portside", "run", "-c", sys.argv[2]])
"""


class Running:
    """One ``portside run``, its service manager's socket, and its admin client."""

    def __init__(self, folder: Path, text: str, inherit: socket.socket | None = None) -> None:
        self.folder = folder
        self.file = folder / "portside.toml"
        self.file.write_text(f'[admin]\nsocket = "{folder}/a.sock"\n{text}')
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.manager.settimeout(START_S)
        command = [sys.executable, "-m", "portside", "run", "-c", str(self.file)]
        if inherit is not None:
            command = [sys.executable, "-c", _ACTIVATE, str(inherit.fileno()), str(self.file)]
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            command,
            stderr=self.log,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
            pass_fds=() if inherit is None else (inherit.fileno(),),
        )
        self.client = AdminClient(str(folder / "a.sock"))

    def heard(self, word: str) -> str:
        """The next message to the service manager that has ``word`` in it."""
        while word not in (message := self.manager.recv(1000).decode()):
            pass
        return message

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command against this instance."""
        return portside(*arguments, "-a", str(self.folder / "a.sock"))

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.manager.close()
        self.log.close()


def portside(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user has it."""
    return subprocess.run(
        [sys.executable, "-m", "portside", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def port() -> Iterator[int]:
    """A listen port of the test's own."""
    with HeldPort() as held:
        yield held.port


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts instances; ended after the test."""
    started: list[Running] = []

    def start(text: str, inherit: socket.socket | None = None, ready: bool = True) -> Running:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Running(folder, text, inherit))
        if ready:
            started[-1].heard("READY=1")
        return started[-1]

    yield start
    for one in started:
        one.end()


def config(port: int, server: ChaosServer, more: str = "", service: str = "") -> str:
    """One server, one service."""
    return f"""
[portside]
workers = 1
[timeouts]
drain = "20s"
{more}
[[server]]
name = "db1"
address = "{server.address}"
[[service]]
name = "app"
listen = "127.0.0.1:{port}"
servers = ["db1"]
{service}
"""


def connect(port: int) -> pymysql.connections.Connection:
    return pymysql.connect(host="127.0.0.1", port=port, user="app", password="x", ssl_disabled=True)


def ask(connection: pymysql.connections.Connection) -> None:
    with connection.cursor() as cursor:
        assert cursor.execute("SELECT 1") == 1


def is_refused(port: int) -> bool:
    """Refused, not left without an answer: a client must be able to try the next address."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_sigterm_drains(run, port, chaos):
    one = run(config(port, chaos))
    old = connect(port)
    one.process.terminate()
    one.heard("STOPPING=1")
    wait_until(lambda: is_refused(port))
    ask(old)
    assert one.cli("show").stdout.splitlines()[0].count("draining") == 1
    assert one.process.poll() is None
    old.close()
    assert one.process.wait(10) == 0
    assert not (one.folder / "a.sock").exists()


def test_a_second_signal_waits_no_longer(run, port, chaos):
    one = run(config(port, chaos))
    old = connect(port)
    one.process.send_signal(signal.SIGINT)
    one.heard("STOPPING=1")
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(10) == 0
    with pytest.raises(pymysql.err.Error):
        ask(old)


def test_reloads_keep_sessions_and_bad_files_change_nothing(run, port, chaos):
    one = run(config(port, chaos))
    old = connect(port)
    good = one.file.read_text()
    with HeldPort() as second:
        one.file.write_text(
            good.replace(f'"127.0.0.1:{port}"', f'["127.0.0.1:{port}", "127.0.0.1:{second.port}"]')
        )
        assert "would change" in one.cli("reload", "--dry-run").stdout
        assert is_refused(second.port)
        done = one.cli("reload")
        assert (done.returncode, done.stdout) == (
            0,
            "Reloaded: 1 thing changed.\n  service app: listen changed\n",
        )
        connect(second.port).close()
        one.file.write_text(good.replace("workers", "wokers"))
        refused = one.cli("reload")
        assert refused.returncode == 1
        assert 'wokers: unknown key; did you mean "workers"?' in refused.stderr
        connect(second.port).close()
        one.file.write_text(good)
        one.process.send_signal(signal.SIGHUP)
        one.heard("RELOADING=1\nMONOTONIC_USEC=")
        one.heard("READY=1")
        wait_until(lambda: is_refused(second.port))
    ask(old)
    old.close()


def test_the_port_of_a_removed_service_is_refused_while_its_sessions_run(run, port, chaos):
    with HeldPort() as second:
        more = f'[[service]]\nname = "b"\nlisten = "127.0.0.1:{second.port}"\nservers = ["db1"]\n'
        one = run(config(port, chaos) + more)
        old = connect(second.port)
        one.file.write_text(one.file.read_text().removesuffix(more))
        assert one.cli("reload").stdout.endswith("service b: removed (it drains)\n")
        wait_until(lambda: is_refused(second.port), timeout_s=3.0)
        ask(old)
        old.close()


def test_the_owner_of_an_address_is_named(run, port, chaos):
    one = run(config(port, chaos))
    other = run(config(port, chaos), ready=False)
    assert other.process.wait(START_S) == 1
    text = (other.folder / "log").read_text()
    assert f"cannot listen on 127.0.0.1:{port}: " in text
    assert f"(pid {one.process.pid}) already listens there." in text


def test_an_address_of_haproxy_is_refused_by_its_name(run, port, chaos, haproxy, tmp_path):
    (tmp_path / "haproxy.cfg").write_text(
        "defaults\n mode tcp\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n"
        f"listen x\n bind 127.0.0.1:{port}\n"
    )
    with subprocess.Popen([haproxy, "-f", str(tmp_path / "haproxy.cfg")]) as other:
        try:
            wait_until(lambda: not is_refused(port))
            one = run(config(port, chaos), ready=False)
            assert one.process.wait(START_S) == 1
            assert "haproxy (pid " in (one.folder / "log").read_text()
        finally:
            other.kill()


def test_a_dead_instances_admin_socket_is_replaced_a_live_ones_is_not(run, port, chaos):
    one = run(config(port, chaos))
    with HeldPort() as second:
        text = config(second.port, chaos)
        other = run(text, ready=False)
        other.end()
        other.file.write_text(f'[admin]\nsocket = "{one.folder}/a.sock"\n{text}')
        refused = portside("run", "-c", str(other.file))
        assert refused.returncode == 1
        assert f"(pid {one.process.pid}) already listens there." in refused.stderr
    one.process.kill()
    one.process.wait()
    assert (one.folder / "a.sock").exists()
    again = subprocess.Popen(
        [sys.executable, "-m", "portside", "run", "-c", str(one.file)],
        env={**os.environ, "NOTIFY_SOCKET": str(one.folder / "notify")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        one.heard("READY=1")
        assert one.client.get("/v1/status")["pid"] == again.pid
        assert oct((one.folder / "a.sock").stat().st_mode)[-3:] == "660"
    finally:
        again.terminate()
        assert again.wait(10) == 0


def test_inherited_sockets_are_used(run, chaos):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = run(config(listener.getsockname()[1], chaos), inherit=listener)
        connection = connect(listener.getsockname()[1])
        ask(connection)
        connection.close()
        one.process.terminate()
        assert one.process.wait(10) == 0
        # It is still ours: the next instance would find the clients that came meanwhile.
        assert not is_refused(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("on_down", "closed"), [("close-sessions", True), ("keep-sessions", False)]
)
def test_sessions_on_a_server_that_goes_down(run, port, chaos, on_down, closed):
    check = '[check]\ninterval = "100ms"\nfast_interval = "100ms"\nfall = 2\n'
    one = run(config(port, chaos, check, f'on_down = "{on_down}"'))
    old = connect(port)
    chaos.behave(Behaviour.REFUSE)
    wait_until(lambda: one.client.get("/v1/servers")[0]["state"] == "down")
    if closed:
        wait_until(lambda: one.client.get("/v1/sessions") == [])
    else:
        ask(old)
    with pytest.raises(pymysql.err.OperationalError, match="no eligible server: db1"):
        connect(port)
    chaos.behave(Behaviour.SERVE)
    wait_until(lambda: one.client.get("/v1/servers")[0]["state"] == "up")

    def is_served() -> bool:
        # The verdict is shown a moment before the engine has the snapshot that follows.
        try:
            connect(port).close()
        except pymysql.err.OperationalError:
            return False
        return True

    wait_until(is_served)


def test_tcp_asks_for_the_token_and_metrics_for_none(run, port, chaos, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("s3cret\n")
    with HeldPort() as admin, HeldPort() as metrics:
        text = config(port, chaos, f'[metrics]\nlisten = "127.0.0.1:{metrics.port}"')
        one = run(text, ready=False)
        one.end()
        one = Running(
            tmp_path,
            f'listen = "127.0.0.1:{admin.port}"\ntoken = {{ file = "{tmp_path}/token" }}\n{text}',
        )
        try:
            one.heard("READY=1")
            address = f"127.0.0.1:{admin.port}"
            denied = portside("show", "-a", address)
            assert (denied.returncode, "a token is needed" in denied.stderr) == (1, True)
            monkeypatch.setenv("PORTSIDE_ADMIN_TOKEN_FILE", str(tmp_path / "token"))
            assert json.loads(portside("show", "--json", "-a", address).stdout)["workers"] == 1
            base = f"http://127.0.0.1:{metrics.port}"
            with urllib.request.urlopen(f"{base}/healthz", timeout=5) as answer:
                assert answer.read() == b"ok\n"
            with urllib.request.urlopen(f"{base}/metrics", timeout=5) as answer:
                assert b"portside_accepting 1.0" in answer.read()
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{base}/v1/status", timeout=5)
        finally:
            one.end()


def test_what_does_not_fit_is_refused_with_the_arithmetic(run, port, chaos):
    one = run(
        config(port, chaos).replace("workers = 1", "workers = 1\nmax_sessions = 900000000"),
        ready=False,
    )
    assert one.process.wait(START_S) == 1
    text = (one.folder / "log").read_text()
    assert "900,000,000 sessions x 2" in text
    assert "LimitNOFILE" in text
