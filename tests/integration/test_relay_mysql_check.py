"""HAProxy's `option mysql-check` through Portside: what a canary beside an old balancer needs."""

from __future__ import annotations

import socket

import pymysql
import pytest
from portside.demo.held_port import HeldPort

from tests.support.haproxy import HAProxy
from tests.support.servers import APP_PASSWORD, APP_USER
from tests.support.waiting import wait_until

PORTSIDE = """
[[server]]
name = "db1"
address = "127.0.0.1:{db}"
check = false
[[service]]
name = "a"
listen = "127.0.0.1:0"
accept_proxy = ["127.0.0.0/8"]
servers = ["db1"]
"""
HAPROXY = """
global
    stats socket {folder}/stats.sock
defaults
    mode tcp
    timeout connect 3s
    timeout client 10s
    timeout server 10s
listen db
    bind 127.0.0.1:{port}
    option mysql-check user haproxy_check
    server portside {portside}{header} check inter 200ms
"""


def status(path: str) -> list[str]:
    """svname, status, check_status of the one server, from the statistics."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(b"show stat\n")
        text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    head, *rows = (line.split(",") for line in text.strip().splitlines())
    found = dict(zip(head, next(row for row in rows if row[1] == "portside"), strict=False))
    return [found["status"], found["check_status"]]


@pytest.mark.haproxy
@pytest.mark.parametrize("header", [" send-proxy-v2", ""])
def test_a_check_that_logs_in_unasked_passes(
    haproxy, run_portside, mariadb_factory, folder, header
):
    database = mariadb_factory()
    database.root("CREATE USER haproxy_check@'127.0.0.%'")
    aborted = [database.status("Aborted_clients"), database.status("Aborted_connects")]
    text = PORTSIDE.format(db=database.port)
    one = run_portside(text if header else text.replace("accept_proxy", "# accept_proxy"))
    (portside,) = one.service("a")["listen"]
    file = folder / "haproxy.cfg"
    with HeldPort() as held:
        file.write_text(
            HAPROXY.format(folder=folder, port=held.port, portside=portside, header=header)
        )
        with HAProxy(haproxy, file, {}, folder, [("127.0.0.1", held.port)]):
            path = f"{folder}/stats.sock"
            wait_until(lambda: len(one.lines()) >= 5, 10, "checks come through")
            assert status(path) == ["UP", "L7OK"]
            client = pymysql.connect(
                host="127.0.0.1", port=held.port, user=APP_USER, password=APP_PASSWORD
            )
            client.close()
            database.pause()
            wait_until(lambda: status(path)[0] == "DOWN", 15, "a dead database is seen through")
            database.resume()
            wait_until(lambda: status(path) == ["UP", "L7OK"], 15)
    ends = [line["end"] for line in one.lines()]
    assert ends.count("quit/command") >= 4, ends
    after = [database.status("Aborted_clients"), database.status("Aborted_connects")]
    assert after[0] == aborted[0], "checks that passed count as nothing"
