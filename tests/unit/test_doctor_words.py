"""What the doctor prints, writes and refuses: screens, sysctl.d, JSON, hostile answers."""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from portside import doctor
from portside.cli import run_command as portside
from portside.cli.doctor import show, write_settings
from portside.doctor import checks, remote, screen
from portside.doctor.facts import Facts, read
from portside.doctor.login import PASSWORD, Login, read_login
from portside.doctor.remote import COMMAND, Failure
from portside.doctor.report import FailOn, Report
from portside.doctor.sysctl_file import sysctl_file
from portside.errors import ExitCode

NASTY = (-(2**70), 0, 2**60, 2**2000, "", "1-9999999999", "x:y", "9" * 5000, 1e999, None, [], {})
RECORDED = Path(__file__).parent / "recorded"


def recorded(host: str) -> Facts:
    return read(json.loads((RECORDED / f"doctor-{host}.json").read_text()))


def report(host: str) -> Report:
    return doctor.diagnose(recorded(host))


def printed(parts: list[screen.Part]) -> str:
    stream = io.StringIO()
    show(parts, stream)
    return stream.getvalue()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in nested containers something stands; of a list the first three."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3])
    for key, each in items:
        yield (*path, key)
        if isinstance(each, (dict, list)):
            yield from _places(each, (*path, key))


class TestScreen:
    @pytest.mark.parametrize(
        ("host", "verdict"), [("web", "CRITICAL: "), ("proxy", "WARNING: "), ("db", "GOOD: ")]
    )
    def test_the_first_line_is_the_verdict_and_the_rest_fits(self, host: str, verdict: str) -> None:
        lines = printed(screen.one_host(report(host), verbose=False)).splitlines()
        assert lines[0].startswith(verdict)
        assert len(lines) <= 24

    def test_the_pair_that_is_full(self) -> None:
        text = printed(screen.one_host(report("web"), verbose=False))
        row = next(line for line in text.splitlines() if line.startswith("10.215.1.7 "))
        assert row.split() == [
            *("10.215.1.7", "10.215.1.1:3306", "######......", "54%", "15,211", "0", "0"),
            *("28,232", "330", "past", "half", "this", "host"),
        ]
        assert "1  At once: let connect() reuse TIME_WAITs" in text
        assert "Danger: the database sees Portside's addresses" in text

    def test_clients_of_a_listener(self) -> None:
        text = printed(screen.one_host(report("proxy"), verbose=False))
        assert "LISTENER" in text and "haproxy" in text

    def test_verbose_has_everything(self) -> None:
        full = report("web")
        text = printed(screen.one_host(full, verbose=True))
        for finding in full.findings:
            assert f"{finding.severity.value} {finding.id}" in text
            assert all(cure.action in text for cure in finding.cures)
            assert all(line in text for line in finding.evidence)

    def test_what_was_not_seen_is_said(self) -> None:
        facts = replace(recorded("db"), unseen=("the sockets of 3 processes: run it as root",))
        text = printed(screen.one_host(doctor.diagnose(facts), verbose=False))
        assert "! Not seen: the sockets of 3 processes: run it as root." in text

    def test_several_hosts_worst_first_and_a_failure_is_a_sentence(self) -> None:
        failure = Failure("web3", "ssh: Could not resolve hostname web3")
        answers = [("db1", report("db")), ("web3", failure), ("web1", report("web"))]
        text = printed(screen.many_hosts(answers, verbose=False))
        assert text.startswith("CRITICAL: web1: 10.215.1.7 -> 10.215.1.1:3306 has 15,211")
        assert "! web3: ssh: Could not resolve hostname web3" in text
        assert [line.split()[0] for line in text.splitlines()[3:6]] == ["db1", "web3", "web1"]
        assert "== db1" in printed(screen.many_hosts(answers, verbose=True))
        alone = printed(screen.many_hosts([("web3", failure)], verbose=False))
        assert alone.startswith("UNKNOWN: no host could be examined.")


def test_every_finding_is_in_the_docs() -> None:
    folder = Path(checks.__file__).parent
    sources = "".join(file.read_text() for file in folder.glob("*.py"))
    ids = set(re.findall(r'(?:id=|^ID: Final = )"([a-z0-9-]+)"', sources, re.M))
    ids |= {"mysql-aborted-clients", "mysql-aborted-connects"} - {"mysql-"}
    docs = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    listed = re.findall(
        r"^\| ([a-z0-9-]+(?:, [a-z0-9-]+)*) \| (?:critical|warning|notice)", docs, re.M
    )
    assert {each for row in listed for each in row.split(", ")} == ids - {"mysql-"}


