"""Text from the network: one line, printable, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.foreign_text import MOST, one_line


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


@given(st.text(max_size=2000))
def test_nothing_that_a_terminal_obeys(text):
    line = one_line(text)
    assert len(line) <= MOST and (line == "" or line.isprintable())
