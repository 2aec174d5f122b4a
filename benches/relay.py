"""CPU, rate and memory of the relay: Portside, HAProxy, a bare relay and no proxy, side by side.

``make bench`` or ``python benches/relay.py [--runs 5] [--json FILE] [--only connections]``.

Behind everything stands the same MySQL-speaking sink (crates/lab), in front the same PHP-like load,
on loopback. Portside has one worker, HAProxy nbthread 1, both write a log line per session. Runs
alternate, so that a machine that slows down hits everybody; medians with the lowest and highest are
printed. CPU is user + system time of the proxy process alone, from /proc/PID/stat. Only ratios
within one run of this program mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from portside import _core
from portside.demo.child import Child
from portside.demo.client import Figures
from portside.demo.held_port import free_port
from portside.demo.mariadb import find_program
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BULK_BYTES = 8 << 20
IDLE_CLIENTS = 4000
NO_PROXY = "direct"
BARE = "bare relay"


@dataclass
class Contestant:
    """A way to the sink: what to connect to, and whose CPU to read.

    ``command`` is empty for the direct way; ``child`` is its process, made by ``start``.
    """

    name: str
    address: str
    command: list[str | Path]
    log: Path
    child: Child | None = None

    def start(self) -> None:
        """A new process; the one before, if any, is ended."""
        self.end()
        if self.command:
            self.child = Child(self.command, self.log)
        wait_ready(self)

    def end(self) -> None:
        if self.child is not None:
            self.child.end()

    def cpu_s(self) -> float:
        return self.child.cpu_s() if self.child else 0.0

    def resident_bytes(self) -> int:
        if self.child is None:
            return 0
        pages = Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Row:
    """One thing that is measured, in units of ``per``."""

    name: str
    unit: str
    target: str
    measure: Callable[[Contestant], float]


@dataclass
class Result:
    """Values of one row per contestant, in the order of the runs."""

    row: Row
    values: dict[str, list[float]] = field(default_factory=dict)


def find_haproxy() -> tuple[str, str] | None:
    """Program and version: 3.2 from the peers' cache, else what is installed."""
    cache = Path(os.environ.get("PORTSIDE_PEERS", Path.home() / ".cache" / "portside-peers"))
    script = ROOT.parent / "shared" / "peers" / "get-peers.sh"
    program = cache / "bin" / "haproxy32"
    if not program.exists() and script.exists():
        command = ["bash", str(script), "haproxy32"]
        subprocess.run(command, env={**os.environ, "PEERS": str(cache)}, check=False)
    found = str(program) if program.exists() else find_program("haproxy")
    if found is None:
        return None
    text = subprocess.run([found, "-v"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"version (\d+\.\d+\.\d+)", text)
    return found, match[1] if match else "?"


def portside(folder: Path, sink: str) -> Contestant:
    port = free_port()
    file = folder / "portside.toml"
    file.write_text(
        f"""[portside]
workers = 1
[admin]
socket = "{folder}/admin.sock"
[log]
format = "text"
[[server]]
name = "sink"
address = "{sink}"
check = false
[[service]]
name = "bench"
listen = "127.0.0.1:{port}"
servers = ["sink"]
"""
    )
    command: list[str | Path] = [sys.executable, "-m", "portside", "run", "-c", file]
    return Contestant("Portside", f"127.0.0.1:{port}", command, folder / "portside.log")


def haproxy(program: str, version: str, folder: Path, sink: str) -> Contestant:
    """Same work: one thread, one log line per session to standard output, which is a file."""
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(
        f"""global
    nbthread 1
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
    server sink {sink}
"""
    )
    command: list[str | Path] = [program, "-db", "-f", file]
    log = folder / "haproxy.log"
    return Contestant(f"HAProxy {version}", f"127.0.0.1:{port}", command, log)


def bare_relay(folder: Path, sink: str) -> Contestant:
    port = free_port()
    address = f"127.0.0.1:{port}"
    program = TARGET / "release" / "portside-relay"
    return Contestant(BARE, address, [program, address, sink], folder / "bare.log")


def wait_ready(contestant: Contestant) -> None:
    until = time.monotonic() + 20
    while run_load(contestant, connections=1, concurrency=1).sessions_ok == 0:
        if contestant.child is not None and not contestant.child.is_running:
            raise SystemExit(f"{contestant.name} ended: {contestant.child.last_lines()}")
        if time.monotonic() > until:
            raise SystemExit(f"{contestant.name} does not answer")
        time.sleep(0.1)


def run_load(contestant: Contestant, **plan: object) -> Figures:
    load = _core.Load(json.dumps({"target": contestant.address, "timeout_ms": 60_000, **plan}))
    while not load.wait(1.0):
        pass
    return Figures(**json.loads(load.report()))


def cpu_of(contestant: Contestant, **plan: object) -> tuple[float, Figures]:
    """CPU seconds of the proxy for one load; nothing may fail."""
    before = contestant.cpu_s()
    figures = run_load(contestant, **plan)
    # The last sessions are still being closed when the clients are gone.
    time.sleep(0.2)
    if figures.sessions_failed:
        raise SystemExit(f"{contestant.name}: {figures.errors}")
    return contestant.cpu_s() - before, figures


class Rows:
    """The measurements; ``scale`` shrinks them for a quick look."""

    def __init__(self, scale: float) -> None:
        self.connections = max(200, int(10_000 * scale))
        self.queries = max(20, int(1000 * scale))
        self.bulk_results = max(8, int(128 * scale))  # 8 MiB each: 1 GiB
        self.rate: dict[str, list[float]] = {}

    def short_connection(self, contestant: Contestant) -> float:
        """Microseconds of CPU per connect, login, query, quit."""
        cpu_s, figures = cpu_of(contestant, connections=self.connections, concurrency=32)
        self.rate.setdefault(contestant.name, []).append(figures.sessions_per_s)
        return cpu_s / figures.sessions_ok * 1e6

    def query(self, contestant: Contestant) -> float:
        """Microseconds of CPU per query, 16 sessions of many queries each."""
        plan = {"connections": 16, "concurrency": 16, "repeat": self.queries}
        cpu_s, figures = cpu_of(contestant, **plan)
        return cpu_s / figures.queries_ok * 1e6

    def gibibyte(self, contestant: Contestant) -> float:
        """Milliseconds of CPU per GiB of results of 8 MiB, 8 at a time."""
        plan = {"connections": 8, "concurrency": 8, "repeat": self.bulk_results // 8}
        cpu_s, figures = cpu_of(contestant, **plan)
        return cpu_s * 1000 / (figures.received_bytes / 2**30)

    def idle_client(self, contestant: Contestant) -> float:
        """Bytes of resident memory per logged-in idle client, in a new process.

        New, because an allocator keeps what earlier runs gave back. The kernel's socket buffers
        are in nobody's resident memory.
        """
        contestant.start()
        run_load(contestant, connections=50, concurrency=50)
        before = contestant.resident_bytes()
        plan = {
            "target": contestant.address,
            "connections": IDLE_CLIENTS,
            "concurrency": IDLE_CLIENTS,
            "hold_ms": 600_000,
            "rate": 4000.0,
            "timeout_ms": 60_000,
        }
        load = _core.Load(json.dumps(plan))
        until = time.monotonic() + 60
        while (figures := Figures(**json.loads(load.report()))).sessions_ok < IDLE_CLIENTS:
            if time.monotonic() > until or figures.sessions_failed:
                raise SystemExit(f"{contestant.name}: {figures}")
            time.sleep(0.1)
        grown = contestant.resident_bytes() - before
        load.stop()
        load.wait(60)
        return grown / IDLE_CLIENTS


def syscalls_per_session(contestant: Contestant, sessions: int = 500) -> float | None:
    """From strace -c, in a run of its own since strace slows everything down; None without it."""
    strace = shutil.which("strace")
    if strace is None or contestant.child is None:
        return None
    with tempfile.NamedTemporaryFile("r") as summary:
        command = [strace, "-c", "-f", "-o", summary.name, "-p", str(contestant.child.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(1)
        run_load(contestant, connections=sessions, concurrency=32)
        time.sleep(0.5)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
        total = re.search(r"^\s*100\.00.*?\s(\d+)\s+(?:\d+ )?total$", summary.read(), re.M)
    return int(total[1]) / sessions if total else None


def measure(rows: list[Row], contestants: dict[str, list[Contestant]], runs: int) -> list[Result]:
    results = [Result(row) for row in rows]
    for number in range(runs):
        for result in results:
            for contestant in contestants[result.row.name]:
                value = result.row.measure(contestant)
                result.values.setdefault(contestant.name, []).append(value)
                name = f"run {number + 1}/{runs}, {result.row.name}"
                print(f"{name}: {contestant.name} {value:,.1f} {result.row.unit}", flush=True)
    return results


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.1f} ({min(values):,.1f}-{max(values):,.1f})"


def show(
    results: list[Result], rate: dict[str, list[float]], calls: dict[str, float | None]
) -> Table:
    """Medians with lowest and highest; the ratio is the median of the runs' own ratios."""
    names = list(dict.fromkeys(name for result in results for name in result.values))
    reference = next((name for name in names if name.startswith("HAProxy")), None)
    table = Table(title="median (lowest-highest) of the runs", title_justify="left")
    for heading in ("what", *names, "Portside / HAProxy", "target: at most"):
        table.add_column(heading)
    for result in results:
        cells = [
            spread(values) if any(values := result.values.get(name, [])) else "" for name in names
        ]
        ratio = ""
        if reference and "Portside" in result.values:
            pairs = zip(result.values["Portside"], result.values[reference], strict=True)
            ratio = spread_ratio([ours / theirs for ours, theirs in pairs if theirs])
        table.add_row(f"{result.row.name}, {result.row.unit}", *cells, ratio, result.row.target)
    if rate:
        cells = [spread(rate[name]) if name in rate else "" for name in names]
        table.add_row("connections/s in that row", *cells, "", "")
    if any(calls.values()):
        cells = [f"{calls[name]:.1f}" if calls.get(name) else "" for name in names]
        table.add_row("syscalls per session", *cells, "", "")
    return table


def spread_ratio(values: list[float]) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def raise_file_limit() -> None:
    """A held client costs two descriptors here, and our children inherit the limit."""
    needed = 3 * IDLE_CLIENTS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        raise SystemExit(f"open files: the limit is {hard:,}, {needed:,} are needed: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="alternating runs (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of each run")
    parser.add_argument("--only", choices=["connections", "queries", "bytes", "memory"], nargs="*")
    parser.add_argument("--json", type=Path, help="also write every value to this file")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    relay = TARGET / "release" / "portside-relay"
    if not relay.exists():
        raise SystemExit(f"{relay} is missing: cargo build --release -p portside-lab --bins")
    found = find_haproxy()
    raise_file_limit()
    sinks = {"small": _core.Sink("{}"), "bulk": _core.Sink(f'{{"result_bytes": {BULK_BYTES}}}')}
    with ExitStack() as stack:
        ways: dict[str, list[Contestant]] = {}
        for kind, sink in sinks.items():
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="portside-bench-"))
            )
            address = sink.addresses()[0]
            direct = Contestant(NO_PROXY, address, [], folder / "none")
            ways[kind] = [direct, bare_relay(folder, address)]
            if found is not None:
                ways[kind].append(haproxy(*found, folder, address))
            ways[kind].append(portside(folder, address))
            for way in ways[kind]:
                stack.callback(way.end)
                way.start()
        proxied = {kind: [way for way in all_ways if way.child] for kind, all_ways in ways.items()}
        rows = Rows(options.scale)
        table_rows = {
            "connections": Row("CPU per short connection", "us", "0.75 x", rows.short_connection),
            "queries": Row("CPU per relayed query", "us", "0.90 x", rows.query),
            "bytes": Row("CPU per GiB relayed", "ms", "1.0 x", rows.gibibyte),
            "memory": Row("resident per idle client", "bytes", "2,048 bytes", rows.idle_client),
        }
        wanted = [table_rows[name] for name in options.only or table_rows]
        contestants = {
            "CPU per short connection": ways["small"],
            "CPU per relayed query": proxied["small"],
            "CPU per GiB relayed": proxied["bulk"],
            "resident per idle client": proxied["small"],
        }
        results = measure(wanted, contestants, options.runs)
        calls = {way.name: syscalls_per_session(way) for way in proxied["small"]}
    conclude(options, results, rows.rate, calls)


def conclude(
    options: argparse.Namespace,
    results: list[Result],
    rate: dict[str, list[float]],
    calls: dict[str, float | None],
) -> None:
    wide = Console() if sys.stdout.isatty() else Console(width=160)
    wide.print(show(results, rate, calls))
    host = f"{os.cpu_count()} CPUs, Linux {platform.release()}, {options.runs} runs"
    print(f"{host}; sink, load and proxies share them.")
    values = {
        "host": host,
        "rows": {result.row.name: result.values for result in results},
        "connections_per_s": rate,
        "syscalls_per_session": calls,
    }
    print(json.dumps(values))
    if options.json:
        options.json.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
