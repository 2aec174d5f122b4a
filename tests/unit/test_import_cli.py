"""`portside import`: what goes to standard output and standard error, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from portside.cli import run_command as portside
from portside.config import loads
from portside.errors import ExitCode

CFG = """\
defaults
    mode tcp
    timeout connect 5s
listen db
    bind 10.0.0.5:3306
    option nolinger
    server db1 10.0.0.11:3306 check cookie a
listen stats
    mode http
    bind :8404
"""


@pytest.fixture
def cfg(tmp_path: Path) -> str:
    (tmp_path / "haproxy.cfg").write_text(CFG)
    return str(tmp_path / "haproxy.cfg")


def test_the_result(cfg: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert portside(["import", "--no-haproxy", cfg]) == ExitCode.GOOD
    out, err = capsys.readouterr()
    assert loads(out).services[0].name == "db"
    assert "1 service, 1 server. Lines: 5 carried, 1 changed in meaning, 1 dropped, 3 stay" in err
    assert f"portside import --report {cfg} says it line by line" in err
    assert "beside what runs now: --port-offset 10000" in err


def test_the_report(cfg: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert portside(["import", "--no-haproxy", "--report", cfg]) == ExitCode.GOOD
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["LINE", "OUTCOME", "WHAT", "HOW", "OR", "WHY"]
    words = [line.split()[:2] for line in lines[1:-1]]
    assert ["6", "changed"] in words and ["7", "dropped"] in words and ["8", "stays"] in words
    assert ["3", "carried"] in words
    assert lines[-1].startswith("1 service, 1 server.") and err == ""


def test_what_opens_a_service_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "open.cfg"
    rule = "tcp-request connection reject if { src_conn_rate gt 9 }"
    file.write_text(f"listen db\n    bind :3306\n    {rule}\n    server db1 10.0.0.11:3306\n")
    assert portside(["import", "--no-haproxy", str(file)]) == ExitCode.GOOD
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(f"! {file}:3: {rule}: ATTENTION, this service lets everybody in")


def test_json(cfg: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert portside(["import", "--no-haproxy", "--json", cfg]) == ExitCode.GOOD
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] and loads(answer["toml"]).services
    assert answer["counts"] == {"carried": 5, "changed": 1, "dropped": 1, "stays": 3}
    row = next(row for row in answer["lines"] if row["what"] == "cookie")
    assert (row["line"], row["outcome"]) == (7, "dropped")


def test_a_run_beside(cfg: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert portside(["import", "--no-haproxy", "--port-offset", "10000", cfg]) == ExitCode.GOOD
    out, err = capsys.readouterr()
    assert 'listen = "10.0.0.5:13306"' in out and "portside check -c FILE" in err


def test_nothing_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "www.cfg"
    file.write_text("frontend www\n    mode http\n    bind :80\n")
    assert portside(["import", "--no-haproxy", str(file)]) == ExitCode.NO
    out, err = capsys.readouterr()
    assert out == "" and "http: it stays with HAProxy" in err
    assert err.endswith(f"portside: {file}: nothing in it can be a service of Portside\n")
    assert portside(["import", "--no-haproxy", "--json", str(file)]) == ExitCode.NO
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_a_mistake_and_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.cfg"
    file.write_text("listen db\n    bind :3306\n    server db1 10.0.0.1:3306 chek\n")
    assert portside(["import", "--no-haproxy", str(file)]) == ExitCode.NO
    assert capsys.readouterr().err == (
        f'{file}:3:1: "chek" is no option of server; did you mean "check"?\n1 mistake\n'
    )
    assert portside(["import", str(tmp_path / "gone.cfg")]) == ExitCode.NO
    assert "gone.cfg cannot be read: No such file or directory" in capsys.readouterr().err
    assert portside(["import"]) == ExitCode.USAGE
