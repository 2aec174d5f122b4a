"""TLS between clients and Portside in pool mode: real clients, and those that misbehave."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest
from portside.demo.held_port import HeldPort

from tests.conftest import Trio
from tests.integration.test_pool import Client, closed, config
from tests.support.client_programs import missing
from tests.support.instance import Instance
from tests.support.servers import APP_PASSWORD, APP_USER, Database, peers_bin
from tests.support.socket_table import time_waits
from tests.support.tls import Authority, make_certificates
from tests.support.waiting import wait_until

Run = Callable[..., Instance]
MIB = 1 << 20


def tls_table(folder: Path, more: str = "") -> str:
    return (
        f'tls = {{ certificate = "{folder}/server-cert.pem", key = "{folder}/server-key.pem"'
        f"{more} }}"
    )


def secured(folder: Path, *servers: Database, more: str = "", **options: object) -> str:
    return config(*servers, service=tls_table(folder, more), **options)  # type: ignore[arg-type]


def context(folder: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if version is not None:
        made.minimum_version = made.maximum_version = version
    return made


def address(instance: Instance, service: str = "s") -> tuple[str, int]:
    host, _, port = instance.service(service)["listen"][0].rpartition(":")
    return host, int(port)


def failures(instance: Instance, peer: str = "client") -> dict[str, int]:
    counts: dict[str, int] = instance.stats()["tls"][peer]["failures"]
    return {reason: count for reason, count in counts.items() if count}


@pytest.fixture
def primary(trio: Trio) -> Database:
    return trio.primary


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_verifies_us_and_leaves_without_a_trace(
    version: ssl.TLSVersion, primary: Database, tls_dir: Path, run_portside: Run
) -> None:
    portside = run_portside(secured(tls_dir, primary))
    _, port = address(portside)
    before, aborted = time_waits(port), primary.status("Aborted_clients")
    for _ in range(20):
        client = Client(portside, ssl=context(tls_dir, version))
        assert client.ask("SELECT 7") == [(7,)]
        (session,) = portside.admin.get("/v1/sessions")
        word = {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert session["tls"] == word and session["tls_cipher"].startswith("TLS")
        client.connection.close()
    wait_until(lambda: len(portside.lines()) >= 20, 10.0, "no session lines")
    assert {(line["end"], line.get("tls")) for line in portside.lines()} == {("quit/command", word)}
    assert time_waits(port) <= before
    last = Client(portside, ssl=context(tls_dir, version))
    assert word in portside.cli("show", "sessions").stdout
    last.connection.close()
    plain = Client(portside, ssl_disabled=True)
    assert plain.ask("SELECT 8") == [(8,)]
    plain.connection.close()
    wait_until(lambda: len(portside.lines()) >= 22, 10.0, "no session line")
    assert "tls" not in portside.lines()[-1]
    assert portside.stats()["tls"]["client"]["handshakes_total"] == 21
    closed(primary, portside)
    assert primary.status("Aborted_clients") == aborted


def cli(program: str, instance: Instance, *options: str) -> subprocess.CompletedProcess[str]:
    host, port = address(instance)
    name = str(peers_bin() / "mysql9") if program == "mysql9" else "mariadb"
    account = (f"--user={APP_USER}", f"--password={APP_PASSWORD}", "-N", "-e", "SELECT 7")
    command = [name, "--no-defaults", "--protocol=tcp", f"--host={host}", f"--port={port}"]
    return subprocess.run(
        [*command, *options, *account], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize(
    ("program", "options"),
    [
        pytest.param("mysql9", ["--ssl-mode=VERIFY_IDENTITY"], marks=pytest.mark.mysql9),
        pytest.param(
            "mysql9", ["--ssl-mode=VERIFY_CA", "--tls-version=TLSv1.2"], marks=pytest.mark.mysql9
        ),
        ("mariadb", ["--ssl", "--ssl-verify-server-cert"]),
    ],
)
def test_command_line_clients(
    program: str, options: list[str], primary: Database, tls_dir: Path, run_portside: Run
) -> None:
    if (why := missing(program)) is not None:
        pytest.skip(why)
    portside = run_portside(secured(tls_dir, primary, more=", required = true"))
    done = cli(program, portside, f"--ssl-ca={tls_dir}/ca.pem", *options)
    assert (done.returncode, done.stdout.strip()) == (0, "7"), done.stderr
    off = "--ssl-mode=DISABLED" if program == "mysql9" else "--skip-ssl"
    done = cli(program, portside, off)
    assert done.returncode == 1 and "ERROR 3159" in done.stderr, done.stderr
    other = make_certificates(tls_dir.parent / "other-tls")
    done = cli(program, portside, f"--ssl-ca={other}/ca.pem", *options)
    assert done.returncode == 1, done.stdout
    wait_until(lambda: failures(portside) == {"refused": 1}, 5.0, str(failures(portside)))


def test_tls_as_a_must(primary: Database, tls_dir: Path, run_portside: Run, folder: Path) -> None:
    text = secured(tls_dir, primary, more=", required = true")
    local = folder / "s.sock"
    text = text.replace('listen = "', f'listen = ["unix:{local}", "').replace(
        '"\nmode = "pool"', '"]\nmode = "pool"'
    )
    portside = run_portside(text)
    host, _, port = portside.service("s")["listen"][1].rpartition(":")
    given = {"user": APP_USER, "password": APP_PASSWORD}
    with pytest.raises(pymysql.MySQLError) as caught:
        pymysql.connect(host=host, port=int(port), ssl_disabled=True, **given)
    assert caught.value.args[0] == 3159 and "takes connections with TLS only" in str(caught.value)
    pymysql.connect(host=host, port=int(port), ssl=context(tls_dir), **given).close()
    pymysql.connect(unix_socket=str(local), **given).close()
    # Not counted as a wrong password: such clients are misconfigured, not hostile.
    for _ in range(25):
        with pytest.raises(pymysql.MySQLError):
            pymysql.connect(host=host, port=int(port), ssl_disabled=True, **given)
    pymysql.connect(host=host, port=int(port), ssl=context(tls_dir), **given).close()


def ssl_request(instance: Instance) -> socket.socket:
    """A connection that has read the greeting and asked for TLS."""
    raw = socket.create_connection(address(instance), timeout=10)
    header = raw.recv(4, socket.MSG_WAITALL)
    raw.recv(int.from_bytes(header[:3], "little"), socket.MSG_WAITALL)
    return raw


# PROTOCOL_41, SSL, SECURE_CONNECTION, PLUGIN_AUTH; 16 MiB; utf8mb4.
REQUEST = bytes.fromhex("20000001 008a0800 00000001 2d".replace(" ", "")) + bytes(23)


def ends(raw: socket.socket) -> bytes:
    """Everything until the end."""
    found = b""
    try:
        while data := raw.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    raw.close()
    return found


def test_whatever_is_no_tls_is_never_read(
    primary: Database, tls_dir: Path, run_portside: Run
) -> None:
    portside = run_portside(secured(tls_dir, primary))
    # A whole cleartext login and a query behind the request, in the same packet and in another.
    login = bytes.fromhex("008a0800 00000001 2d".replace(" ", "")) + bytes(23) + b"app\0\0"
    packet = len(login).to_bytes(3, "little") + b"\x02" + login
    injected = packet + b"\x15\0\0\0\x03DROP DATABASE portside"
    for pieces in ([REQUEST + injected], [REQUEST, injected], [REQUEST, bytes(70_000)]):
        raw = ssl_request(portside)
        for piece in pieces:
            raw.sendall(piece)
        answer = ends(raw)
        # An alert at most: no packet of MySQL's.
        assert answer[:1] in (b"", b"\x15"), answer
    wait_until(lambda: failures(portside) == {"not-tls": 3}, 5.0, str(failures(portside)))
    wait_until(lambda: len(portside.lines()) == 3, 5.0, "no session lines")
    for line in portside.lines():
        assert line["end"] == "tls-failed/login" and line["user"] == ""
        assert line["error"] == "TLS: the client sent something that is not TLS"
    assert Client(portside, ssl=context(tls_dir)).ask("SELECT 1") == [(1,)]


def test_a_client_that_knows_only_old_versions(
    primary: Database, tls_dir: Path, run_portside: Run
) -> None:
    portside = run_portside(secured(tls_dir, primary))
    raw = ssl_request(portside)
    raw.sendall(REQUEST)
    # A ClientHello of TLS 1.0 with one cipher.
    body = bytes.fromhex("0301") + bytes(32) + bytes.fromhex("00 0002 002f 0100")
    hello = b"\x01" + len(body).to_bytes(3, "big") + body
    raw.sendall(b"\x16\x03\x01" + len(hello).to_bytes(2, "big") + hello)
    assert ends(raw)[:1] == b"\x15"
    wait_until(lambda: failures(portside) == {"version": 1}, 5.0, str(failures(portside)))


def test_a_client_that_stops_in_the_middle(
    primary: Database, tls_dir: Path, run_portside: Run
) -> None:
    text = secured(tls_dir, primary) + '\n[timeouts]\nlogin = "1s"\n'
    portside = run_portside(text)
    stuck, gone = ssl_request(portside), ssl_request(portside)
    for raw in (stuck, gone):
        raw.sendall(REQUEST + b"\x16\x03\x01\x02\x00\x01")
    gone.close()
    wait_until(lambda: failures(portside).get("left") == 1, 5.0, str(failures(portside)))
    wait_until(lambda: failures(portside).get("timeout") == 1, 5.0, str(failures(portside)))
    ends(stuck)
    wait_until(lambda: len(portside.lines()) == 2, 5.0, "no session lines")
    assert {line["end"] for line in portside.lines()} == {"client-eof/login", "login-timeout/login"}
    assert {line["error"] for line in portside.lines()} == {
        "TLS: the client did not finish the handshake"
    }


def test_random_bytes_in_and_around_the_handshake(
    primary: Database, tls_dir: Path, run_portside: Run
) -> None:
    portside = run_portside(secured(tls_dir, primary) + '\n[timeouts]\nlogin = "2s"\n')
    shared, before = context(tls_dir), resident_kib(portside)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(150):
        shake_hands_badly(ssl_request(portside), shared, rng)
    assert Client(portside, ssl=shared).ask("SELECT 1") == [(1,)]
    wait_until(lambda: portside.sessions_now() <= 1, 10.0, "sessions are left")
    assert portside.events("worker_died") == []
    assert resident_kib(portside) - before < 32 * 1024
    assert sum(failures(portside).values()) > 50, failures(portside)


def shake_hands_badly(raw: socket.socket, shared: ssl.SSLContext, rng: random.Random) -> None:
    """A handshake of a real client, each of whose messages may come out wrong."""
    raw.settimeout(0.3)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = shared.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    request = REQUEST
    with contextlib.suppress(OSError, ssl.SSLError), raw:
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                client.write(bytes(rng.randrange(256) for _ in range(rng.randrange(300))))
            raw.sendall(request + spoiled(outgoing.read(), rng))
            request = b""
            if not (data := raw.recv(65536)):
                return
            incoming.write(data)


def spoiled(data: bytes, rng: random.Random) -> bytes:
    at, to = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    noise = rng.randbytes(rng.randrange(1, 2000))
    return rng.choice(
        [
            data,
            data[:at] + noise[:1] + data[at + 1 :],
            data[:at],
            data[:at] + noise + data[at:],
            data[:at] + data[to:],
            data + data[at:to],
            noise,
        ]
    )


def test_a_client_says_goodbye_and_keeps_the_connection(
    primary: Database, tls_dir: Path, run_portside: Run
) -> None:
    portside = run_portside(secured(tls_dir, primary))
    client = Client(portside, ssl=context(tls_dir))
    inner = client.connection._sock
    # close_notify without QUIT and without FIN; ours comes back.
    raw = inner.unwrap()
    wait_until(lambda: portside.sessions_now() == 0, 5.0, "the session goes on")
    raw.close()
    assert portside.lines()[-1]["end"] == "client-eof/command"


def test_much_data_and_a_slow_reader(trio: Trio, tls_dir: Path, run_portside: Run) -> None:
    server = f'tls = {{ mode = "verify-identity", ca = "{tls_dir}/ca.pem" }}\n'
    text = secured(tls_dir, trio.primary).replace("check = false\n", f"check = false\n{server}")
    before = trio.primary.root("SELECT @@global.max_allowed_packet")[0][0]
    trio.primary.root(f"SET GLOBAL max_allowed_packet = {64 * MIB}")
    portside = run_portside(text)
    try:
        client = Client(portside, ssl=context(tls_dir), max_allowed_packet=64 * MIB)
        big = "x" * (20 * MIB)
        assert client.ask(f"SELECT LENGTH('{big}')") == [(20 * MIB,)]
        with client.connection.cursor(pymysql.cursors.SSCursor) as cursor:
            cursor.execute("SELECT REPEAT('y', 1048576) FROM mysql.seq_1_to_64")
            # Meanwhile nobody reads: the server waits, and Portside keeps no more than it may.
            time.sleep(0.3)
            rows = 0
            for (row,) in cursor:
                rows += len(row)
        assert rows == 64 * MIB
        assert client.ask("SELECT 1") == [(1,)]
    finally:
        trio.primary.root(f"SET GLOBAL max_allowed_packet = {before}")
    assert resident_kib(portside) < 200 * 1024
    assert portside.stats()["tls"]["server"]["handshakes_total"] >= 1


def resident_kib(instance: Instance) -> int:
    lines = Path(f"/proc/{instance.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def test_memory_of_idle_clients(primary: Database, tls_dir: Path, run_portside: Run) -> None:
    portside = run_portside(secured(tls_dir, primary, workers=1))
    shared = context(tls_dir)
    clients = [Client(portside, ssl=shared) for _ in range(50)]
    before = resident_kib(portside)
    clients += [Client(portside, ssl=shared) for _ in range(400)]
    for client in clients:
        client.ask("SELECT 1")
    each = (resident_kib(portside) - before) / 400
    assert each < 24, f"{each:.1f} KiB per idle client"
    print(f"{each:.1f} KiB per idle client")
    for client in clients:
        client.connection.close()


def shown(portside: Instance, shared: ssl.SSLContext) -> bytes:
    """The certificate that a new client sees."""
    client = Client(portside, ssl=shared)
    found: bytes = client.connection._sock.getpeercert(binary_form=True)
    client.connection.close()
    return found


def shown_by(folder: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((folder / "server-cert.pem").read_text())


def test_a_new_certificate_under_load(
    primary: Database, tls_dir: Path, run_portside: Run, folder: Path
) -> None:
    authority = Authority()
    used = make_certificates(folder / "now", authority)
    portside = run_portside(secured(used, primary))
    stop, failed, logins, shared = threading.Event(), [], [0], context(used)
    old = Client(portside, ssl=shared)

    def come_and_go() -> None:
        while not stop.is_set():
            try:
                client = Client(portside, ssl=shared)
                client.ask("SELECT 1")
                client.connection.close()
                logins[0] += 1
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(5):
        new = make_certificates(folder / f"new{turn}", authority)
        for name in ("server-cert.pem", "server-key.pem"):
            (new / name).replace(used / name)
        assert portside.reload()["ok"] is True
        wait_until(lambda: shown(portside, shared) == shown_by(used), 10.0, "the old one is shown")
        seen = logins[0]
        wait_until(lambda seen=seen: logins[0] > seen + 3 or failed, 20.0, "no logins")
    # A key of another certificate: refused, and the old pair stays.
    make_certificates(folder / "wrong", authority)
    (folder / "wrong" / "server-key.pem").replace(used / "server-key.pem")
    view = portside.reload()
    assert view["ok"] is False
    assert "the key does not belong to the certificate" in str(view)
    seen = logins[0]
    wait_until(lambda: logins[0] > seen + 3 or bool(failed), 20.0, "no logins")
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert shown(portside, shared) == shown_by(used)
    assert old.ask("SELECT 1") == [(1,)]


def test_a_certificate_that_expires_is_told_until_it_is_renewed(
    primary: Database, run_portside: Run, folder: Path
) -> None:
    used = make_certificates(folder / "soon", days=9.5)
    with HeldPort() as held:
        where = f"127.0.0.1:{held.port}"
    portside = run_portside(f'[metrics]\nlisten = "{where}"\n{secured(used, primary)}')

    def days_left() -> float:
        with urllib.request.urlopen(f"http://{where}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        name = "portside_tls_certificate_not_after_timestamp_seconds"
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name}{{"))
        assert f'certificate="{used}/server-cert.pem"' in line
        return (float(line.split()[-1]) - time.time()) / 86_400

    (alert,) = portside.admin.get("/v1/status")["alerts"]
    assert alert.startswith(f"certificate {used}/server-cert.pem expires on ")
    assert alert.endswith(", in 9 days; renew it, then: portside reload")
    assert f"! {alert}\n" in portside.cli("show").stdout and 9 < days_left() < 9.6
    make_certificates(used)
    assert portside.reload()["ok"]
    assert portside.admin.get("/v1/status")["alerts"] == [] and days_left() > 50
