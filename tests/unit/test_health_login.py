"""What becomes of the errors with which a check's login ends."""

from __future__ import annotations

import ssl

import pymysql
import pytest
from portside.health.judge import Status
from portside.health.login import _failure

TLS = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")


@pytest.mark.parametrize(
    ("number", "text", "original", "status", "detail"),
    [
        (2003, "Can't connect", TLS, Status.L6RSP, "TLS handshake: wrong version number"),
        (
            2013,
            "Lost connection to MySQL server during query ([Errno 104] Connection reset by peer)",
            None,
            Status.L7RSP,
            "Lost connection to MySQL server during query (Connection reset by peer)",
        ),
        (1045, "Access denied [A] ", None, Status.L7STS, "ERR 1045 Access denied [A]"),
        (3024, "maximum statement time", None, Status.L7TOUT, "the query did not end in time"),
    ],
)
def test_failures(
    number: int, text: str, original: Exception | None, status: Status, detail: str
) -> None:
    error = pymysql.err.OperationalError(number, text)
    error.original_exception = original
    answer = _failure(error)
    assert (answer.status, answer.detail, answer.errno) == (status, detail, number)
