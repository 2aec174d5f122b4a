"""A path that eats every reset of ours: noticed within a second, and nobody pays for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

# Few ports, so that each is used again and again; login checks twenty times a second beside it.
_RUN = """
import json, sys, time
from portside.balancer import Balancer
from portside.lab.hosts import DB_ADDRESS, PROXY_ADDRESSES, WEB_SIDE, Hosts
from portside.lab.path import PathPlan, path
from pathlib import Path
from tests.support.lab import Load
from tests.support.servers import APP_PASSWORD, APP_USER, MONITOR_PASSWORD, MariaDB

CONFIG = f'''
[portside]
workers = 1
[log]
sessions = "errors"
[source]
addresses = ["{PROXY_ADDRESSES[0]}"]
ports = "20000-20199"
reserve = 4
[check]
user = "monitor"
password = "{MONITOR_PASSWORD}"
interval = "50ms"
timeout = "500ms"
fall = 1
[close]
to_server = "{sys.argv[2]}"
[[server]]
name = "db1"
address = "{DB_ADDRESS}:3306"
[[service]]
name = "db"
listen = "{WEB_SIDE}:3306"
servers = ["db1"]
'''

def run(balancer):
    began, seen = time.monotonic(), set()
    load = hosts.web.inside(lambda: Load(
        f"{WEB_SIDE}:3306", concurrency=8, rate=400, user=APP_USER, password=APP_PASSWORD,
        queries=["SELECT 1"],
    ))
    while time.monotonic() - began < 4:
        (server,) = balancer.servers()
        seen.add((server.state, server.check))
        time.sleep(0.02)
    report = load.finish()
    (row,) = balancer.ports()
    kinds = [event.kind for event in balancer.events()]
    return {
        "ok": report["sessions_ok"], "failed": report["sessions_failed"],
        "errors": report["errors"], "states": sorted({s for s, _ in seen}),
        "checks": sorted({c for _, c in seen}), "resets_lost": row.resets_lost,
        "events": sorted(set(kinds)), "closes": row.closes,
        "fin_wait": sum(
            line.split()[3] in ("04", "05")
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        ),
    }

with Hosts() as hosts, path(hosts, PathPlan(delay_us=200, eats_resets=True)):
    database = MariaDB(
        Path(sys.argv[1]) / "db", 3306, address=DB_ADDRESS, client_hosts="%", prefix=hosts.db.prefix
    )
    database.start()

    def balance():
        with Balancer(CONFIG) as balancer:
            balancer.wait_ready()
            return run(balancer)

    found = hosts.proxy.inside(balance)
    found["aborted"] = [database.status("Aborted_clients"), database.status("Aborted_connects")]
    database.kill()
    print(json.dumps(found))
"""


def run(place, to_server: str) -> dict[str, Any]:
    done = subprocess.run(
        place.command(sys.executable, "-c", _RUN, str(place.temporary), to_server),
        capture_output=True,
        text=True,
        check=False,
        env={**place.environment, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_path_that_eats_resets_costs_no_client_and_no_verdict(place):
    found = run(place, "eof-reset")
    assert (found["failed"], found["errors"]) == (0, []), found
    assert found["ok"] > 1000, found
    aborted_clients, aborted_connects = found["aborted"]
    # The check under way when the balancer stops is cut off in its login.
    assert aborted_clients == 0 and aborted_connects <= 1, found
    assert found["resets_lost"] and "resets_lost" in found["events"], found
    assert found["states"] == ["up"] and "server_down" not in found["events"], found
    # A check that met an old connection says that it was us; the others logged in.
    assert set(found["checks"]) <= {"L7OK", "SOCKERR"}, found
    # Closed by resets until it was noticed, by FINs from then on.
    assert found["closes"]["eof-reset"] < 400 < found["closes"]["eof"], found


def test_with_eof_nothing_depends_on_resets(place):
    """Sessions and checks end by FINs alone: nothing is lost, and nothing stays half closed."""
    found = run(place, "eof")
    assert (found["failed"], found["errors"]) == (0, []), found
    assert found["states"] == ["up"] and found["checks"] == ["L7OK"], found
    assert not found["resets_lost"] and "resets_lost" not in found["events"], found
    # The check under way when the balancer stops is cut off, by a reset that never arrives.
    assert found["fin_wait"] <= 1, found
