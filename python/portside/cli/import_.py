"""`portside import`: another balancer's configuration as portside.toml, or the report about it.

The result goes to standard output, so that `> portside.toml` takes it; what a person must know goes
to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TextIO

import click

from portside.cli import table
from portside.counted import counted
from portside.errors import ExitCode
from portside.importer.imported import (
    Imported,
    NothingImported,
    Row,
    import_haproxy,
    import_proxysql,
    is_proxysql,
)

_STYLES: Final = {"changed": "yellow", "dropped": "red", "stays": "dim"}


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    report: bool = False
    port_offset: int = 0
    ask: bool = True
    as_json: bool = False
    pool: bool = False


def main(files: Sequence[Path], options: Options) -> int:
    """Prints the result or the report.

    Raises:
        ConfigError: lines that HAProxy or ProxySQL would refuse.
        PortsideError: a file cannot be read.
    """
    try:
        done = _import(files, options)
    except NothingImported as error:
        if options.as_json:
            _print_json(None, error.rows)
        else:
            _write_report(error.rows, sys.stderr)
        click.echo(f"portside: {error}", err=True)
        return ExitCode.NO
    if options.as_json:
        _print_json(done, done.rows)
    elif options.report:
        _write_report(done.rows, sys.stdout)
        click.echo(_summary(done))
    else:
        click.echo(done.text, nl=False)
        for row in done.rows:
            if row.note.startswith("ATTENTION"):
                click.echo(f"! {row.file}:{row.line}: {row.text}: {row.note}", err=True)
        click.echo(_summary(done), err=True)
        click.echo(_next_step(files, options), err=True)
    return ExitCode.GOOD


def _import(files: Sequence[Path], options: Options) -> Imported:
    if len(files) == 1 and is_proxysql(files[0]):
        return import_proxysql(files[0], port_offset=options.port_offset, pool=options.pool)
    if options.pool:
        raise click.UsageError("--pool belongs to proxysql.cnf, which has accounts")
    return import_haproxy(files, port_offset=options.port_offset, ask=options.ask)


def _summary(done: Imported) -> str:
    found = done.counts
    asked = f" {done.asked_haproxy} takes the file." if done.asked_haproxy else ""
    return (
        f"{counted(done.services, 'service')}, {counted(done.servers, 'server')}. Lines: "
        f"{found['carried']} carried, {found['changed']} changed in meaning, {found['dropped']}"
        f" dropped, {found['stays']} stay where they are.{asked}"
    )


def _next_step(files: Sequence[Path], options: Options) -> str:
    names = " ".join(str(file) for file in files)
    report = f"portside import --report {names} says it line by line."
    if options.port_offset:
        return f"{report} To try it: portside check -c FILE, then portside run -c FILE."
    return f"{report} To run it beside what runs now: --port-offset 10000."


def _write_report(rows: Sequence[Row], stream: TextIO) -> None:
    several = len({row.file for row in rows}) > 1
    found = tuple(
        (
            f"{row.file}:{row.line}" if several else str(row.line),
            table.Cell(row.outcome, _STYLES.get(row.outcome, "")),
            row.what or row.text,
            row.note,
        )
        for row in rows
    )
    table.write(table.Table(("LINE", "OUTCOME", "WHAT", "HOW OR WHY"), found), stream)


def _print_json(done: Imported | None, rows: Sequence[Row]) -> None:
    answer = {
        "ok": done is not None,
        "toml": done.text if done else "",
        "counts": done.counts if done else {},
        "lines": [asdict(row) for row in rows],
    }
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
