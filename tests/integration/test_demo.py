"""The demo's parts on real servers: loopback for everybody, namespaces for root."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
from portside.demo import hosts as where
from portside.demo.stage import Stage

from tests.support.waiting import wait_until


def _ignore(*_: object) -> None:
    """The live view of a test."""


@pytest.mark.parametrize("is_pool", [False, True])
def test_loopback_portside_balances_by_weight_without_errors(is_pool):
    with Stage(where.Hosts("a test")) as stage:
        folder = stage.folder
        result = stage.measure(stage.start_portside(is_pool=is_pool), 2.0, _ignore)
    read, write = result.services
    assert read.figures.errors == [] and write.figures.errors == []
    total = sum(read.shares.values())
    assert total > 100
    # Smooth weighted round robin per worker: off by at most one round of 21 for each.
    for name, share in {"db1": 1 / 21, "db2": 10 / 21, "db3": 10 / 21}.items():
        assert abs(read.shares[name] - total * share) < 60
    assert set(write.shares) == {"db1"}
    assert (result.aborted_clients, result.time_waits) == (0, None)
    assert not folder.exists()


@pytest.mark.netns
@pytest.mark.haproxy
def test_namespaces_show_the_illness_and_the_cure(haproxy):
    hosts = where.make_hosts()
    if hosts.why:
        pytest.skip(hosts.why)
    with Stage(hosts) as stage:
        results = {}
        for start in (stage.start_haproxy, stage.start_portside, stage.start_pool):
            route = start()
            with stage.running(route):
                results[route.name] = stage.measure(route, 2.0, _ignore)
    other = results.pop("HAProxy")
    for portside in results.values():
        sessions = sum(service.figures.sessions_ok for service in portside.services)
        assert sessions > 100
        assert all(service.figures.errors == [] for service in portside.services)
        assert portside.aborted_clients == 0
        # A late FIN or two per hundred may cross the client's; the bulk must be gone on every host.
        assert sum(portside.time_waits.values()) < sessions / 50
    assert sum(other.time_waits.values()) > sum(s.figures.sessions_ok for s in other.services) / 2


def test_the_command_prints_its_table():
    command = [sys.executable, "-m", "portside", "demo", "--seconds", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "direct",
        "Portside",
        "Portside pool",
        "read",
        "write",
        "Aborted_clients",
        "share %",
    ):
        assert part in done.stdout
    if os.geteuid() != 0:
        assert "need root" in done.stdout


def test_kept_running_its_hint_works_and_sigterm_cleans_up(folder):
    with (folder / "out").open("w") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "portside", "demo", "--seconds", "2", "--keep"],
            stdout=out,
            stderr=out,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    said = (folder / "out").read_text
    try:
        wait_until(lambda: "status: " in said() and said().endswith("\n"), 60)
        (hint,) = re.findall(r"^  status: (.*)$", said(), re.MULTILINE)
        command = shlex.split(hint)
        shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert shown.returncode == 0 and "db1" in shown.stdout, shown
    finally:
        demo.terminate()
        code = demo.wait(30)
    assert code == 130, said()
    assert [path.name for path in folder.iterdir()] == ["out"]
