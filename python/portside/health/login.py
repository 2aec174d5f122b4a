"""Logs in to a server and asks what the check wants to know.

Blocking: runs in a thread of probe.py. For: the login and query checks. PyMySQL speaks the
protocol (every authentication plugin, TLS); it gets a duplicate of a socket that is already
connected and that the caller keeps. So the caller can end a hung conversation by shutting the
socket down, and closes it by our rules whatever PyMySQL does with its own. It must not open
sockets, count failures or judge.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import DictCursor

from portside.foreign_text import in_words, one_line

from .greeting import ER_CON_COUNT
from .judge import Readings, Status
from .readings import Dialect, dialect_of, is_read_only, replication_of
from .target import TlsRule
from .tls import distrust

# Errors that PyMySQL makes itself (connection lost, TLS) are numbered from 2000. Source: errmsg.h.
CLIENT_ERRORS = range(2000, 3000)
# 1142, 1227, 1044, 1045: the account lacks a privilege for the statement.
PRIVILEGE_ERRORS = frozenset({1044, 1045, 1142, 1143, 1227})
# ER_STATEMENT_TIMEOUT (MariaDB), ER_QUERY_TIMEOUT (MySQL): our own limit, see statement_limit().
LIMIT_ERRORS = frozenset({1969, 3024})
# Who is denied on purpose. Source: crates/proto/src/refuse_login.rs.
NOBODY = b"portside-refused"
NO_WORDS = frozenset({"", "0", "OFF", "NO", "FALSE"})


@dataclass(frozen=True)
class LoginPlan:
    """What to say. ``query`` "" = only log in and read role and lag. ``limit_s`` bounds every wait.

    ``version`` is the one of the greeting.
    """

    user: str
    password: str
    query: str
    limit_s: float
    version: str = ""
    tls: ssl.SSLContext | None = None
    tls_rule: TlsRule | None = None
    tls_name: str = "portside-check"
    is_local: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of it. ``definitive``: the server said so, it is not a matter of time."""

    status: Status
    detail: str = ""
    errno: int = 0
    definitive: bool = False
    full: bool = False
    readings: Readings | None = None


class _ClearTextRefused:
    """Stands in for plugins that send the password as it is, on a link that anybody may read."""

    def __init__(self, connection: object) -> None:
        self.connection = connection

    def authenticate(self, packet: object) -> object:
        raise pymysql.err.OperationalError(
            2059, "the server asks for the password in clear text; give this account another plugin"
        )


class _Judge:
    """Stands in for PyMySQL's context: a server that is not to be trusted gets nobody's login."""

    def __init__(self, connection: Connection[Any], tls: ssl.SSLContext, rule: TlsRule) -> None:
        self.why: str | None = None
        self._connection, self._tls, self._rule = connection, tls, rule
        connection.ctx = self  # type: ignore[attr-defined]

    def wrap_socket(self, sock: socket.socket, server_hostname: str) -> ssl.SSLSocket:
        secured = self._tls.wrap_socket(sock, server_hostname=server_hostname)
        self.why = distrust(self._rule, server_hostname, secured)
        if self.why is not None:
            # It ends in order, and the password stays here.
            self._connection.user, self._connection.password = NOBODY, b""
        return secured


def converse(sock: socket.socket, plan: LoginPlan) -> Answer:
    """Logs in, asks, sends QUIT and lets go of ``sock``. Never raises on what a server may do."""
    clear = not (plan.tls or plan.is_local)
    plugins: dict[Any, Any] = (
        {b"mysql_clear_password": _ClearTextRefused, b"dialog": _ClearTextRefused} if clear else {}
    )
    options: dict[str, Any] = {"ssl": plan.tls} if plan.tls else {"ssl_disabled": True}
    connection: Connection[Any] = Connection(
        user=plan.user,
        password=plan.password,
        host=plan.tls_name,
        autocommit=None,
        defer_connect=True,
        auth_plugin_map=plugins,
        program_name="portside-check",
        read_timeout=plan.limit_s,
        write_timeout=plan.limit_s,
        **options,
    )
    judge = _Judge(connection, plan.tls, plan.tls_rule) if plan.tls and plan.tls_rule else None
    try:
        connection.connect(sock)
        return _untrusted(judge) or _ask(connection, plan)
    except pymysql.err.MySQLError as error:
        return _untrusted(judge) or _failure(error)
    except Exception as error:
        return Answer(Status.L7RSP, f"answer not understood: {type(error).__name__}: {error}")
    finally:
        _quit(connection)
        sock.close()


def _untrusted(judge: _Judge | None) -> Answer | None:
    if judge is None or judge.why is None:
        return None
    return Answer(Status.L6RSP, f"TLS: {judge.why}", definitive=True)


def _quit(connection: Connection[Any]) -> None:
    """Sends QUIT, unless PyMySQL gave the connection up; it closes only its duplicate."""
    try:
        if connection.open:
            connection.close()
    except (pymysql.err.MySQLError, OSError):
        pass


