"""PROXY headers: taken from listed networks only, and sent on to a real MariaDB."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator

import pymysql
import pytest

from tests.support.proxy import Proxy
from tests.support.raw_client import RawClient
from tests.support.servers import (
    APP_PASSWORD,
    APP_USER,
    MONITOR_PASSWORD,
    MONITOR_USER,
    Database,
    MariaDB,
)
from tests.support.waiting import wait_until

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
BALANCER = "127.0.0.2"
CLIENT, CLIENT6 = ("10.9.8.7", 45678), ("2001:db8::7", 45678)
HERE, HERE6 = ("10.9.8.1", 3306), ("2001:db8::1", 3306)


def v2(command: int, family: int, addresses: bytes) -> bytes:
    return SIGNATURE + struct.pack(">BBH", 0x20 | command, family, len(addresses)) + addresses


def addresses(family: int, client: tuple[str, int], here: tuple[str, int]) -> bytes:
    packed = b"".join(socket.inet_pton(family, host) for host, _ in (client, here))
    return packed + struct.pack(">HH", client[1], here[1])


# TLV: PP2_TYPE_AUTHORITY; a receiver skips what it does not know.
TLV = b"\x02\x00\x03db1"
HEADERS = {
    "v1": b"PROXY TCP4 10.9.8.7 10.9.8.1 45678 3306\r\n",
    "v1-ipv6": b"PROXY TCP6 2001:db8::7 2001:db8::1 45678 3306\r\n",
    "v2": v2(1, 0x11, addresses(socket.AF_INET, CLIENT, HERE)),
    "v2-ipv6": v2(1, 0x21, addresses(socket.AF_INET6, CLIENT6, HERE6)),
    "v2-tlv": v2(1, 0x11, addresses(socket.AF_INET, CLIENT, HERE) + TLV),
}
SHOWN = {name: "[2001:db8::7]:45678" if "ipv6" in name else "10.9.8.7:45678" for name in HEADERS}


def sending(server: Database, more: str = "") -> str:
    return f"""
