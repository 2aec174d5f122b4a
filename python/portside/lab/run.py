"""One strategy under load: hosts made, balancer started, clients let loose, everything counted.

The only file of the lab that starts processes. Whatever happens, the hosts, the balancer and the
folder are gone when ``measure`` returns.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from portside import _core
from portside.admin.client import AdminClient
from portside.demo.child import Child
from portside.demo.database import DatabaseError
from portside.demo.mariadb import MariaDB, find_program
from portside.errors import PortsideError
from portside.lab import hosts as lab_hosts
from portside.lab.errors import LabError
from portside.lab.folder import lab_folder
from portside.lab.hosts import DB_ADDRESS, WEB_ADDRESSES, Host, Hosts
from portside.lab.path import PathPlan, path
from portside.lab.scale import WIDE_RANGE, Scale
from portside.lab.strategies import (
    DB_PORT,
    LISTEN_PORT,
    By,
    Strategy,
    haproxy_cfg,
    portside_toml,
    target,
)

_SAMPLE_S = 0.5
# A balancer drains when it is told to end; sessions that are stuck are not worth the wait.
_END_S = 0.5
# One failure may be an accident; this many and one in a hundred are the wall.
_WALL_FAILURES = 5


@dataclass(frozen=True)
class Sample:
    """TIME_WAIT on each host at one moment, ``at_s`` after the load began."""

    at_s: float
    done: int
    web: int
    proxy: int
    db: int


@dataclass(frozen=True)
class Result:
    """What one strategy came to.

    Attributes:
        strategy: which.
        done: sessions that got their answer.
        failed: sessions that did not.
        errors: kind, errno, text and count of the failures, most frequent first.
        seconds: from the first connect() to the last answer.
        p50_us: median from connect() to the answer, as the client sees it.
        p99_us: 99 of 100 were faster.
        samples: twice a second and at the end.
        aborted: connections that the database counts as aborted.
        cpu_us: CPU of the balancer per session that was tried; None without a balancer.
        path: what the delay was made of.
        delay_us: each way.
        resets_lost: Portside noticed that resets do not arrive.
    """

    strategy: Strategy
    done: int
    failed: int
    errors: Sequence[dict[str, Any]]
    seconds: float
    p50_us: int
    p99_us: int
    samples: Sequence[Sample]
    aborted: int
    cpu_us: float | None
    path: str
    delay_us: int
    resets_lost: bool = False

    def peak(self, host: str) -> int:
        """The most TIME_WAITs seen on web, proxy or db."""
        return max((int(getattr(sample, host)) for sample in self.samples), default=0)


@dataclass
class Progress:
    """What is known of a strategy while it runs."""

    strategy: Strategy
    done: int = 0
    failed: int = 0
    samples: list[Sample] = field(default_factory=list)


Show = Callable[[Progress], None]
"""Called about ten times a second."""


class _Server(Protocol):
    """The database of a run."""

    def aborted(self) -> int:
        """Connections that ended without QUIT so far."""


class _Sink:
    def __init__(self, host: Host) -> None:
        plan = json.dumps({"listen": [f"{DB_ADDRESS}:{DB_PORT}"]})
        self._sink = host.inside(lambda: _core.Sink(plan))

    def aborted(self) -> int:
        return int(json.loads(self._sink.report())["aborted"])


class _Real:
    def __init__(self, database: MariaDB) -> None:
        self._database = database

    def aborted(self) -> int:
        return self._database.status("Aborted_clients")


def measure(strategy: Strategy, scale: Scale, server: str, show: Show) -> Result:
    """Runs one strategy; ``server`` is "sink" or "mariadb".

    Raises:
        LabError: the system refused something, or a program did not start.
    """
    delay = scale.delay_us if strategy.has_delay else 0
    plan = PathPlan(delay, strategy.eats_resets)
    with (
        lab_folder() as folder,
        Hosts() as hosts,
        path(hosts, plan) as kind,
        contextlib.ExitStack() as stack,
    ):
        _set_up(hosts, strategy, scale)
        database = stack.enter_context(_server(hosts.db, server, folder))
        balancer = stack.enter_context(_balancer(hosts, strategy, scale, folder))
        return _under_load(
            _Run(hosts, strategy, scale, folder, database, balancer), show, kind, delay
        )


@dataclass
class _Run:
    hosts: Hosts
    strategy: Strategy
    scale: Scale
    folder: Path
    database: _Server
    balancer: Child | None

    def load(self) -> _core.Load:
        """The clients, started; a unix socket is reached from anywhere."""
        direct = self.strategy.by is By.NOBODY
        plan = {
            "target": target(self.strategy, self.folder),
            # The direct way is one web server with one address, as the article's.
            "sources": [] if self.strategy.unix else WEB_ADDRESSES[: 1 if direct else None],
            "concurrency": 4 if self.strategy.in_a_row else self.scale.concurrency,
            "connections": self.limit,
            "duration_ms": int(self.scale.seconds * 1000),
            "timeout_ms": 10_000 if self.strategy.in_a_row else self.scale.timeout_ms,
        }
        text = json.dumps(plan)
        return self.hosts.web.inside(lambda: _core.Load(text))

    @property
    def limit(self) -> int:
        """Connections at most."""
        scale = self.scale
        return scale.one_port if self.strategy.in_a_row else scale.connections


def _under_load(run: _Run, show: Show, kind: str, delay: int) -> Result:
    aborted, cpu = run.database.aborted(), run.balancer.cpu_s() if run.balancer else 0.0
    progress = Progress(run.strategy)
    load = run.load()
    try:
        report = _watch(run, load, progress, show)
    finally:
        load.stop()
    tried = report["sessions_ok"] + report["sessions_failed"]
    used = run.balancer.cpu_s() - cpu if run.balancer else None
    return Result(
        strategy=run.strategy,
        done=report["sessions_ok"],
        failed=report["sessions_failed"],
        errors=report["errors"],
        seconds=report["seconds"],
        p50_us=report["p50_us"],
        p99_us=report["p99_us"],
        samples=progress.samples,
        aborted=run.database.aborted() - aborted,
        cpu_us=None if used is None else used * 1e6 / max(1, tried),
        path=kind,
        delay_us=delay,
        resets_lost=_resets_lost(run),
    )


def _watch(run: _Run, load: _core.Load, progress: Progress, show: Show) -> dict[str, Any]:
    """Samples until the load is over and has settled; returns its final report."""
    began = time.monotonic()
    next_sample, wall_at = began, None
    while True:
        now = time.monotonic()
        report: dict[str, Any] = json.loads(load.report())
        progress.done, progress.failed = report["sessions_ok"], report["sessions_failed"]
        if now >= next_sample:
            next_sample += _SAMPLE_S
            progress.samples.append(_sample(run.hosts, now - began, progress.done))
        if wall_at is None and _is_wall(progress):
            wall_at = now
        if wall_at is not None and now - wall_at >= run.scale.after_wall_s:
            load.stop()
        show(progress)
        if load.wait(min(0.1, max(0.0, next_sample - now))):
            break
        if run.balancer is not None and not run.balancer.is_running:
            raise LabError(f"{run.strategy.title}: {run.balancer.last_lines()}")
    report = json.loads(load.report())
    progress.done, progress.failed = report["sessions_ok"], report["sessions_failed"]
    ended = time.monotonic()
    progress.samples.append(_sample(run.hosts, ended - began, progress.done))
    time.sleep(run.scale.settle_s)  # the last sessions are still being closed
    progress.samples.append(_sample(run.hosts, time.monotonic() - began, progress.done))
    show(progress)
    return report


def _is_wall(progress: Progress) -> bool:
    return progress.failed >= max(_WALL_FAILURES, progress.done / 100)


def _sample(hosts: Hosts, at_s: float, done: int) -> Sample:
    web, proxy, db = hosts.time_waits()
    return Sample(round(at_s, 3), done, web, proxy, db)


def _set_up(hosts: Hosts, strategy: Strategy, scale: Scale) -> None:
    """The proxy's is the strategy's; the web host's must not be in the way of a proxy's."""
    proxy = scale.wide_range if strategy.wide else scale.port_range
    web = scale.port_range if strategy.by is By.NOBODY else WIDE_RANGE
    for host, chosen in ((hosts.proxy, proxy), (hosts.web, web)):
        if chosen is not None:
            host.sysctl({"ip_local_port_range": f"{chosen[0]} {chosen[1]}"})
    if not strategy.timestamps:
        hosts.db.sysctl({"tcp_timestamps": "0"})


@contextlib.contextmanager
def _server(host: Host, server: str, folder: Path) -> Iterator[_Server]:
    if server == "sink":
        yield _Sink(host)
        return
    try:
        database = MariaDB(
            folder / "db",
            DB_PORT,
            address=DB_ADDRESS,
            client_hosts="10.214.%",
            prefix=host.prefix,
        )
        database.start()
    except DatabaseError as error:
        raise LabError(str(error)) from error
    try:
        yield _Real(database)
    finally:
        with lab_hosts.uninterrupted():
            database.kill()


@contextlib.contextmanager
def _balancer(
    hosts: Hosts, strategy: Strategy, scale: Scale, folder: Path
) -> Iterator[Child | None]:
    """Portside or HAProxy, serving; None for the direct way."""
    if strategy.by is By.NOBODY:
        yield None
        return
    command: list[str | Path]
    if strategy.by is By.PORTSIDE:
        file = folder / "portside.toml"
        file.write_text(portside_toml(strategy, scale, folder))
        command = [sys.executable, "-m", "portside", "run", "-c", file]
    else:
        file = folder / "haproxy.cfg"
        file.write_text(haproxy_cfg(strategy, scale))
        command = [find_program("haproxy") or "haproxy", "-db", "-f", file]
    child = Child(command, folder / "balancer.log", hosts.proxy.prefix)
    try:
        _wait_for_listener(hosts.proxy, child, strategy, folder)
        yield child
    finally:
        with lab_hosts.uninterrupted():
            child.end(_END_S)


def _wait_for_listener(host: Host, child: Child, strategy: Strategy, folder: Path) -> None:
    """Until it listens: seen in the host's socket table, so that no connection is spent on it."""
    for _ in range(1500):
        if not child.is_running:
            break
        if host.inside(lambda: _listens(strategy.unix, folder)):
            return
        time.sleep(0.02)
    raise LabError(f"{strategy.title} does not serve: {child.last_lines()}")


def _listens(unix: bool, folder: Path) -> bool:
    """From the tables of the calling thread's namespace; no connection is spent on it."""
    net = Path("/proc/thread-self/net")
    if unix:  # flags 00010000: __SO_ACCEPTCON
        lines = (net / "unix").read_text().splitlines()
        return any(line.endswith(f"{folder}/db.sock") and " 00010000 " in line for line in lines)
    fields = (line.split() for line in (net / "tcp").read_text().splitlines()[1:])
    return any(
        one[1].endswith(f":{LISTEN_PORT:04X}") and one[3] == "0A" for one in fields
    )  # LISTEN


def _resets_lost(run: _Run) -> bool:
    """What Portside itself says of the path; False for everybody else."""
    if run.strategy.by is not By.PORTSIDE:
        return False
    with contextlib.suppress(PortsideError, OSError):
        rows = AdminClient(str(run.folder / "admin.sock")).get("/v1/ports")
        return any(row.get("resets_lost") for row in rows)
    return False
