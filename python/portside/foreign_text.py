"""Text that came over the network, as it may stand in a log line, an event and a terminal. Pure.

A server's error text may hold anything: line breaks that forge a log line, escape sequences that a
terminal obeys. Used where bytes become text, so that nothing behind it has to think of it.
"""

from __future__ import annotations

import re

MOST = 400
"""Characters; MySQL's own errors end at 512 bytes (MYSQL_ERRMSG_SIZE)."""
_PYTHONS_OWN = re.compile(r"\[Errno -?\d+\] |\[[A-Z0-9_]+(?:: [A-Z0-9_]+)?\] | \(_ssl\.c:\d+\)")


def one_line(text: str) -> str:
    """``text`` in one line of printable characters, at most ``MOST``. O(length)."""
    shown = "".join(each if each.isprintable() else " " for each in text[: 4 * MOST])
    line = " ".join(shown.split())
    return line if len(line) <= MOST else f"{line[: MOST - 1]}…"


def in_words(error: object) -> str:
    """An error of Python's sockets or OpenSSL without what is of use to programmers only.

    ``[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)``: the words in the middle.
    """
    return _PYTHONS_OWN.sub("", str(error))