[check]
interval = "500ms"
{more}
[[server]]
name = "db1"
address = "127.0.0.1:{server.port}"
send_proxy = true
[[service]]
name = "a"
listen = "127.0.0.1:0"
servers = ["db1"]
"""


LOGIN_CHECK = f'user = "{MONITOR_USER}"\npassword = "{MONITOR_PASSWORD}"'


@pytest.mark.mysql9
@pytest.mark.parametrize("more", ["", LOGIN_CHECK])
def test_mysql_refuses_the_start_and_a_reload(run_portside, mysql9_trio, more):
    server = mysql9_trio.primary
    said = re.compile(
        rf"server db1: 127\.0\.0\.1:{server.port} \(version 9\.\S+\) refuses the PROXY header of"
        r" send_proxy: ERR 1156 Got packets out of order\. Oracle MySQL does not speak the PROXY"
        r" protocol; Percona Server does for addresses in its proxy_protocol_networks\. Remove"
        r" send_proxy of this server\."
    )
    one = run_portside(sending(server, more), start=False)
    one.launch()
    assert one.wait() == 1
    assert said.search(one.messages())
    one.write(sending(server, more).replace("send_proxy = true", ""))
    one.start()
    one.write(sending(server, more))
    (mistake,) = one.reload()["mistakes"]
    assert said.fullmatch(mistake)


def test_mariadb_without_our_network_gets_a_hint(run_portside, mariadb_factory):
    server = mariadb_factory()
    one = run_portside(sending(server))
    assert "refuses the PROXY header of send_proxy: ERR 1130 Proxy header is not" in one.messages()
    assert "Add our addresses to its proxy_protocol_networks." in one.messages()


def test_a_start_with_an_account_aborts_nothing(run_portside, mariadb_factory):
    server = mariadb_factory(options={"proxy-protocol-networks": "*"})
    before = server.status("Aborted_connects")
    one = run_portside(sending(server, LOGIN_CHECK))
    assert "PROXY" not in one.messages()
    assert one.server("db1")["state"] == "up"
    assert server.status("Aborted_connects") == before


@pytest.fixture(scope="module")
def database(server_dir) -> Iterator[MariaDB]:
    one = MariaDB(
        server_dir / "proxy-db",
        client_hosts="%",
        options={"proxy-protocol-networks": "127.0.0.0/8"},
    )
    one.start()
    yield one
    one.kill()


@pytest.fixture(scope="module")
def proxy(server_dir, database) -> Iterator[Proxy]:
    """``taken``: headers from 127.0.0.2 only; ``sent``: the same, and passed on; ``deny``."""
    address = f"127.0.0.1:{database.port}"
    text = '[timeouts]\nlogin = "1s"\n'
    text += f'[[server]]\nname = "plain"\naddress = "{address}"\ncheck = false\n'
    text += f'[[server]]\nname = "told"\naddress = "{address}"\ncheck = false\nsend_proxy = true\n'
    for name, server, more in (
        ("taken", "plain", ""),
        ("sent", "told", ""),
        ("deny", "plain", 'deny = ["10.9.8.0/24"]\n'),
    ):
        text += f'[[service]]\nname = "{name}"\nlisten = "127.0.0.1:0"\nservers = ["{server}"]\n'
        text += f'accept_proxy = ["{BALANCER}/32"]\n{more}'
    with Proxy(server_dir / "proxy-header", text) as one:
        yield one
        one.assert_at_rest()
        one.stop()


def log_in(client: RawClient) -> pymysql.connections.Connection:
    """PyMySQL over a connection that already carried its header."""
    connection = pymysql.connect(
        user=APP_USER, password=APP_PASSWORD, ssl_disabled=True, defer_connect=True
    )
    connection.connect(client.socket)
    return connection


def seen_by_database(connection: pymysql.connections.Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT host FROM information_schema.processlist WHERE id = CONNECTION_ID()")
        return cursor.fetchone()[0]


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("cut", [False, True])
def test_a_header_names_the_client(proxy, name, cut):
    mark, header = proxy.log_size(), HEADERS[name]
    client = RawClient(proxy.address("taken"), source=BALANCER)
    if cut:  # in single bytes, as a slow path may bring it
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header:
            client.send(bytes([byte]))
    else:
        client.send(header)
    connection = log_in(client)
    assert proxy.sessions()[0]["client"] == SHOWN[name]
    assert seen_by_database(connection).startswith("127.0.0.1:")
    connection.close()
    line = proxy.last_line(mark)
    assert (line["client"], line["end"]) == (SHOWN[name], "quit/command")


@pytest.mark.parametrize("name", ["v1", "v2", "v1-ipv6"])
def test_a_header_is_sent_on(proxy, name):
    """MariaDB itself then says who the client is, for its grants and its logs."""
    client = RawClient(proxy.address("sent"), source=BALANCER)
    client.send(HEADERS[name])
    connection = log_in(client)
    host = SHOWN[name].rpartition(":")[0].strip("[]")
    assert seen_by_database(connection).rpartition(":")[0] == host
    connection.close()


def test_a_header_is_sent_for_a_client_without_one(proxy):
    host, port = proxy.address("sent")
    with RawClient((host, port), source="127.0.0.77") as client:
        connection = log_in(client)
        assert seen_by_database(connection).startswith("127.0.0.77:")
        connection.close()


def test_local_means_the_balancers_own_check(proxy):
    """v2 LOCAL, which checks send: the connection's own address stays."""
    mark = proxy.log_size()
    client = RawClient(proxy.address("taken"), source=BALANCER)
    client.send(v2(0, 0, b""))
    connection = log_in(client)
    connection.close()
    assert proxy.last_line(mark)["client"].startswith(f"{BALANCER}:")


def test_a_header_from_elsewhere_is_no_header(proxy):
    """Not in accept_proxy: it names nobody, and the database gets it as the garbage that it is."""
    mark = proxy.log_size()
    with RawClient(proxy.address("deny")) as client:
        assert client.packet()[0] == 10, "the greeting comes without a header"
        client.send(HEADERS["v1"])
        with pytest.raises((ConnectionError, TimeoutError)):
            while True:
                client.packet()
    line = proxy.last_line(mark)
    assert line["client"].startswith("127.0.0.1:")


def test_allow_and_deny_judge_the_address_of_the_header(proxy):
    with RawClient(proxy.address("deny"), source=BALANCER) as client:
        client.send(HEADERS["v1"])
        assert client.error() == (
            1130,
            "portside: service deny: client address 10.9.8.7 is not allowed here (allow, deny)",
        )
    with RawClient(proxy.address("deny"), source=BALANCER) as client:
        client.send(HEADERS["v1-ipv6"])
        connection = log_in(client)
        connection.close()


def test_a_missing_header_is_refused_after_a_second(proxy, database):
    connections = database.status("Connections")
    with RawClient(proxy.address("taken"), source=BALANCER) as client:
        assert client.error() == (
            1043,
            "portside: service taken: no PROXY header within 1 s; accept_proxy has a network that "
            f"{BALANCER} is in",
        )
    # status() is one, this one the other: no connection was made for it.
    assert database.status("Connections") - connections == 1


def test_nothing_of_it_is_aborted(proxy, database):
    """Runs last in this file: every good session above ended with QUIT on the database."""
    proxy.assert_at_rest()
    wait_until(lambda: database.status("Threads_connected") == 1, 5)
    assert database.status("Aborted_clients") == 0
