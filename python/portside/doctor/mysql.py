"""Asks a MySQL or MariaDB server for its counters, twice. I/O only, judges nothing.

PyMySQL; TLS where the server has it, unverified as the stock clients do. Only SHOW and one SELECT:
it changes nothing. Works without ``cryptography`` (doctor.pyz) where TLS, a unix socket or an
account of mysql_native_password spares it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import pymysql
from pymysql.constants import ER

from portside.doctor.facts import Database, printable
from portside.doctor.login import Login

_TIMEOUT_S: Final = 5
_REFUSALS: Final = {ER.CON_COUNT_ERROR, ER.HOST_IS_BLOCKED}
# RuntimeError: cryptography is not installed.
_FAILURES: Final = (pymysql.err.MySQLError, OSError, RuntimeError)
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


class Session:
    """``with Session(login) as session:`` counts from here to ``database()``."""

    def __init__(self, login: Login) -> None:
        """Logs in; where that fails, ``database()`` says why."""
        self._login = login
        self._failed: Database | None = None
        self._connection: pymysql.connections.Connection[Any] | None = None
        try:
            self._connection = self._connect()
            self._before = self._status()
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
            variables = {key: str(value) for key, value in self._rows("VARIABLES", _VARIABLES)}
            status = self._status()
            hosts, unseen = self._hosts(variables)
        except _FAILURES as error:
            return self._failure(error), ()
        fresh = {key: max(value - self._before.get(key, 0), 0) for key, value in status.items()}
        version = printable(variables.get("version", ""))
        address = self._login.address
        return Database(address, version, variables, status, fresh, hosts), unseen

    def _connect(self) -> pymysql.connections.Connection[Any]:
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
        if not isinstance(error, pymysql.err.MySQLError):
            return replace(nothing, unreachable=printable(str(error)))
        code = error.args[0] if error.args else 0
        words = printable(str(error.args[1] if len(error.args) > 1 else error))
        if code in _REFUSALS:
            return replace(nothing, refused=f"{code} {words}")
        if code == ER.ACCESS_DENIED_ERROR:
            words = f"wrong user or password: {words}"
        return replace(nothing, unreachable=words)

    def _status(self) -> dict[str, int]:
        rows = self._rows("STATUS", _STATUS)
        rows += self._ask("SHOW GLOBAL STATUS LIKE 'Connection\\_errors\\_%'")
        return {str(key): int(value) for key, value in rows if str(value).isdigit()}

    def _rows(self, what: str, names: tuple[str, ...]) -> list[Any]:
        listed = ", ".join(f"'{name}'" for name in names)
        return self._ask(f"SHOW GLOBAL {what} WHERE Variable_name IN ({listed})")

    def _ask(self, query: str) -> list[Any]:
        assert self._connection is not None  # noqa: S101  database() is not called without one
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def _hosts(
        self, variables: dict[str, str]
    ) -> tuple[tuple[tuple[str, int], ...] | None, tuple[str, ...]]:
        if variables.get("performance_schema") != "ON":
            return None, ("hosts that the server blocks: its performance_schema is off",)
        try:
            rows = self._ask(
                "SELECT ip, sum_connect_errors FROM performance_schema.host_cache"
                " WHERE sum_connect_errors > 0 LIMIT 1000"
            )
        except pymysql.err.MySQLError as error:
            return None, (f"hosts that the server blocks: {printable(str(error.args[-1]))}",)
        return tuple((printable(str(ip)), int(errors)) for ip, errors in rows), ()
