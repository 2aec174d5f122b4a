"""Logins of pool mode on real servers: each method in front and behind, and stored hashes."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest
from portside.demo.held_port import free_port

from tests.conftest import Trio
from tests.integration.test_pool import Client, refused
from tests.support.instance import Instance
from tests.support.plugins import mariadb_plugins
from tests.support.servers import APP_PASSWORD, APP_USER, Database, MariaDB, MySQL9, peers_bin
from tests.support.waiting import wait_until

Run = Callable[..., Instance]

HOSTS = "127.0.0.%"


def config(
    *servers: Database,
    users: str,
    service: str = "",
    server: str = "",
    socket: Path | None = None,
    pool: str = "",
) -> str:
    """One pool service `s`; `socket`: a unix listener, where nobody can read passwords."""
    tables = "".join(
        f'[[server]]\nname = "db{n}"\naddress = "{one.address}:{one.port}"\n'
        f"check = false\n{server}\n"
        for n, one in enumerate(servers)
    )
    names = ", ".join(f'"db{n}"' for n, _ in enumerate(servers))
    listen = [f"127.0.0.1:{free_port()}", *([f"unix:{socket}"] if socket else [])]
    return (
        f"[portside]\nworkers = 2\n[pool]\n{pool}\n{tables}"
        f'[[service]]\nname = "s"\nlisten = {listen}\nmode = "pool"\n'
        f"servers = [{names}]\n{service}\n{users}"
    )


def user(name: str, **keys: str) -> str:
    lines = "".join(f'{key} = "{value}"\n' for key, value in keys.items())
    return f'[[user]]\nname = "{name}"\n{lines}'


def account(server: Database, name: str, identified: str) -> None:
    server.root(
        f"DROP USER IF EXISTS {name}@'{HOSTS}'; CREATE USER {name}@'{HOSTS}' {identified};"
        f" GRANT SELECT ON *.* TO {name}@'{HOSTS}'"
    )


def stored_hash(server: Database, name: str) -> str:
    """As `SELECT HEX(authentication_string)` has it."""
    rows = server.root(f"SELECT HEX(authentication_string) FROM mysql.user WHERE user = '{name}'")
    return str(rows[0][0])


def who(client: Client) -> str:
    return str(client.ask("SELECT CURRENT_USER()")[0][0])


def cli(program: str, portside: Instance, name: str, password: str, *options: str) -> str:
    """What one statement of a command line client says: its row, or its error."""
    host, _, port = portside.service("s")["listen"][0].rpartition(":")
    where = [] if any("--socket" in option for option in options) else [f"-h{host}", f"-P{port}"]
    done = subprocess.run(
        [program, "--no-defaults", *where, f"-u{name}", "-N", *options, "-eSELECT CURRENT_USER()"],
        env={**os.environ, "MYSQL_PWD": password},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip()


def mysql9(portside: Instance, name: str, password: str, *options: str) -> str:
    program = str(peers_bin() / "mysql9")
    plain = () if any("--s" in option for option in options) else ("--ssl-mode=DISABLED",)
    return cli(program, portside, name, password, *plain, *options)


@pytest.fixture(scope="module")
def ed25519(server_dir: Path) -> Iterator[MariaDB]:
    """A MariaDB that has the plugin."""
    plugins = mariadb_plugins()
    if isinstance(plugins, str):
        pytest.skip(plugins)
    options = {"plugin-dir": str(plugins), "plugin-load-add": "auth_ed25519"}
    with MariaDB(server_dir / "ed25519", options=options) as server:
        assert isinstance(server, MariaDB)
        yield server


@pytest.mark.mysql9
def test_a_slow_hash_needs_the_password_once(
    mysql9_trio: Trio, run_portside: Run, folder: Path
) -> None:
    server = mysql9_trio.primary
    account(server, "hashed", "IDENTIFIED WITH caching_sha2_password BY 'stored-pw'")
    stored = stored_hash(server, "hashed")
    socket = folder / "s.sock"
    text = config(server, users=user("hashed", password_hash=stored), socket=socket)
    portside = run_portside(text)
    # Nobody has told the password yet: without TLS a client must ask for the key.
    assert "requires secure connection" in mysql9(portside, "hashed", "stored-pw")
    assert "Access denied" in mysql9(portside, "hashed", "bad", "--get-server-public-key")
    assert mysql9(portside, "hashed", "stored-pw", "--get-server-public-key") == f"hashed@{HOSTS}"
    # From now on the fast exchange does, for every client, also after a reload.
    assert mysql9(portside, "hashed", "stored-pw") == f"hashed@{HOSTS}"
    assert portside.reload()["ok"]
    assert mysql9(portside, "hashed", "stored-pw") == f"hashed@{HOSTS}"
    assert "Access denied" in mysql9(portside, "hashed", "bad")
    # Another hash is another account: what was learnt holds no more.
    account(server, "hashed", "IDENTIFIED WITH caching_sha2_password BY 'new-pw'")
    portside.write(text.replace(stored, "0x" + stored_hash(server, "hashed")))
    assert portside.reload()["ok"]
    assert "Access denied" in mysql9(portside, "hashed", "stored-pw", "--get-server-public-key")
    # Over a unix socket the password goes as it is.
    at = f"--socket={socket}"
    assert mysql9(portside, "hashed", "new-pw", at) == f"hashed@{HOSTS}"


@pytest.mark.mysql9
@pytest.mark.parametrize("method", ["caching_sha2_password", "mysql_clear_password"])
def test_over_tls_the_password_goes_as_it_is(
    method: str, mysql9_trio: Trio, tls_dir: Path, run_portside: Run
) -> None:
    server = mysql9_trio.primary
    account(server, "hashed", "IDENTIFIED WITH caching_sha2_password BY 'tls-pw' REQUIRE SSL")
    pair = f'certificate = "{tls_dir}/server-cert.pem", key = "{tls_dir}/server-key.pem"'
    portside = run_portside(
        config(
            server,
            users=user("hashed", password_hash=stored_hash(server, "hashed")),
            service=f"tls = {{ {pair} }}",
            server='tls = { mode = "required" }',
        )
    )
    options = ("--ssl-mode=REQUIRED", "--enable-cleartext-plugin", f"--default-auth={method}")
    assert "Access denied" in mysql9(portside, "hashed", "bad", *options)
    assert mysql9(portside, "hashed", "tls-pw", *options) == f"hashed@{HOSTS}"


@pytest.mark.mysql9
def test_pymysql_asks_for_the_key_by_itself(mysql9_trio: Trio, run_portside: Run) -> None:
    server = mysql9_trio.primary
    password = "a password that is much longer than its scramble"
    account(server, "longpw", f"IDENTIFIED WITH caching_sha2_password BY '{password}'")
    portside = run_portside(
        config(server, users=user("longpw", password_hash=stored_hash(server, "longpw")))
    )
    client = Client(portside, user="longpw", password=password, program_name="night job\n")
    assert who(client) == f"longpw@{HOSTS}"
    (session,) = portside.admin.get("/v1/sessions")
    assert (session["user"], session["program"]) == ("longpw", "night job?")
    client.connection.close()
    wait_until(lambda: portside.sessions_now() == 0, 10.0, "the session does not end")
    assert [line.get("program") for line in portside.lines()] == ["night job?"]


def test_a_native_hash_logs_in_behind_with_what_the_client_told(
    trio: Trio, run_portside: Run
) -> None:
    account(trio.primary, "oldpw", "IDENTIFIED BY 'oldpw-pw'")
    twice = hashlib.sha1(hashlib.sha1(b"oldpw-pw").digest()).hexdigest()
    portside = run_portside(
        config(trio.primary, users=user("oldpw", password_hash=f"*{twice.upper()}"))
    )
    assert who(Client(portside, user="oldpw", password="oldpw-pw")) == f"oldpw@{HOSTS}"
    with refused(1045):
        Client(portside, user="oldpw", password="other")
    # A client whose own method is another one is told to change it.
    found = cli("mariadb", portside, "oldpw", "oldpw-pw", "--default-auth=client_ed25519")
    assert found == f"oldpw@{HOSTS}"


@pytest.mark.mysql9
def test_a_native_hash_is_not_enough_for_caching_sha2_behind(
    mysql9_trio: Trio, run_portside: Run
) -> None:
    twice = hashlib.sha1(hashlib.sha1(APP_PASSWORD.encode()).digest()).hexdigest()
    portside = run_portside(
        config(mysql9_trio.primary, users=user(APP_USER, password_hash=f"*{twice}"))
    )
    with refused(1429) as texts:
        Client(portside)
    assert "caching_sha2_password needs the account's password" in texts[0]
    assert "server_password" in texts[0]


def test_ed25519_in_front_and_behind(ed25519: MariaDB, run_portside: Run) -> None:
    account(ed25519, "curve", "IDENTIFIED VIA ed25519 USING PASSWORD('curve-pw')")
    rows = ed25519.root("SELECT authentication_string FROM mysql.user WHERE user = 'curve'")
    users = user("curve", password="curve-pw") + user(
        "stored", password_hash=rows[0][0], server_user="curve", server_password="curve-pw"
    )
    portside = run_portside(config(ed25519, users=users))
    # Where the password is known the client chooses: native is the greeting's.
    assert who(Client(portside, user="curve", password="curve-pw")) == f"curve@{HOSTS}"
    option = "--default-auth=client_ed25519"
    assert cli("mariadb", portside, "curve", "curve-pw", option) == f"curve@{HOSTS}"
    assert "Access denied" in cli("mariadb", portside, "curve", "bad", option)
    # The hash knows ed25519 alone.
    assert who(Client(portside, user="stored", password="curve-pw")) == f"curve@{HOSTS}"
    with refused(1045):
        Client(portside, user="stored", password="bad")


@pytest.mark.mysql9
def test_a_clear_password_comes_only_where_nobody_can_read_it(
    mysql9_trio: Trio, run_portside: Run, folder: Path
) -> None:
    server, socket = mysql9_trio.primary, folder / "s.sock"
    account(server, "clear", "IDENTIFIED WITH caching_sha2_password BY 'clear-pw'")
    users = user("clear", password_hash=stored_hash(server, "clear"))
    portside = run_portside(config(server, users=users, socket=socket))
    clear = ("--enable-cleartext-plugin", "--default-auth=mysql_clear_password")
    at = f"--socket={socket}"
    assert "Access denied" in mysql9(portside, "clear", "bad", at, *clear)
    # Over TCP it is told to answer otherwise.
    assert "requires secure connection" in mysql9(portside, "clear", "clear-pw", *clear)
    assert mysql9(portside, "clear", "clear-pw", at, *clear) == f"clear@{HOSTS}"


def change_user(client: Client, name: str, password: str) -> None:
    """COM_CHANGE_USER, with PyMySQL's own answers to what the server asks."""
    connection = client.connection
    connection.user, connection.password = name.encode(), password.encode()
    body = name.encode() + b"\0" + b"\0" + b"\0" + struct.pack("<H", 45)
    connection._execute_command(0x11, body + b"mysql_native_password\0")
    packet = connection._read_packet()
    while packet.is_auth_switch_request():
        packet.read_uint8()
        packet = connection._process_auth(packet.read_string(), packet)
    assert packet.is_ok_packet()


