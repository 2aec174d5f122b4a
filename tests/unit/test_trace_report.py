"""What a trace says beneath its table, and what the command makes of its options."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from portside.cli import run_command as portside
from portside.cli.duration import read_seconds
from portside.errors import PortsideError
from portside.trace import report as reports
from portside.trace import words
from portside.trace.drawing import drawings
from portside.trace.report import Report
from portside.trace.segment import from_ip
from portside.trace.tracker import Tracker

from tests.support.packets import ACK, FIN, RST, SYN, Talk, ethernet, pcap


def stock(n: int = 0) -> Talk:
    return Talk(client_port=40000 + n).open().quit().c(FIN | ACK).s(FIN | ACK).c()


def ours(n: int = 0) -> Talk:
    return Talk(client_port=50000 + n).open().quit().s(FIN | ACK).c(RST | ACK)


def told(*talks: Talk, seconds: float = 10.0, dropped: int = 0) -> Report:
    tracker = Tracker([3306])
    for talk in talks:
        for time, data in talk.packets:
            segment = from_ip(data, time)
            assert segment is not None
            tracker.add(segment)
    return reports.make(tracker, seconds, dropped)


def said(*talks: Talk) -> str:
    return "\n".join(words.sentences(told(*talks)))


def test_the_client_keeps_it():
    text = said(*(stock(n) for n in range(4700)))
    assert text == (
        "First to close, of 4,700, 470 a second: client FIN in 100%.\n"
        "10.0.1.7 keeps a TIME_WAIT, and a source port towards 10.0.0.11:3306, for 100% of its"
        " closes: 470/s x 60 s make 28,200 at a time. Linux's default range has 28,232 ports, and"
        " connect() turns slow at 14,116.\n"
        "Clients that close at once after QUIT cannot be told otherwise; a proxy between can wait"
        " for the server's FIN and then reset, which leaves no TIME_WAIT (Portside does). What"
        " wider ranges and more addresses would give: portside plan --rate 470."
    )


def test_nobody_keeps_it():
    text = said(*(ours(n) for n in range(30)))
    assert text.startswith("First to close, of 30, 3 a second: server FIN in 100%.\n")
    assert text.endswith("No TIME_WAIT stays anywhere, so source ports come back at once.")


def test_the_server_keeps_it():
    text = said(Talk().open().quit().s(FIN | ACK).c(FIN | ACK).s())
    assert "stays at the server, where it costs some 400 bytes and no source port" in text


def test_a_few_do_not_matter():
    text = said(stock(), *(ours(n) for n in range(200)))
    assert "Only 1 of 201 closes from 10.0.1.7 to 10.0.0.11:3306 left a TIME_WAIT" in text


def test_resets_without_waiting_and_without_quit():
    assert "1 time the client's RST came first" in said(Talk().open().quit().c(RST | ACK))
    silent = Talk().open().c(ACK, b"query").c(FIN | ACK).s(FIN | ACK)
    assert "1 of 1 closes had no QUIT to be seen: TLS hides it" in said(silent)


def test_nothing_seen():
    assert said().startswith("No packet to or from TCP port 3306 was seen in 10.0 s. Is it the")
    assert said(Talk().open()) == (
        "No connection to TCP port 3306 ended in 10.0 s; open now: 1, each with a port and without"
        " a TIME_WAIT."
    )


def test_dropped_packets_are_said():
    [text] = words.doubts(told(stock(), dropped=7))
    assert text.startswith("7 packets (50.0%) were dropped because they came faster")


@pytest.mark.parametrize(
    ("count", "total", "wanted"),
    [
        (0, 5, "0%"),
        (5, 5, "100%"),
        (1, 3, "33.3%"),
        (1, 10**6, "<0.1%"),
        (10**6 - 1, 10**6, ">99.9%"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_all(count: int, total: int, wanted: str):
    assert words.percent(count, total) == wanted


def test_drawings_show_each_shape_once():
    drawn = drawings(told(*(stock(n) for n in range(5)), *(ours(n) for n in range(3))))
    assert [lines[0].partition(": ")[2] for lines in drawn] == [
        "client FIN (5 of 8 closes)",
        "server FIN, then client RST (3 of 8 closes)",
    ]
    assert drawings(told(stock(), ours()), most=1)[1:] == []


@pytest.fixture
def capture(tmp_path: Path) -> str:
    packets = [*stock().packets, *ours().packets]
    file = tmp_path / "a.pcap"
    file.write_bytes(pcap([(time, ethernet(data)) for time, data in packets], link=1))
    return str(file)


def test_the_command_reads_a_file(capture: str, capsys: pytest.CaptureFixture[str]):
    assert portside(["trace", "--read", capture]) == 0
    out = capsys.readouterr().out
    assert "First to close, port 3306: 2 closes in" in out
    assert "server FIN, then client RST (1 of 2 closes)" in out


def test_the_command_writes_json(capture: str, capsys: pytest.CaptureFixture[str]):
    assert portside(["trace", "--read", capture, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    [pair] = answer["pairs"]
    assert answer["closes"] == pair["closes"] == pair["with_quit"] == 2
    assert pair["first"]["client_fin"] == {"count": 1, "percent": 50.0}
    assert pair["resets"] == {"client": 1, "server": 0}
    assert pair["time_wait"] == {"client": 1, "server": 0}
    way = next(way for way in pair["ways"] if way["close"] == "server FIN, then client RST")
    assert [step["what"] for step in way["sample"]] == ["QUIT", "FIN", "RST"]


def test_standard_input(
    capture: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    stream = io.TextIOWrapper(io.BytesIO(Path(capture).read_bytes()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert portside(["trace", "--read", "-"]) == 0
    assert "2 closes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["--read", "{tmp}/none"], 1, "portside: {tmp}/none cannot be read: No such file or"),
        (["--read", "{tmp}"], 1, "portside: {tmp} cannot be read: Is a directory."),
        (["--read", "{tmp}/text"], 1, "portside: {tmp}/text is no capture file: expected pcap or"),
        (["--for", "10"], 1, "portside: --for 10: expected a duration with its unit (ms, s, m, h)"),
        (["--for", "0s"], 1, "portside: --for 0s: expected a duration"),
        (["--for", "9d"], 1, "portside: --for 9d: expected a duration"),
        (["--port", "0"], 2, "--port"),
        (["--read", "-", "-i", "lo"], 2, "--read and --interface exclude each other"),
        (["--read", "-", "--for", "10s"], 2, "--read and --for exclude each other"),
        (["--port", "1"] * 17 + ["--read", "-"], 1, "expected 1 to 16 of them"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], code: int, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text").write_text("no capture")
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    assert portside(["trace", *filled]) == code
    assert wanted.format(tmp=tmp_path) in capsys.readouterr().err


def test_what_stands_before_the_damage_is_told(capture: str, capsys: pytest.CaptureFixture[str]):
    whole = Path(capture).read_bytes()
    Path(capture).write_bytes(whole + b"\xff" * 16 + whole[24:])
    assert portside(["trace", "--read", capture]) == 1
    out, err = capsys.readouterr()
    assert "First to close, port 3306: 2 closes in" in out and err == ""
    assert f"! {capture} is damaged near byte {len(whole) + 16:,}: a packet of 4,294,967," in out
    assert portside(["trace", "--read", capture, "--json"]) == 1
    assert "is damaged near byte" in json.loads(capsys.readouterr().out)["doubts"][0]


def test_a_file_without_closes_is_a_no(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "a.pcap"
    file.write_bytes(pcap([(1.0, b"?")], link=147))
    assert portside(["trace", "--read", str(file)]) == 1
    out = capsys.readouterr().out
    assert "No packet to or from TCP port 3306" in out
    assert "! Packets of link type 147 were left out: Ethernet" in out


def test_durations():
    assert [read_seconds("--for", text) for text in ("500ms", "1.5s", "2m", "1h")] == [
        0.5,
        1.5,
        120,
        3600,
    ]
    with pytest.raises(PortsideError):
        read_seconds("--for", "-1s")


def test_the_table_has_a_row_for_each_way_of_each_pair():
    ways = [stock(), stock(1), ours()]
    other = Talk(client="10.0.1.8").open().c(ACK, b"query").c(FIN | ACK).s(FIN | ACK)
    probe = Talk(client="10.0.1.9").c(SYN, ack=False).s(SYN | ACK).c(RST)
    first, second, third = reports.rows(told(*ways, other, probe))
    assert first == ("10.0.1.7", "10.0.0.11:3306", "2", "66.7%", "100%", "client", "client FIN")
    assert second[2:] == ("1", "33.3%", "100%", "nobody", "server FIN, then client RST")
    assert third == ("10.0.1.8", "10.0.0.11:3306", "1", "100%", "0%", "client", "client FIN")
