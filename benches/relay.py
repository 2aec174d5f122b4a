"""CPU, rate and memory of the relay: Portside, HAProxy, a bare relay and no proxy, side by side.

``make bench`` or ``python benches/relay.py [--runs 5] [--json FILE] [--only connections]``.

Behind everything stands the same MySQL-speaking sink (crates/lab), in front the same PHP-like load,
on loopback. Portside has one worker, HAProxy nbthread 1, both write a log line per session.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from portside import _core
from results import Row, host, measure, show
from ways import (
    NO_PROXY,
    Way,
    bare_relay,
    bytes_per_idle_client,
    cpu_of,
    direct,
    haproxy,
    portside,
    raise_file_limit,
    run_load,
)

BULK_BYTES = 8 << 20
IDLE_CLIENTS = 4000
OURS = "Portside relay"


class Measures:
    """The measurements; ``scale`` shrinks them for a quick look."""

    def __init__(self, scale: float) -> None:
        self.connections = max(200, int(10_000 * scale))
        self.queries = max(20, int(1000 * scale))
        self.bulk_results = max(8, int(128 * scale))  # 8 MiB each: 1 GiB
        self.rate: list[tuple[str, float]] = []

    def short_connection(self, way: Way) -> float:
        """Microseconds of CPU per connect, login, query, quit."""
        cpu_s, figures = cpu_of(way, connections=self.connections, concurrency=32)
        self.rate.append((way.name, figures.sessions_per_s))
        return cpu_s / figures.sessions_ok * 1e6

    def query(self, way: Way) -> float:
        """Microseconds of CPU per query, 16 sessions of many queries each."""
        cpu_s, figures = cpu_of(way, connections=16, concurrency=16, repeat=self.queries)
        return cpu_s / figures.queries_ok * 1e6

    def gibibyte(self, way: Way) -> float:
        """Milliseconds of CPU per GiB of results of 8 MiB, 8 at a time."""
        cpu_s, figures = cpu_of(way, connections=8, concurrency=8, repeat=self.bulk_results // 8)
        return cpu_s * 1000 / (figures.received_bytes / 2**30)


def syscalls_per_session(way: Way, sessions: int = 500) -> float:
    """From strace -c, in a run of its own since strace slows everything down; 0 without it."""
    strace = shutil.which("strace")
    if strace is None or way.child is None:
        return 0.0
    with tempfile.NamedTemporaryFile("r") as summary:
        command = [strace, "-c", "-f", "-o", summary.name, "-p", str(way.child.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(1)
        run_load(way, connections=sessions, concurrency=32)
        time.sleep(0.5)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
        total = re.search(r"^\s*100\.00.*?\s(\d+)\s+(?:\d+ )?total$", summary.read(), re.M)
    return int(total[1]) / sessions if total else 0.0


def start_ways(stack: ExitStack, sink: str) -> list[Way]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="portside-bench-")))
    ways = [direct(sink), bare_relay(folder, sink), haproxy(folder, sink), portside(folder, sink)]
    there = [way for way in ways if way is not None]
    for way in there:
        stack.callback(way.end)
        way.start()
    return there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="alternating runs (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of each run")
    parser.add_argument("--only", choices=["connections", "queries", "bytes", "memory"], nargs="*")
    parser.add_argument("--json", type=Path, help="also write every value to this file")
    options = parser.parse_args()
    raise_file_limit(3 * IDLE_CLIENTS)
    do = Measures(options.scale)
    sinks = [_core.Sink("{}"), _core.Sink(f'{{"result_bytes": {BULK_BYTES}}}')]
    with ExitStack() as stack:
        small, bulk = (start_ways(stack, sink.addresses()[0]) for sink in sinks)
        proxies = [way for way in small if way.name != NO_PROXY]

        def row(name: str, unit: str, how: object, ways: list[Way], target: str, ratio: str) -> Row:
            return Row(name, unit, how, ways, OURS, ratio, target)  # type: ignore[arg-type]

        rows = {
            "connections": row(
                "CPU per short connection", "us", do.short_connection, small, "0.75 x", "HAProxy"
            ),
            "queries": row("CPU per relayed query", "us", do.query, proxies, "0.90 x", "HAProxy"),
            "bytes": row("CPU per GiB relayed", "ms", do.gibibyte, bulk[1:], "1.0 x", "HAProxy"),
            "memory": row(
                "resident per idle client",
                "bytes",
                lambda way: bytes_per_idle_client(way, IDLE_CLIENTS),
                proxies,
                "2,048 bytes",
                "",
            ),
        }
        wanted = [rows[name] for name in options.only or rows]
        measure(wanted, options.runs)
        calls = Row("system calls per session", "", syscalls_per_session, proxies)
        measure([calls], 1)
    rate = Row("connections/s in the first row", "", lambda _: 0.0, [])
    for name, value in do.rate:
        rate.note(name, value)
    done = [*wanted, rate, calls]
    show(done)
    if options.json:
        values = {"host": host(), "rows": {row.name: row.values for row in done}}
        options.json.write_text(json.dumps(values))


if __name__ == "__main__":
    main()
