"""The process of ``portside run``: signals under load, the service manager, inherited sockets.

The plain ways (a drain, a second signal, an address of HAProxy's) are in test_control_process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chaos import ChaosServer
from tests.support.instance import settle
from tests.support.lab import Load, Sink
from tests.support.waiting import wait_until

ECONNREFUSED = 111


def config(
    sink: Sink | ChaosServer, listen: str = '"127.0.0.1:0"', more: str = "", workers: int = 2
) -> str:
    return f"""
[portside]
workers = {workers}
{more}
[[server]]
name = "db1"
address = "{sink.address}"
[[service]]
name = "a"
listen = {listen}
servers = ["db1"]
"""


class Manager:
    """A service manager's notification socket."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self.heard: list[str] = []

    def hear(self, timeout_s: float = 0.05) -> list[str]:
        """Everything heard so far."""
        self._socket.settimeout(timeout_s)
        try:
            while True:
                self.heard.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return self.heard

    def wait_for(self, word: str, count: int = 1) -> None:
        wait_until(lambda: sum(word in text for text in self.hear()) >= count, 20, word)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(folder: Path) -> Iterator[Manager]:
    made = Manager(folder)
    yield made
    made.close()


def test_sigterm_under_load_resets_nobody(run_portside):
    """New clients are refused by the kernel; those in the accept queue and those inside finish."""
    sink = Sink(delay_ms=20)
    one = run_portside(config(sink))
    (address,) = one.service("a")["listen"]
    load = Load(address, concurrency=300, timeout_ms=8000)
    wait_until(lambda: load.report()["sessions_ok"] > 1500)
    one.signal(signal.SIGTERM)
    assert one.wait() == 0
    wait_until(lambda: load.report()["sessions_failed"] > 0)
    done = load.finish()
    kinds = {(error["kind"], error["errno"]) for error in done["errors"]}
    assert kinds == {("connect", ECONNREFUSED)}, done["errors"]
    assert sink.report()["aborted"] == 0
    assert one.lines() and all(line["end"] == "quit/command" for line in one.lines())


def test_the_service_manager_hears_of_every_step(run_portside, manager):
    sink = Sink()
    watchdog_us = 400_000
    one = run_portside(
        config(sink),
        env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": str(watchdog_us)},
    )
    manager.wait_for("READY=1")
    assert "RELOADING=1" not in "".join(manager.heard)
    assert "1 of 1 service with a server, 0 sessions" in "".join(manager.heard)

    began = time.monotonic()
    manager.wait_for("WATCHDOG=1", len([t for t in manager.heard if "WATCHDOG" in t]) + 5)
    assert time.monotonic() - began < 5 * watchdog_us / 1e6, "signs of life are too rare"

    one.signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1\nMONOTONIC_USEC=")
    manager.wait_for("READY=1", 2)
    one.write("[portside]\nworkers = 0\n")
    one.signal(signal.SIGHUP)
    manager.wait_for("last reload refused", 1)

    one.signal(signal.SIGTERM)
    manager.wait_for("STOPPING=1")
    assert one.wait() == 0
    order = [
        word
        for text in manager.hear()
        for word in ("READY", "RELOADING", "STOPPING")
        if word in text
    ]
    assert order == ["READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING"]


def test_no_sign_of_life_while_the_control_loop_hangs(run_portside, manager):
    """A watchdog that would be told "alive" by a hung process is worth nothing."""
    one = run_portside(
        config(Sink()), env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "200000"}
    )
    manager.wait_for("WATCHDOG=1")
    one.signal(signal.SIGSTOP)
    manager.hear()
    heard = len(manager.heard)
    settle(0.5)
    assert len(manager.hear()) == heard
    one.signal(signal.SIGCONT)
    wait_until(lambda: len(manager.hear()) > heard)


def test_a_reload_signal_during_the_start_is_remembered(run_portside):
    one = run_portside(config(Sink()), start=False)
    one.launch()

    def handled() -> bool:
        status = Path(f"/proc/{one.pid}/status").read_text()
        return bool(int(status.partition("SigCgt:\t")[2][:16], 16) & 1 << (signal.SIGHUP - 1))

    wait_until(handled, 10, step_s=0.001)
    one.signal(signal.SIGHUP)
    wait_until(lambda: "; ready in " in one.messages(), 20)
    wait_until(lambda: one.events("reload"), 20, "the signal was forgotten")
    assert one.returncode is None and "Traceback" not in one.messages()