def _number_and_text(error: pymysql.err.MySQLError) -> tuple[int, str]:
    args = error.args
    if len(args) >= 2 and isinstance(args[0], int):
        return args[0], one_line(str(args[1]))
    return 0, one_line(str(error))


def _failure(error: pymysql.err.MySQLError) -> Answer:
    """An ERR of the server is L7STS; a full one is alive; all else is a broken conversation."""
    number, text = _number_and_text(error)
    original = getattr(error, "original_exception", None)
    if isinstance(original, ssl.SSLError):
        return Answer(Status.L6RSP, f"TLS handshake: {in_words(original)}", number)
    if number == ER_CON_COUNT:
        return full_answer(text)
    if number in LIMIT_ERRORS:
        return Answer(Status.L7TOUT, "the query did not end in time", number)
    if number and number not in CLIENT_ERRORS:
        return Answer(Status.L7STS, f"ERR {number} {text}", number, definitive=True)
    return Answer(Status.L7RSP, in_words(text), number)


def full_answer(text: str) -> Answer:
    """A server without a free slot is alive; what is known of it stays."""
    detail = (
        f"alive but full: ERR {ER_CON_COUNT} {text}; "
        "the check cannot log in (CONNECTION ADMIN for the check's account reserves it a slot)"
    )
    return Answer(Status.L7OK, detail, ER_CON_COUNT, definitive=True, full=True)


def _ask(connection: Connection[Any], plan: LoginPlan) -> Answer:
    dialect = dialect_of(plan.version)
    _ignore_server_error(connection, dialect.statement_limit(plan.limit_s))
    if plan.query:
        refused = _run_query(connection, plan.query)
        if refused is not None:
            return refused
    return Answer(Status.L7OK, definitive=True, readings=_read(connection, dialect))


def _ignore_server_error(connection: Connection[Any], statement: str) -> None:
    """Runs a statement that some relatives of MySQL do not know; losing it costs only comfort."""
    try:
        _rows(connection, statement)
    except pymysql.err.MySQLError as error:
        _raise_unless_from_server(error)


def _raise_unless_from_server(error: pymysql.err.MySQLError) -> int:
    number, _ = _number_and_text(error)
    if not number or number in CLIENT_ERRORS:
        raise error
    return number


def _rows(connection: Connection[Any], statement: str) -> Sequence[dict[str, object]]:
    with connection.cursor(DictCursor) as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def _run_query(connection: Connection[Any], query: str) -> Answer | None:
    """None when the query says yes: it worked, and its first column, if it has one, is true."""
    _ignore_server_error(connection, "SET SESSION sql_select_limit=1")
    with connection.cursor() as cursor:
        cursor.execute(query)
        has_columns = cursor.description is not None
        row = cursor.fetchone()
    if not has_columns:
        return None
    if row is None:
        return Answer(Status.L7STS, "the check's query returned no row", definitive=True)
    if is_true(row[0]):
        return None
    return Answer(Status.L7STS, f"the check's query said {one_line(repr(row[0]))}", definitive=True)


def is_true(value: object) -> bool:
    """Whether a first column says yes. NULL, 0, "", OFF, NO and FALSE say no."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace").strip("\0")
    if isinstance(value, str):
        return value.strip().upper() not in NO_WORDS
    return bool(value)


def _read(connection: Connection[Any], dialect: Dialect) -> Readings:
    read_only, note = _read_only(connection, dialect)
    try:
        rows = _rows(connection, dialect.replica_query)
    except pymysql.err.MySQLError as error:
        # Known to hang while a STOP REPLICA waits. The server has answered: it is alive, with an
        # unknown lag, and a server that really died fails the next check.
        number, _ = _number_and_text(error)
        note = note or _cannot_read("replication", dialect, number, error)
        return Readings(read_only=read_only, note=note)
    readings = replication_of(rows, read_only)
    return replace(readings, note=readings.note or note)


def _read_only(connection: Connection[Any], dialect: Dialect) -> tuple[bool | None, str]:
    """The flags of this dialect, or read_only alone where a relative lacks the others."""
    for statement in (dialect.read_only_query, "SELECT @@global.read_only"):
        try:
            rows = _rows(connection, statement)
        except pymysql.err.MySQLError as error:
            number = _raise_unless_from_server(error)
            note = _cannot_read("read_only", dialect, number, error)
        else:
            return (is_read_only(list(rows[0].values())) if rows else None), ""
    return None, note


def _cannot_read(what: str, dialect: Dialect, number: int, error: pymysql.err.MySQLError) -> str:
    if number in PRIVILEGE_ERRORS:
        return (
            f"{what} cannot be read: the check's account lacks a privilege "
            f"(GRANT {dialect.missing_grant} ON *.* TO it)"
        )
    return f"{what} cannot be read: ERR {number} {_number_and_text(error)[1]}"
