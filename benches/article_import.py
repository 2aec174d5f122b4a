"""The article's two configurations, run as they are by HAProxy and imported by Portside.

``python benches/article_import.py [--sessions 10000]``; needs root (three network namespaces),
HAProxy and MariaDB. The article's second step names four source addresses, its third lets the
balancer choose the ports; the addresses, which the article's copy has lost, are this script's. Each
run has new hosts: a TIME_WAIT lasts 60 s. Half of the sessions go to write, half to read.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from portside.demo.child import Child
from portside.demo.client import Figures, RemoteLoad
from portside.demo.hosts import DB, PROXY, WEB, NamespaceHosts
from portside.demo.mariadb import MariaDB, find_program
from portside.importer.imported import import_haproxy
from rich.console import Console
from rich.table import Table

SOURCES = ("10.213.2.11", "10.213.2.12", "10.213.2.13", "10.213.2.14")
WRITE, READ = 3306, 3307
STEPS = {
    "4 x source": "",
    "4 x source, ports by the balancer": ":1025-65000",
}


def haproxy_cfg(listen: str, servers: list[str], ports: str) -> str:
    """The article's file for one step."""

    def lines(name: str, address: str, more: str) -> str:
        names = (name, f"{name}_bis", f"{name}_ter", f"{name}_quater")
        return "".join(
            f"    server {one} {address} check{more} source {source}{ports}\n"
            for one, source in zip(names, SOURCES, strict=True)
        )

    return (
        "global\n    maxconn 4000\n    nbthread 1\n"
        "defaults\n    mode tcp\n    timeout connect 3s\n    timeout client 1m\n"
        "    timeout server 1m\n"
        f"listen write\n    bind {listen}:{WRITE}\n{lines('mysql1', servers[0], '')}"
        f"listen read\n    bind {listen}:{READ}\n    balance roundrobin\n"
        f"{lines('mysql1', servers[0], ' weight 1')}{lines('mysql2', servers[1], ' weight 10')}"
    )


@dataclass(frozen=True)
class Run:
    """What one balancer did with one step."""

    step: str
    balancer: str
    write: Figures
    read: Figures
    waits: dict[str, int]
    aborted: int
    primary: str


def measure(step: str, balancer: str, sessions: int, folder: Path) -> Run:
    """New hosts, two databases, one balancer, the load."""
    with contextlib.ExitStack() as stack:
        hosts = NamespaceHosts()
        stack.callback(hosts.close)
        for source in SOURCES:
            command = ["ip", "addr", "add", f"{source}/24", "dev", "db"]
            subprocess.run([*hosts.prefix(PROXY), *command], check=True)
        databases = []
        for number in (0, 1):
            one = MariaDB(
                folder / f"db{number}",
                3306 + number,
                address=hosts.address(DB),
                client_hosts=hosts.client_hosts,
                prefix=hosts.prefix(DB),
            )
            stack.callback(one.kill)
            one.start()
            databases.append(one)
        file = folder / "haproxy.cfg"
        servers = [f"{one.address}:{one.port}" for one in databases]
        file.write_text(haproxy_cfg(hosts.address(PROXY), servers, STEPS[step]))
        command: list[str | Path] = [find_program("haproxy") or "haproxy", "-db", "-f", file]
        if balancer == "Portside":
            result = folder / "portside.toml"
            text = import_haproxy([file]).text
            result.write_text(f'{text}\n[admin]\nsocket = "{folder}/admin.sock"\n')
            command = [sys.executable, "-m", "portside", "run", "-c", result]
        child = Child(command, folder / "balancer.log", hosts.prefix(PROXY))
        stack.callback(child.end)
        time.sleep(3.0)  # both have started and checked their servers
        before = sum(one.status("Aborted_clients") for one in databases)
        loads = [
            RemoteLoad(
                {
                    "target": f"{hosts.address(PROXY)}:{port}",
                    "connections": sessions // 2,
                    "concurrency": 8,
                    "identify": True,
                },
                hosts.prefix(WEB),
            )
            for port in (WRITE, READ)
        ]
        write, read = (load.result(600) for load in loads)
        waits = hosts.time_waits() or {}
        time.sleep(1.5)
        aborted = sum(one.status("Aborted_clients") for one in databases) - before
        return Run(step, balancer, write, read, waits, aborted, str(databases[0].port))


def main() -> int:
    """Runs all four and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    sessions = parser.parse_args().sessions
    table = Table(box=None, header_style="bold")
    for head in ("step", "balancer", "sessions", "errors", "read: db1 / db2 %", "Aborted_clients",
                 "TIME_WAIT web / proxy / db"):  # fmt: skip
        table.add_column(head)
    for step in STEPS:
        for balancer in ("HAProxy", "Portside"):
            folder = Path(tempfile.mkdtemp(prefix="portside-article-"))
            folder.chmod(0o755)
            try:
                table.add_row(*_row(measure(step, balancer, sessions, folder)))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    Console(width=150).print(table)
    return 0


def _row(run: Run) -> tuple[str, ...]:
    first = run.read.by_server.get(run.primary, 0)
    share = 100 * first / max(1, run.read.sessions_ok)
    return (
        run.step,
        run.balancer,
        f"{run.write.sessions_ok + run.read.sessions_ok:,}",
        f"{run.write.sessions_failed + run.read.sessions_failed:,}",
        f"{share:.1f} / {100 - share:.1f}",
        f"+{run.aborted:,}",
        " / ".join(f"{run.waits.get(host, 0):,}" for host in (WEB, PROXY, DB)),
    )


if __name__ == "__main__":
    sys.exit(main())
