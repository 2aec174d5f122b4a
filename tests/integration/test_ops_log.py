"""The session log as an administrator reads it, and its documentation."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from portside import _core, explain

from tests.support.chaos import Behaviour
from tests.support.instance import Instance, settle
from tests.support.lab import Load, Sink
from tests.support.raw_client import LOGIN, QUIT, RawClient, query
from tests.support.waiting import wait_until

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
SECTION = OPERATIONS.partition("\n## The session log\n")[2].partition("\n## ")[0]
NUMBERS = {
    "session",
    "queue_ms",
    "connect_ms",
    "total_ms",
    "to_server_bytes",
    "to_client_bytes",
    "commands",
    "retries",
}


def documented_keys() -> list[str]:
    """The keys of the table, in its order."""
    return re.findall(r"^\| `(\w+)` \|", SECTION.partition("| key |")[2], re.M)


def documented_words(kind: str) -> set[str]:
    """The words that the section lists for one kind of code."""
    (row,) = re.findall(rf"^- {kind}: (.*(?:\n  .*)*)", SECTION, re.M)
    return set(re.findall(r"`([\w-]+)`", row))


def engine_codes() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in json.loads(_core.explain_codes()):
        found.setdefault(row["kind"], set()).add(row["code"])
    return found


def config(address: str, log: str = "", more: str = "", workers: int = 2) -> str:
    return f"""
