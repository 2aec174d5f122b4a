"""Each value in force and where it came from: `portside show config --origin`.

Pure. Follows the rule of inheritance in one place: a key that the server's or service's own table
set, else the global table's, else built-in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from portside.config.dump import write_value
from portside.config.model import Config, Server, Service, Table
from portside.config.positions import Path

BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class Origin:
    """One row: the key as a reader calls it, its value as TOML writes it, and its place.

    `origin` is "built-in" or "file:line". A key without a value (absent means something else than
    any value) shows "".
    """

    key: str
    value: str
    origin: str


def origins(config: Config) -> list[Origin]:
    """Every key of every table, in the order of docs/configuration.md."""
    rows: list[Origin] = []
    for name, field in Config.model_fields.items():
        tables = getattr(config, name)
        key = field.alias or name
        if isinstance(tables, Table):
            rows += _table(config, key, tables, [((key,), tables)])
        else:
            for index, table in enumerate(tables):
                rows += _element(config, (key, index), table)
    return rows


def _element(config: Config, path: Path, table: Table) -> Iterator[Origin]:
    prefix = f"{path[0]}.{getattr(table, 'name', path[1])}"
    nested = ("source", "close", "timeouts", "check", "pool")
    yield from _table(config, prefix, table, [(path, table)], skip=nested)
    for name in nested:
        below = getattr(table, name, None)
        if not isinstance(table, Server | Service) or name not in type(table).model_fields:
            continue
        if below is None:
            yield Origin(f"{prefix}.{name}", "false", _place(config, (*path, name)))
            continue
        chain = [((*path, name), below), ((name,), getattr(config, name))]
        yield from _table(config, f"{prefix}.{name}", below, chain)


def _table(
    config: Config,
    prefix: str,
    table: Table,
    chain: list[tuple[Path, Table]],
    skip: tuple[str, ...] = (),
) -> Iterator[Origin]:
    """Rows of one table; `chain` lists the tables that may have set its keys, nearest first."""
    values = table.model_dump(mode="json", by_alias=True)
    for name, field in type(table).model_fields.items():
        key = field.alias or name
        if key in skip:
            continue
        setter = next((path for path, owner in chain if name in owner.model_fields_set), None)
        origin = BUILT_IN if setter is None else _place(config, (*setter, key))
        # A value that needs resolving is shown as it is in force.
        value = getattr(table, key) if name.endswith("_written") else values[key]
        yield Origin(f"{prefix}.{key}", "" if value is None else write_value(value), origin)


def _place(config: Config, path: Path) -> str:
    line, _ = config.positions.find(path)
    return f"{config.positions.name}:{line}"