def test_change_user_to_each_form(ed25519: MariaDB, run_portside: Run) -> None:
    account(ed25519, "native", "IDENTIFIED BY 'native-pw'")
    account(ed25519, "curve", "IDENTIFIED VIA ed25519 USING PASSWORD('curve-pw')")
    rows = ed25519.root("SELECT authentication_string FROM mysql.user WHERE user = 'curve'")
    twice = hashlib.sha1(hashlib.sha1(b"native-pw").digest()).hexdigest()
    users = (
        user(APP_USER, password=APP_PASSWORD)
        + user("native", password_hash=f"*{twice}")
        + user("curve", password_hash=rows[0][0], server_password="curve-pw")
    )
    client = Client(run_portside(config(ed25519, users=users)))
    for name in ("native", "curve", APP_USER):
        change_user(client, name, f"{name}-pw")
        assert who(client) == f"{name}@{HOSTS}"
    # As MariaDB: the connection goes on as its old user's, and after three failures takes no more.
    client.ask("SET @a = 5")
    for number in (1045, 1045, 1045, 1047):
        with refused(number):
            change_user(client, "native", "bad")
        assert (who(client), client.ask("SELECT @a")) == (f"{APP_USER}@{HOSTS}", [(None,)])


@pytest.mark.mysql9
def test_a_failed_change_of_user_ends_a_mysql_session(mysql9_trio: Trio, run_portside: Run) -> None:
    users = user(APP_USER, password=APP_PASSWORD) + user("other", password="other-pw")
    client = Client(run_portside(config(mysql9_trio.primary, users=users)))
    with refused(1045):
        change_user(client, "other", "bad")
    with pytest.raises(pymysql.OperationalError) as caught:
        client.ask("SELECT 1")
    assert caught.value.args[0] in (2006, 2013)


