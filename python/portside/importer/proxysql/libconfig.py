"""The grammar of proxysql.cnf (libconfig) into nodes that know their lines.

Groups `{}`, lists `()`, arrays `[]`, strings with escapes that may be continued, numbers, booleans,
three kinds of comment. `@include` is not followed: it says so as a mistake. Pure.
Source: libconfig manual, "Configuration Files".
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from portside.errors import ConfigError, Problem

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|\#[^\n]*|//[^\n]*|/\*.*?\*/)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<include>@include[^\n]*)
    |(?P<number>[-+]?(?:0[xX][0-9A-Fa-f]+|\d+\.\d*(?:[eE][-+]?\d+)?|\d+(?:[eE][-+]?\d+)?)L{0,2})
    |(?P<name>[A-Za-z*][-A-Za-z0-9_*]*)
    |(?P<sign>[={}()\[\];:,])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}
_DEPTH_MAX: Final = 20
# A hostile file must neither fill the memory nor take long.
_TOKENS_MAX: Final = 1_000_000
_TOKEN_MAX: Final = 16_384
_NUMBER_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Node:
    """One value.

    Shape: `value` is a text, a number, a truth, a list of nodes, or for a group a mapping of names
    to nodes.
    """

    line: int
    value: str | int | float | bool | list[Node] | dict[str, Node]


def parse(text: str, name: str) -> dict[str, Node]:
    """The settings of a file.

    Raises:
        ConfigError: the first mistake, with its line.
    """
    return _Parser(text, name).settings_to_end()


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._text, self._name = text, name
        self._lines = [match.end() for match in re.finditer("\n", text)]
        self._tokens = list(self._scan())
        self._at = 0
        self._depth = 0

    def settings_to_end(self) -> dict[str, Node]:
        found = self._settings()
        if self._peek() != "":
            raise self._error(f"{self._seen()} is not expected here")
        return found

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        at = count = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise self._error_at(at, f'"{self._text[at]}" is no part of this language')
            if match.lastgroup == "include":
                message = "an @include is not followed: put that file's text here"
                raise self._error_at(at, message)
            if match.lastgroup != "space":
                count += 1
                self._bound(match, count)
                yield str(match.lastgroup), match[0], at
            at = match.end()

    def _bound(self, match: re.Match[str], count: int) -> None:
        size = match.end() - match.start()
        if match.lastgroup == "number" and size > _NUMBER_MAX:
            raise self._error_at(match.start(), f"a number has at most {_NUMBER_MAX} digits")
        if size > _TOKEN_MAX:
            message = f"a {match.lastgroup} is longer than {_TOKEN_MAX:,} characters"
            raise self._error_at(match.start(), message)
        if count > _TOKENS_MAX:
            raise self._error_at(match.start(), f"more than {_TOKENS_MAX:,} words and signs")

    def _settings(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while self._at < len(self._tokens) and self._tokens[self._at][0] == "name":
            name = self._take()
            if self._peek() not in ("=", ":"):
                self._at -= 1
                raise self._error(f'"{name}" needs "=" and a value')
            self._take()
            found[name] = self._value()
            while self._peek() in (";", ","):
                self._take()
        return found

    def _value(self) -> Node:
        if self._at >= len(self._tokens):
            raise self._error("a value is missing")
        kind, text, start = self._tokens[self._at]
        self._at += 1
        line = self._line(start)
        if kind == "string":
            parts = [text[1:-1]]
            while self._at < len(self._tokens) and self._tokens[self._at][0] == "string":
                parts.append(self._take()[1:-1])
            return Node(line, _unescaped("".join(parts)))
        if kind == "number":
            return Node(line, _number(text))
        if kind == "name" and text.lower() in ("true", "false"):
            return Node(line, text.lower() == "true")
        closing = {"{": "}", "(": ")", "[": "]"}.get(text)
        if closing is None:
            self._at -= 1
            raise self._error(f"{self._seen()} is no value")
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._error("too many brackets in each other")
        value = self._settings() if text == "{" else self._list(closing)
        if self._peek() != closing:
            raise self._error(f'"{text}" of line {line} is not closed by "{closing}"')
        self._depth -= 1
        self._take()
        return Node(line, value)

    def _list(self, closing: str) -> list[Node]:
        found: list[Node] = []
        while self._peek() not in (closing, ""):
            found.append(self._value())
            if self._peek() == ",":
                self._take()
        return found

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _seen(self) -> str:
        """The token as an error may show it: a word or text may be somebody's password."""
        kind, text, _ = self._tokens[self._at]
        return f'"{text}"' if kind == "sign" else f"a {kind}"

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _line(self, offset: int) -> int:
        return bisect_right(self._lines, offset) + 1

    def _error(self, message: str) -> ConfigError:
        at = self._tokens[self._at][2] if self._at < len(self._tokens) else len(self._text)
        return self._error_at(at, message)

    def _error_at(self, offset: int, message: str) -> ConfigError:
        problem = Problem(self._name, self._line(offset), 1, "", "", f"not libconfig: {message}")
        return ConfigError((problem,))


def _number(text: str) -> int | float:
    digits = text.rstrip("L")
    try:
        return int(digits, 0)
    except ValueError:
        return int(digits) if re.fullmatch(r"[-+]?\d+", digits) else float(digits)


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) == 3:
            return chr(int(code[1:], 16))
        return _ESCAPES.get(code, code)

    return _ESCAPE.sub(one, text)
