"""What a test can do with a balancer that it owns."""

import threading
import time
from collections.abc import Callable

import portside
import pymysql
import pytest


def connect(balancer: portside.Balancer) -> pymysql.connections.Connection:
    """What the application under test does."""
    host, port = balancer.address("app")
    return pymysql.connect(host=host, port=port, user="app", password="app-pw", ssl_disabled=True)


def wait_until(true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Returns once ``true()`` holds."""
    due = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < due, "not within the time"
        time.sleep(0.01)


def test_a_query_goes_through(balancer: portside.Balancer) -> None:
    with connect(balancer) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 6 * 7")
        assert cursor.fetchone() == (42,)
        (session,) = balancer.sessions()
        assert (session.service, session.server) == ("app", "db1")
    wait_until(lambda: balancer.sessions() == [])


def test_a_drained_server_keeps_its_sessions_and_takes_no_new_ones(
    balancer: portside.Balancer,
) -> None:
    with connect(balancer) as old:
        assert "no new sessions, 1 session may go on" in balancer.drain("db1")
        with pytest.raises(pymysql.err.OperationalError, match="server db1 is in drain"):
            connect(balancer)
        with old.cursor() as cursor:
            assert cursor.execute("SELECT 1") == 1
    balancer.ready("db1")
    connect(balancer).close()


def test_maint_ends_a_session_between_two_commands(balancer: portside.Balancer) -> None:
    connection = connect(balancer)
    balancer.maint("db1")
    wait_until(lambda: balancer.sessions() == [])
    with pytest.raises(pymysql.err.OperationalError), connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_a_paused_service_lets_clients_wait(balancer: portside.Balancer) -> None:
    balancer.pause("app")
    done = threading.Event()

    def client() -> None:
        connect(balancer).close()
        done.set()

    waiting = threading.Thread(target=client)
    waiting.start()
    wait_until(lambda: balancer.services()[0].queued == 1)
    assert not done.is_set()
    balancer.resume("app")
    waiting.join(5)
    assert done.is_set()


def test_a_reload_keeps_port_and_sessions(balancer: portside.Balancer) -> None:
    address = balancer.address("app")
    with connect(balancer) as connection:
        changed = balancer.config.model_copy(
            update={
                "services": tuple(
                    service.model_copy(update={"queue": 5}) for service in balancer.config.services
                )
            }
        )
        assert balancer.reload(changed).changes == ("service app: queue changed",)
        assert balancer.address("app") == address
        with connection.cursor() as cursor:
            assert cursor.execute("SELECT 1") == 1
