"""The configuration while it is being made: servers and services as keys, not yet as a file.

Keys are dotted as in `check.interval`, values are what TOML will hold. Nothing here knows where
they come from; `write` turns a draft into text, `settle` makes it one that `portside check` passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Final

from portside.importer.notes import Line

Value = str | int | bool | list[str] | dict[str, str]
Keys = dict[str, Value]
"""Dotted key -> value; `check` may be False as a whole."""

_NAME_MAX: Final = 64
_WEIGHT_MAX: Final = 256
_HOISTED: Final = ("source.", "close.", "timeouts.", "check.")


@dataclass(eq=False)
class Server:
    """A `[[server]]`; `lines` are those that it was made from."""

    name: str
    addresses: tuple[str, ...]
    keys: Keys
    lines: list[Line]


@dataclass
class Member:
    """A server's part in a service."""

    server: Server
    weight: int = 1
    backup: bool = False


@dataclass(frozen=True)
class Listen:
    """One address where clients connect, and the line that names it."""

    address: str
    line: Line
    keys: tuple[tuple[str, str | int], ...] = ()
    """mode, user, group, backlog."""


@dataclass(eq=False)
class Service:
    """A `[[service]]`; `lines` are those whose comments stand above it."""

    name: str
    listen: list[Listen]
    members: list[Member]
    keys: Keys
    lines: list[Line]


@dataclass(eq=False)
class Account:
    """A `[[user]]` of pool mode."""

    name: str
    keys: Keys
    lines: list[Line]


@dataclass
class Draft:
    """A whole configuration."""

    keys: Keys = field(default_factory=dict)
    """Global tables: `portside.workers`."""
    servers: list[Server] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    users: list[Account] = field(default_factory=list)

    def forget_unused(self) -> None:
        """Takes out servers that no service uses."""
        used = {id(member.server) for one in self.services for member in one.members}
        self.servers = [server for server in self.servers if id(server) in used]


class Names:
    """Names that the model accepts and that nobody else has."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def free(self, *wanted: str) -> str:
        """The first of `wanted` that is free, made fit; else the last one with a number."""
        fit = [re.sub(r"[^A-Za-z0-9_.:-]", "_", name)[:_NAME_MAX] for name in wanted]
        fit = [name if re.match(r"[A-Za-z0-9_]", name) else f"_{name[1:]}" for name in fit]
        number = 2
        while (found := next((name for name in fit if name not in self._taken), None)) is None:
            fit = [f"{fit[-1][: _NAME_MAX - 6]}-{number}"] if number == 2 else fit
            fit = [re.sub(r"-\d+$", f"-{number}", fit[-1])]
            number += 1
        self._taken.add(found)
        return found


def differing(one: Keys, other: Keys) -> list[str]:
    """The keys in which two servers differ, but for `max_connections`, which can be added up."""
    keys = sorted((one.keys() | other.keys()) - {"max_connections"})
    return [key for key in keys if one.get(key) != other.get(key)]


def reduced(weights: Sequence[int]) -> list[int]:
    """The smallest weights with the same shares, none above 256 (then rounded, none to zero)."""
    divisor = gcd(*weights) or 1
    small = [weight // divisor for weight in weights]
    most = max(small, default=0)
    if most <= _WEIGHT_MAX:
        return small
    return [max(1, round(weight * _WEIGHT_MAX / most)) if weight else 0 for weight in small]


def hoist(draft: Draft) -> None:
    """Moves what every server, or every service, says alike into the global table.

    `timeouts.connect` and `close` may be a server's or a service's: a key is hoisted only where the
    other kind does not set it. A server without a check has no say on checks.
    """
    for owners, others in ((draft.servers, draft.services), (draft.services, draft.servers)):
        taken = {key for other in others for key in other.keys}
        for key in sorted(_hoistable(owners) - taken):
            having = [one for one in owners if not _is_mute(one.keys, key)]
            values = [one.keys.get(key) for one in having]
            if values and values[0] is not None and all(value == values[0] for value in values):
                draft.keys[key] = values[0]
                for one in having:
                    del one.keys[key]


def _hoistable(owners: Iterable[Server | Service]) -> set[str]:
    return {key for one in owners for key in one.keys if key.startswith(_HOISTED)}


def _is_mute(keys: Keys, key: str) -> bool:
    return key.startswith("check.") and keys.get("check") is False
