"""TLS between Portside and servers: what each mode accepts and refuses, on real servers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pymysql
import pytest
from cryptography import x509

from tests.conftest import Trio
from tests.integration.test_pool import Client, closed, config
from tests.integration.test_pool_tls import context, failures, secured
from tests.support.instance import Instance, settle
from tests.support.servers import (
    APP_PASSWORD,
    APP_USER,
    MONITOR_PASSWORD,
    MONITOR_USER,
    Database,
    MySQL9,
    fetch_mysql9,
)
from tests.support.socket_table import time_waits
from tests.support.tls import Authority, make_certificates
from tests.support.waiting import wait_until

Run = Callable[..., Instance]
Factory = Callable[..., Database]


def behind(server: Database, tls: str, *, check: str = "false", text: str | None = None) -> str:
    text = text or config(server)
    return text.replace("check = false", f"check = {check}\ntls = {{ {tls} }}")


def reason(portside: Instance) -> str:
    """The one reason for which handshakes with servers failed."""
    wait_until(lambda: failures(portside, "server"), 10.0, "no handshake has failed")
    (found,) = failures(portside, "server")
    return found


@pytest.fixture(params=["mariadb", pytest.param("mysql9", marks=pytest.mark.mysql9)])
def strict(
    request: pytest.FixtureRequest, server_dir: Path, tls_dir: Path, mariadb_factory: Factory
) -> Iterator[Database]:
    """A server that takes no connection without TLS; its certificate is the run's."""
    if request.param == "mariadb":
        yield mariadb_factory(tls_dir=tls_dir, options={"require-secure-transport": "ON"})
        return
    if (missing := fetch_mysql9()) is not None:
        pytest.skip(missing)
    folder = server_dir / "mysql9-strict"
    folder.mkdir(exist_ok=True)
    options = {"require-secure-transport": "ON"}
    with MySQL9(folder / "db", tls_dir=tls_dir, options=options) as server:
        yield server


def test_servers_that_insist_on_tls(strict: Database, tls_dir: Path, run_portside: Run) -> None:
    strict.root(f"CREATE USER x509@'%' IDENTIFIED BY '{APP_PASSWORD}' REQUIRE X509")
    strict.root("GRANT ALL ON *.* TO x509@'%'")
    pair = f'certificate = "{tls_dir}/server-cert.pem", key = "{tls_dir}/server-key.pem"'
    user = f'[[user]]\nname = "x509"\npassword = "{APP_PASSWORD}"\n'
    text = secured(tls_dir, strict, users=user)
    check = f'{{ user = "{MONITOR_USER}", password = "{MONITOR_PASSWORD}", interval = "200ms" }}'
    aborted = strict.status("Aborted_clients")
    for tls in (
        'mode = "preferred"',
        'mode = "required"',
        f'mode = "verify-ca", ca = "{tls_dir}/ca.pem"',
        f'mode = "verify-identity", ca = "{tls_dir}/ca.pem", {pair}',
        f'mode = "verify-identity", ca = "{tls_dir}/ca.pem", name = "localhost", {pair}',
    ):
        portside = run_portside(behind(strict, tls, check=check, text=text))
        wait_until(lambda p=portside: p.server("db0")["is_up"], 10.0, "the check fails")
        before = time_waits(strict.port)
        for user_name in (APP_USER, "x509") if pair in tls else (APP_USER,):
            client = Client(portside, user=user_name, ssl=context(tls_dir))
            ((_, cipher),) = client.ask("SHOW STATUS LIKE 'Ssl_cipher'")
            assert cipher != ""
            client.connection.close()
        closed(strict, portside)
        assert time_waits(strict.port) <= before
    assert strict.status("Aborted_clients") == aborted


def test_tls_that_is_not_configured(strict: Database, run_portside: Run) -> None:
    portside = run_portside(behind(strict, 'mode = "disabled"'))
    with pytest.raises(pymysql.MySQLError) as caught:
        Client(portside).ask("SELECT 1")
    assert "secure" in str(caught.value) or "Access denied" in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("common_name", "names", "mode", "name", "failure"),
    [
        # No list of names: verify-ca does not care, verify-identity goes by the common name.
        ("MySQL_Server_9_Auto_Generated", (), "verify-ca", "", ""),
        ("MySQL_Server_9_Auto_Generated", (), "verify-identity", "", "certificate"),
        ("127.0.0.1", (), "verify-identity", "", ""),
        ("*.example.org", (), "verify-identity", "db1.example.org", ""),
        ("*.example.org", (), "verify-identity", "example.org", "certificate"),
        ("x", (x509.DNSName("db1.example.org"),), "verify-identity", "db1.example.org", ""),
        # A list of names: the common name counts no more.
        ("127.0.0.1", (x509.DNSName("db1.example.org"),), "verify-identity", "", "certificate"),
        ("x", (x509.DNSName("db1.example.org"),), "verify-ca", "", ""),
        ("wrong ca", (), "verify-ca", "", "certificate"),
        ("wrong ca", (), "required", "", ""),
        ("expired", (), "verify-ca", "", "certificate"),
        ("expired", (), "required", "", ""),
    ],
)
def test_what_the_modes_verify(
    common_name: str,
    names: tuple[x509.GeneralName, ...],
    mode: str,
    name: str,
    failure: str,
    reissued: Callable[[Path], Database],
    folder: Path,
    run_portside: Run,
) -> None:
    authority = Authority()
    days = -1 if common_name == "expired" else 60
    made = make_certificates(folder / "tls", authority, common_name, names, days=days)
    ca = folder / "ca.pem"
    ca.write_bytes(Authority().pem if common_name == "wrong ca" else authority.pem)
    server = reissued(made)
    named = f', name = "{name}"' if name else ""
    ca_key = f', ca = "{ca}"' if mode != "required" else ""
    portside = run_portside(behind(server, f'mode = "{mode}"{ca_key}{named}'))
    if not failure:
        assert Client(portside).ask("SELECT 1") == [(1,)]
        return
    with pytest.raises(pymysql.MySQLError) as caught:
        Client(portside)
    assert caught.value.args[0] == 1429, caught.value
    assert reason(portside) == failure
    (event, *_) = portside.events("breaker_open")
    assert "TLS: the server's certificate" in event["message"]


