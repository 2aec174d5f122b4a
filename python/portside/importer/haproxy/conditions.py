"""The conditions of `.if` and `.elif`, as far as they can be decided from here.

`defined`, `streq`, `strneq`, `strstr`, numbers, `!`, `&&`, `||` and parentheses are plain. Whether
a feature is built in or which version runs is known only where a HAProxy could be asked. Pure.
Source: haproxy configuration.txt 2.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_DEPTH_MAX: Final = 50
_SHOWN: Final = 40
_TOKEN: Final = re.compile(r"\s*(&&|\|\||!|\(|\)|-?\d+|[a-z_]+\()")


class NotPlain(Exception):
    """The condition cannot be decided here; `str()` says what would have to be known."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a HAProxy on this host says of itself."""

    version: tuple[int, ...]
    features: frozenset[str]
    """Names after a `+` in the feature list of `haproxy -vv`."""


def holds(expression: str, environment: Mapping[str, str], facts: Facts | None) -> bool:
    """Whether a condition is true.

    Raises:
        NotPlain: it asks for something that is not known here, or is not understood.
    """
    if not expression.strip():
        return False
    parser = _Parser(expression, environment, facts)
    value = parser.either()
    if parser.rest():
        raise NotPlain(f'"{parser.rest()}" is not understood')
    return value


class _Parser:
    def __init__(self, text: str, environment: Mapping[str, str], facts: Facts | None) -> None:
        self._text, self._environment, self._facts = text, environment, facts
        self._at = self._depth = 0

    def rest(self) -> str:
        text = self._text[self._at :].strip()
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

    def either(self) -> bool:
        value = self._both()
        while self._take("||"):
            right = self._both()
            value = value or right
        return value

    def _both(self) -> bool:
        value = self._one()
        while self._take("&&"):
            right = self._one()
            value = value and right
        return value

    def _one(self) -> bool:
        is_negated = False
        while self._take("!"):
            is_negated = not is_negated
        return self._plain() != is_negated

    def _plain(self) -> bool:
        if self._take("("):
            self._depth += 1
            if self._depth > _DEPTH_MAX:
                raise NotPlain(f"more than {_DEPTH_MAX} parentheses in each other")
            value = self.either()
            self._depth -= 1
            if not self._take(")"):
                raise NotPlain("a parenthesis is not closed")
            return value
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise NotPlain(f'"{self.rest()}" is not understood')
        self._at = found.end()
        token = found[1]
        if token.endswith("("):
            return self._call(token[:-1], self._arguments())
        return token.strip("-0") != ""

    def _take(self, token: str) -> bool:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found[1] != token:
            return False
        self._at = found.end()
        return True

    def _arguments(self) -> list[str]:
        end = self._text.find(")", self._at)
        if end < 0:
            raise NotPlain("a parenthesis is not closed")
        inner = self._text[self._at : end]
        self._at = end + 1
        return inner.split(",")

    def _call(self, name: str, arguments: list[str]) -> bool:
        first, second = arguments[0], arguments[1] if len(arguments) > 1 else ""
        if name == "defined":
            return first in self._environment
        if name in ("streq", "strneq"):
            return (first == second) == (name == "streq")
        if name == "strstr":
            return second in first
        if self._facts is None:
            raise NotPlain(f"{name}() asks the HAProxy that would run, and none is installed here")
        if name == "feature":
            return first in self._facts.features
        if name in ("version_atleast", "version_before"):
            return (self._facts.version >= numbers(first)) == (name == "version_atleast")
        raise NotPlain(f"{name}() is not understood")


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version up to its suffix: "2.4-dev19" -> (2, 4)."""
    plain = re.split(r"[^0-9.]", version)[0]
    return tuple(int(part[:9]) for part in plain.split(".") if part)
