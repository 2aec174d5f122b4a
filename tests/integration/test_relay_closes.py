"""Who closes first: after thousands of sessions no TIME_WAIT on any host and nothing aborted.

All three hosts (web server, proxy, database) are this one, so that one table shows every TIME_WAIT.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pymysql
import pytest
from pymysql.constants import CLIENT

from tests.support.client_programs import missing
from tests.support.lab_process import run_load
from tests.support.proxy import Proxy
from tests.support.raw_client import query
from tests.support.servers import APP_PASSWORD, APP_USER, MariaDB, fetch_mysql9, peers_bin
from tests.support.socket_table import time_waits
from tests.support.waiting import wait_until

SESSIONS = 2_000


class Site:
    """Portside before one MariaDB of its own; every session in between is accounted for."""

    def __init__(self, proxy: Proxy, database: MariaDB) -> None:
        self.proxy, self.database = proxy, database
        self.host, self.port = proxy.address("tcp")
        self._before = self._aborted()

    def _aborted(self) -> tuple[int, int]:
        status = self.database.status
        return status("Aborted_clients"), status("Aborted_connects")

    def connect(self, **options) -> pymysql.connections.Connection:
        where = {} if "unix_socket" in options else {"host": self.host, "port": self.port}
        return pymysql.connect(**{**where, "user": APP_USER, "password": APP_PASSWORD, **options})

    def settle(self) -> None:
        self.proxy.assert_at_rest()
        # The one that asks.
        wait_until(lambda: self.database.status("Threads_connected") == 1, 10, "all have left")

    def _forced(self) -> int:
        """Sessions in which Portside had to close first: the other side's FIN was late."""
        closes = self.proxy.stats()["closes"]
        return closes["client"]["linger2"] + closes["server"]["late-linger2"]

    def begin(self) -> None:
        self.settle()
        self._before, self._forced_before = self._aborted(), self._forced()
        self._ports = [self.port, self.database.port, self.proxy.address("both")[1]]
        self._waits_before = time_waits(*self._ports)

    def assert_clean(self, *, may_cross: bool = True) -> None:
        """Nothing aborted on the database, no TIME_WAIT on our listeners or on the database.

        Where a starved client's FIN comes later than Portside waits for it (5 ms), the two FINs may
        cross, and then the kernel keeps a TIME_WAIT; such closes are told, and few.
        """
        self.settle()
        assert self._aborted() == self._before
        found = time_waits(*self._ports) - self._waits_before
        crossed = min(self._forced() - self._forced_before, SESSIONS // 100) if may_cross else 0
        assert found <= crossed, f"{found} TIME_WAIT, {crossed} closes that may have crossed"


def toml(database: MariaDB, folder) -> str:
    address = f"127.0.0.1:{database.port}"
    return (
        f'[[server]]\nname = "db1"\naddress = "{address}"\ncheck = false\n'
        f'[[server]]\nname = "db1u"\naddress = "unix:{database.socket_path}"\ncheck = false\n'
        f'[[server]]\nname = "db1v6"\naddress = "[::1]:{database.port}"\ncheck = false\n'
        '[[service]]\nname = "tcp"\nlisten = "127.0.0.1:0"\nservers = ["db1"]\n'
        '[[service]]\nname = "unix"\n'
        f'listen = {{ address = "unix:{folder}/in.sock", mode = "0666" }}\n'
        'servers = ["db1u"]\n'
        '[[service]]\nname = "both"\nlisten = "[::]:0"\nservers = ["db1v6"]\n'
    )


@pytest.fixture(scope="module")
def place(server_dir, tls_dir) -> Iterator[Site]:
    database = MariaDB(
        server_dir / "closes-db",
        client_hosts="%",
        tls_dir=tls_dir,
        options={"bind-address": "127.0.0.1,::1"},
    )
    database.start()
    database.root(f"CREATE USER {APP_USER}@localhost IDENTIFIED BY '{APP_PASSWORD}'")
    folder = server_dir / "closes"
    try:
        with Proxy(folder, toml(database, folder)) as proxy:
            yield Site(proxy, database)
            proxy.stop()
    finally:
        database.kill()


@pytest.fixture
def site(place) -> Site:
    place.begin()
    return place


@pytest.mark.parametrize("close", ["libmysql", "wait", "no-quit", "reset"])
def test_every_way_to_leave(site, close):
    """As libmysql leaves; waiting for our FIN; close without QUIT; a reset at a boundary."""
    before = dict(site.proxy.stats()["closes"]["server"])
    report = run_load(
        target=f"{site.host}:{site.port}", connections=SESSIONS, concurrency=8, close=close
    )
    assert (report["sessions_ok"], report["sessions_failed"]) == (SESSIONS, 0), report["errors"]
    # A client that waits for our FIN cannot cross it.
    site.assert_clean(may_cross=close != "wait")
    after = site.proxy.stats()["closes"]["server"]
    assert after["eof-reset"] - before["eof-reset"] == SESSIONS, after


def test_pymysql(site):
    for _ in range(SESSIONS // 4):
        with site.connect(ssl_disabled=True) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
    site.assert_clean()


def test_pymysql_over_tls(site, tls_dir):
    for _ in range(200):
        with site.connect(ssl_ca=str(tls_dir / "ca.pem")) as one, one.cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
            assert cursor.fetchone()[1] != "", "TLS is on"
    site.assert_clean()


def test_php_mysqli(site):
    if (why := missing("php")) is not None:
        pytest.skip(why)
    script = (
        "for ($i = 0; $i < (int) $argv[5]; $i++) {"
        ' $link = mysqli_connect($argv[1], $argv[3], $argv[4], "", (int) $argv[2]);'
        ' if ($link->query("SELECT 1")->fetch_row()[0] != 1) { exit(2); }'
        " if ($i % 2) { $link->close(); }"  # the other half: PHP's own end of the variable
        "}"
    )
    command = ["php", "-r", script, site.host, str(site.port), APP_USER, APP_PASSWORD]
    done = subprocess.run(
        [*command, str(SESSIONS)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site.assert_clean()


@pytest.mark.parametrize("tls", ["--skip-ssl", "--ssl", "--skip-ssl --compress"])
def test_mariadb_client_library(site, tls):
    if (why := missing("mariadb")) is not None:
        pytest.skip(why)
    command = [
        "mariadb",
        "--no-defaults",
        *tls.split(),
        f"--host={site.host}",
        f"--port={site.port}",
    ]
    command += [f"--user={APP_USER}", f"--password={APP_PASSWORD}", "-e", "SELECT 1"]

    def once(_: int) -> int:
        return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(once, range(100))) == {0}
    site.assert_clean()


@pytest.mark.mysql9
def test_a_client_that_cannot_answer_the_servers_switch_holds_nothing(site):
    """MySQL 9's own client has no mysql_native_password: it leaves when MariaDB asks for it."""
    if (why := fetch_mysql9()) is not None:
        pytest.skip(why)
    command = [str(peers_bin() / "mysql9"), "--no-defaults", "--ssl-mode=DISABLED"]
    command += [f"--host={site.host}", f"--port={site.port}", f"--user={APP_USER}"]
    done = subprocess.run(
        [*command, f"--password={APP_PASSWORD}", "-e", "SELECT 1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "mysql_native_password" in done.stderr, done.stderr
    start = time.monotonic()
    site.settle()
    assert time.monotonic() - start < 3, "timeouts.login is 10 s"
    assert site.proxy.log_lines()[-1]["close_server"] == "eof-reset"


def test_clients_that_vanish_in_a_query(site):
    """QUIT stands behind the query: the server ends it in peace, whoever has gone meanwhile."""
    for number in range(20):
        connection = site.connect(ssl_disabled=True)
        connection._sock.sendall(query("SELECT SLEEP(2)"))
        if number % 2:
            connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection._force_close()
    running = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP(2)'"
    start = time.monotonic()
    wait_until(lambda: site.database.root(running)[0][0] == 0, 6, "no query is left")
    assert time.monotonic() - start < 4
    site.assert_clean()


def test_a_client_that_vanishes_in_a_large_result_is_cut_off(site):
    """More than abandon_bytes: this one does count, and the server does not send it to the end."""
    sent = site.database.status("Bytes_sent")
    connection = site.connect(ssl_disabled=True)
    connection._sock.sendall(query("SELECT REPEAT('x', 1048576) FROM app.seq_1_to_1000"))
    connection._sock.recv(1000)
    connection._force_close()
    site.settle()
    after = site.database.status("Aborted_clients"), site.database.status("Bytes_sent")
    assert after[0] == site._before[0] + 1
    assert after[1] - sent < 64 << 20, "of 1,000 MiB"


def test_a_file_that_begins_at_sequence_zero_is_no_quit(site):
    """The server's 256th packet asks for a file; its first byte, 0x01 alone, looks like QUIT."""
    connection = site.connect(
        ssl_disabled=True, local_infile=True, client_flag=CLIENT.MULTI_STATEMENTS, database="app"
    )
    with connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE TABLE loaded (line VARBINARY(100))")
    sock = connection._sock
    stream = sock.makefile("rb")

    def packet() -> tuple[int, bytes]:
        header = stream.read(4)
        return header[3], stream.read(int.from_bytes(header[:3], "little"))

    for rows in range(245, 256):
        sock.sendall(
            query(f"SELECT seq FROM seq_1_to_{rows}; LOAD DATA LOCAL INFILE 'x' INTO TABLE loaded")
        )
        while True:
            sequence, payload = packet()
            assert not payload.startswith(b"\xff"), payload
            if payload == b"\xfbx":
                break
        first = (sequence + 1) % 256
        sock.sendall(bytes([1, 0, 0, first, 1]))
        if first == 0:
            time.sleep(0.05)  # ten times what a client that said QUIT is waited for
        sock.sendall(bytes([0, 0, 0, (first + 1) % 256]))
        assert packet()[1].startswith(b"\0")
        if first == 0:
            break
    else:
        raise AssertionError("no request had sequence 255")
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT line FROM loaded")
        assert cursor.fetchall() == ((b"\x01",),)
    stream.close()
    connection.close()
    site.assert_clean()


def test_unix_sockets_on_both_sides(site):
    path = f"{site.proxy.folder}/in.sock"
    report = run_load(target=f"unix:{path}", connections=SESSIONS, concurrency=8)
    assert (report["sessions_ok"], report["sessions_failed"]) == (SESSIONS, 0), report["errors"]
    with site.connect(unix_socket=path) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT USER()")
        assert cursor.fetchone() == (f"{APP_USER}@localhost",)
    site.assert_clean()
    assert site.proxy.log_size() and site.proxy.log_lines()[-1]["client"] == "unix"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_both_families_on_one_listener_to_a_server_over_ipv6(site, host):
    _, port = site.proxy.address("both")
    mark = site.proxy.log_size()
    report = run_load(target=f"{host}:{port}", connections=SESSIONS // 4, concurrency=8)
    assert (report["sessions_ok"], report["sessions_failed"]) == (SESSIONS // 4, 0)
    site.assert_clean()
    assert site.proxy.log_size() > mark
    line = site.proxy.log_lines(mark)[-1]
    # An IPv4 client is shown as one, not as ::ffff:127.0.0.1.
    assert line["client"].startswith(f"{host}:")
    assert line["source"].startswith("[::1]:")


def test_a_server_that_ends_a_session_is_passed_on_without_time_wait(site):
    """KILL and wait_timeout: the server's FIN first, the client's connection ends at once."""
    for _ in range(50):
        connection = site.connect(ssl_disabled=True)
        with connection.cursor() as cursor, pytest.raises(pymysql.OperationalError):
            cursor.execute("KILL CONNECTION_ID()")
            cursor.execute("SELECT 1")
        connection._force_close()
    site.settle()
    assert time_waits(site.port, site.database.port) <= site._waits_before


def test_one_session_after_the_other_needs_no_second_port(site):
    """The kernel would run out of nothing: 2,000 sessions, one at a time, leave no trace."""
    report = run_load(target=f"{site.host}:{site.port}", connections=SESSIONS, concurrency=1)
    assert (report["sessions_ok"], report["sessions_failed"]) == (SESSIONS, 0)
    site.assert_clean()


def test_control_a_direct_client_leaves_time_waits(site, trio):
    """What the tests above would see if Portside did not close in the right order.

    On another server: these last for a minute.
    """
    report = run_load(target=f"127.0.0.1:{trio.primary.port}", connections=200, concurrency=4)
    assert report["sessions_ok"] == 200
    assert time_waits(trio.primary.port) >= 190