def test_a_standard_error_that_nobody_reads_stops_nothing(run_portside):
    server = ChaosServer()
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    one = run_portside(config(server), start=False, stderr=writer)
    one.launch()
    os.close(writer)
    wait_until(lambda: one.socket.exists() and one.server("db1")["state"] == "up", 20)
    for _ in range(700):  # two messages each
        one.admin.post("/v1/services/a/pause")
        one.admin.post("/v1/services/a/resume")
    server.stop()
    wait_until(lambda: one.server("db1")["state"] == "down", 20, "checks stand still")
    os.set_blocking(reader, False)
    text = ""

    def told() -> bool:
        nonlocal text
        with contextlib.suppress(BlockingIOError):
            while more := os.read(reader, 1 << 16):
                text += more.decode()
        return "messages were lost: whoever reads standard error was too slow" in text

    wait_until(told, 20)
    for _ in range(100):
        one.admin.post("/v1/services/a/pause")
        one.admin.post("/v1/services/a/resume")
    one.signal(signal.SIGTERM)
    assert one.wait() == 0
    os.close(reader)


def test_the_session_log_is_reopened_on_sigusr1_and_loses_nothing(run_portside, folder):
    sink = Sink()
    path = folder / "sessions.log"
    one = run_portside(config(sink, more=f'[log]\nfile = "{path}"'))
    load = Load(one.service("a")["listen"][0], rate=1000, concurrency=32)
    moved = []
    for number in range(5):
        wait_until(lambda: path.exists() and path.stat().st_size > 10_000)
        moved.append(path.rename(folder / f"sessions.{number}"))
        one.signal(signal.SIGUSR1)
        wait_until(path.exists, 5, "the log is not reopened")
    done = load.finish()
    wait_until(lambda: one.sessions_now() == 0)
    count = lambda: sum(each.read_bytes().count(b"\n") for each in [*moved, path])  # noqa: E731
    wait_until(lambda: count() >= done["sessions_ok"], 5, "lines are missing")
    assert count() == done["sessions_ok"]
    assert one.stats()["log"] == {"written_total": done["sessions_ok"], "dropped_total": 0}
    for each in [*moved, path]:
        assert each.read_bytes().endswith(b"}\n"), f"half a line in {each}"


def test_a_session_log_that_cannot_be_opened_is_never_called_open(run_portside, folder):
    path, missing = folder / "sessions.log", folder / "nowhere" / "sessions.log"
    one = run_portside(config(Sink(), more=f'[log]\nfile = "{path}"'))
    path.unlink()
    path.mkdir()
    one.signal(signal.SIGUSR1)
    said = (
        "the session log cannot be reopened, lines go on to the old file: "
        f"[log] file {path}: Is a directory."
    )
    wait_until(lambda: said in one.messages())
    assert "was reopened" not in one.messages()
    for file, mistake in ((missing, f"there is no folder {missing.parent}"), (path, "a folder")):
        one.write(config(Sink(), more=f'[log]\nfile = "{file}"'))
        assert mistake in one.cli("check", "-c", str(one.path)).stderr
        view = one.reload()
        assert not view["ok"] and mistake in view["mistakes"][0], view


_ACTIVATE = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
for at, fd in enumerate(fds):
    os.dup2(fd, 3 + at, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES="a:b:c")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def inodes_of(pid: int) -> set[str]:
    """Sockets that a process holds."""
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            continue  # closed meanwhile
    return {link for link in links if link.startswith("socket:")}