@pytest.mark.parametrize(
    ("more", "mode", "failure"),
    [
        (["-addext", "subjectAltName=IP:127.0.0.1"], "verify-identity", ""),
        (["-addext", "basicConstraints=critical,CA:FALSE"], "verify-ca", ""),
        ([], "verify-ca", "is of X.509 version 1; make one of version 3"),
        ([], "required", ""),
    ],
)
def test_certificates_that_sign_themselves(
    more: list[str],
    mode: str,
    failure: str,
    reissued: Callable[[Path], Database],
    folder: Path,
    run_portside: Run,
) -> None:
    key, certificate = folder / "server-key.pem", folder / "server-cert.pem"
    make = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    run = partial(subprocess.run, check=True, capture_output=True)
    if more:
        run([*make, "-x509", "-keyout", str(key), "-out", str(certificate), *more])
    else:  # version 1, as in MySQL's manual
        run([*make, "-keyout", str(key), "-out", f"{folder}/request"])
        sign = ["openssl", "x509", "-req", "-in", f"{folder}/request", "-signkey", str(key)]
        run([*sign, "-out", str(certificate)])
    (folder / "ca.pem").write_bytes(certificate.read_bytes())
    server = reissued(folder)
    ca = f', ca = "{folder}/ca.pem"' if mode != "required" else ""
    portside = run_portside(behind(server, f'mode = "{mode}"{ca}'))
    if not failure:
        assert Client(portside).ask("SELECT 1") == [(1,)]
        return
    with pytest.raises(pymysql.MySQLError) as caught:
        Client(portside)
    assert caught.value.args[0] == 1429, caught.value
    (event, *_) = portside.events("breaker_open")
    assert failure in event["message"]


@pytest.fixture(scope="module")
def reissued(server_dir: Path, tls_dir: Path) -> Iterator[Callable[[Path], Database]]:
    """One server that shows the certificates of a folder from now on."""
    from tests.support.servers import MariaDB

    folder = server_dir / "reissued"
    (folder / "tls").mkdir(parents=True)
    for name in ("ca.pem", "server-cert.pem", "server-key.pem"):
        (folder / "tls" / name).write_bytes((tls_dir / name).read_bytes())
    with MariaDB(folder / "db", tls_dir=folder / "tls") as server:

        def show(made: Path) -> Database:
            for name in ("ca.pem", "server-cert.pem", "server-key.pem"):
                (folder / "tls" / name).write_bytes((made / name).read_bytes())
            server.root("FLUSH SSL")
            return server

        yield show


@pytest.mark.mysql9
def test_the_certificates_that_mysql_makes_itself(mysql9_trio: Trio, run_portside: Run) -> None:
    server = mysql9_trio.primary
    ca = server.data_dir / "data" / "ca.pem"
    portside = run_portside(behind(server, f'mode = "verify-ca", ca = "{ca}"'))
    client = Client(portside)
    assert client.ask("SHOW STATUS LIKE 'Ssl_version'") == [("Ssl_version", "TLSv1.3")]


def test_a_server_without_tls(mariadb_factory: Factory, run_portside: Run) -> None:
    server = mariadb_factory(options={"ssl": "OFF"})
    check = f'{{ user = "{MONITOR_USER}", password = "{MONITOR_PASSWORD}", interval = "200ms" }}'
    portside = run_portside(behind(server, 'mode = "preferred"', check=check))
    assert Client(portside).ask("SHOW STATUS LIKE 'Ssl_cipher'") == [("Ssl_cipher", "")]
    portside.stop()
    errors = server.status("Connection_errors_peer_address")
    portside = run_portside(behind(server, 'mode = "required"'))
    with pytest.raises(pymysql.MySQLError) as caught:
        Client(portside)
    assert caught.value.args[0] == 1429, caught.value
    assert reason(portside) == "not-offered"
    (event, *_) = portside.events("breaker_open")
    assert "TLS: the server offers no TLS; three failures in a row" in event["message"]
    portside.stop()
    portside = run_portside(behind(server, 'mode = "required"', check=check))
    view = portside.server("db0")
    assert not view["is_up"]
    assert 'TLS: the server offers none, and its tls.mode is "required"' in str(view)
    assert server.status("Connection_errors_peer_address") == errors
    # Refused in order: the address is not blocked by max_connect_errors (100).
    server.root("SET GLOBAL max_connect_errors = 1")
    settle(1.0)
    with pymysql.connect(
        host=server.address, port=server.port, user=APP_USER, password=APP_PASSWORD
    ) as direct:
        direct.ping()
