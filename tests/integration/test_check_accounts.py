"""`portside check --connect` of pool mode: each `[[user]]` logs in to each server, and why not."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from portside.cli import run_command as portside
from portside.errors import ExitCode
from portside.health.account import log_in
from portside.health.judge import Status

from tests.conftest import Trio
from tests.integration.test_pool_logins import account, config, user
from tests.support.servers import APP_PASSWORD, APP_USER, Database, MariaDB

Answer = tuple[int, dict[str, dict[str, str]]]


def logins(
    folder: Path, capsys: pytest.CaptureFixture[str], server: Database, users: str, keys: str = ""
) -> Answer:
    """The exit code, and each account's row."""
    file = folder / "p.toml"
    file.write_text(config(server, users=users, server=keys))
    code = portside(["check", "-c", str(file), "--connect", "--json"])
    said = capsys.readouterr()
    assert "-pw" not in said.out + said.err, "a secret"
    rows = json.loads(said.out)["logins"]
    return code, {row["account"]: row for row in rows}


@contextmanager
def setting(server: Database, name: str, value: str, before: str) -> Iterator[None]:
    server.root(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        server.root(f"SET GLOBAL {name} = {before}")


def test_mariadb(trio: Trio, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = trio.primary
    account(server, "locked", "IDENTIFIED BY 'locked-pw' ACCOUNT LOCK")
    account(server, "expired", "IDENTIFIED BY 'expired-pw' PASSWORD EXPIRE")
    account(server, "secure", "IDENTIFIED BY 'secure-pw' REQUIRE SSL")
    users = [
        user(APP_USER, password=APP_PASSWORD, schema="app"),
        user("other", password="no-pw", server_user=APP_USER, server_password=APP_PASSWORD),
        user("hashed", password_hash="*F5CB189AAFE5D3CC8AB7CE363FD4A583C23E55DC"),
        user("nobody", password="nobody-pw"),
        user("locked", password="locked-pw"),
        user("expired", password="expired-pw"),
        user("secure", password="secure-pw"),
    ]
    code, rows = logins(tmp_path, capsys, server, "".join(users))
    assert code == ExitCode.NO
    good = {name for name, row in rows.items() if row["status"] == "L7OK"}
    assert good == {APP_USER, "other"}
    assert (rows["hashed"]["ok"], rows["hashed"]["status"]) == (True, "NOT_TRIED")
    details = {name: row["detail"] for name, row in rows.items()}
    assert {row["status"] for row in rows.values() if not row["ok"]} == {"L7STS"}
    refused = "the server refused the login: ERR "
    assert details["nobody"].startswith(f"{refused}1045: Access denied for user 'nobody'@'127.0.0")
    assert "or it has REQUIRE SSL: [[server]] tls" in details["secure"]
    assert details["locked"].startswith(f"{refused}4151: ")
    assert details["locked"].endswith(" (on the server: ALTER USER ... ACCOUNT UNLOCK)")
    # Let in with an expired password, and for nothing but to change it.
    assert details["expired"].startswith("ERR 1820: You must SET PASSWORD")
    cure = " (on the server: ALTER USER ... IDENTIFIED BY a new password)"
    assert details["expired"].endswith(cure)
    with setting(server, "disconnect_on_expired_password", "ON", "OFF"):
        _, rows = logins(tmp_path, capsys, server, user("expired", password="expired-pw"))
        assert rows["expired"]["detail"].startswith(f"{refused}1862: ")
        assert rows["expired"]["detail"].endswith(cure)


def test_a_server_that_takes_fewer_than_the_pool_may_open(
    trio: Trio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, file = trio.primary, tmp_path / "p.toml"
    users = user(APP_USER, password=APP_PASSWORD)
    file.write_text(config(server, users=users, pool="max = 49"))
    most = str(server.root("SELECT @@max_connections")[0][0])
    with (
        setting(server, "max_connections", "50", most),
        setting(server, "max_prepared_stmt_count", "3000", "16382"),
    ):
        assert portside(["check", "-c", str(file), "--connect"]) == ExitCode.GOOD
    lines = capsys.readouterr().out.splitlines()
    first, second = (line for line in lines if "pool.max" in line)
    place = f"warning: {file}:4:1: pool.max: server db0's "
    assert first.startswith(f"{place}max_connections is 50, less than the 49 that may be open and")
    assert second.startswith(f"{place}max_prepared_stmt_count is 3,000, and 49 connections may ")
    assert lines[-1] == "every login worked"


def test_every_source_address_and_the_words_for_people(
    trio: Trio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, keys = trio.primary, 'source = { addresses = ["127.0.0.5", "127.0.1.5"] }'
    account(server, "near", "IDENTIFIED BY 'near-pw'")
    users = user("near", password="near-pw", schema="not_there")
    before = server.status("Aborted_connects")
    file = tmp_path / "p.toml"
    file.write_text(config(server, users=users, server=keys))
    assert portside(["check", "-c", str(file), "--connect"]) == ExitCode.NO
    near, far, summary = capsys.readouterr().out.splitlines()[-3:]
    place = f"db0     127.0.0.1:{server.port}"
    assert near.startswith(f"{place}  127.0.0.5  near     L7STS   logged in, but ERR 10")
    assert "'not_there'" in near
    # By whether any account at all may come from there.
    assert re.match(f"{place}  127.0.1.5  near     L7STS   .*ERR (1130|1045): ", far)
    assert summary == "2 of 2 logins failed"
    file.write_text(config(server, users=user("near", password="near-pw")))
    assert portside(["check", "-c", str(file), "--connect"]) == ExitCode.GOOD
    assert capsys.readouterr().out.endswith("every login worked\n")
    assert int(server.status("Aborted_connects")) - int(before) <= 1  # the one without a GRANT


@pytest.mark.mysql9
def test_mysql9(mysql9_trio: Trio, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = mysql9_trio.primary
    account(server, "old", "IDENTIFIED WITH sha256_password BY 'old-pw'")
    account(server, "locked", "IDENTIFIED BY 'locked-pw' ACCOUNT LOCK")
    users = [
        user(APP_USER, password=APP_PASSWORD),
        user("old", password="old-pw"),
        user("locked", password="locked-pw"),
    ]
    code, rows = logins(tmp_path, capsys, server, "".join(users))
    assert (code, rows[APP_USER]["status"], rows[APP_USER]["detail"]) == (1, "L7OK", "")
    wants = 'the server wants the authentication plugin "sha256_password"; known are '
    assert rows["old"]["detail"].startswith(wants)
    assert " ERR 3118: " in rows["locked"]["detail"]
    assert rows["locked"]["detail"].endswith("ALTER USER ... ACCOUNT UNLOCK)")
    app = user(APP_USER, password=APP_PASSWORD)
    with setting(server, "require_secure_transport", "ON", "OFF"):
        code, rows = logins(tmp_path, capsys, server, app)
        detail = rows[APP_USER]["detail"]
        assert code == ExitCode.NO and " ERR 3159: " in detail
        assert detail.endswith('([[server]] tls = { mode = "required" })')
        code, rows = logins(tmp_path, capsys, server, app, 'tls = { mode = "required" }')
        assert (code, rows[APP_USER]["detail"]) == (ExitCode.GOOD, "TLSv1.3")
    name = 'tls = { mode = "verify-identity", name = "db.example", ca = "ca.pem" }'
    (tmp_path / "ca.pem").write_text((server.data_dir / "data" / "ca.pem").read_text())
    code, rows = logins(tmp_path, capsys, server, app, name)
    assert (code, rows[APP_USER]["status"]) == (ExitCode.NO, "L6RSP")
    assert rows[APP_USER]["detail"].startswith("TLS: the server's certificate ")


def test_a_server_without_tls(
    mariadb_factory: Callable[..., MariaDB], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = user(APP_USER, password=APP_PASSWORD) + user("other", password="other-pw")
    code, rows = logins(tmp_path, capsys, mariadb_factory(), users, 'tls = { mode = "required" }')
    assert (code, rows[APP_USER]["status"]) == (ExitCode.NO, "L6RSP")
    assert rows[APP_USER]["detail"] == "TLS: the server offers no TLS"
    # Another failed handshake would tell nothing more, and count towards max_connect_errors.
    assert rows["other"]["status"] == "NOT_TRIED"


def test_a_login_that_cannot_be_tried_quotes_nothing() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        answer = log_in(ours, '{"user": "secret-pw"}', 1.0)
    assert answer.status is Status.SOCKERR and "secret" not in answer.detail
    assert answer.detail.startswith("the account to try cannot be read at line 1 column ")
