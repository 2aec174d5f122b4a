"""The doctor where Portside is not: over ssh, as doctor.pyz on Python 3.9, asking databases."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from portside import doctor
from portside.cli import run_command as portside
from portside.doctor.login import PASSWORD, Login
from portside.doctor.remote import COMMAND, Failure, examine_hosts
from portside.errors import ExitCode

from tests.conftest import Trio
from tests.support import sick
from tests.support.lab import Load, Sink
from tests.support.namespace import Namespace
from tests.support.python39 import python39
from tests.support.servers import MONITOR_PASSWORD, MONITOR_USER, MariaDB
from tests.support.sshd import NoSshd, Sshd
from tests.support.waiting import wait_until

netns = pytest.mark.netns

# The tests' own Python may lie in root's home.
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
NARROW = {"ip_local_port_range": "40000 41999", "tcp_tw_reuse": "0"}

# In place of ssh: HOST is the namespace that $WEB, $PROXY or $DB names.
_STAND_IN = """#!/bin/sh
eval place=\\$$1
[ -n "$place" ] || { echo "ssh: Could not resolve hostname $1" >&2; exit 255; }
unset PYTHONHOME
exec ip netns exec "$place" sh -c "$2"
"""


@pytest.fixture(scope="module")
def pyz() -> Iterator[Path]:
    """doctor.pyz as ``make doctor.pyz`` builds it, where every user may read it."""
    target = Path(tempfile.mkdtemp(prefix="pyz-")) / "doctor.pyz"
    script = Path(__file__).parents[2] / "scripts" / "pyz.py"
    subprocess.run([sys.executable, script, target, "doctor", "trace", "plan"], check=True)
    target.parent.chmod(0o755)
    target.chmod(0o755)
    yield target
    shutil.rmtree(target.parent)


@pytest.fixture(scope="module")
def old_python() -> list[str]:
    """The command of a real Python 3.9."""
    command = python39()
    if isinstance(command, str):
        pytest.skip(command)
    return command


class Platform:
    """The article's: web, proxy and db in a row, each a namespace with 2,000 source ports."""

    def __init__(self, web: Namespace, proxy: Namespace, db: Namespace) -> None:
        self.web, self.proxy, self.db = web, proxy, db
        for place in (web, proxy, db):
            place.inside(lambda: sick.sysctls(NARROW))
        self._link(web, proxy, "10.217.1.7", "10.217.1.1")
        self._link(proxy, db, "10.217.2.5", "10.217.2.11")

    @staticmethod
    def _link(left: Namespace, right: Namespace, near: str, far: str) -> None:
        left.ip("link", "add", "down0", "type", "veth", "peer", "name", "up0", "netns", right.name)
        for place, device, address in ((left, "down0", near), (right, "up0", far)):
            place.ip("address", "add", f"{address}/24", "dev", device)
            place.ip("link", "set", device, "up")


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """With a stand-in for ssh that reaches them as WEB, PROXY and DB."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Namespace() as web, Namespace() as proxy, Namespace() as db:
        script = tmp_path / "ssh"
        script.write_text(_STAND_IN)
        script.chmod(0o755)
        monkeypatch.setenv(COMMAND, str(script))
        for name, place in (("WEB", web), ("PROXY", proxy), ("DB", db)):
            monkeypatch.setenv(name, place.name)
        yield Platform(web, proxy, db)


@contextlib.contextmanager
def haproxy_between(place: Platform, program: str, folder: Path) -> Iterator[None]:
    """HAProxy on the proxy, a MySQL-speaking sink on the database host."""
    sink = place.db.inside(lambda: Sink(listen=["10.217.2.11:3306"]))
    (folder / "haproxy.cfg").write_text(
        "defaults\n  mode tcp\n  timeout connect 3s\n  timeout client 9s\n  timeout server 9s\n"
        "listen my\n  bind 10.217.1.1:3306\n  server db1 10.217.2.11:3306\n"
    )
    command = [*place.proxy.prefix, program, "-db", "-f", str(folder / "haproxy.cfg")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: place.proxy.inside(_haproxy_listens), what="HAProxy")
            yield
        finally:
            process.terminate()
            del sink


def _haproxy_listens() -> bool:
    with socket.socket() as client:
        return client.connect_ex(("10.217.1.1", 3306)) == 0


@netns
@pytest.mark.haproxy
def test_the_articles_platform_over_ssh(
    three: Platform, haproxy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with haproxy_between(three, haproxy, tmp_path):
        load = three.web.inside(
            lambda: Load("10.217.1.1:3306", connections=1_200, rate=600, concurrency=8)
        )
        done = load.wait()
        assert done["sessions_ok"] >= 1_190, done
        code = portside(["doctor", "--ssh", "WEB,PROXY,DB,WEB9"])
    out = capsys.readouterr().out
    assert code == ExitCode.NO
    lines = out.splitlines()
    # How many TIME_WAITs are left of 1,200 closes depends on how busy the machine is.
    assert lines[0].startswith("CRITICAL: WEB: 10.217.1.7 -> 10.217.1.1:3306 has ") or (
        lines[0].startswith("CRITICAL: PROXY: 10.217.2.5 -> 10.217.2.11:3306 has ")
    )
    assert "of 2,000 source ports in TIME_WAIT" in lines[0]
    rows = {line.split()[0]: line for line in lines[3:7]}
    assert rows["WEB"].split()[1] == "CRITICAL" and "This host closes first" in rows["WEB"]
    assert rows["DB"].split()[1] == "GOOD"
    assert "! WEB9: ssh: Could not resolve hostname WEB9" in lines


@netns
def test_json_over_ssh_and_a_good_host(three: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    assert portside(["doctor", "--ssh", "DB", "--json"]) == ExitCode.GOOD
    (host,) = json.loads(capsys.readouterr().out)["hosts"]
    assert (host["asked"], host["severity"]) == ("DB", "notice")
    assert host["facts"]["sysctls"]["net.ipv4.ip_local_port_range"] == "40000 41999"


@netns
def test_the_one_file_over_ssh(three: Platform, pyz: Path, old_python: list[str]) -> None:
    command = [*old_python, str(pyz), "--ssh", "WEB, DB"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines()[3:5]] == ["GOOD", "GOOD"]


@netns
def test_a_real_sshd(namespace: Namespace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace.inside(lambda: sick.sysctls(NARROW))
    with namespace.inside(sick.listen) as listener:
        namespace.inside(lambda: sick.close_first(listener, 1_020))
    try:
        sshd = Sshd(namespace, folder)
    except NoSshd as error:
        pytest.skip(str(error))
    with sshd:
        monkeypatch.setenv(COMMAND, sshd.command)
        ((_, facts),) = examine_hosts(["root@127.0.0.1"], 0.0)
        assert not isinstance(facts, Failure), facts.reason
        assert doctor.diagnose(facts).verdict.startswith("CRITICAL: 127.0.0.1 -> 127.0.0.1:3306")
        ((_, refused),) = examine_hosts(["nobody@127.0.0.1"], 0.0)
        assert isinstance(refused, Failure) and "Permission denied" in refused.reason


class TestOneFile:
    @netns
    def test_on_python_39(self, pyz: Path, old_python: list[str], namespace: Namespace) -> None:
        namespace.inside(lambda: sick.sysctls({"ip_local_port_range": "40000 41999"}))
        command = [*namespace.prefix, *old_python, str(pyz), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["verdict"].startswith("GOOD: no connection holds")
        full = subprocess.run(
            [*namespace.prefix, *old_python, str(pyz), "doctor", "-v"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (full.returncode, full.stderr) == (0, "") and "notice port-range" in full.stdout

    @netns
    def test_an_ordinary_user(self, pyz: Path, namespace: Namespace) -> None:
        namespace.inside(lambda: sick.sysctls(NARROW))
        with namespace.inside(sick.listen) as listener:
            namespace.inside(lambda: sick.close_first(listener, 1_020))
        done = subprocess.run(
            [*namespace.prefix, "setpriv", "--reuid=65534", "--clear-groups", SYSTEM_PYTHON, pyz],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert done.stdout.startswith("CRITICAL: 127.0.0.1 -> 127.0.0.1:3306")
        assert "! Not seen: the sockets and file limits of" in done.stdout
        assert "processes: run it as root." in done.stdout

    def test_on_a_terminal_it_has_colours(self, pyz: Path, old_python: list[str]) -> None:
        main, far = pty.openpty()
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
        with subprocess.Popen(
            [*old_python, str(pyz)], stdout=far, stderr=far, env=env, stdin=far
        ) as process:
            os.close(far)
            shown = b""
            with contextlib.suppress(OSError):  # EIO: the other end is closed
                while part := os.read(main, 65536):
                    shown += part
        os.close(main)
        assert process.returncode in {0, 1}
        assert shown.startswith(b"\x1b[1;3") and b"Traceback" not in shown

    def test_its_commands(self, pyz: Path, old_python: list[str]) -> None:
        done = subprocess.run(
            [*old_python, str(pyz), "--help"], capture_output=True, text=True, check=True
        )
        listed = done.stdout.partition("Commands:\n")[2].split("\n")
        names = {line.split()[0] for line in listed if line.strip()}
        folder = Path(doctor.__file__).parents[1] / "cli"
        bundled = {name for name in ("trace", "plan") if (folder / f"{name}.py").exists()}
        assert names == {"doctor", *bundled}

    def test_it_has_no_data_plane(self, pyz: Path) -> None:
        listed = subprocess.run(
            [sys.executable, "-m", "zipfile", "-l", str(pyz)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "portside/doctor/checks/source_ports.py" in listed
        assert ".so" not in listed and "portside/config" not in listed

    def test_it_asks_mysql(self, pyz: Path, old_python: list[str], trio: Trio) -> None:
        address = f"{MONITOR_USER}@127.0.0.1:{trio.primary.port}"
        done = subprocess.run(
            [*old_python, str(pyz), "--json", "--mysql", address],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, PASSWORD: MONITOR_PASSWORD},
        )
        assert done.returncode in {0, 1}, done.stderr
        assert "MariaDB" in json.loads(done.stdout)["facts"]["database"]["version"]


class TestMySQL:
    def login(self, server: MariaDB | object, password: str = MONITOR_PASSWORD) -> Login:
        return Login(MONITOR_USER, "127.0.0.1", server.port, password)  # type: ignore[attr-defined]

    def test_mariadb(self, trio: Trio) -> None:
        report = doctor.examine(0, self.login(trio.primary))
        database = report.facts.database
        assert database is not None and database.status["Threads_connected"] >= 1
        assert int(database.variables["max_connections"]) > 0
        assert "hosts that the server blocks: its performance_schema is off" in report.facts.unseen

    @pytest.mark.mysql9
    def test_mysql9(self, mysql9_trio: Trio) -> None:
        report = doctor.examine(0, self.login(mysql9_trio.primary))
        assert report.facts.database is not None
        assert report.facts.database.version.startswith("9.")

    def test_without_tls_and_with_everything_wrong(
        self, mariadb_factory: Callable[..., MariaDB]
    ) -> None:
        server = mariadb_factory(
            options={
                "max-connections": "20",
                "performance-schema": "ON",
                "max-connect-errors": "5",
                "skip-name-resolve": "OFF",
            }
        )
        for _ in range(3):  # they leave before the login
            socket.create_connection(("127.0.0.1", server.port)).close()
        wait_until(lambda: server.status("Aborted_connects") >= 3, what="Aborted_connects")
        with contextlib.ExitStack() as stack:
            for _ in range(16):
                stack.enter_context(server.connect())
            ids = {each.id: each for each in doctor.examine(0, self.login(server)).findings}
        assert "of max_connections = 20" in ids["mysql-connections"].title
        assert "left before or failed the login" in ids["mysql-aborted-connects"].title

    def test_full(self, mariadb_factory: Callable[..., MariaDB]) -> None:
        server = mariadb_factory(options={"max-connections": "10"})
        with contextlib.ExitStack() as stack:
            for _ in range(11):  # one more is for SUPER
                with contextlib.suppress(OSError):
                    stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            report = doctor.examine(0, self.login(server))
        assert report.facts.database is not None
        assert report.verdict.startswith("CRITICAL: 127.0.0.1:")
        assert "refuses everybody, us too: 1040 Too many connections" in report.verdict

    @pytest.mark.parametrize(
        ("answer", "pause_s", "words"),
        [
            (b"SSH-2.0-OpenSSH_9.2p1\r\n" * 9, 0.0, "what answers there is not MySQL"),
            (b"220 mail.example ESMTP\r\n" * 9, 0.0, "what answers there is not MySQL"),
            (b"\x05\0\0\0\x0a9.7\0", 0.0, "what answers there is not MySQL"),
            (b"", 0.0, "Lost connection"),
            (b"\xff\0\0\0\x0a" + bytes(250), 0.2, "timed out: no whole answer within 1 s"),
        ],
    )
    def test_strangers(
        self, answer: bytes, pause_s: float, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("portside.doctor.mysql._LIMIT_S", 1)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            stranger = threading.Thread(target=self.say, args=(listener, answer, pause_s))
            stranger.start()
            login = Login("m", "127.0.0.1", listener.getsockname()[1], "pw")
            report = doctor.examine(0, login)
            listener.shutdown(socket.SHUT_RDWR)
        assert report.facts.database is not None and words in report.facts.database.unreachable
        assert report.facts.sockets is not None
        assert "mysql-unreachable" in {each.id for each in report.findings}
        stranger.join(20)

    @staticmethod
    def say(listener: socket.socket, answer: bytes, pause_s: float) -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):
            for at in range(0, len(answer), 1 if pause_s else len(answer) or 1):
                client.sendall(answer[at : at + 1] if pause_s else answer)
                if pause_s and listener.fileno() < 0:
                    return
                time.sleep(pause_s)
            client.shutdown(socket.SHUT_WR)
            client.recv(1)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"password": "wrong"}, "wrong user or password: Access denied"),
            ({"host": "no-such-host.invalid"}, "Name or service not known"),
            ({"host": "db1..example"}, "that is no host name: "),
            ({"port": 1}, "Connection refused"),
            ({"host": "/nonexistent.sock"}, "there is no such socket"),
        ],
    )
    def test_refusals(
        self,
        trio: Trio,
        change: dict[str, object],
        words: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv(PASSWORD, str(change.get("password", MONITOR_PASSWORD)))
        place = str(change.get("host", "127.0.0.1"))
        port = change.get("port", trio.primary.port)
        place += "" if place.startswith("/") else f":{port}"
        command = ["doctor", "--json", "--mysql", f"{MONITOR_USER}@{place}"]
        assert portside(command) == ExitCode.NO
        out, err = capsys.readouterr()
        answer = json.loads(out)
        (finding,) = [each for each in answer["findings"] if each["id"] == "mysql-unreachable"]
        assert finding["severity"] == "critical" and words in finding["title"]
        assert answer["facts"]["sockets"]["total"] > 0 and err == ""
        assert "wrong" not in out.replace("wrong user or password", "")
