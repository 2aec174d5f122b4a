"""Ways to a MySQL server that the benchmarks compare, and the load on them.

A way is a process in front of a backend: none (direct), the bare relay of crates/lab, HAProxy,
MySQL Router, Portside as relay or as pool. CPU is user + system time of that process, from
/proc/PID/stat.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from portside import _core
from portside.demo.child import Child
from portside.demo.client import Figures
from portside.demo.database import APP_PASSWORD, APP_USER
from portside.demo.held_port import free_port
from portside.demo.mariadb import find_program

ROOT = Path(__file__).parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PEERS = Path(os.environ.get("PORTSIDE_PEERS", Path.home() / ".cache" / "portside-peers"))
NO_PROXY = "direct"
BARE = "bare relay"
POOL_KEYS = f"""[[user]]
name = "{APP_USER}"
password = "{APP_PASSWORD}"
[pool]
max = 50
"""


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Way:
    """What to connect to, and whose CPU to read.

    ``command`` is empty for the direct way; ``child`` is its process, made by ``start``.
    """

    name: str
    address: str
    command: list[str | Path]
    log: Path
    child: Child | None = None

    def start(self) -> None:
        """A new process that answers; the one before, if any, is ended."""
        self.end()
        if self.command:
            self.child = Child(self.command, self.log)
        until = time.monotonic() + 20
        while run_load(self, connections=1, concurrency=1).sessions_ok == 0:
            if self.child is not None and not self.child.is_running:
                raise SystemExit(f"{self.name} ended: {self.child.last_lines()}")
            if time.monotonic() > until:
                raise SystemExit(f"{self.name} does not answer")
            time.sleep(0.1)

    def end(self) -> None:
        if self.child is not None:
            self.child.end()

    def cpu_s(self) -> float:
        return cpu_s(self.child.pid) if self.child else 0.0

    def resident_bytes(self) -> int:
        if self.child is None:
            return 0
        pages = Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def direct(backend: str) -> Way:
    return Way(NO_PROXY, backend, [], Path(os.devnull))


def bare_relay(folder: Path, backend: str) -> Way:
    address = f"127.0.0.1:{free_port()}"
    program = TARGET / "release" / "portside-relay"
    if not program.exists():
        raise SystemExit(f"{program} is missing: cargo build --release -p portside-lab --bins")
    return Way(BARE, address, [program, address, backend], folder / "bare.log")


def portside(folder: Path, backend: str, mode: str = "relay", *, workers: int = 1) -> Way:
    """A line per session goes to standard output, which is a file."""
    port = free_port()
    file = folder / f"{mode}.toml"
    file.write_text(
        f"""[portside]
workers = {workers}
[admin]
socket = "{folder}/{mode}.sock"
[log]
format = "text"
[[server]]
name = "backend"
address = "{backend}"
check = false
[[service]]
name = "bench"
listen = "127.0.0.1:{port}"
mode = "{mode}"
max_connections = {12000 if mode == "pool" else 9900}
servers = ["backend"]
{POOL_KEYS if mode == "pool" else ""}"""
    )
    command: list[str | Path] = [sys.executable, "-m", "portside", "run", "-c", file]
    return Way(f"Portside {mode}", f"127.0.0.1:{port}", command, folder / f"{mode}.log")


def peer(program: str, package: str) -> str | None:
    """A program of the peers' cache; fetched if the script stands beside the checkout."""
    script = ROOT.parent / "shared" / "peers" / "get-peers.sh"
    found = PEERS / "bin" / program
    if not found.exists() and script.exists():
        command = ["bash", str(script), package]
        subprocess.run(command, env={**os.environ, "PEERS": str(PEERS)}, check=False)
    return str(found) if found.exists() else None


def haproxy(folder: Path, backend: str, *, workers: int = 1) -> Way | None:
    """3.2 from the peers' cache, else what is installed; a line per session to a file."""
    program = peer("haproxy32", "haproxy32") or find_program("haproxy")
    if program is None:
        return None
    text = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+\.\d+\.\d+)", text)
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(
        f"""global
    nbthread {workers}
    maxconn 9000
    log stdout format raw local0
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 3s
    timeout client 10m
    timeout server 10m
listen bench
    bind 127.0.0.1:{port}
    server backend {backend}
"""
    )
    command: list[str | Path] = [program, "-db", "-f", file]
    name = f"HAProxy {version[1] if version else '?'}"
    return Way(name, f"127.0.0.1:{port}", command, folder / "haproxy.log")


def router(folder: Path, backend: str, *, workers: int = 1) -> Way | None:
    """MySQL Router 9.7 with connection sharing, without TLS as everybody here."""
    program = peer("mysqlrouter9", "router9")
    if program is None:
        return None
    port = free_port()
    plugins = PEERS / "router9" / "usr" / "lib" / "mysqlrouter" / "plugin"
    file = folder / "router.conf"
    file.write_text(
        f"""[DEFAULT]
plugin_folder={plugins}
logging_folder=
runtime_folder={folder}
data_folder={folder}
max_total_connections=9000
[logger]
level=WARNING
destination=/dev/stderr
[io]
threads={workers}
[routing:bench]
bind_address=127.0.0.1
bind_port={port}
destinations={backend}
routing_strategy=round-robin
protocol=classic
connection_sharing=1
connection_sharing_delay=0
client_ssl_mode=DISABLED
server_ssl_mode=DISABLED
[connection_pool]
max_idle_server_connections=50
"""
    )
    command: list[str | Path] = [program, "-c", file]
    return Way("MySQL Router 9.7", f"127.0.0.1:{port}", command, folder / "router.log")


def run_load(way: Way, **plan: object) -> Figures:
    load = _core.Load(json.dumps({"target": way.address, "timeout_ms": 60_000, **plan}))
    while not load.wait(1.0):
        pass
    return Figures(**json.loads(load.report()))


def cpu_of(way: Way, **plan: object) -> tuple[float, Figures]:
    """CPU seconds of the proxy for one load; nothing may fail."""
    before = way.cpu_s()
    figures = run_load(way, **plan)
    # The last sessions are still being closed when the clients are gone.
    time.sleep(0.2)
    if figures.sessions_failed:
        raise SystemExit(f"{way.name}: {figures.errors}")
    return way.cpu_s() - before, figures


def bytes_per_idle_client(way: Way, clients: int) -> float:
    """Resident memory per logged-in idle client, in a new process.

    New, because an allocator keeps what earlier runs gave back. The kernel's socket buffers are in
    nobody's resident memory.
    """
    way.start()
    run_load(way, connections=50, concurrency=50)
    before = way.resident_bytes()
    load = hold_clients(way, clients)
    grown = way.resident_bytes() - before
    load.stop()
    load.wait(60)
    return grown / clients


def hold_clients(way: Way, clients: int) -> _core.Load:
    """So many clients that have logged in, asked once, and are idle; stop it to let them go."""
    plan = {
        "target": way.address,
        "connections": clients,
        "concurrency": clients,
        "hold_ms": 600_000,
        "rate": 4000.0,
        "timeout_ms": 60_000,
    }
    load = _core.Load(json.dumps(plan))
    until = time.monotonic() + 60
    while (figures := Figures(**json.loads(load.report()))).sessions_ok < clients:
        if time.monotonic() > until or figures.sessions_failed:
            raise SystemExit(f"{way.name}: {figures}")
        time.sleep(0.1)
    return load


def raise_file_limit(needed: int) -> None:
    """A held client costs two descriptors here, and our children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        raise SystemExit(f"open files: the limit is {hard:,}, {needed:,} are needed: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
