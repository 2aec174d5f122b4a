"""Pool mode on real MariaDB: direct, relayed, through HAProxy, pooled.

``python benches/pool.py [--seconds 3] [--runs 3]``. The same PHP-like load (crates/lab) on the same
server; the ways alternate, so that a machine that slows down hits all of them. Printed are medians
of sessions per second, and user + system time per session of the proxy and of the database. All
share the same processors: only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from portside.demo.child import Child
from portside.demo.database import APP_PASSWORD, APP_USER
from portside.demo.held_port import free_port
from portside.demo.mariadb import MariaDB, find_program
from rich.console import Console
from rich.table import Table

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parent.parent / "target"))
CLIENTS = 16
LOADS = {"one query each": 1, "100 queries each": 100}

HAPROXY = """global
  nbthread {workers}
  maxconn 4000
defaults
  mode tcp
  timeout connect 3s
  timeout client 60s
  timeout server 60s
listen s
  bind 127.0.0.1:{port}
  server db1 {server}
"""

PORTSIDE = """
[portside]
workers = {workers}
[admin]
socket = "{folder}/{mode}.sock"
[log]
file = "{folder}/{mode}.log"
[[server]]
name = "db1"
address = "{server}"
check = false
[[service]]
name = "s"
listen = "127.0.0.1:{port}"
mode = "{mode}"
servers = ["db1"]
[[user]]
name = "{user}"
password = "{password}"
"""


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_load(port: int, queries: int, seconds: float) -> dict[str, Any]:
    plan = {
        "target": f"127.0.0.1:{port}",
        "user": APP_USER,
        "password": APP_PASSWORD,
        "queries": ["SELECT 1"],
        "repeat": queries,
        "concurrency": CLIENTS,
        "duration_ms": int(seconds * 1000),
    }
    load = TARGET / "release" / "portside-load"
    done = subprocess.run(
        [load, json.dumps(plan)], capture_output=True, text=True, check=False, timeout=60
    )
    report: dict[str, Any] = json.loads(done.stdout)
    if report["sessions_failed"]:
        sys.exit(f"{report['sessions_failed']} sessions failed: {report['errors']}")
    return report


def start_ways(folder: Path, server: str, workers: int) -> dict[str, tuple[int, Child]]:
    """Name -> port and process."""
    ways = {}
    for mode in ("relay", "pool"):
        port = free_port()
        path = folder / f"{mode}.toml"
        values = {"workers": workers, "folder": folder, "server": server, "port": port}
        path.write_text(PORTSIDE.format(mode=mode, user=APP_USER, password=APP_PASSWORD, **values))
        command = [sys.executable, "-m", "portside", "run", "-c", str(path)]
        ways[f"Portside, {mode}"] = (port, Child(command, folder / f"{mode}.err"))
    if haproxy := find_program("haproxy"):
        port = free_port()
        path = folder / "haproxy.cfg"
        path.write_text(HAPROXY.format(workers=workers, port=port, server=server))
        ways["HAProxy"] = (port, Child([haproxy, "-f", str(path), "-db"], folder / "haproxy.err"))
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description="Pool mode against relays, on real MariaDB.")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="portside-bench-"))
    database = MariaDB(folder / "db")
    figures: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    ways: dict[str, tuple[int, Child]] = {}
    try:
        database.start()
        ways = start_ways(folder, f"{database.address}:{database.port}", given.workers)
        time.sleep(2)  # both instances are ready within one; a failed load says if not
        for _ in range(given.runs):
            for load, queries in LOADS.items():
                for name, (port, child) in {"direct": (database.port, None), **ways}.items():
                    before = (child.cpu_s() if child else 0.0, cpu_s(database.pid))
                    sessions = run_load(port, queries, given.seconds)["sessions_ok"]
                    after = (child.cpu_s() if child else 0.0, cpu_s(database.pid))
                    proxy, server = (
                        (b - a) / sessions * 1e6 for a, b in zip(before, after, strict=True)
                    )
                    figures[load, name].append((sessions / given.seconds, proxy, server))
    finally:
        for _, child in ways.values():
            child.end()
        database.kill()
        shutil.rmtree(folder, ignore_errors=True)
    table = Table("load", "way", "sessions/s", "proxy us/session", "database us/session")
    for (load, name), rows in figures.items():
        rate, proxy, server = (statistics.median(column) for column in zip(*rows, strict=True))
        table.add_row(load, name, f"{rate:,.0f}", f"{proxy:,.1f}", f"{server:,.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
