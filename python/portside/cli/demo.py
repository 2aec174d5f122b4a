"""``portside demo``: the article's platform on this machine, with nothing to configure."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live

from portside.cli.sigterm import ended_by_sigterm
from portside.demo import hosts as where
from portside.demo import report
from portside.demo.database import APP_PASSWORD, APP_USER, DatabaseError
from portside.demo.stage import Route, Show, Stage
from portside.errors import ExitCode, PortsideError

_PLAIN_EVERY_S = 2.0


def main(seconds: int, keep: bool) -> int:
    """Runs the demo for about ``seconds`` and prints the table.

    Args:
        seconds: time under load, divided among the paths.
        keep: leave databases and Portside running afterwards, until Ctrl-C.

    Raises:
        PortsideError: MariaDB is missing or something does not start; the text has the cure.
    """
    console = Console()
    hosts = where.make_hosts()
    if hosts.why:
        console.print(f"On loopback, without TIME_WAIT per host: {hosts.why}.")
    else:
        console.print("Three hosts in network namespaces: web, proxy, db.")
    try:
        console.print("Starting a MariaDB primary and two replicas ...")
        with ended_by_sigterm(), Stage(hosts) as stage:
            paths = _measure_all(console, stage, seconds)
            _conclude(console, paths, hosts, has_haproxy=stage.has_haproxy)
            if keep:
                _keep(console, stage)
    except DatabaseError as error:
        raise PortsideError(str(error)) from error
    except KeyboardInterrupt:
        console.print("Ended by Ctrl-C; everything is gone.")
        return 130  # 128 + SIGINT, as a shell says it
    return ExitCode.GOOD


def _measure_all(console: Console, stage: Stage, seconds: int) -> list[report.PathResult]:
    starts: list[Callable[[], Route]] = [stage.direct, stage.start_portside, stage.start_pool]
    if stage.has_haproxy:
        starts.append(stage.start_haproxy)
    results = []
    for start in starts:
        route = start()
        with stage.running(route), _view(console) as show:
            results.append(stage.measure(route, seconds / len(starts), show))
    return results


@contextlib.contextmanager
def _view(console: Console) -> Iterator[Show]:
    """A live table on a terminal, a line every two seconds elsewhere."""
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:

            def draw(name: str, services: Sequence[report.ServiceResult], left_s: float) -> None:
                live.update(report.live_table(name, services, left_s), refresh=True)

            yield draw
        return
    last = 0.0

    def line(name: str, services: Sequence[report.ServiceResult], left_s: float) -> None:
        nonlocal last
        del left_s
        if time.monotonic() - last >= _PLAIN_EVERY_S:
            last = time.monotonic()
            console.print(report.plain_line(name, services))

    yield line


def _conclude(
    console: Console,
    paths: Sequence[report.PathResult],
    hosts: where.Hosts,
    *,
    has_haproxy: bool,
) -> None:
    # A pipe has no width of its own; 80 columns would fold the table.
    wide = console if console.is_terminal else Console(width=160)
    wide.print(report.final_table(paths))
    for path in paths:
        for result in path.services:
            for sentence in report.error_text(result.figures):
                console.print(f"{path.name}, {result.service}: {sentence}", highlight=False)
    if hosts.why:
        console.print(
            "TIME_WAIT is not shown: on loopback the server's FIN is faster than the client's"
            " close, so the illness does not show (the article says the same)."
        )
    if not has_haproxy:
        console.print("HAProxy is not installed, so it is not compared: apt-get install haproxy")


def _keep(console: Console, stage: Stage) -> None:
    """Portside again, until Ctrl-C."""
    route = stage.start_portside()
    enter = " ".join(stage.hosts.prefix(where.WEB))
    console.print(f"Running until Ctrl-C; files are in {stage.folder}")
    for service, target in route.targets.items():
        host, port = target.rsplit(":", 1)
        command = f"{enter} mariadb -h {host} -P {port} -u {APP_USER} -p{APP_PASSWORD} app".strip()
        console.print(f"  {service}:  {command}", highlight=False, soft_wrap=True)
    # As it works in any shell, whether or not a .venv is in its PATH.
    for name, verb in (("status", "show"), ("live", "top")):
        command = shlex.join([sys.executable, "-m", "portside", verb, "-a"])
        console.print(
            f"  {name}:  {command} {stage.folder}/admin.sock", highlight=False, soft_wrap=True
        )
    while True:
        time.sleep(3600)