[portside]
workers = {workers}
[log]
{log}
[check]
interval = "500ms"
[timeouts]
connect = "500ms"
[[server]]
name = "db1"
address = "{address}"
[[service]]
name = "a"
listen = "127.0.0.1:0"
servers = ["db1"]
{more}
"""


def connect(one: Instance, source: str | None = None) -> RawClient:
    host, _, port = one.service("a")["listen"][0].rpartition(":")
    return RawClient((host, int(port)), source=source)


def one_session(one: Instance) -> None:
    with connect(one) as client:
        client.login()
        client.send(query("SELECT 1"))
        client.rows()
        client.send(QUIT)


def test_every_code_of_the_engine_is_documented_and_explained():
    codes = engine_codes()
    kinds = {"cause", "phase", "server close", "client close", "pin", "TLS failure"}
    assert set(codes) == kinds
    for kind, words in codes.items():
        assert documented_words(kind) == words, kind
    known = explain.codes(_core.explain_codes())
    for kind, words in codes.items():
        for word in words:
            assert any(code.kind == kind for code in explain.explain(word, known))
    for cause in codes["cause"]:
        for phase in codes["phase"]:
            kinds = {code.kind for code in explain.explain(f"{cause}/{phase}", known)}
            assert {"cause", "phase"} <= kinds


def sessions_of_every_kind(one: Instance, chaos: Any) -> int:
    """Good and bad ends; returns how many sessions that were."""
    one_session(one)
    with connect(one) as early:
        early.packet()
    with connect(one) as rude:
        rude.login()
        rude.reset()
    chaos.behave(Behaviour.RESET_AFTER_LOGIN)
    with connect(one) as lost, contextlib.suppress(OSError):
        lost.login()
        lost.packet()
    chaos.behave(Behaviour.ERR, (1045, 'no "quotes"\\ or\nlines = "please" \x07'))
    with connect(one) as refused:
        refused.exactly(20)
    with connect(one, "127.0.0.9") as denied:
        denied.error()
    chaos.behave(Behaviour.SERVE)
    return 6


def test_every_line_is_json_with_the_documented_keys(run_portside, chaos):
    one = run_portside(config(chaos.address, more='deny = ["127.0.0.9"]\nretries = 0'))
    count = sessions_of_every_kind(one, chaos)
    wait_until(lambda: len(one.lines()) == count, 10)
    codes = engine_codes()
    keys = documented_keys()
    assert keys[-1] == "error", "the key that only failed sessions have comes last"
    for line in one.lines():
        assert list(line) in (keys, keys[:-1]), line
        for key, value in line.items():
            assert isinstance(value, int if key in NUMBERS else str), (key, value)
        at = datetime.datetime.fromisoformat(line["time"])
        assert abs((at - datetime.datetime.now(datetime.UTC)).total_seconds()) < 60
        cause, _, phase = line["end"].partition("/")
        assert cause in codes["cause"] and phase in codes["phase"]
        assert line["close_server"] in codes["server close"]
        assert line["close_client"] in codes["client close"]
        assert (line["service"], line["server"] in ("db1", "")) == ("a", True)
    ends = [line["end"].partition("/")[0] for line in one.lines()]
    assert {"quit", "client-reset", "denied"} <= set(ends), ends
    (denied,) = [line for line in one.lines() if line["end"] == "denied/accept"]
    assert denied["error"] and denied["close_server"] == "none"
    good = one.lines()[0]
    assert (good["end"], good["close_server"], good["close_client"]) == (
        "quit/command",
        "eof-reset",
        "fin-reset",
    )
    assert good["destination"] == chaos.address
    assert good["source"].startswith("127.0.0.1:") and good["client"].startswith("127.0.0.1:")
    assert good["commands"] == 1 and good["retries"] == 0
    assert good["to_server_bytes"] > 40 and good["to_client_bytes"] > 80
    assert len({line["session"] for line in one.lines()}) == count


def test_bytes_and_times_are_those_of_the_session(run_portside):
    sink = Sink(delay_ms=150)
    one = run_portside(config(sink.address))
    with connect(one) as client:
        received = 0
        greeting = client.packet()
        received += len(greeting) + 4
        client.send(LOGIN)
        received += len(client.packet()) + 4
        client.send(query("SELECT 1"))
        for _ in range(5):  # column count, column, EOF, row, EOF
            received += len(client.packet()) + 4
        client.send(QUIT)
        assert client.at_eof()
        sent = len(LOGIN) + len(query("SELECT 1")) + len(QUIT)
    wait_until(one.lines)
    (line,) = one.lines()
    assert (line["to_server_bytes"], line["to_client_bytes"]) == (sent, received)
    assert 150 <= line["total_ms"] < 1500
    assert line["queue_ms"] < 100 and line["connect_ms"] < 100


_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"=]*)(?: |$)')


def test_the_text_format_says_the_same(run_portside, chaos):
    one = run_portside(
        config(chaos.address, 'format = "text"', 'deny = ["127.0.0.9"]\nretries = 0')
    )
    count = sessions_of_every_kind(one, chaos)
    path = one.folder / "out.log"
    wait_until(lambda: path.read_bytes().count(b"\n") == count, 10)
    keys = documented_keys()
    ends = []
    for line in path.read_text().splitlines():
        fields = _FIELD.findall(line)
        assert "".join(f"{k}={v} " for k, v in fields).strip() == line.strip(), line
        assert [key for key, _ in fields] in (keys, keys[:-1]), line
        values = {k: json.loads(v) if v.startswith('"') else v for k, v in fields}
        assert all(values[key].isdigit() for key in NUMBERS)
        ends.append(values["end"])
    assert "quit/command" in ends and "denied/accept" in ends


@pytest.mark.parametrize(("sampling", "good"), [("errors", 0), ("1/10", 20), ("all", 200)])
def test_sampling_keeps_every_failed_session(run_portside, sampling, good):
    sink = Sink()
    one = run_portside(
        config(sink.address, f'sessions = "{sampling}"', 'deny = ["127.0.0.9"]', workers=1)
    )
    (address,) = one.service("a")["listen"]
    assert Load(address, connections=200).wait()["sessions_ok"] == 200
    for _ in range(7):
        with connect(one, "127.0.0.9") as denied:
            denied.error()
    wait_until(lambda: one.sessions_now() == 0)
    wait_until(lambda: len(one.lines()) >= good + 7)
    settle(0.3)
    ends = [line["end"] for line in one.lines()]
    assert (ends.count("quit/command"), ends.count("denied/accept")) == (good, 7)
    # A reload changes it, and the format, for the sessions that end from then on.
    one.write(config(sink.address, 'sessions = "all"\nformat = "text"', workers=1))
    (view,) = [one.reload()]
    assert view["ok"], view
    (address,) = one.service("a")["listen"]
    assert Load(address, connections=30).wait()["sessions_ok"] == 30
    text = (one.folder / "out.log").read_text
    wait_until(lambda: text().count("end=quit/command") == 30)


def test_lines_are_dropped_and_counted_when_nobody_reads(run_portside):
    """A full pipe costs lines, never sessions."""
    sink = Sink()
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    # Every worker hands over ten buffers a second, and 256 may wait.
    one = run_portside(config(sink.address, workers=8), stdout=writer)
    os.close(writer)
    (address,) = one.service("a")["listen"]
    load = Load(address, rate=1000, concurrency=64)
    wait_until(lambda: one.stats()["log"]["dropped_total"] > 0, 25)
    done = load.finish()
    assert done["sessions_failed"] == 0, done["errors"]
    wait_until(lambda: one.sessions_now() == 0)
    assert done["p99_us"] < 1_000_000
    wait_until(lambda: one.events("log_dropped"), 15)
    assert any("session log lines were lost" in a for a in one.admin.get("/v1/status")["alerts"])

    read = bytearray()

    def drain() -> None:
        while data := os.read(reader, 65536):
            read.extend(data)

    thread = threading.Thread(target=drain)
    thread.start()
    settle(0.5)  # the workers' own buffers
    wait_until(lambda: sum(one.stats()["log"].values()) == done["sessions_ok"])
    log = one.stats()["log"]
    assert log["dropped_total"] > 0
    wait_until(lambda: read.count(b"\n") == log["written_total"])
    assert all(json.loads(line)["end"] == "quit/command" for line in read.splitlines())

    one.signal(signal.SIGTERM)
    assert one.wait() == 0
    thread.join(5)
    os.close(reader)


def test_a_full_pipe_does_not_hold_up_the_end(run_portside):
    sink = Sink()
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    one = run_portside(config(sink.address, workers=8), stdout=writer)
    os.close(writer)
    (address,) = one.service("a")["listen"]
    load = Load(address, rate=1000, concurrency=64)
    wait_until(lambda: one.stats()["log"]["dropped_total"] > 0, 25)
    one.signal(signal.SIGTERM)
    assert one.wait(10) == 0
    load.finish()
    os.close(reader)


def test_no_line_is_lost_at_the_end(run_portside):
    """The lines of the last 100 ms are written before the process ends."""
    sink = Sink()
    one = run_portside(config(sink.address, workers=4))
    (address,) = one.service("a")["listen"]
    done = Load(address, connections=2000, concurrency=32).wait()
    one.signal(signal.SIGTERM)
    assert one.wait() == 0
    assert len(one.lines()) == done["sessions_ok"] == 2000


def test_a_log_file_that_cannot_be_opened_is_told_and_the_old_one_goes_on(run_portside, folder):
    sink = Sink()
    missing = folder / "nowhere" / "s.log"
    refused = run_portside(config(sink.address, f'file = "{missing}"'), start=False)
    refused.launch()
    assert refused.wait() == 1
    said = f"there is no folder {missing.parent}"
    assert said in refused.messages()

    good = folder / "s.log"
    one = run_portside(config(sink.address, f'file = "{good}"'))
    one.write(config(sink.address, f'file = "{missing}"'))
    view = one.reload()
    assert not view["ok"] and said in str(view)

    good.unlink()
    good.mkdir()
    one.signal(signal.SIGUSR1)
    wait_until(lambda: "the session log cannot be reopened" in one.messages(), 5)
    assert f"{good}: Is a directory" in one.messages()
