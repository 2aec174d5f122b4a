"""Makes a draft one that `portside check` passes on this host, and says in the lines what it cost.

The rules live in `portside.config.verify`; here they are only asked. What one host refuses another
may take (an unknown group, a low limit of open files), so the note says what to do there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from portside.config import limits
from portside.config.load import loads
from portside.errors import ConfigError, PortsideError, Problem
from portside.importer.draft import Draft, Listen, Service
from portside.importer.notes import Line

_OWNER: Final = re.compile(r"listen\[?(\d*)\]?\.(user|group)$|listen\.(user|group)$")
_NAMED: Final = re.compile(r'^(service|server) "([^"]+)"\s*(.*)$')


class NothingLeft(PortsideError):
    """Nothing in the file can be a service of Portside."""


@dataclass(frozen=True, slots=True)
class Host:
    """What of this host decides: the limit of open files."""

    file_limit: int


def settle(
    draft: Draft, text_of: Callable[[Draft], str], host: Host, lines: Mapping[str, Line]
) -> None:
    """Removes from the draft what `portside check` refuses.

    Args:
        draft: changed in place.
        text_of: how it becomes TOML.
        host: this host.
        lines: where global keys come from.

    Raises:
        NothingLeft: no service is left, or there was none.
    """
    while True:
        if not draft.services:
            raise NothingLeft("nothing in it can be a service of Portside")
        try:
            config = loads(text_of(draft), "the result")
        except ConfigError as error:
            for problem in error.problems:
                _remove(draft, problem)
            continue
        need = limits.fd_need(config, host.file_limit)
        if need.fits:
            return
        _lower(draft, need, lines)


def _remove(draft: Draft, problem: Problem) -> None:
    found = _NAMED.match(problem.key)
    if found is None:
        raise PortsideError(f"the import of this file fails ({problem}): please report it")
    kind, name, key = found[1], found[2], found[3]
    if kind == "service":
        service = next((one for one in draft.services if one.name == name), None)
        owner = _OWNER.search(key)
        if service is None:
            return  # gone with a mistake before this one
        if owner is not None:
            _drop_owner(service, owner, problem)
        else:
            _drop(draft, service, _refused(problem))
        return
    note = _refused(problem)
    for line in next((one.lines for one in draft.servers if one.name == name), ()):
        line.dropped(note)
    for service in list(draft.services):
        _without(draft, service, name, note)


def _refused(problem: Problem) -> str:
    hint = f"; {problem.hint}" if problem.hint else ""
    value = f" ({problem.value})" if problem.value else ""
    return f"portside check refuses it: {problem.message}{value}{hint}"


def _without(draft: Draft, service: Service, server: str, note: str) -> None:
    """Takes a server out of a service; a service without any goes too."""
    left = [member for member in service.members if member.server.name != server]
    if len(left) == len(service.members):
        return
    service.members = left
    if not left:
        _drop(draft, service, note)
        return
    draft.forget_unused()
    if all(member.backup for member in left):
        for member in left:
            member.backup = False
            member.server.lines[0].changed("no backup any more: nothing else is left", "backup")
    if not any(member.backup for member in left):
        service.keys.pop("failback", None)


def _drop(draft: Draft, service: Service, note: str) -> None:
    draft.services.remove(service)
    draft.forget_unused()
    kept = {id(line) for one in draft.services for line in one.lines}
    for line in service.lines:
        if id(line) not in kept:
            line.dropped(note)


def _drop_owner(service: Service, found: re.Match[str], problem: Problem) -> None:
    index, key = int(found[1] or 0), found[2] or found[3]
    one = service.listen[index]
    kept = tuple(pair for pair in one.keys if pair[0] != key)
    service.listen[index] = Listen(one.address, one.line, kept)
    one.line.dropped(f"{problem.message} ({problem.value}): add it where the {key} exists", key)


def _lower(
    draft: Draft, need: limits.FdNeed, lines: Mapping[str, Line], key: str = "portside.max_sessions"
) -> None:
    """Takes the process's limit away, then gives every service its part of what fits.

    Servers keep their limits: they protect the databases.
    """
    note = f"this host's limit of open files, {need.limit:,}, is too low; raise LimitNOFILE="
    if key in draft.keys:
        del draft.keys[key]
        lines[key].dropped(f"max_sessions: {note} and add it; without it as many as fit are taken")
        return
    part = need.max_sessions // len(draft.services)
    if part < 1 and "pool.max" in draft.keys:
        del draft.keys["pool.max"]
        lines["pool.max"].changed(f"[pool] max stays at its default: {note} and set it")
        return
    if part < 1:
        raise NothingLeft(f"this host's limit of open files, {need.limit:,}, is too low for it")
    for service in draft.services:
        before = service.keys.get("max_connections")
        if not isinstance(before, int) or before > part:
            service.keys["max_connections"] = part
            wanted = f" instead of {before:,}" if isinstance(before, int) else ""
            service.lines[0].changed(f"max_connections = {part:,}{wanted}: {note}", service.name)
