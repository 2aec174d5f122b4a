r"""One line of haproxy.cfg into words, with HAProxy's quoting, escapes and environment variables.

Outside quotes and inside double ones `\` escapes; inside single ones nothing does. Variables are
expanded inside double quotes only: `"$NAME"`, `"${NAME}"`, `"${NAME-default}"`, and `"${NAME[*]}"`
becomes several words. A `#` outside quotes ends the line, also in the middle of a word.

Pure: the environment is an argument. Source: haproxy configuration.txt 2.2 and 2.3, parse_line().
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_ESCAPES: Final = {" ": " ", "\\": "\\", "#": "#", "'": "'", '"': '"'}
_CONTROL_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}
_VARIABLE: Final = re.compile(r"\.?[A-Za-z_][A-Za-z0-9_]*|\.[A-Z]+")
# Variables that hold each other would grow without a bound.
_EXPANDED_MAX: Final = 65_536
_SPACES: Final = " \t\v\f"
_PLAIN: Final = re.compile(r"[^\\\"'#\r\n]*")


class BadLine(Exception):
    """A line that HAProxy refuses; `column` counts from 1."""

    def __init__(self, message: str, column: int) -> None:
        self.column = column
        super().__init__(message)


def split(line: str, environment: Mapping[str, str], unset: set[str] | None = None) -> list[str]:
    """The words of a line.

    Args:
        line: without its line feed.
        environment: what variables stand for.
        unset: collects the variables that are not there; they stand for nothing, as in HAProxy.

    Raises:
        BadLine: a quote or brace is not closed, an escape or a variable's name is none, or what the
            variables hold is too long.
    """
    if _PLAIN.fullmatch(line):
        return re.findall(r"[^ \t\v\f]+", line)
    return _Splitter(line, environment, unset if unset is not None else set()).words()


class _Splitter:
    def __init__(self, line: str, environment: Mapping[str, str], unset: set[str]) -> None:
        self._line, self._environment, self._unset = line, environment, unset
        self._at = self._expanded = 0
        self._words: list[str] = []
        self._word: list[str] | None = None

    def words(self) -> list[str]:
        line = self._line
        while self._at < len(line):
            char = line[self._at]
            if char in "\r\n" or char == "#":
                break
            if char in _SPACES:
                self._end_word()
                self._at += 1
            elif char == "'":
                self._single_quoted()
            elif char == '"':
                self._double_quoted()
            elif char == "\\":
                self._emit(self._escape(in_quotes=False))
            else:
                self._emit(char)
                self._at += 1
        self._end_word()
        return self._words

    def _emit(self, text: str) -> None:
        if self._word is None:
            self._word = []
        self._word.append(text)

    def _end_word(self) -> None:
        if self._word is not None:
            self._words.append("".join(self._word))
            self._word = None

    def _single_quoted(self) -> None:
        end = self._line.find("'", self._at + 1)
        if end < 0:
            raise BadLine("a single quote is not closed", self._at + 1)
        self._emit(self._line[self._at + 1 : end])
        self._at = end + 1

    def _double_quoted(self) -> None:
        line, start = self._line, self._at
        self._at += 1
        was_empty = self._word is None
        self._emit("")
        expanded_to_nothing = False
        while self._at < len(line) and line[self._at] != '"':
            char = line[self._at]
            if char == "\\":
                self._emit(self._escape(in_quotes=True))
            elif char == "$":
                expanded_to_nothing |= self._variable()
            else:
                self._emit(char)
                self._at += 1
        if self._at >= len(line):
            raise BadLine("a double quote is not closed", start + 1)
        self._at += 1
        if expanded_to_nothing and was_empty and self._word == [""]:
            self._word = None  # "${EMPTY[*]}" is no word at all

    def _escape(self, *, in_quotes: bool) -> str:
        after = self._line[self._at + 1 : self._at + 2]
        if after == "x":
            digits = self._line[self._at + 2 : self._at + 4]
            if not re.fullmatch(r"[0-9A-Fa-f]{2}", digits):
                raise BadLine("\\x needs two hexadecimal digits", self._at + 1)
            self._at += 4
            return chr(int(digits, 16))
        known = _ESCAPES.get(after) or _CONTROL_ESCAPES.get(after)
        if in_quotes and after == "$":
            known = "$"
        if known is None:  # \1 and the like are no escapes
            self._at += 1
            return "\\"
        self._at += 2
        return known

    def _variable(self) -> bool:
        """Expands at a `$`; True where it asked for several words and got none."""
        line, dollar = self._line, self._at
        self._at += 1
        has_brace = line[self._at : self._at + 1] == "{"
        self._at += has_brace
        name = _VARIABLE.match(line, self._at)
        if name is None:
            raise BadLine("this is no name of a variable", self._at + 1)
        self._at = name.end()
        value = self._environment.get(name[0])
        several = has_brace and line.startswith("[*]", self._at)
        self._at += 3 * several
        if has_brace:
            value = self._close_brace(value, dollar)
        if value is None:
            self._unset.add(name[0])
            value = ""
        self._expanded += len(value)
        if self._expanded > _EXPANDED_MAX:
            message = f"variables make this line longer than {_EXPANDED_MAX:,} characters"
            raise BadLine(message, dollar + 1)
        if not several:
            self._emit(value)
            return False
        words = value.split()
        for number, word in enumerate(words):
            if number:
                self._end_word()
            self._emit(word)
        return not words

    def _close_brace(self, value: str | None, dollar: int) -> str | None:
        end = self._line.find("}", self._at)
        rest = self._line[self._at : end]
        if end < 0 or (rest and not rest.startswith("-")):
            raise BadLine("a brace is not closed", dollar + 2)
        self._at = end + 1
        return rest[1:] if value is None and rest else value
