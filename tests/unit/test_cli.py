"""The command line: what `check` and `explain` print, exit codes, and how errors are shown."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from portside import cli
from portside.cli import check
from portside.cli import run_command as portside
from portside.config import loads
from portside.errors import ExitCode

GOOD = """\
[source]
addresses = ["10.0.0.5", "10.9.0.0/30"]
[[server]]
name = "db1"
address = "10.0.0.11:3306"
[[server]]
name = "local"
address = "unix:/run/mysqld/mysqld.sock"
[[service]]
name = "w"
listen = "10.0.0.5:3306"
servers = ["db1", { name = "local", backup = true }]
"""


@pytest.fixture
def good(tmp_path: Path) -> str:
    (tmp_path / "p.toml").write_text(GOOD)
    return str(tmp_path / "p.toml")


@pytest.fixture
def bad(tmp_path: Path) -> str:
    (tmp_path / "bad.toml").write_text(GOOD + 'balanse = "first"\nqueue = "many"\n')
    return str(tmp_path / "bad.toml")


class TestCheck:
    def test_a_good_file(self, good: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["check", "-c", good]) == ExitCode.GOOD
        out = capsys.readouterr().out
        assert f"{good}: no mistakes; 1 service, 2 servers" in out
        assert "warning: " in out and 'add require = "writable"' in out
        assert "Sessions: at most" in out and "listening sockets" in out
        assert "db1     10.0.0.5, 10.9.0.0/30" in out
        assert "local " not in out  # a unix socket needs no GRANT for an address

    def test_mistakes(self, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["check", "-c", bad]) == ExitCode.NO
        err = capsys.readouterr().err.splitlines()
        assert err == [
            f'{bad}:13:1: service "w" balanse: unknown key; did you mean "balance"?',
            f'{bad}:14:1: service "w" queue: wrong value (found "many"); expected a whole number',
            "2 mistakes",
        ]

    def test_json(self, good: str, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["check", "-c", good, "--json"]) == ExitCode.GOOD
        answer = json.loads(capsys.readouterr().out)
        assert (answer["ok"], answer["mistakes"]) == (True, [])
        assert answer["grants"] == {"db1": ["10.0.0.5", "10.9.0.0/30"]}
        assert 9 in [warning["line"] for warning in answer["warnings"]]
        assert portside(["check", "-c", bad, "--json"]) == ExitCode.NO
        first = json.loads(capsys.readouterr().out)["mistakes"][0]
        assert (first["line"], first["key"]) == (13, 'service "w" balanse')

    def test_schema_needs_no_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["check", "-c", "/nonexistent", "--schema"]) == ExitCode.GOOD
        assert json.loads(capsys.readouterr().out)["title"] == "Portside"

    def test_more_sessions_than_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "p.toml").write_text(GOOD + "max_connections = 2000000000\n")
        assert portside(["check", "-c", str(tmp_path / "p.toml")]) == ExitCode.NO
        err = capsys.readouterr().err
        assert "too many sessions: 2,000,000,000 sessions x 2 +" in err and "LimitNOFILE=" in err

    def test_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["check", "-c", "/nonexistent"]) == ExitCode.NO
        assert "/nonexistent: cannot be read: No such file" in capsys.readouterr().err

    def test_route_sources_are_found_out(self) -> None:
        config = loads(
            '[[server]]\nname = "a"\naddress = ["127.0.0.1:1", "127.0.0.2:1", "db.example:1"]\n'
            '[[service]]\nname = "w"\nlisten = "10.0.0.5:3306"\nservers = ["a"]'
        )
        (addresses,) = check.grants_needed(config).values()
        assert addresses[0] == "127.0.0.1"
        assert addresses[-1] == "the one that the route to db.example uses"


def fake_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def main(config: Path) -> int:
        raise error

    module = types.ModuleType("portside.cli.run")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "portside.cli.run", module)
    monkeypatch.setattr(cli, "run", module, raising=False)


class TestErrors:
    def test_a_fault_of_ours_is_one_sentence(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake_command(monkeypatch, ZeroDivisionError("oops"))
        assert portside(["run"]) == ExitCode.OUR_FAULT == 70
        err = capsys.readouterr().err
        assert err.startswith("portside: a fault of ours: ZeroDivisionError: oops.")
        assert "Traceback" not in err

    def test_the_traceback_comes_on_request(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PORTSIDE_DEBUG", "1")
        fake_command(monkeypatch, ZeroDivisionError("oops"))
        assert portside(["run"]) == ExitCode.OUR_FAULT
        assert "Traceback" in capsys.readouterr().err

    def test_interrupted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_command(monkeypatch, KeyboardInterrupt())
        assert portside(["run"]) == 130

    @pytest.mark.parametrize(
        "line", [["chek"], ["show", "nothing"], ["show", "servers", "--origin"], ["drain"], []]
    )
    def test_usage(self, line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(line) == ExitCode.USAGE
        assert "Usage: portside" in capsys.readouterr().err

    @pytest.mark.parametrize("line", [["show"], ["drain", "db1"], ["reload", "--dry-run"]])
    def test_no_instance(
        self, line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert portside([*line, "-a", str(tmp_path / "none.sock")]) == ExitCode.NO
        err = capsys.readouterr().err
        assert "none.sock" in err and err.count("\n") == 1

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["--help"]) == ExitCode.GOOD
        out = capsys.readouterr().out
        for command in ("run", "check", "show", "drain", "maint", "ready", "weight", "switch"):
            assert f"  {command} " in out


class TestExplain:
    def test_a_code_of_the_engine_and_one_of_the_checks(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert portside(["explain", "quit/command"]) == ExitCode.GOOD
        assert portside(["explain", "L4CON", "--json"]) == ExitCode.GOOD
        out = capsys.readouterr().out
        assert out.startswith("quit (cause): The client said QUIT")
        assert '"kind": "check status"' in out

    def test_all_of_them(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["explain"]) == ExitCode.GOOD
        out = capsys.readouterr().out
        assert all(f"\n{kind}\n" in f"\n{out}" for kind in ("check status", "event", "cause"))

    def test_an_unknown_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["explain", "L4TIMEOUT"]) == ExitCode.NO
        assert "did you mean" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert portside(["--version"]) == ExitCode.GOOD
    assert capsys.readouterr().out.startswith("portside 0.")
