"""Pydantic's errors as `Problem`s: with the place in the file, the value, and the nearest key.

Knows the shape of the model and the raw TOML, judges nothing. A value is shown only where it cannot
be a secret: not under an unknown key (a misspelt `password` is one), and no table or list.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import ErrorDetails

from portside.config.dump import write_key, write_value
from portside.config.model import Config, Table
from portside.config.positions import Path, Positions
from portside.errors import Problem

_SECRET_KEYS: Final = frozenset({"password", "password_hash", "token", "server_password"})
_ARRAYS: Final = frozenset({"server", "service", "user"})
_SHOWN_CHARS: Final = 60

_NAME_FORM: Final = "1 to 64 letters, digits or . _ : -, the first a letter, a digit or _"
_EXPECTED: Final = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "string_type": "a text in quotes",
    "string_too_short": "a text that is not empty",
    "string_pattern_mismatch": _NAME_FORM,
    "string_too_long": _NAME_FORM,
    "too_short": "at least one entry",
    "tuple_type": "a list in brackets",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
}

UNKNOWN_KEY: Final = "unknown key"
"""The message of a key that nothing depends on."""


@dataclass(frozen=True)
class Source:
    """One file: its parsed TOML and where its keys stand; makes `Problem`s from paths."""

    raw: Mapping[str, Any]
    positions: Positions

    def problem(
        self, path: Path, message: str, *, value: str = "", expected: str = "", hint: str = ""
    ) -> Problem:
        """A problem at a path of the file."""
        line, column = self.positions.find(path)
        return Problem(
            self.positions.name, line, column, self.key(path), value, message, expected, hint
        )

    def key(self, path: Path) -> str:
        """A path as a reader of the file calls it: `server "db1" check.interval`."""
        text, rest = "", path
        if len(path) >= 2 and path[0] in _ARRAYS and isinstance(path[1], int):
            rest = path[2:]
            name = self.at((path[0], path[1], "name"))
            is_named = isinstance(name, str) and name
            text = f"{path[0]} {_clipped(str(name)) if is_named else path[1] + 1}"
        keys = ""
        for at, part in enumerate(rest, len(path) - len(rest) + 1):
            if isinstance(part, str):
                keys += f".{write_key(part)}" if keys else write_key(part)
            elif path[:at] in self.positions.places:  # else a single value that stands for a list
                keys += f"[{part}]"
        return f"{text} {keys}".strip()

    def at(self, path: Path) -> object:
        """The raw value at a path, or None."""
        node: object = self.raw
        for part in path:
            node = _step(node, part)
        return node


def from_pydantic(errors: Sequence[ErrorDetails], source: Source) -> Iterator[tuple[Path, Problem]]:
    """Each error with its path in the file."""
    for error in errors:
        path = in_file(error["loc"], source)
        kind, context = error["type"], error.get("ctx", {})
        if kind == "extra_forbidden":
            yield path, source.problem(path, UNKNOWN_KEY, hint=nearest_key(path))
        elif kind == "missing":
            path = (*path, key := str(error["loc"][-1]))
            yield path, source.problem(path, "missing", hint=_described(path[:-1], key))
        elif kind in ("tuple_type", "model_type") and len(path) == 1 and path[0] in _ARRAYS:
            form = f"[[{path[0]}]] with double brackets: there may be several"
            yield path, source.problem(path, "wrong form", expected=form)
        else:
            expected, hint = _expected(error, context)
            value = shown(path, error.get("input"))
            yield (
                path,
                source.problem(path, "wrong value", value=value, expected=expected, hint=hint),
            )


def shown(path: Path, value: object) -> str:
    """The value as TOML writes it; "" where it may be a secret or would be long."""
    if _SECRET_KEYS.intersection(path):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _clipped(value)
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else ""


def _clipped(text: str) -> str:
    """The text as TOML, so that a control character cannot reach a terminal or a log."""
    return write_value(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")


def nearest_key(path: Path) -> str:
    """What an unknown key may have meant: a key like it, or the table where it belongs."""
    key = str(path[-1])
    table = table_at(path[:-1])
    if table is None:
        return ""
    known = keys_of(table)
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f'did you mean "{near[0]}"?'
    for name, nested in known.items():
        if nested is not None and table is not Config and key in keys_of(nested):
            return f"it belongs in a table: {name} = {{ {key} = ... }}"
    for name, nested in keys_of(Config).items():
        if nested is not None and key in keys_of(nested):
            return f"it belongs in {f'[[{name}]]' if name in _ARRAYS else f'[{name}]'}"
    return f"known here: {', '.join(known)}"


def keys_of(table: type[Table]) -> dict[str, type[Table] | None]:
    """The keys a table accepts, each with the table below it or None."""
    return {
        field.alias or name: _table_in(field.annotation)
        for name, field in table.model_fields.items()
    }


def table_at(path: Path) -> type[Table] | None:
    """The model of the table at a path, or None where no table is."""
    table: type[Table] | None = Config
    for part in path:
        if isinstance(part, str):
            table = keys_of(table).get(part) if table else None
    return table


def in_file(location: tuple[str | int, ...], source: Source) -> Path:
    """Pydantic's location without the steps that stand for a shorter form in the file.

    `listen = "..."` is a list of tables for the model, so its location has an index and "address".
    """
    path: list[str | int] = []
    node: object = source.raw
    for part in location:
        below = _step(node, part)
        if below is not None:
            node = below
            path.append(part)
    return tuple(path)


def _step(node: object, part: str | int) -> object:
    """One step down the raw file; None where it does not lead on (TOML has no null)."""
    if isinstance(node, dict):
        return node.get(part)
    if isinstance(node, list) and isinstance(part, int) and part < len(node):
        return node[part]
    return None


def _expected(error: ErrorDetails, context: Mapping[str, Any]) -> tuple[str, str]:
    kind = error["type"]
    if kind == "portside":
        return context["expected"], context.get("hint", "")
    if kind in ("model_type", "model_attributes_type") and "servers" in error["loc"][-2:]:
        return 'a server\'s name or a table such as { name = "db1" }', ""
    if kind in ("model_type", "model_attributes_type") and "listen" in error["loc"][-2:]:
        return 'an address or a table such as { address = "unix:/path" }', ""
    if kind == "literal_error":
        return str(context["expected"]).replace("'", '"'), ""
    if kind == "greater_than_equal":
        return f"a whole number of at least {context['ge']}", ""
    if kind == "less_than_equal":
        return f"a whole number of at most {context['le']}", ""
    return _EXPECTED.get(kind, error["msg"]), ""


def _described(path: Path, key: str) -> str:
    table = table_at(path)
    for name, field in table.model_fields.items() if table else ():
        if (field.alias or name) == key and field.description:
            text = " ".join(field.description.split()).removesuffix(".")
            return text[:1].lower() + text[1:]
    return ""


def _table_in(annotation: object) -> type[Table] | None:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    for argument in typing.get_args(annotation):
        if (found := _table_in(argument)) is not None:
            return found
    return None
