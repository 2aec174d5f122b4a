"""`portside check`: every mistake in a configuration, what is doubtful, and what it will need.

Loads the file, prints; with `--connect` it also logs in everywhere (connect.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from portside.cli import connect as connect_
from portside.cli import table
from portside.config import limits, load, port_space, schema, server_limits, warnings
from portside.config.addresses import Address
from portside.config.load import in_file
from portside.config.model import Config, Server
from portside.counted import counted
from portside.errors import ConfigError, ExitCode, Problem


def main(config: Path, *, schema: bool, connect: bool, as_json: bool) -> int:
    """Prints the outcome; exit code 1 when the file has a mistake or a login failed."""
    if schema:
        return _print_schema()
    try:
        loaded = load(config)
    except ConfigError as error:
        _print_mistakes(error.problems, as_json)
        return ExitCode.NO
    need = limits.fd_need(loaded, limits.file_limit())
    doubts = warnings(loaded)
    if not need.fits:
        place = Problem(str(config), 0, 0, "", "", f"too many sessions: {need.text}")
        _print_mistakes((place,), as_json)
        return ExitCode.NO
    logins = asyncio.run(connect_.log_in_everywhere(loaded)) if connect else []
    doubts += in_file(loaded, server_limits.doubts(loaded, connect_.limits_told(logins)))
    if as_json:
        _print_json(loaded, doubts, need, logins if connect else None)
    else:
        _print_report(config, loaded, doubts, need)
        if connect:
            connect_.write(logins)
    return ExitCode.GOOD if all(login.ok for login in logins) else ExitCode.NO


def grants_needed(config: Config) -> dict[str, tuple[str, ...]]:
    """Server -> the addresses it will see us from; unix sockets ("localhost") are left out."""
    return {
        server.name: tuple(dict.fromkeys(_seen_from(server)))
        for server in config.servers
        if any(address.kind != "unix" for address in server.addresses)
    }


def _seen_from(server: Server) -> list[str]:
    if server.source.addresses:
        return list(server.source.addresses)
    return [_route_source(address) for address in server.addresses if address.kind != "unix"]


def _route_source(address: Address) -> str:
    """The address that the route to a destination uses; connecting UDP sends nothing."""
    if address.ip is None:
        return f"the one that the route to {address.host} uses"
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address.host, address.port))
        except OSError as error:
            return f"none ({error.strerror} to {address})"
        return str(sock.getsockname()[0])


def _print_schema() -> int:
    click.echo(json.dumps(schema(), indent=2))
    return ExitCode.GOOD


def _print_mistakes(mistakes: Sequence[Problem], as_json: bool) -> None:
    if as_json:
        answer = {"ok": False, "mistakes": [mistake.as_dict() for mistake in mistakes]}
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    for mistake in mistakes:
        click.echo(str(mistake), err=True)
    click.secho(counted(len(mistakes), "mistake"), fg="red", bold=True, err=True)


def _print_json(
    config: Config,
    doubts: Sequence[Problem],
    need: limits.FdNeed,
    logins: list[connect_.Login] | None,
) -> None:
    answer: dict[str, Any] = {
        "ok": all(login.ok for login in logins or ()),
        "mistakes": [],
        "warnings": [doubt.as_dict() for doubt in doubts],
        "grants": grants_needed(config),
        "sessions": {"max": need.max_sessions, "text": need.text},
    }
    answer["ports"] = [dataclasses.asdict(row) for row in _port_needs(config)]
    if logins is not None:
        answer["logins"] = [dataclasses.asdict(login) for login in logins]
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def _print_report(
    path: Path, config: Config, doubts: Sequence[Problem], need: limits.FdNeed
) -> None:
    for doubt in doubts:
        click.echo(f"{click.style('warning', fg='yellow')}: {doubt}")
    click.echo(
        f"{path}: {click.style('no mistakes', fg='green')};"
        f" {counted(len(config.services), 'service')}, {counted(len(config.servers), 'server')},"
        f" {counted(config.portside.workers, 'worker')}"
    )
    click.echo(f"Sessions: at most {need.max_sessions:,}. Open files: {need.text}.")
    _print_ports(_port_needs(config))
    grants = grants_needed(config)
    if grants:
        click.echo("Each server sees the sessions from these addresses; each needs its GRANTs:")
        rows = tuple((name, ", ".join(addresses)) for name, addresses in grants.items())
        table.write(table.Table(("server", "our addresses"), rows), sys.stdout)


def _port_needs(config: Config) -> tuple[port_space.PortNeed, ...]:
    from portside import _core

    return port_space.port_needs(config, _core.ledger_bytes)


def _print_ports(needs: Sequence[port_space.PortNeed]) -> None:
    """Source ports per destination, what is left out of them, and their memory."""
    if not needs:
        click.echo("Source ports: the kernel chooses them (source.ports is not set).")
        return
    from portside import _core

    click.echo("Source ports, connections at a time towards each destination:")
    heads = ("server", "address", "our addresses", "ports", "tuples", "kept for checks", "left out")
    rows = tuple(
        (
            need.server,
            need.destination,
            str(need.sources),
            need.ports,
            f"{need.tuples:,}",
            f"{need.reserved:,}",
            ", ".join(need.left_out),
        )
        for need in needs
    )
    table.write(table.Table(heads, rows, right=frozenset({2, 4, 5})), sys.stdout)
    total = sum(need.memory_bytes for need in needs)
    text = f"Their ledger takes {_mib(total)} once every port has been used, 8 bytes each"
    if total > _core.LEDGER_BUDGET_BYTES:
        text += f"; at most {_mib(_core.LEDGER_BUDGET_BYTES)} are taken: some will not be used"
    click.echo(f"{text}.")


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
