"""The test servers themselves: what they promise, the other tests rely on."""

from __future__ import annotations

import socket

import pymysql
import pytest

from tests.support.chaos import Behaviour, ChaosServer
from tests.support.waiting import wait_until


def _connect(server: ChaosServer, **options) -> pymysql.connections.Connection:
    options.setdefault("connect_timeout", 1)
    return pymysql.connect(
        host="127.0.0.1", port=server.port, user="x", password="y", read_timeout=1, **options
    )


def test_chaos_serves(chaos):
    with _connect(chaos) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == (("1",),)
    assert chaos.accepted == 1


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (Behaviour.REFUSE, "refused"),
        (Behaviour.HANG, "timed out"),
        (Behaviour.SILENT, "timed out"),
        (Behaviour.HALF_GREETING, "timed out"),
        (Behaviour.CLOSE, "Lost connection"),
        (Behaviour.RESET, "reset by peer"),
        (Behaviour.RESET_AFTER_LOGIN, "reset by peer"),
        (Behaviour.ERR, "Too many connections"),
    ],
)
def test_chaos_breaks_the_login(chaos, behaviour, text):
    chaos.behave(behaviour)
    with pytest.raises((pymysql.Error, OSError), match=text):
        _connect(chaos)


def test_chaos_garbage_is_no_greeting(chaos):
    chaos.behave(Behaviour.GARBAGE)
    with socket.create_connection(("127.0.0.1", chaos.port), timeout=2) as connection:
        assert connection.recv(4) == b"HTTP"


def test_chaos_dies_in_a_result_and_comes_back(chaos):
    chaos.behave(Behaviour.RESET_IN_RESULT)
    connection = _connect(chaos)
    with pytest.raises((pymysql.Error, OSError)), connection.cursor() as cursor:
        cursor.execute("SELECT big")
    chaos.behave(Behaviour.SERVE)
    _connect(chaos).close()


def test_mariadb_replicas_follow_and_survive_a_kill(trio, mariadb_factory):
    trio.primary.root("CREATE TABLE IF NOT EXISTS app.t (i INT); INSERT INTO app.t VALUES (1)")
    trio.replica2.wait_for(trio.primary)
    with trio.replica2.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM app.t")
        assert cursor.fetchone()[0] >= 1
        with pytest.raises(pymysql.Error, match="read-only"):
            cursor.execute("INSERT INTO app.t VALUES (2)")
    alone = mariadb_factory()
    pid = alone.pid
    alone.kill()
    with pytest.raises(pymysql.Error):
        alone.connect()
    alone.start()
    assert alone.pid != pid
    before = alone.status("Aborted_clients")
    victim = alone.connect()
    victim._force_close()
    wait_until(lambda: alone.status("Aborted_clients") == before + 1, what="one aborted client")


@pytest.mark.mysql9
def test_mysql9_replicas_follow(mysql9_trio):
    mysql9_trio.primary.root("CREATE TABLE app.t (i INT); INSERT INTO app.t VALUES (1)")
    mysql9_trio.replica1.wait_for(mysql9_trio.primary)
    assert mysql9_trio.replica1.root("SELECT i FROM app.t") == [(1,)]