@pytest.mark.mysql9
def test_a_servers_refusal_names_the_cure(mysql9_trio: Trio, run_portside: Run) -> None:
    server = mysql9_trio.primary
    cases = {
        "locked": ("ACCOUNT LOCK", "3118", "ACCOUNT UNLOCK"),
        "expired": ("PASSWORD EXPIRE", "1862", "IDENTIFIED BY a new password"),
        "tlsonly": (
            "REQUIRE SSL",
            "1045",
            "or it has REQUIRE SSL: [[server]] tls",
        ),
    }
    for name, (clause, _, _) in cases.items():
        account(server, name, f"IDENTIFIED BY '{name}-pw' {clause}")
    users = "".join(user(name, password=f"{name}-pw") for name in cases)
    portside = run_portside(config(server, users=users))
    for name, (_, number, cure) in cases.items():
        with refused(1429) as texts:
            Client(portside, user=name, password=f"{name}-pw")
        assert number in texts[0] and cure in texts[0] and "-pw" not in texts[0]


@pytest.mark.mysql9
def test_the_version_that_clients_are_told(
    trio: Trio, mysql9_trio: Trio, run_portside: Run
) -> None:
    users = user(APP_USER, password=APP_PASSWORD)
    mixed = (mysql9_trio.primary, trio.primary)
    portside = run_portside(config(*mixed, users=users))
    told = set()
    for _ in range(6):
        client = Client(portside)
        told.add(version := client.connection.get_server_info())
        # The family of the greeting is the session's.
        assert client.ask("SELECT VERSION()")[0][0] == version.removeprefix("5.5.5-")
    assert sorted(version.partition(".")[0] for version in told) == ["5", "9"]
    portside.stop()
    portside = run_portside(config(mixed[0], users=users, service='server_version = "8.0.36-app"'))
    assert Client(portside).connection.get_server_info() == "8.0.36-app"


