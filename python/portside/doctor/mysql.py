"""Asks a MySQL or MariaDB server for its counters, twice. I/O only, judges nothing.

PyMySQL; TLS where the server has it, unverified as the stock clients do. Only SHOW and one SELECT:
it changes nothing. Works without ``cryptography`` (doctor.pyz) where TLS, a unix socket or an
account of mysql_native_password spares it.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import pymysql
from pymysql.constants import ER

from portside.doctor.facts import Database, printable
from portside.doctor.login import Login
from portside.foreign_text import in_words

_TIMEOUT_S: Final = 5  # for one read
_LIMIT_S: Final = 10  # for the whole login, and for all questions together
_REFUSALS: Final = {ER.CON_COUNT_ERROR, ER.HOST_IS_BLOCKED}
# What PyMySQL raises on bytes that are no packet of MySQL's, besides an error of its own.
_STRANGE: Final = (struct.error, AssertionError, LookupError, TypeError, ValueError)
# RuntimeError: cryptography is not installed.
_FAILURES: Final = (pymysql.err.MySQLError, OSError, RuntimeError, *_STRANGE)
_VARIABLES: Final = (
    "version",
    "max_connections",
    "max_connect_errors",
    "wait_timeout",
    "back_log",
    "performance_schema",
)
_STATUS: Final = (
    "Threads_connected",
    "Threads_running",
    "Max_used_connections",
    "Connections",
    "Aborted_clients",
    "Aborted_connects",
)


_Value = TypeVar("_Value")
if TYPE_CHECKING:
    _Connection = pymysql.connections.Connection[Any]


class Session:
    """``with Session(login) as session:`` counts from here to ``database()``."""

    def __init__(self, login: Login) -> None:
        """Logs in; where that fails, ``database()`` says why."""
        self._login = login
        self._failed: Database | None = None
        self._connection: _Connection | None = None
        try:
            self._connection, self._before = _within(_LIMIT_S, self._begin)
        except _FAILURES as error:
            self._failed = self._failure(error)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def database(self) -> tuple[Database, tuple[str, ...]]:
        """What the server says, and what it would not say; or why it says nothing."""
        if self._failed is not None:
            return self._failed, ()
        try:
            return _within(_LIMIT_S, self._counters)
        except _FAILURES as error:
            self._connection = None  # a slow one is in use still: closing it would wait for it
            return self._failure(error), ()

    def _begin(self) -> tuple[_Connection, dict[str, int]]:
        connection = self._connect()
        return connection, _status(connection)

    def _counters(self) -> tuple[Database, tuple[str, ...]]:
        assert self._connection is not None  # noqa: S101  as database() has seen to
        connection = self._connection
        variables = {key: str(value) for key, value in _rows(connection, "VARIABLES", _VARIABLES)}
        status = _status(connection)
        hosts, unseen = _hosts(connection, variables)
        fresh = {key: max(value - self._before.get(key, 0), 0) for key, value in status.items()}
        version = printable(variables.get("version", ""))
        address = self._login.address
        return Database(address, version, variables, status, fresh, hosts), unseen

    def _connect(self) -> _Connection:
        local = self._login.host.startswith("/")
        if local and not Path(self._login.host).is_socket():  # PyMySQL would leave its own open
            raise OSError("there is no such socket")
        return pymysql.Connection(
            host=None if local else self._login.host,
            unix_socket=self._login.host if local else None,
            port=self._login.port,
            user=self._login.user,
            password=self._login.password.encode(),
            ssl_disabled=local,  # else TLS where the server has it
            connect_timeout=_TIMEOUT_S,
            read_timeout=_TIMEOUT_S,
        )

    def _failure(self, error: Exception) -> Database:
        """A server that refuses everybody, or one that cannot be asked."""
        nothing = Database(self._login.address, "", {}, {}, {})
        if type(error) is UnicodeError:  # before any byte: IDNA does not take the name
            return replace(nothing, unreachable=f"that is no host name: {error}")
        if isinstance(error, _STRANGE) or "Packet sequence number wrong" in str(error):
            return replace(nothing, unreachable="what answers there is not MySQL or MariaDB")
        if not isinstance(error, pymysql.err.MySQLError):
            return replace(nothing, unreachable=printable(in_words(error)))
        code = error.args[0] if error.args else 0
        words = printable(str(error.args[1] if len(error.args) > 1 else error))
        if code in _REFUSALS:
            return replace(nothing, refused=f"{code} {words}")
        if code == ER.ACCESS_DENIED_ERROR:
            words = f"wrong user or password: {words}"
        return replace(nothing, unreachable=in_words(words))


def _status(connection: _Connection) -> dict[str, int]:
    rows = _rows(connection, "STATUS", _STATUS)
    rows += _ask(connection, "SHOW GLOBAL STATUS LIKE 'Connection\\_errors\\_%'")
    return {str(key): int(value) for key, value in rows if str(value).isdigit()}


def _rows(connection: _Connection, what: str, names: tuple[str, ...]) -> list[Any]:
    listed = ", ".join(f"'{name}'" for name in names)
    return _ask(connection, f"SHOW GLOBAL {what} WHERE Variable_name IN ({listed})")


def _ask(connection: _Connection, query: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def _hosts(
    connection: _Connection, variables: dict[str, str]
) -> tuple[tuple[tuple[str, int], ...] | None, tuple[str, ...]]:
    if variables.get("performance_schema") != "ON":
        return None, ("hosts that the server blocks: its performance_schema is off",)
    try:
        rows = _ask(
            connection,
            "SELECT ip, sum_connect_errors FROM performance_schema.host_cache"
            " WHERE sum_connect_errors > 0 LIMIT 1000",
        )
    except pymysql.err.MySQLError as error:
        return None, (f"hosts that the server blocks: {printable(str(error.args[-1]))}",)
    return tuple((printable(str(ip)), int(errors)) for ip, errors in rows), ()


def _within(limit_s: float, work: Callable[[], _Value]) -> _Value:
    """What ``work`` returns or raises; TimeoutError when it takes longer.

    A server that sends a byte now and then passes every limit of a single read, and looking up a
    name has none. The thread that is left behind ends with the process at the latest.
    """
    done: SimpleQueue[tuple[_Value | None, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except Exception as error:  # raised where it was asked for
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = done.get(timeout=limit_s)
    except Empty:
        raise TimeoutError(f"timed out: no whole answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return cast("_Value", value)