class TestExit:
    @pytest.mark.parametrize(
        ("host", "on", "fails"),
        [
            ("web", "critical", True),
            ("proxy", "critical", False),
            ("proxy", "warning", True),
            ("db", "warning", False),
        ],
    )
    def test_fail_on(self, host: str, on: str, fails: bool) -> None:
        assert report(host).fails(FailOn(on)) is fails

    def test_without_a_socket_table_nothing_is_good(self) -> None:
        why = "the socket table: no sock_diag"
        blind = doctor.diagnose(replace(recorded("web"), sockets=None, unseen=(why,)))
        assert blind.verdict == f"UNKNOWN: this host cannot be judged without {why}."
        assert blind.fails(FailOn.CRITICAL)
        assert printed(screen.one_host(blind, verbose=False)).startswith("UNKNOWN")


class TestSysctlFile:
    def test_each_line_has_its_reason_above(self) -> None:
        lines = sysctl_file(report("web")).splitlines()
        at = lines.index("net.ipv4.tcp_tw_reuse = 1")
        assert lines[at - 1] == "# now: 2"
        assert any("source-ports: At once: let connect() reuse" in line for line in lines[:at])
        assert "net.ipv4.ip_local_port_range = 1025 65000" in lines
        assert not any(line.startswith("net.ipv4.tcp_timestamps") for line in lines)  # as it is

    def test_nothing_to_do(self) -> None:
        good = {
            "net.ipv4.tcp_tw_reuse": "1",
            "net.ipv4.ip_local_port_range": "1025 65000",
            "net.ipv4.ip_local_reserved_ports": "3306",
        }
        facts = recorded("db")
        text = sysctl_file(doctor.diagnose(replace(facts, sysctls={**facts.sysctls, **good})))
        assert text.endswith("# Nothing: every setting is as recommended.\n")

    def test_reserved_ports_of_two_findings_are_united(self) -> None:
        facts = recorded("proxy")
        assert facts.sockets is not None
        (one, *_) = facts.sockets.listeners
        listeners = (one, replace(one, port=33060))
        facts = replace(facts, sockets=replace(facts.sockets, listeners=listeners))
        text = sysctl_file(doctor.diagnose(facts))
        assert "net.ipv4.ip_local_reserved_ports = 3306,33060" in text.splitlines()


class TestAnswersOfOtherHosts:
    def test_there_and_back(self) -> None:
        facts = recorded("web")
        assert read(json.loads(json.dumps(facts.as_dict()))) == facts
        assert json.dumps(report("web").as_dict())

    @pytest.mark.parametrize(
        "change",
        [
            {"host": 5},
            {"sysctls": {"a": 1}},
            {"sockets": []},
            {"sockets": {"flows": [{"ours": "x"}], "listeners": [], "total": 0, "took_s": 0.0}},
            {"counters": {"a": True}},
            {"counters": {"a": -1}},
            {"processes": [{"name": "x", "pid": "1", "files": 1, "limit": 1}]},
            {"database": {"hosts": [["a"]]}},
            {"window_s": "long"},
        ],
    )
    def test_another_type_is_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(doctor.DoctorError):
            read({**recorded("web").as_dict(), **change})

    @pytest.mark.parametrize("host", ["web", "proxy"])
    def test_whatever_it_says_nothing_breaks(self, host: str) -> None:
        good = json.loads(json.dumps(recorded(host).as_dict()))
        good["sockets"]["flows"][0]["explicit"] = [2000, 2001]
        for path in _places(good):
            for value in NASTY:
                changed = copy.deepcopy(good)
                place = changed
                for step in path[:-1]:
                    place = place[step]
                place[path[-1]] = value
                try:
                    bad = doctor.diagnose(read(json.loads(json.dumps(changed))))
                except doctor.DoctorError:
                    continue
                assert printed(screen.one_host(bad, verbose=True)) and sysctl_file(bad)

    @pytest.mark.parametrize("value", [None, [], 5, "facts", {}])
    def test_something_else_is_refused(self, value: object) -> None:
        with pytest.raises(doctor.DoctorError):
            read(value)

    def test_a_terminal_is_not_steered(self) -> None:
        assert read({**recorded("web").as_dict(), "host": "a\x1b[2Jb\n"}).host == "a?[2Jb?"


class TestLogin:
    @pytest.mark.parametrize(
        ("text", "login"),
        [
            ("monitor@db1", Login("monitor", "db1", 3306, "pw")),
            ("monitor@10.0.0.11:3307", Login("monitor", "10.0.0.11", 3307, "pw")),
            ("m@[fd00::1]:3307", Login("m", "fd00::1", 3307, "pw")),
            ("m@fd00::1", Login("m", "fd00::1", 3306, "pw")),
            ("a@b@/run/mysqld/mysqld.sock", Login("a@b", "/run/mysqld/mysqld.sock", 3306, "pw")),
        ],
    )
    def test_forms(self, text: str, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PASSWORD, "pw")
        assert read_login(text, None) == login
        assert "pw" not in repr(login)

    @pytest.mark.parametrize("text", ["db1", "@db1", "m@", "m@db1:0", "m@db1:x", "m@db1:70000"])
    def test_wrong_forms(self, text: str) -> None:
        with pytest.raises(doctor.DoctorError, match="expected USER@HOST"):
            read_login(text, None)

    def test_a_file_before_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PASSWORD, "from the environment")
        (tmp_path / "pw").write_text("from the file\n")
        assert read_login("m@db1", tmp_path / "pw").password == "from the file"
        with pytest.raises(doctor.DoctorError, match=r"gone cannot be read: No such file"):
            read_login("m@db1", tmp_path / "gone")

    def test_no_password_and_no_terminal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv(PASSWORD, raising=False)
        monkeypatch.setattr("sys.stdin", io.StringIO())
        assert portside(["doctor", "--mysql", "m@db1"]) == ExitCode.NO
        assert capsys.readouterr().err.startswith("portside: --mysql m@db1: no password; give")


