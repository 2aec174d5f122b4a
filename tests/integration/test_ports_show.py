"""Source ports as people see them, on a running instance under load."""

from __future__ import annotations

import re
import urllib.request
from typing import Any

import pytest
from portside.demo.held_port import HeldPort
from portside.errors import PortsideError

from tests.support.instance import Instance
from tests.support.lab import Load, Sink
from tests.support.waiting import wait_until

KEYS = {
    "source",
    "destination",
    "server",
    "size",
    "in_use",
    "resting",
    "blocked",
    "time_wait",
    "free",
    "reserved",
    "new_per_s",
    "exhausted_in_s",
    "wasted_probes",
    "closes",
    "peer_timestamps",
    "resets_lost",
}
STATES = ("in_use", "resting", "blocked", "time_wait", "free", "reserved")


def config(sink: Sink, more: str = "", ports: str = "21000-21099") -> str:
    return f"""
[portside]
workers = 2
[log]
sessions = "errors"
[source]
addresses = ["127.0.0.2", "127.0.0.3"]
ports = "{ports}"
{more}
[[server]]
name = "db1"
address = "{sink.address}"
[[service]]
name = "a"
listen = "127.0.0.1:0"
servers = ["db1"]
"""


def rows(one: Instance) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = one.admin.get("/v1/ports")
    return found


def test_counts_add_up_under_load(run_portside):
    sink = Sink()
    one = run_portside(config(sink))
    (address,) = one.service("a")["listen"]
    load = Load(address, concurrency=40, rate=1500)
    held = Load(address, concurrency=30, connections=30, hold_ms=20_000)
    wait_until(lambda: held.report()["sessions_open"] == 30, 10)
    sums = []
    for _ in range(100):
        for row in rows(one):
            assert set(row) == KEYS
            sums.append((row["size"], sum(row[state] for state in STATES)))
            assert all(row[state] >= 0 for state in STATES), row
    assert sums and all(size == total == 100 for size, total in sums)
    assert sum(row["in_use"] for row in rows(one)) >= 30
    wait_until(lambda: sum(row["new_per_s"] for row in rows(one)) > 500, 10)
    assert all(row["closes"].get("eof-reset", 0) > 100 for row in rows(one))
    assert {row["peer_timestamps"] for row in rows(one)} == {True}
    load.finish()
    held.finish()
    wait_until(lambda: sum(row["in_use"] for row in rows(one)) == 0, 5)
    assert {row["source"] for row in rows(one)} == {"127.0.0.2", "127.0.0.3"}
    assert all(row["reserved"] == 16 for row in rows(one)), "the reserve is whole again"


def test_steady_load_is_never_exhausted(run_portside):
    """50 sessions a second on 200 tuples, each used again and again for 12 s."""
    sink = Sink()
    one = run_portside(config(sink))
    (address,) = one.service("a")["listen"]
    load = Load(address, concurrency=5, rate=400, duration_ms=12_000)
    report = load.wait()
    assert report["sessions_failed"] == 0 and report["sessions_ok"] > 3000
    assert [row["exhausted_in_s"] for row in rows(one)] == [None, None]
    done = one.cli("show", "ports")
    assert "never" in done.stdout and "come back as fast as they are taken" in done.stdout
    assert re.search(r"Closes of the last minute: eof-reset \d,\d{3}", done.stdout), done.stdout


def test_a_leak_is_told_before_it_ends(run_portside):
    """Two held sessions a second: 168 tuples for sessions are gone in about 84 s."""
    sink = Sink()
    one = run_portside(config(sink))
    (address,) = one.service("a")["listen"]
    load = Load(address, concurrency=500, rate=4, hold_ms=25_000)

    def told() -> bool:
        return all(row["exhausted_in_s"] for row in rows(one))

    wait_until(told, 20, "no time to exhaustion after 10 s of samples")
    for row in rows(one):
        usable = row["free"] + row["resting"]
        assert row["exhausted_in_s"] == pytest.approx(usable / 2, rel=0.25), row
    done = one.cli("show", "ports", "db1")
    assert "no source port will be left in" in done.stdout
    assert "sessions are open at the same time" in done.stdout
    load.finish()


def test_metrics_say_the_same(run_portside):
    sink = Sink()
    with HeldPort() as held:
        metrics = f"127.0.0.1:{held.port}"
    one = run_portside(config(sink, f'[metrics]\nlisten = "{metrics}"'))
    (address,) = one.service("a")["listen"]
    Load(address, concurrency=4, connections=50).wait()
    wait_until(lambda: sum(row["in_use"] for row in rows(one)) == 0, 5)
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    labels = f'destination="{sink.address}",server="db1",source="127.0.0.2"'
    states = {}
    for line in text.splitlines():
        if line.startswith("portside_source_ports{") and 'source="127.0.0.2"' in line:
            state = line.split('state="')[1].split('"')[0]
            states[state] = float(line.rpartition(" ")[2])
    row = next(row for row in rows(one) if row["source"] == "127.0.0.2")
    assert set(states) == set(STATES)
    assert sum(states.values()) == row["size"]
    opened = sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("portside_source_opened_total{")
    )
    assert opened >= 50
    assert f'portside_source_resets_lost{{destination="{sink.address}",server="db1"}} 0.0' in text
    assert "portside_source_ports_exhausted_in_seconds{" not in text, labels


def test_a_servers_name(run_portside):
    sink = Sink()
    one = run_portside(config(sink))
    assert len(one.admin.get("/v1/ports", server="db1")) == 2
    with pytest.raises(PortsideError, match="Did you mean 'db1'"):
        one.admin.get("/v1/ports", server="db2")
    done = one.cli("show", "ports", "db2")
    assert done.returncode == 1 and "there is no server 'db2'" in done.stderr
    assert one.cli("show", "servers", "db1").returncode == 2


def test_ports_of_the_kernel(run_portside):
    sink = Sink()
    text = config(sink).replace('ports = "21000-21099"', "")
    one = run_portside(text)
    assert rows(one) == []
    done = one.cli("show", "ports")
    assert done.stdout.startswith("The kernel chooses the source ports of every server")
