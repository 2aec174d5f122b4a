"""`portside import` as a function: files of another balancer in, portside.toml and its report out.

Reads the files, asks HAProxy if there is one, makes the draft fit this host, and proves the result
by loading it. Everything else in this package is free of I/O, but for `haproxy.vouch`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portside.config import limits
from portside.errors import ConfigError, PortsideError, Problem
from portside.importer.draft import Draft
from portside.importer.haproxy import vouch
from portside.importer.haproxy.carry import Options, carry
from portside.importer.notes import Line, Outcome, Part, counts
from portside.importer.proxysql import carry as proxysql_carry
from portside.importer.proxysql.libconfig import parse
from portside.importer.settle import Host, NothingLeft, settle
from portside.importer.write import Origin, toml

# A configuration is written by people or their tools; a larger file is the wrong file.
_MAX_BYTES: Final = 16 * 1024 * 1024
_PROXYSQL: Final = re.compile(
    r"^[ \t]*(?:mysql|admin)_(?:servers|users|variables)[ \t\r\n]{0,80}[=:]", re.MULTILINE
)

_VARIABLE: Final = re.compile(r'\{ env = "PORTSIDE_[A-Z0-9_]+" \}')
_HASH_VARIABLE: Final = re.compile(rf"^password_hash = {_VARIABLE.pattern}", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the report.

    Shape: `outcome` is "carried", "changed", "dropped" or "stays"; `text` is the line without its
    secrets; `what` is the part of it that the row is about, "" for all of it.
    """

    file: str
    line: int
    text: str
    outcome: str
    what: str
    note: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import came to."""

    text: str
    """portside.toml."""
    rows: tuple[Row, ...]
    """Every line of the file, in order; a line with several fates has several rows."""
    counts: Mapping[str, int]
    """Lines by their worst outcome."""
    services: int
    servers: int
    asked_haproxy: str
    """The HAProxy that has taken the files, "" when none was asked."""


class NothingImported(NothingLeft):
    """Nothing in the files can be a service; `rows` says why, line by line."""

    def __init__(self, message: str, rows: tuple[Row, ...]) -> None:
        self.rows = rows
        super().__init__(message)


def import_haproxy(
    paths: Sequence[Path],
    *,
    environment: Mapping[str, str] | None = None,
    port_offset: int = 0,
    ask: bool = True,
    file_limit: int | None = None,
) -> Imported:
    """Imports haproxy.cfg, or several files in their order; a folder stands for its *.cfg.

    Args:
        paths: as after HAProxy's `-f`.
        environment: what variables in the files stand for; this process's.
        port_offset: added to every listening port, for a run beside HAProxy.
        ask: whether a HAProxy on this host is asked first.
        file_limit: open files that the result may need; this host's hard limit.

    Raises:
        ConfigError: lines that HAProxy refuses, each with its line.
        NothingImported: nothing in it can be a service.
        PortsideError: a file cannot be read.
    """
    chosen = [file for path in paths for file in _files(path)]
    texts = [(str(file), read_text(file)) for file in chosen]
    program = (
        shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin") if ask else None
    )
    facts = None
    if program is not None:
        facts = vouch.facts(program)
        if environment is None:  # HAProxy sees this process's
            vouch.vouch(program, chosen)
    is_vouched = program is not None and environment is None
    options = Options(
        os.environ if environment is None else environment, facts, is_vouched, port_offset
    )
    done = carry(texts, options)
    return _finish(done.draft, done.origin, done.key_lines, file_limit, program or "")


def import_proxysql(
    path: Path, *, port_offset: int = 0, pool: bool = False, file_limit: int | None = None
) -> Imported:
    """Imports proxysql.cnf as relay services; ``pool``: of pool mode, with its accounts.

    Raises:
        ConfigError: a line that ProxySQL refuses.
        NothingImported: no server in it.
        PortsideError: the file cannot be read.
    """
    settings = parse(read_text(path), str(path))
    done = proxysql_carry.carry(settings, str(path), port_offset, pool=pool)
    if done.has_password:
        done.draft.keys["check.password"] = {"env": proxysql_carry.MONITOR_VARIABLE}
    return _finish(done.draft, done.origin, done.key_lines, file_limit, "")


def is_proxysql(path: Path) -> bool:
    """Whether a file is ProxySQL's: it assigns one of its tables."""
    return path.is_file() and _PROXYSQL.search(read_text(path)) is not None


def read_text(file: Path) -> str:
    """The text of a file: UTF-8, or Latin-1 where it is none.

    Raises:
        PortsideError: it cannot be read, is too large, or holds zero bytes.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise PortsideError(f"{file} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise PortsideError(f"{file} is larger than 16 MiB: is it a configuration?")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise ConfigError((Problem(str(file), line, 1, "", "", "a zero byte: this is no text"),))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _files(path: Path) -> list[Path]:
    """HAProxy reads a folder's *.cfg in the order of their names, hidden ones left out."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.glob("*.cfg") if not file.name.startswith("."))
    if not found:
        raise PortsideError(f"{path} is a folder without any *.cfg")
    return found


def _finish(
    draft: Draft, origin: Origin, lines: Mapping[str, Line], limit: int | None, program: str
) -> Imported:
    host = Host(limits.file_limit() if limit is None else limit)
    try:
        settle(draft, lambda now: _with_stand_in(toml(now, origin)), host, lines)
    except NothingLeft as error:
        raise NothingImported(f"{origin.what}: {error}", _rows(origin)) from None
    found = counts(origin.lines)
    return Imported(
        toml(draft, origin),
        _rows(origin),
        {outcome.value: found[outcome] for outcome in Outcome},
        len(draft.services),
        len(draft.servers),
        program,
    )


def _with_stand_in(text: str) -> str:
    """The text with passwords in place of the variables, which need not be set yet."""
    text = _HASH_VARIABLE.sub(f'password_hash = "*{"0" * 40}"', text)
    return _VARIABLE.sub('"?"', text)


def _rows(origin: Origin) -> tuple[Row, ...]:
    return tuple(
        Row(line.file, line.number, line.text, part.outcome.value, part.what, part.note)
        for line in origin.lines
        for part in _parts(line)
    )


def _parts(line: Line) -> list[Part]:
    news = [part for part in line.parts if part.outcome is not Outcome.CARRIED]
    return news or line.parts[:1]