class TestCommandLine:
    @pytest.mark.parametrize(
        "line", [["--ssh", "a", "--mysql", "m@b"], ["--ssh", "a", "--sysctl-file", "-"]]
    )
    def test_what_does_not_go_together(
        self, line: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert portside(["doctor", *line]) == ExitCode.USAGE
        assert "not with --ssh" in capsys.readouterr().err

    def test_json_has_no_settings_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["doctor", "--json", "--sysctl-file", "-"]) == ExitCode.USAGE
        assert "--json and --sysctl-file exclude each other" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "line",
        [["doctor"], ["doctor", "--json"], ["doctor", "--sysctl-file", "-"], ["plan"]],
        ids=" ".join,
    )
    def test_a_full_disk_is_one_sentence(self, line: list[str]) -> None:
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "portside", *line]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr.decode()) == (
            ExitCode.NO,
            "portside: cannot write the report: No space left on device\n",
        )

    @pytest.mark.parametrize("hosts", ["-oProxyCommand=x", "a,,b", "a,b\x1b", "", ","])
    def test_hosts_that_are_none(self, hosts: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert portside(["doctor", f"--ssh={hosts}"]) == ExitCode.NO
        assert "no host name; expected HOST1,HOST2" in capsys.readouterr().err

    def test_a_host_that_never_answers(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(remote, "_DEADLINE_S", 0.2)
        monkeypatch.setenv(COMMAND, f"{sys.executable} -c 'import time; time.sleep(30)'")
        assert portside(["doctor", "--ssh", "web1"]) == ExitCode.NO
        assert "! web1: no answer within 0.2 s" in capsys.readouterr().out

    @pytest.mark.parametrize("holder", ["sleep 30", "yes"])
    def test_children_that_hold_the_pipes_do_not_hold_us(
        self,
        holder: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(remote, "_DEADLINE_S", 1.0)
        facts = tmp_path / "facts"
        facts.write_text(json.dumps(recorded("db").as_dict()))
        stand_in = tmp_path / "ssh"
        stand_in.write_text(
            f'#!/bin/sh\n[ "$1" = good ] && {{ cat {facts}; exit; }}\n{holder} & {holder}\n'
        )
        stand_in.chmod(0o755)
        monkeypatch.setenv(COMMAND, str(stand_in))
        began = time.monotonic()
        assert portside(["doctor", "--ssh", "stuck,good"]) == ExitCode.NO
        assert time.monotonic() - began < 20  # the children stay for 30 s, or for ever
        out = capsys.readouterr().out
        assert "! stuck: no answer within 1.0 s" in out and "GOOD: good: " in out

    def test_a_child_that_stays_behind_does_not_spoil_the_answer(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        facts = tmp_path / "facts"
        facts.write_text(json.dumps(recorded("db").as_dict()))
        monkeypatch.setenv(COMMAND, f"sh -c 'sleep 5 & cat {facts}'")
        began = time.monotonic()
        assert portside(["doctor", "--ssh", "db1"]) == ExitCode.GOOD
        assert time.monotonic() - began < 4
        assert capsys.readouterr().out.startswith("GOOD: db1: ")

    def test_settings_that_cannot_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(doctor.DoctorError, match=r"/x cannot be written: No such file"):
            write_settings(report("web"), tmp_path / "none" / "x")

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            ("/nonexistent/ssh", "/nonexistent/ssh cannot be started: No such file or directory"),
            ("sh -c 'exit 127'", "python3 is not there (it said nothing)"),
            ("sh -c 'echo no route >&2; exit 255'", "ssh: no route"),
            ("sh -c 'echo broken >&2; exit 1'", "exit code 1: broken"),
            ("true", "it answers with something that is not doctor's report: nothing\n"),
            ("sh -c 'echo {}'", "it answers with something that is not doctor's report: '{}'\n"),
        ],
    )
    def test_a_host_that_fails(
        self,
        command: str,
        reason: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv(COMMAND, command)
        assert portside(["doctor", "--ssh", "web1"]) == ExitCode.NO
        out = capsys.readouterr().out
        assert out.startswith("UNKNOWN: no host") and f"! web1: {reason}" in out
