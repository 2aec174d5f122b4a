"""Reads go out in one write with the steps that prepare their connection; all else waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.test_pool import Client, Run, closed, config, connections, primary, refused
from tests.support.servers import Database
from tests.support.spoiler import Spoiler
from tests.support.waiting import wait_until

__all__ = ["primary"]

RESET = b"\x1f"  # COM_RESET_CONNECTION


class Tap(Spoiler):
    """Keeps what Portside says, piece by piece: what waits for an answer is a piece of its own."""

    def __init__(self, server: Database) -> None:
        self.pieces: list[bytes] = []
        super().__init__(lambda: (server.address, server.port), server=False, seed=0)

    def _maybe(self, data: bytes) -> bytes:
        self.pieces.append(data)
        return data

    def piece_of(self, statement: str) -> bytes:
        (piece,) = (piece for piece in self.pieces if statement.encode() in piece)
        return piece


class Mute(Spoiler):
    """A server that says nothing any more once it is told so."""

    is_mute = False

    def __init__(self, server: Database) -> None:
        super().__init__(lambda: (server.address, server.port), server=True, seed=0)

    def _maybe(self, data: bytes) -> bytes:
        return b"" if self.is_mute else data


@pytest.fixture
def tap(primary: Database) -> Iterator[Tap]:
    one = Tap(primary)
    yield one
    one.close()


@pytest.fixture
def schema(primary: Database) -> Iterator[str]:
    """A schema with a table of the name that ``app`` has, too."""
    for name, value in (("riding", "mine"), ("app", "a stranger's")):
        primary.root(f"CREATE DATABASE IF NOT EXISTS {name}")
        primary.root(f'CREATE OR REPLACE VIEW {name}.ridden AS SELECT "{value}" AS v')
    yield "riding"
    primary.root("DROP VIEW app.ridden")
    primary.root("DROP DATABASE IF EXISTS riding")


def test_a_read_is_one_round_trip_and_a_write_two(
    primary: Database, tap: Tap, run_portside: Run, schema: str
) -> None:
    portside = run_portside(config(tap, pool="max = 1"))
    one, other = Client(portside, database=schema), Client(portside, database="app")
    for client in (one, other):
        client.ask(f"SET time_zone = '+0{1 + int(client is one)}:00'")
    for n in range(5):  # each finds the connection as the other has left it
        assert one.ask(f"SELECT v, @@time_zone, {n} FROM ridden") == [("mine", "+02:00", n)]
        assert other.ask(f"SELECT v, {n} FROM ridden") == [("a stranger's", n)]
        one.ask(f"DO {n} + 200")
        other.ask(f"DO {n} + 100")
    for n in range(5):
        piece = tap.piece_of(f"SELECT v, @@time_zone, {n} ")
        assert piece[4:5] == RESET and b"+02:00" in piece and b"\x02riding" in piece, piece
        assert b"+01:00" in tap.piece_of(f"SELECT v, {n} ")
        for write in (f"DO {n} + 200", f"DO {n} + 100"):
            assert b"time_zone" not in tap.piece_of(write), "a write went out behind steps"
    one.connection.close()
    other.connection.close()
    closed(primary, portside)


def test_a_step_that_fails_is_the_answer_and_never_the_read_behind_it(
    primary: Database, tap: Tap, run_portside: Run, schema: str
) -> None:
    portside = run_portside(config(tap, pool="max = 2", workers=1))
    one, other = Client(portside, database=schema), Client(portside, database="app")
    aborted = primary.status("Aborted_clients")
    primary.root(f"DROP DATABASE {schema}")
    kept: set[int] = set()
    for n in range(10):
        assert other.ask(f"SELECT v, {n} FROM ridden") == [("a stranger's", n)]
        with refused(1049):
            one.ask(f"SELECT v, {n}, 'one' FROM ridden")
        with refused(1049):
            one.ask(f"DO {n}")
        for statement in ("SHOW WARNINGS", "SELECT ROW_COUNT()"):  # no server has this error
            with refused(1235):
                one.ask(statement)
        # A connection each time would exhaust `open_rate` for everybody.
        kept = kept or set(connections(primary))
        assert set(connections(primary)) == kept
    assert b"\x02riding" in tap.piece_of("SELECT v, 9, 'one' ")
    one.ask("USE app")
    assert one.ask("SELECT v FROM ridden") == [("a stranger's",)]
    one.connection.close()
    other.connection.close()
    closed(primary, portside)
    assert primary.status("Aborted_clients") == aborted


@pytest.mark.parametrize("statement", ["SELECT 1", "DO 1"])
def test_a_client_that_leaves_a_silent_server_is_gone(
    primary: Database, run_portside: Run, statement: str
) -> None:
    mute = Mute(primary)
    try:
        portside = run_portside(config(mute, pool="max = 1"))
        one, other = Client(portside), Client(portside)
        one.ask("SET time_zone = '+01:00'")
        other.ask("SET time_zone = '+02:00'")
        mute.is_mute = True
        one.connection._read_timeout = 1
        with refused(2013):
            one.ask(statement)
        wait_until(lambda: portside.sessions_now() == 1, 5.0, "it is still there")
    finally:
        mute.close()