def listening_inodes(port: int) -> set[str]:
    """Every listening TCP socket on a port of this host."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {
        f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")
    }


def test_inherited_sockets_are_the_ones_that_clients_reach(folder, run_portside):
    """TCP, unix and one that nobody asked for; every worker accepts from the inherited socket."""
    sink = Sink()
    path = folder / "a.sock"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        unix.bind(str(path))
        unix.listen()
        port = tcp.getsockname()[1]
        held = listening_inodes(port)
        fds = [each.fileno() for each in (tcp, unix, other)]
        one = run_portside(
            config(sink, f'["127.0.0.1:{port}", "unix:{path}"]'),
            pass_fds=fds,
            # LISTEN_PID is the pid of the process itself, so it sets the variables on itself.
            interpreter=[sys.executable, "-c", _ACTIVATE, ",".join(map(str, fds))],
        )
        assert f"no service listens on 127.0.0.1:{other.getsockname()[1]}" in one.messages()
        assert listening_inodes(port) == held and len(held) == 1, "it opened sockets of its own"
        assert held <= inodes_of(one.pid)
        done = Load(f"127.0.0.1:{port}", connections=400, concurrency=32).wait()
        assert done["sessions_ok"] == 400
        assert all(worker["accepted_total"] > 0 for worker in one.stats()["workers"])
        done = Load(f"unix:{path}", connections=100).wait()
        assert done["sessions_ok"] == 100

        # A reload keeps them; a client that comes between two instances waits in the queue.
        assert one.reload()["ok"]
        assert listening_inodes(port) == held
        held_open = Load(f"127.0.0.1:{port}", connections=1, hold_ms=1200)
        wait_until(lambda: one.sessions_now() == 1)
        one.signal(signal.SIGTERM)
        # Nothing that the drain did to the socket may outlive it.
        assert one.wait() == 0 and held_open.wait()["sessions_ok"] == 1
        assert path.exists(), "an inherited unix socket's file belongs to the service manager"
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            pass
        waiting = Load(f"127.0.0.1:{port}", connections=10, concurrency=10)
        one.start()
        assert waiting.wait()["sessions_ok"] == 10


@pytest.mark.haproxy
@pytest.mark.netns
def test_haproxy_of_another_user_is_refused_where_portside_listens(
    run_portside, namespace, haproxy, folder
):
    """SO_REUSEPORT is shared among one user's processes only: run Portside as a user of its own."""
    other_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    imports = [*other_user, sys.executable, "-c", "import portside"]
    if subprocess.run(imports, capture_output=True, check=False).returncode:
        pytest.skip("another user cannot read this checkout or its Python")
    sink = namespace.inside(Sink)
    folder.chmod(0o755)
    one = run_portside(
        config(sink, '"127.0.0.1:30010"'),
        start=False,
        prefix=[*namespace.prefix, *other_user],
    )
    for each in (one.folder, one.folder / "portside.toml"):
        os.chown(each, 65534, 65534)
    one.start()
    settings = folder / "haproxy.cfg"
    settings.write_text(
        "defaults\n mode tcp\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n"
        "listen x\n bind 127.0.0.1:30010\n"
    )
    done = subprocess.run(
        [*namespace.prefix, haproxy, "-f", str(settings)],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot bind socket (Address already in use)" in done.stderr
    clients = namespace.inside(lambda: Load("127.0.0.1:30010", connections=200))
    assert clients.wait()["sessions_ok"] == 200


@pytest.mark.haproxy
@pytest.mark.netns
def test_portside_beside_a_live_haproxy(run_portside, namespace, haproxy, folder):
    """Refused with its name, HAProxy loses no client, and the address is free after it has gone."""
    sink = namespace.inside(Sink)
    settings = folder / "haproxy.cfg"
    settings.write_text(
        "defaults\n mode tcp\n timeout client 5s\n timeout server 5s\n timeout connect 1s\n"
        f"listen x\n bind 0.0.0.0:30010\n server db1 {sink.address}\n"
    )
    with subprocess.Popen([*namespace.prefix, haproxy, "-db", "-f", str(settings)]) as other:
        try:
            wait_until(lambda: namespace.inside(lambda: is_listening(30010)))
            clients = namespace.inside(lambda: Load("127.0.0.1:30010", rate=300))
            for _ in range(3):
                one = run_portside(
                    config(sink, '"127.0.0.1:30010"'), start=False, prefix=namespace.prefix
                )
                one.launch()
                assert one.wait() == 1
                # Bound to every address, so it is in the way of this one too.
                owner = f"haproxy (pid {other.pid}) already listens there."
                assert f"cannot listen on 127.0.0.1:30010: {owner}" in one.messages()
            done = clients.finish()
            assert done["sessions_failed"] == 0, done["errors"]
        finally:
            other.kill()
    one.start()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
