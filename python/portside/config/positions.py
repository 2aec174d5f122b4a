"""Where each key of a TOML file stands: path -> line and column.

`tomllib` gives values without places and `tomlkit` keeps text without line numbers, so this is a
small scan of our own over a text that `tomllib` has already accepted: it needs no error handling
and no dependency. Paths are keys and list indexes: ("server", 0, "check", "interval").
Cost: one pass. Source: TOML 1.0.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

Path = tuple[str | int, ...]
Place = tuple[int, int]
"""Line and column, from 1."""


@dataclass(frozen=True)
class Positions:
    """The places of one file's keys.

    Equal to any other: where a value was written is no part of a configuration's meaning.
    """

    name: str = field(compare=False)
    places: Mapping[Path, Place] = field(compare=False)

    @classmethod
    def none(cls) -> Positions:
        """For a configuration that no file stands behind."""
        return cls("", {})

    def find(self, path: Path) -> Place:
        """The place of a key, or of the nearest table around it; (0, 0) when there is none."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (0, 0))


_KEY_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' + r"|'''.*?'{3,5}" + r'|"(?:[^"\\\n]|\\.)*"' + r"|'[^'\n]*'",
    re.DOTALL,
)
_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE: Final = re.compile(r"[^,\]}#\r\n]+")


class _Scanner:
    """One pass over the text; `at` is the offset of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.places: dict[Path, Place] = {}
        self.counts: dict[Path, int] = {}

    def scan(self) -> dict[Path, Place]:
        table: Path = ()
        self.space()
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.pair(table)
            self.space()
        return self.places

    def header(self) -> Path:
        start = self.at
        is_array = self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        keys = self.key()
        self.space()
        self.at += 2 if is_array else 1
        path = (*self.through_arrays(keys[:-1]), keys[-1])
        if is_array:
            index = self.counts.get(path, 0)
            self.counts[path] = index + 1
            self.mark(path, start)
            path = (*path, index)
        else:
            path = self.through_arrays(keys)
        self.mark(path, start)
        return path

    def through_arrays(self, keys: list[str]) -> Path:
        """[a.b] below [[a]] means the last a."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in self.counts:
                path = (*path, self.counts[path] - 1)
        return path

    def pair(self, table: Path) -> None:
        start = self.at
        path = table
        for key in self.key():
            path = (*path, key)
            self.mark(path, start)
        self.space()
        self.at += 1  # the equals sign
        self.space()
        self.value(path)

    def key(self) -> list[str]:
        parts = []
        while True:
            self.space()
            match = _KEY_PART.match(self.text, self.at)
            if match is None:  # unreachable for a text that tomllib accepted
                raise ValueError(f"no key at offset {self.at}")
            parts.append(_key_text(match[0]))
            self.at = match.end()
            self.space()
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def value(self, path: Path) -> None:
        if match := _STRING.match(self.text, self.at):
            self.at = match.end()
        elif self.text.startswith("[", self.at):
            self.array(path)
        elif self.text.startswith("{", self.at):
            self.inline_table(path)
        elif match := _BARE.match(self.text, self.at):
            self.at = match.end()

    def array(self, path: Path) -> None:
        self.at += 1
        self.space()
        index = 0
        while not self.text.startswith("]", self.at):
            self.mark((*path, index), self.at)
            self.value((*path, index))
            index += 1
            self.comma()
        self.at += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        self.space()
        while not self.text.startswith("}", self.at):
            self.pair(path)
            self.comma()
        self.at += 1

    def comma(self) -> None:
        self.space()
        if self.text.startswith(",", self.at):
            self.at += 1
            self.space()

    def space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def mark(self, path: Path, offset: int) -> None:
        if path not in self.places:
            line = bisect_right(self.line_starts, offset)
            self.places[path] = (line, offset - self.line_starts[line - 1] + 1)


def _key_text(written: str) -> str:
    if written[0] == "'":
        return written[1:-1]
    return str(tomllib.loads(f"k = {written}")["k"]) if written[0] == '"' else written


def scan(text: str, name: str) -> Positions:
    """The places of every key in a text that `tomllib` accepts."""
    return Positions(name, _Scanner(text).scan())
