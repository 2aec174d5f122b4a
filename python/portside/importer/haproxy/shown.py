"""A line of haproxy.cfg as it may be shown: no comment, no secret, no control character.

Word by word, so that quotes hide nothing from us, and in time that grows with the line alone: a
file may come from anybody. Comments go, since people write passwords into them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from portside.importer.notes import HIDDEN, SECRET, printable

# A word as it is written; each alternative begins with a character of its own, so nothing is tried
# twice. What follows a `#` outside quotes is no word.
_WRITTEN: Final = re.compile(
    r"""(?:[^\\"'\#\s]|\\.?|"(?:[^"\\]|\\.)*(?:"|\\?\Z)|'[^']*(?:'|\Z))+|\#""", re.DOTALL
)
_QUOTING: Final = str.maketrans("", "", "\"'\\")
# Everything after these words is hidden.
_REST: Final = (
    ("setenv", 2),
    ("presetenv", 2),
    ("set-var", 2),
    ("set-var-fmt", 2),
    ("command", 2),
    ("stats auth", 2),
    ("tcp-check send", 2),
    ("tcp-check send-lf", 2),
    ("tcp-check send-binary", 2),
    ("tcp-check send-binary-lf", 2),
    ("http-check send", 2),
)
_NEXT: Final = ("password", "insecure-password", "agent-send")


def shown(line: str) -> str:
    """The line without its indent, its comment and its secrets."""
    spans, words = [], []
    end = len(line)
    for match in _WRITTEN.finditer(line):
        if match[0] == "#":
            end = match.start()
            break
        spans.append(match.span())
        words.append(match[0].translate(_QUOTING))
    masked = _masked(words)
    parts, at = [], 0
    for (start, stop), before, after in zip(spans, words, masked, strict=True):
        if after != before:
            parts += [line[at:start], after]
            at = stop
    parts.append(line[at:end])
    return printable("".join(parts).strip())


def _masked(words: Sequence[str]) -> list[str]:
    """The words, with `***` for what is or may be a secret."""
    lower = [word.lower() for word in words]
    hidden_from = _hidden_from(lower)
    found = []
    for at, word in enumerate(words):
        if at >= hidden_from or (at and lower[at - 1] in _NEXT):
            found.append(HIDDEN)
        elif at + 1 == hidden_from and SECRET.search(word):
            found.append(_before_value(word))
        else:
            scheme, slashes, rest = word.partition("://")
            account, sign, host = rest.rpartition("@")
            found.append(f"{scheme}://{HIDDEN}@{host}" if slashes and sign and account else word)
    return found


def _hidden_from(lower: Sequence[str]) -> int:
    """The index of the first word that is hidden with all that follow."""
    for words, count in _REST:
        if " ".join(lower[: len(words.split())]) == words:
            return count
    for at, word in enumerate(lower):
        if word not in _NEXT and SECRET.search(word):
            return at + 1
    return len(lower)


def _before_value(word: str) -> str:
    """`token=x` without its x; a name alone stays."""
    name = SECRET.search(word)
    sign = re.search(r"[=:]", word[name.end() :]) if name else None
    return word if name is None or sign is None else word[: name.end() + sign.end()] + HIDDEN
