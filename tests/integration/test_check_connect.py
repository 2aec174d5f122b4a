"""`portside check --connect` against a real MariaDB: every source address logs in by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from portside.cli import run_command as portside
from portside.errors import ExitCode

from tests.support.servers import MONITOR_PASSWORD, MONITOR_USER, MariaDB

CONFIG = """\
[source]
addresses = {sources}
[check]
user = "{user}"
password = "{password}"
{check}
[[server]]
name = "db1"
address = "127.0.0.1:{port}"
[[service]]
name = "w"
listen = "127.0.0.1:3400"
servers = ["db1"]
"""


@pytest.fixture
def server(mariadb_factory: Callable[..., MariaDB]) -> MariaDB:
    """Lets its monitor in from 127.0.0.x only."""
    return mariadb_factory(client_hosts="127.0.0.%")


def write(server: MariaDB, path: Path, sources: list[str], check: str = "") -> str:
    file = path / "p.toml"
    text = CONFIG.format(
        sources=json.dumps(sources),
        user=MONITOR_USER,
        password=MONITOR_PASSWORD,
        port=server.port,
        check=check,
    )
    file.write_text(text)
    return str(file)


def logins(path: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]]]:
    code = portside(["check", "-c", path, "--connect", "--json"])
    return code, json.loads(capsys.readouterr().out)["logins"]


def test_every_source_address_logs_in(
    server: MariaDB, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = server.status("Aborted_connects")
    path = write(server, tmp_path, ["127.0.0.5", "127.0.0.16/29"])
    code, rows = logins(path, capsys)
    assert code == ExitCode.GOOD
    assert [row["source"] for row in rows] == [
        "127.0.0.5",
        *(f"127.0.0.{n}" for n in range(16, 24)),
    ]
    assert {(row["status"], row["ok"]) for row in rows} == {("L7OK", True)}
    assert server.status("Aborted_connects") == before


def test_the_address_without_a_grant_is_named(
    server: MariaDB, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(server, tmp_path, ["127.0.0.5", "127.0.1.5"])
    code, rows = logins(path, capsys)
    assert code == ExitCode.NO
    assert [row["ok"] for row in rows] == [True, False]
    assert rows[1]["status"] == "L7STS"
    assert 'GRANT for "monitor"@"127.0.1.5"' in rows[1]["detail"]
    assert portside(["check", "-c", path, "--connect"]) == ExitCode.NO
    assert "1 of 2 logins failed" in capsys.readouterr().out


def test_the_address_that_the_route_chose_is_named(
    server: MariaDB, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(write(server, tmp_path, []))
    path.write_text(path.read_text().replace(f'"{MONITOR_PASSWORD}"', '"wrong"'))
    _, (row,) = logins(str(path), capsys)
    assert row["detail"].endswith('; GRANT for "monitor"@"127.0.0.1"')


def test_a_source_address_that_is_not_ours(
    server: MariaDB, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = logins(write(server, tmp_path, ["192.0.2.77"]), capsys)
    assert code == ExitCode.NO
    assert rows[0]["status"] == "NO_SOURCE"


def test_the_query_of_the_check_is_run_too(
    server: MariaDB, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(server, tmp_path, ["127.0.0.5"], 'query = "SELECT nothing_of_this_name"')
    code, rows = logins(path, capsys)
    assert (code, rows[0]["status"]) == (ExitCode.NO, "L7STS")


def test_without_an_account_there_is_nothing_to_log_in_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.toml"
    file.write_text(
        '[[server]]\nname = "db1"\naddress = "127.0.0.1:1"\n'
        '[[service]]\nname = "w"\nlisten = "127.0.0.1:2"\nservers = ["db1"]\n'
    )
    code, rows = logins(str(file), capsys)
    assert code == ExitCode.NO
    assert "give [check] a user" in rows[0]["detail"]