@pytest.mark.mysql9
def test_a_restarted_server_has_forgotten_its_passwords_and_nobody_notices(
    server_dir: Path, mysql9_trio: Trio, run_portside: Run
) -> None:
    """caching_sha2_password: after a restart each account's first login takes the full exchange."""
    assert mysql9_trio  # its template of a data folder is copied
    options = {"performance-schema": "ON"}
    with MySQL9(server_dir / "mysql9" / "own", options=options) as server:
        names = [f"user{n}" for n in range(6)]
        for name in names:
            account(server, name, f"IDENTIFIED WITH caching_sha2_password BY '{name}-pw'")
        users = "".join(user(name, password=f"{name}-pw") for name in names)
        # Two connections for six accounts: nearly every command logs in anew.
        portside = run_portside(config(server, users=users, pool="max = 2\nopen_rate = 1000"))
        seen: list[tuple[float, str]] = []
        stop = threading.Event()

        def work(name: str) -> None:
            while not stop.is_set():
                began = time.monotonic()
                try:
                    client = Client(portside, user=name, password=f"{name}-pw")
                    assert who(client) == f"{name}@{HOSTS}"
                    client.connection.close()
                    seen.append((began, ""))
                except pymysql.MySQLError as error:
                    seen.append((began, str(error)))
                time.sleep(0.01)

        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(seen) > 50, 20.0, "no logins")
        rows = server.root(
            "SELECT DISTINCT attr_value FROM performance_schema.session_connect_attrs"
            " WHERE attr_name = 'program_name'"
        )
        assert ("portside",) in rows
        down_at = time.monotonic()
        server.restart()
        up_at = time.monotonic()
        # The breaker looks again within a second.
        wait_until(
            lambda: sum(not error and at > up_at for at, error in seen) > 100, 30.0, "no logins"
        )
        stop.set()
        for thread in threads:
            thread.join()
    failed = [(at, error) for at, error in seen if error]
    assert not [error for _, error in failed if "1045" in error or "caching_sha2" in error]
    assert not [error for at, error in failed if not down_at - 1 < at < up_at + 2], failed
