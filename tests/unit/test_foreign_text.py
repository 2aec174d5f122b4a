"""Text from the network: one line, printable, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.foreign_text import MOST, in_words, one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Too many connections", "Too many connections"),
        ("clear \x1b[2J\x1b]0;title\x07 it", "clear [2J ]0;title it"),
        ("first\r\n2026-11-25 forged line\n", "first 2026-11-25 forged line"),
        ("right to \u202eleft, zero\u200bwidth", "right to left, zero width"),
        ("\x9b31m C1 too", "31m C1 too"),
        ("Zugriff für 'müller'@'::1' verweigert", "Zugriff für 'müller'@'::1' verweigert"),
        ("", ""),
        ("x" * MOST, "x" * MOST),
        ("x" * (MOST + 1), "x" * (MOST - 1) + "…"),
    ],
)
def test_one_line(text, expected):
    assert one_line(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", "wrong version number"),
        ("[X509] PEM lib (_ssl.c:4061)", "PEM lib"),
        (
            "EOF occurred in violation of protocol (_ssl.c:997)",
            "EOF occurred in violation of protocol",
        ),
        (
            "Can't connect to MySQL server on 'db1' ([Errno 111] Connection refused)",
            "Can't connect to MySQL server on 'db1' (Connection refused)",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        ("[::1]:3306 does not answer", "[::1]:3306 does not answer"),
    ],
)
def test_errors_in_words(text, expected):
    assert in_words(text) == expected


@given(st.text(max_size=2000))
def test_nothing_that_a_terminal_obeys(text):
    line = one_line(text)
    assert len(line) <= MOST and (line == "" or line.isprintable())
