"""A stuck interpreter: the data plane goes on, and no verdict comes out of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from tests.support.instance import settle
from tests.support.lab import Load, Sink

HOLD_S = 5


def test_an_interpreter_held_for_five_seconds_costs_nothing(folder):
    sinks = [Sink(), Sink()]
    text = '[portside]\nworkers = 2\n[log]\nsessions = "errors"\n'
    # Checks so frequent that a dozen would be late, and a verdict that needs one failure only.
    text += '[check]\ninterval = "200ms"\nfast_interval = "100ms"\ntimeout = "300ms"\nfall = 1\n'
    for number, sink in enumerate(sinks):
        text += f'[[server]]\nname = "db{number}"\naddress = "{sink.address}"\n'
    text += '[[service]]\nname = "a"\nlisten = "127.0.0.1:0"\nservers = ["db0", "db1"]\n'
    (folder / "p.toml").write_text(text)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.gil_holder", str(folder / "p.toml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        host, port = json.loads(program.stdout.readline())
        load = Load(f"{host}:{port}", rate=500, concurrency=64)
        settle(0.5)
        before = load.report()["sessions_ok"]
        began = time.monotonic()
        program.stdin.write(f"hold {HOLD_S}\n")
        settle(HOLD_S - 1.0)
        during = load.report()["sessions_ok"] - before
        answer = json.loads(program.stdout.readline())
        assert time.monotonic() - began >= HOLD_S, "the interpreter was not held"
        settle(1.0)
        done = load.finish()
        program.stdin.write("report\n")
        after = json.loads(program.stdout.readline())
        program.stdin.write("end\n")
        program.wait(10)
    assert done["sessions_failed"] == 0, done["errors"]
    assert during > 500 * (HOLD_S - 1.5), "sessions waited for the interpreter"
    assert done["max_us"] < 1_000_000
    for report in (answer, after):
        assert [server["state"] for server in report["servers"]] == ["up", "up"]
        kinds = {event["kind"] for event in report["events"]}
        assert not kinds & {"server_down", "breaker_open", "service_down"}, kinds
