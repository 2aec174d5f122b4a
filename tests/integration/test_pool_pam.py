"""A server that asks PAM: it must have the password itself, which goes through TLS only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_pool import Client, connections, refused
from tests.integration.test_pool_logins import HOSTS, cli, config, user, who
from tests.support.instance import Instance
from tests.support.plugins import mariadb_plugins
from tests.support.servers import MariaDB
from tests.support.waiting import wait_until

Run = Callable[..., Instance]

PASSWORD = "pam-pw with a blank"


@pytest.fixture(scope="module")
def pam_service(server_dir: Path) -> Iterator[str]:
    """A service of PAM that lets in who knows PASSWORD; root writes it and takes it away."""
    if os.geteuid() != 0:
        pytest.skip("a service of PAM needs root")
    name = f"portside-{secrets.token_hex(6)}"
    judge = server_dir / name
    # The password comes with a NUL and without a line end.
    judge.write_text(f"#!/bin/sh\n[ \"$(tr -d '\\0')\" = '{PASSWORD}' ]\n")
    judge.chmod(0o755)
    service = Path("/etc/pam.d") / name
    service.write_text(
        f"auth required pam_exec.so quiet expose_authtok {judge}\naccount required pam_permit.so\n"
    )
    yield name
    service.unlink()


def with_pam(folder: Path, service: str, tls_dir: Path | None) -> MariaDB:
    """MariaDB with an account of PAM's, and mysql_clear_password as its method."""
    plugins = mariadb_plugins()
    if isinstance(plugins, str):
        pytest.skip(plugins)
    options = {
        "plugin-dir": str(plugins),
        "plugin-load-add": "auth_pam",
        "pam-use-cleartext-plugin": "ON",
    }
    server = MariaDB(folder, tls_dir=tls_dir, options=options)
    server.start()
    server.root(
        f"CREATE USER staff@'{HOSTS}' IDENTIFIED VIA pam USING '{service}';"
        f" GRANT SELECT ON *.* TO staff@'{HOSTS}'"
    )
    return server


@pytest.fixture(scope="module")
def pam(server_dir: Path, tls_dir: Path, pam_service: str) -> Iterator[MariaDB]:
    server = with_pam(server_dir / "pam", pam_service, tls_dir)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def plain_pam(server_dir: Path, pam_service: str) -> Iterator[MariaDB]:
    """The same without TLS."""
    server = with_pam(server_dir / "pam-plain", pam_service, None)
    yield server
    server.kill()


def behind(server: MariaDB, mode: str, **account: str) -> str:
    given = account or {"password": PASSWORD}
    tls = f'tls = {{ mode = "{mode}" }}'
    return config(server, users=user("staff", **given), server=tls)


def test_over_tls_pam_gets_the_password(pam: MariaDB, run_portside: Run) -> None:
    aborted = pam.status("Aborted_clients")
    portside = run_portside(behind(pam, "required"))
    # Whatever the client's own method.
    assert who(Client(portside, user="staff", password=PASSWORD)) == f"staff@{HOSTS}"
    for method in ("mysql_native_password", "caching_sha2_password", "client_ed25519"):
        option = f"--default-auth={method}"
        assert cli("mariadb", portside, "staff", PASSWORD, option) == f"staff@{HOSTS}"
    assert "Access denied" in cli("mariadb", portside, "staff", "bad")
    portside.stop()
    wait_until(lambda: not connections(pam, "staff"))
    assert pam.status("Aborted_clients") == aborted


def test_pam_says_no(pam: MariaDB, run_portside: Run) -> None:
    portside = run_portside(behind(pam, "required", password="another-pw"))
    with refused(1429) as texts:
        Client(portside, user="staff", password="another-pw")
    assert "ERR 1045: Access denied for user 'staff'" in texts[0]
    assert "another-pw" not in texts[0] + portside.messages() + str(portside.events())


@pytest.mark.parametrize("mode", ["disabled", "preferred"])
def test_without_tls_the_password_is_not_sent(
    pam: MariaDB, plain_pam: MariaDB, run_portside: Run, mode: str
) -> None:
    # With "preferred" TLS was hoped for, and the server has none.
    server = pam if mode == "disabled" else plain_pam
    portside = run_portside(behind(server, mode))
    with refused(1429) as texts:
        Client(portside, user="staff", password=PASSWORD)
    assert (
        "mysql_clear_password sends the password itself: it needs TLS towards this server "
        '([[server]] tls = { mode = "required" })'
    ) in texts[0]
