"""The demo's run: servers up, each path under load in turn, everything down again."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from portside.demo import hosts as where
from portside.demo import proxies
from portside.demo.child import Child, end_all
from portside.demo.client import Figures, RemoteLoad
from portside.demo.database import APP_PASSWORD, APP_USER, DatabaseError
from portside.demo.held_port import free_port
from portside.demo.mariadb import MariaDB, find_program, start_trio
from portside.demo.report import PathResult, ServiceResult

READ_QUERY = "SELECT @@server_id"
WRITE_QUERY = "INSERT INTO app.visit (server) VALUES (@@server_id) RETURNING server"
# Read is what the article's replicas are for; both together keep two cores busy without a backlog.
READERS, WRITERS = 16, 4

Show = Callable[[str, Sequence[ServiceResult], float], None]
"""Called about four times a second with a path's name, its figures and the seconds left."""


@dataclass(frozen=True)
class Route:
    """One way to the databases: where each service is reached, and who should answer."""

    name: str
    targets: Mapping[str, str]
    weights: Mapping[str, Mapping[str, int]]


class Stage:
    """The databases and the hosts; a context manager that leaves nothing behind."""

    def __init__(self, hosts: where.Hosts) -> None:
        """Starts a primary and two replicas in a temporary folder.

        Raises:
            DatabaseError: MariaDB is missing or does not start.
        """
        self.hosts = hosts
        self.folder = Path(tempfile.mkdtemp(prefix="portside-demo-"))
        self.folder.chmod(0o755)
        self._children: list[Child] = []
        self._haproxy = find_program("haproxy")
        self.databases: Sequence[MariaDB] = ()
        try:
            self.databases = start_trio(
                self.folder,
                address=hosts.address(where.DB),
                client_hosts=hosts.client_hosts,
                prefix=hosts.prefix(where.DB),
            )
            self.databases[0].root(
                "CREATE TABLE app.visit (id INT AUTO_INCREMENT PRIMARY KEY, server INT)"
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends every process and removes the folder."""
        end_all(self._children)
        for database in self.databases:
            database.kill()
        self.hosts.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def direct(self) -> Route:
        """Straight to the databases, as the article's customer began: writes db1, reads db2."""
        address = self.hosts.address(where.DB)
        targets = {
            "read": f"{address}:{self.databases[1].port}",
            "write": f"{address}:{self.databases[0].port}",
        }
        return Route("direct", targets, {})

    def start_portside(self, *, is_pool: bool = False) -> Route:
        """Starts ``portside run``; DatabaseError when it does not serve within 15 s."""
        path, write, read = self._balanced("Portside pool" if is_pool else "Portside")
        address = self.hosts.address(where.PROXY)
        config = proxies.portside_toml(
            self.folder, self.databases, address, write, read, is_pool=is_pool
        )
        prefix = self.hosts.prefix(where.PROXY)
        return self._started(proxies.start_portside(self.folder, config, prefix), path)

    def start_pool(self) -> Route:
        """Starts ``portside run`` in pool mode; otherwise as ``start_portside``."""
        return self.start_portside(is_pool=True)

    @property
    def has_haproxy(self) -> bool:
        """True when HAProxy can be compared."""
        return self._haproxy is not None

    def start_haproxy(self) -> Route:
        """Starts HAProxy; DatabaseError when it is not installed or does not serve."""
        if self._haproxy is None:
            raise DatabaseError("haproxy is not installed: apt-get install haproxy")
        path, write, read = self._balanced("HAProxy")
        config = proxies.haproxy_cfg(self.databases, self.hosts.address(where.PROXY), write, read)
        prefix = self.hosts.prefix(where.PROXY)
        return self._started(
            proxies.start_haproxy(self._haproxy, self.folder, config, prefix), path
        )

    def measure(self, path: Route, seconds: float, show: Show) -> PathResult:
        """Loads both services of a path for some seconds."""
        aborted = self._aborted_clients()
        waits = self.hosts.time_waits()
        loads = {
            "read": self._load(path.targets["read"], READ_QUERY, READERS, seconds),
            "write": self._load(path.targets["write"], WRITE_QUERY, WRITERS, seconds),
        }
        try:
            until = time.monotonic() + seconds
            while any(load.is_running for load in loads.values()):
                now = {name: load.figures for name, load in loads.items()}
                show(path.name, self._results(path, now), until - time.monotonic())
                time.sleep(0.25)
            done = {name: load.result(15) for name, load in loads.items()}
        finally:
            for load in loads.values():
                load.end()
        after = self.hosts.time_waits()
        growth = None
        if waits is not None and after is not None:
            growth = {host: max(0, count - waits[host]) for host, count in after.items()}
        services = self._results(path, done)
        return PathResult(path.name, services, self._aborted_clients() - aborted, growth)

    @contextlib.contextmanager
    def running(self, path: Route) -> Iterator[Route]:
        """Ends the balancer after the block, so that paths do not share the CPU."""
        yield path
        for child in self._children:
            child.end()
        self._children.clear()

    def _balanced(self, name: str) -> tuple[Route, int, int]:
        address = self.hosts.address(where.PROXY)
        write, read = free_port(), free_port()
        weights = {
            "read": {f"db{number}": weight for number, weight in enumerate(proxies.WEIGHTS, 1)},
            "write": {"db1": 1},
        }
        targets = {"read": f"{address}:{read}", "write": f"{address}:{write}"}
        return Route(name, targets, weights), write, read

    def _started(self, child: Child, path: Route) -> Route:
        """Waits until both services answer a session."""
        self._children.append(child)
        until = time.monotonic() + 15
        for target in path.targets.values():
            while True:
                load = self._load(target, "SELECT 1", 1, 5.0, connections=1)
                if load.result(10).sessions_ok:
                    break
                if not child.is_running or time.monotonic() > until:
                    raise DatabaseError(f"{path.name} does not serve: {child.last_lines()}")
        return path

    def _load(
        self, target: str, query: str, clients: int, seconds: float, connections: int | None = None
    ) -> RemoteLoad:
        plan = {
            "target": target,
            "user": APP_USER,
            "password": APP_PASSWORD,
            "queries": [query],
            "concurrency": clients,
            "connections": connections,
            "duration_ms": int(seconds * 1000),
            "identify": True,
        }
        return RemoteLoad(plan, self.hosts.prefix(where.WEB))

    def _aborted_clients(self) -> int:
        return sum(database.status("Aborted_clients") for database in self.databases)

    def _results(self, path: Route, figures: Mapping[str, Figures]) -> list[ServiceResult]:
        names = {str(database.port): f"db{n}" for n, database in enumerate(self.databases, 1)}
        results = []
        for service, seen in figures.items():
            shares = {names.get(key, key): count for key, count in seen.by_server.items()}
            results.append(ServiceResult(service, seen, shares, path.weights.get(service, {})))
        return results
