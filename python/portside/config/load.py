"""TOML text in, a resolved `Config` out, or every mistake at once as a `ConfigError`.

The flow: `tomllib` parses, `positions` finds the places, pydantic validates each key, `verify`
checks keys against each other. To report mistakes of both kinds in one go, keys that failed are
taken out, and a cross check that depends on one of them is silent. Where a required one is
missing then, its whole top key goes and gets a stand-in.
The only I/O is reading the file and the files of secrets.
"""

from __future__ import annotations

import copy
import os
import pathlib
import re
import stat
import tomllib
from collections.abc import Collection, Iterable
from typing import Any, Final

from pydantic import ValidationError

from portside.config import positions, problems, verify
from portside.config.finding import Finding
from portside.config.model import Config, resolve
from portside.config.positions import Path
from portside.config.problems import Source
from portside.errors import ConfigError, Problem

# A configuration is read by a human; a larger file is the wrong file.
_MAX_BYTES: Final = 16 * 1024 * 1024
_STAND_INS: Final[dict[str, dict[str, Any]]] = {
    "server": {"address": "unix:/nonexistent"},
    "service": {"listen": "unix:/nonexistent", "servers": ["_"]},
    "user": {"password": "?"},
}


def load(path: str | os.PathLike[str]) -> Config:
    """The configuration in a file; secrets with a relative path are looked up beside it.

    Raises:
        ConfigError: the file cannot be read, or holds mistakes: all of them, in file order.
    """
    file = pathlib.Path(path)
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
            mode = os.fstat(stream.fileno()).st_mode
    except OSError as error:
        raise _unreadable(str(path), f"cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise _unreadable(str(path), "is larger than 16 MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _unreadable(str(path), "is not UTF-8", line) from None
    is_open = bool(mode & stat.S_IROTH)
    return loads(text, str(path), folder=file.parent, is_open_to_all=is_open)


def loads(
    text: str,
    name: str = "<text>",
    *,
    folder: pathlib.Path | None = None,
    is_open_to_all: bool = False,
) -> Config:
    """The configuration in a text.

    Args:
        text: TOML.
        name: what problems call the text: a file's name.
        folder: where relative files of secrets are; the working directory if None.
        is_open_to_all: every user of this machine may read the file that the text is from.

    Raises:
        ConfigError: every mistake, in file order.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((_syntax(str(error), name),)) from None
    source = Source(raw, positions.scan(text, name))
    context = {"folder": folder or pathlib.Path(), "is_open_to_all": is_open_to_all}
    found: list[Problem] = []
    broken: set[Path] = set()
    try:
        config = Config.model_validate(raw, context=context)
    except ValidationError as error:
        details = error.errors(include_url=False)
        wrong = list(problems.from_pydantic(details, source))
        broken |= {path for path, _ in wrong}
        found += [problem for _, problem in wrong]
        try:
            config = Config.model_validate(_pruned(raw, broken), context=context)
            # Nothing depends on a key that there is not.
            broken -= {path for path, one in wrong if one.message.startswith(problems.UNKNOWN_KEY)}
        except (ValidationError, LookupError, TypeError):
            config = Config.model_validate(_salvaged(raw, broken), context=context)
    config = resolve(config).with_positions(source.positions)
    found += _problems(verify.mistakes(config), source, broken)
    if found:
        raise ConfigError(tuple(sorted(dict.fromkeys(found), key=lambda p: (p.line, p.column))))
    return config


def warnings(config: Config) -> list[Problem]:
    """What is allowed but doubtful, in file order; each says why."""
    return in_file(config, verify.doubts(config))


def in_file(config: Config, findings: Iterable[Finding]) -> list[Problem]:
    """The findings with their places in the file that `config` was loaded from, in its order."""
    source = Source(config.model_dump(mode="json", by_alias=True), config.positions)
    found = _problems(findings, source, ())
    return sorted(found, key=lambda problem: (problem.line, problem.column))


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, for editors."""
    text = Config.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **text, "title": "Portside"}


def _problems(
    findings: Iterable[Finding], source: Source, broken: Collection[Path]
) -> list[Problem]:
    return [
        source.problem(
            finding.path,
            finding.message,
            value=finding.value,
            expected=finding.expected,
            hint=finding.hint,
        )
        for finding in findings
        if not any(_touches(path, broken) for path in (finding.path, *finding.needs))
    ]


def _touches(path: Path, broken: Collection[Path]) -> bool:
    return any(path[: len(bad)] == bad or bad[: len(path)] == path for bad in broken)


def _pruned(raw: dict[str, Any], broken: Collection[Path]) -> dict[str, Any]:
    """The file without exactly its broken keys, so that everything beside them is looked at.

    Raises:
        LookupError, TypeError: a broken place is not a key of a table.
    """
    rest = copy.deepcopy(raw)
    for path in broken:
        table: Any = rest
        for part in path[:-1]:
            table = table[part]
        if not isinstance(table, dict):
            raise TypeError(path)
        del table[path[-1]]
    return rest


def _salvaged(raw: dict[str, Any], broken: set[Path]) -> dict[str, Any]:
    """The file without its broken keys; each [[server]], [[service]], [[user]] stays in place."""
    rest = copy.deepcopy(raw)
    for path in sorted(broken, key=len, reverse=True):
        in_array = len(path) >= 3 and path[0] in _STAND_INS
        table: Any = rest
        for part in path[:2] if in_array else path[: min(1, len(path) - 1)]:
            table = table[part]
        key = path[2] if in_array else path[min(1, len(path) - 1)] if path else None
        if isinstance(table, dict):
            table.pop(key, None)
        elif isinstance(table, list) and isinstance(key, int):
            table[key] = {}
    for array, stand_in in _STAND_INS.items():
        for index, table in enumerate(rest.get(array, ())):
            for key, value in {"name": f"_{index}", **stand_in}.items():
                if key not in table:
                    table[key] = value
                    broken.add((array, index, key))
    return rest


def _syntax(message: str, name: str) -> Problem:
    match = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    line, column = (int(match[1] or 0), int(match[2] or 0)) if match else (0, 0)
    text = message[: match.start()] if match else message
    if match and not line:
        text += " at the end of the file"
    return Problem(name, line, column, "", "", f"not TOML: {text[:1].lower()}{text[1:]}")


def _unreadable(name: str, message: str, line: int = 0) -> ConfigError:
    return ConfigError((Problem(name, line, 1 if line else 0, "", "", message),))
