"""Doubts about files that every user of this machine can read: keys, passwords, the configuration.

Pure: whether a file is open was asked when it was read (`secret`, `pem`). Only what a table sets
itself is looked at, so that what is inherited is spoken of where it was written, and once.
"""

from __future__ import annotations

from collections.abc import Iterator

from portside.config.finding import Finding
from portside.config.model import Config, Table
from portside.config.pem import Pem
from portside.config.positions import Path
from portside.config.secret import Secret


def doubts(config: Config) -> Iterator[Finding]:
    """One for each such file, at the first key that names it or holds a secret."""
    found: set[str] = set()
    for path, value in _leaves((), config):
        if isinstance(value, Pem):
            is_private, name, what = str(path[-1]).endswith("key"), value.path, "key"
        elif isinstance(value, Secret):
            is_private, name, what = True, value.where, "file"
            if value.origin == "inline":
                name, what = config.positions.name, "file and the passwords in it"
        else:
            continue
        if is_private and value.is_open_to_all and name not in found:
            found.add(name)
            message = f"every user of this machine can read this {what}"
            yield Finding(path, message, hint=f"chmod o-rwx {name}")


def _leaves(path: Path, value: object) -> Iterator[tuple[Path, object]]:
    """Every value that a table sets itself, with its place in the file."""
    if isinstance(value, Table):
        for name, field in type(value).model_fields.items():
            if name in value.model_fields_set:
                yield from _leaves((*path, field.alias or name), getattr(value, name))
    elif isinstance(value, tuple):
        for index, one in enumerate(value):
            yield from _leaves((*path, index), one)
    else:
        yield path, value
