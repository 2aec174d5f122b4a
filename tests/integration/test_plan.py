"""``portside plan`` asks a real instance: what it does, and what is said when none answers."""

from __future__ import annotations

import http.server
import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.instance import Instance
from tests.support.lab import Load, Sink

CONFIG = """
[source]
addresses = ["127.0.0.1", "127.0.0.2"]
ports = "14000-14999"
[[server]]
name = "db1"
address = "{server}"
check = false
[[service]]
name = "db"
listen = "unix:{listen}"
servers = ["db1"]
"""


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "portside", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_rate_of_a_running_instance(tmp_path: Path):
    sink = Sink(listen=["127.0.0.1:0"])
    listen = tmp_path / "db.sock"
    with Instance(tmp_path, CONFIG.format(server=sink.address, listen=listen)) as instance:
        load = Load(f"unix:{listen}", rate=100, concurrency=4)
        told = plan("-a", str(instance.socket), "--json")
        assert load.finish()["sessions_failed"] == 0
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    figures = {figure["key"]: figure["value"] for figure in answer["figures"]}
    assert answer["verdict"] == "enough" and answer["given"]["name"] == f"db1, {sink.address}"
    # 16 of each address's 1,000 are kept for checks; 100/s, on a machine that may stall.
    assert figures["tuples"] == 2 * (1000 - 16)
    assert 20 < answer["given"]["rate"] < 200 and figures["held_after"] == 0
    assert "cliff" not in figures  # the ports are the program's


class OtherVersion(http.server.BaseHTTPRequestHandler):
    """An instance whose API this command does not speak."""

    def do_GET(self) -> None:  # the name that http.server wants
        self.send_response(200)
        self.send_header("Portside-Version", "9.1.0")
        self.send_header("Portside-Api", "9")
        self.end_headers()

    def address_string(self) -> str:  # a unix socket's peer has none
        return "-"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def other_version(path: Path) -> Iterator[None]:
    with socketserver.UnixStreamServer(str(path), OtherVersion) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def test_no_instance_and_another_version(tmp_path: Path):
    path = tmp_path / "a.sock"
    told = plan("-a", str(path))
    assert told.returncode == 1
    assert told.stderr.startswith(f"portside: no running instance at {path} (no such file")
    with other_version(path):
        told = plan("-a", str(path))
    assert told.returncode == 1 and told.stderr.count("\n") == 1
    assert "is Portside 9.1.0, whose admin API (level 9) this command (level 1) does" in told.stderr


def test_a_file_with_mistakes(tmp_path: Path):
    file = tmp_path / "p.toml"
    file.write_text("[[server]]\nname = 3\n")
    told = plan("-c", str(file), "--rate", "10")
    assert told.returncode == 1 and told.stdout == ""
    assert f"{file}:2:1: server 1 name: wrong value (found 3)" in told.stderr
