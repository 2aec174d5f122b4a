"""``portside show``: a running instance, on one page or one subject at a time.

Gets the views of the admin API and prints them: tables that fit the terminal when there is one,
plain aligned columns for pipes, or the API's own JSON. Decides nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, NoReturn

import click

from portside.admin.client import AdminClient
from portside.admin.views import PortView
from portside.cli import table
from portside.counted import counted
from portside.errors import ExitCode, PortsideError
from portside.ports import words

Row = Mapping[str, Any]


def main(
    what: str | None, admin: str | None, as_json: bool, origin: bool, server: str | None = None
) -> int:
    """Prints ``what`` of the instance at ``admin``; None is the one-page status.

    ``server``: of the ports, only this server's.

    Raises:
        NoInstance: nothing answers there; the caller prints it and exits 1.
    """
    client = AdminClient(admin)
    path, render = _SUBJECTS["origins" if origin else what or "status"]
    answer = client.get(path, server=server)
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        for part in render(answer):
            table.write(part, sys.stdout)
    return ExitCode.GOOD


def follow_events(admin: str | None, as_json: bool) -> NoReturn:
    """Prints the last ten events of the instance at ``admin``, then each as it happens.

    Raises:
        PortsideError: nothing answers there, or the instance has ended.
    """
    client = AdminClient(admin)
    last = client.get("/v1/events", limit=10)
    for event in client.stream_events(last[0]["id"] - 1 if last else 0):
        line = f"{_clock(event['time'])}  {event['kind']:<16}  {event['message']}"
        click.echo(json.dumps(event, ensure_ascii=False) if as_json else line)
    raise PortsideError(f"the instance at {client.address} has ended, and with it its events.")


def status(answer: Row) -> list[table.Part]:
    """The one-page status."""
    parts: list[table.Part] = [_headline(answer)]
    parts += [f"! {alert}" for alert in answer["alerts"]]
    parts += ["", *services(answer["services"]), "", *servers(answer["servers"])]
    if answer["overrides"]:
        parts += ["", "Set at run time (kept over reloads, gone with the process):"]
        parts += [f"  {text}" for text in answer["overrides"]]
    return parts


def _headline(answer: Row) -> str:
    state = "accepting" if answer["accepting"] else "draining"
    return (
        f"Portside {answer['version']}, pid {answer['pid']}, up {duration(answer['uptime_s'])}, "
        f"{state}, {answer['sessions']:,} of {answer['max_sessions']:,} sessions, "
        f"{counted(answer['workers'], 'worker')}, "
        f"{answer['config_path'] or 'configuration from a program'}"
    )


def services(rows: Sequence[Row]) -> list[table.Part]:
    """One line per service, its members below it. REFUSED: clients and, of pools, commands."""
    lines: list[tuple[table.Cell | str, ...]] = []
    for row in rows:
        lines.append(
            (
                row["name"],
                _mark(row["state"], good=row["state"] == "open"),
                _load(row["sessions"], row["max_connections"]),
                str(row["queued"]),
                f"{row['accepted_total']:,}",
                f"{row['refused_total'] + row.get('commands_refused_total', 0):,}",
                " ".join(row["listen"]),
            )
        )
        # Between commands a pool's sessions are nowhere: servers have the connections (POOL).
        is_pool = row["mode"] == "pool"
        lines += [_member(member, is_pool=is_pool) for member in row["members"]]
    heads = ("SERVICE", "STATE", "SESSIONS", "QUEUE", "TOTAL", "REFUSED", "LISTEN / WHY NOT")
    return [table.Table(heads, tuple(lines), right=frozenset({2, 3, 4, 5}))]


def _member(member: Row, *, is_pool: bool) -> tuple[table.Cell, ...]:
    weight = f"w {member['weight']}"
    if member["weight"] != member["file_weight"]:
        weight += f" (file {member['file_weight']})"
    if member["weight"] == 0:
        state = table.Cell("weight 0")
    elif member["active"]:
        state = _mark("eligible", good=True)
    elif member["eligible"]:
        state = table.Cell("standby")
    else:
        state = _mark("not", good=False)
    note = member["why"] or (weight + (", backup" if member["backup"] else ""))
    name = f"  {member['server']}"
    share = f"{member['sessions_total']:,} ({member['share']:.0%})"
    return (
        table.Cell(name),
        state,
        table.Cell("" if is_pool else str(member["sessions"])),
        *_cells("", share, "", note),
    )


def _cells(*texts: str) -> tuple[table.Cell, ...]:
    return tuple(table.Cell(text) for text in texts)


def servers(rows: Sequence[Row]) -> list[table.Part]:
    """One line per server. POOL: connections in use, open, at most; only where there are pools."""
    has_pool = any(row.get("pool_max") for row in rows)  # an older instance has none
    heads = (
        "SERVER",
        "STATE",
        "CHECK",
        "SINCE",
        "ROLE",
        "LAG",
        "SESSIONS",
        *(("POOL",) if has_pool else ()),
        "FAILED",
        "DESTINATIONS",
    )
    lines = tuple(
        (
            row["name"],
            _mark(row["state"], good=row["state"] in {"up", "unchecked"}),
            row["check"],
            "" if row["since_s"] is None else duration(row["since_s"]),
            row["role"],
            "" if row["lag_s"] is None else f"{row['lag_s']:.0f} s",
            _load(row["sessions"], row["max_connections"]),
            *((pool(row),) if has_pool else ()),
            f"{row['connect_failures_total']:,}",
            " ".join(row["destinations"]),
        )
        for row in rows
    )
    notes = [f"  {row['name']}: {row['reason']}" for row in rows if row["reason"]]
    notes += [
        f"  {row['name']}: sessions cannot connect; "
        f"{row.get('connect_error') or 'why: portside show events'}"
        for row in rows
        if row["breaker"] != "closed" and row["state"] != "down"
    ]
    notes += [
        f"  {row['name']}: refuses our address{source and f' {source}'}; why: portside show events"
        for row in rows
        for source in row["hosts_blocked"]
    ]
    right = {3, 5, 6, 7, 8} if has_pool else {3, 5, 6, 7}
    return [table.Table(heads, lines, right=frozenset(right)), *notes]


def pool(row: Row) -> str:
    """A server's pooled connections: in use, open, at most; "" where no pool uses it."""
    if not row.get("pool_max"):
        return ""
    return f"{row['pool_busy']:,}/{row['pool_open']:,}/{row['pool_max']:,}"


def sessions(rows: Sequence[Row]) -> list[table.Part]:
    """One line per session; in pool mode with its ids as the client and the server see it."""
    has_pool = any(row.get("connection_id") for row in rows)
    heads = (
        "ID",
        *(("CONNECTION_ID", "ON SERVER") if has_pool else ()),
        "CLIENT",
        "SERVICE",
        "SERVER",
        "SOURCE",
        "STATE",
        "USER",
        "PINNED",
        "TLS",
        "AGE",
        "IDLE",
        "SENT",
        "RECEIVED",
    )
    lines = tuple(
        (
            str(row["id"]),
            *(_connection_ids(row) if has_pool else ()),
            row["client"],
            row["service"],
            row["server"] or "-",
            row["source"] or "-",
            row["state"],
            # An older instance has no pool mode.
            row.get("user", ""),
            row.get("pinned", ""),
            row.get("tls", ""),
            duration(row["age_s"]),
            duration(row["idle_s"]),
            size(row["to_server_bytes"]),
            size(row["to_client_bytes"]),
        )
        for row in rows
    )
    if not lines:
        return ["No sessions."]
    right = {0, *range(len(heads) - 4, len(heads)), *({1, 2} if has_pool else ())}
    return [table.Table(heads, lines, right=frozenset(right))]


def _connection_ids(row: Row) -> tuple[str, str]:
    """What a pool's client sees, and what the server's process list has for it now."""
    return str(row["connection_id"] or ""), str(row["server_connection_id"] or "")


def events(rows: Sequence[Row]) -> list[table.Part]:
    """One line per event, oldest first."""
    lines = tuple((_clock(row["time"]), row["kind"], row["message"]) for row in rows)
    if not lines:
        return ["No events."]
    return [table.Table(("TIME", "EVENT", "WHAT HAPPENED"), lines)]


def ports(rows: Sequence[Row]) -> list[table.Part]:
    """One line per source and destination; below it why it is so, and what to do."""
    # A newer instance may say more.
    views = [PortView(**{key.name: row[key.name] for key in fields(PortView)}) for row in rows]
    said = words.sentences(views)
    if not views:
        return [*said]
    return [_port_table(views), "", words.closes(views), *(f"- {text}" for text in said)]


def _port_table(views: Sequence[PortView]) -> table.Table:
    heads = (
        "SERVER",
        "SOURCE",
        "DESTINATION",
        "PORTS",
        "IN USE",
        "RESTING",
        "BLOCKED",
        "TIME_WAIT",
        "FREE",
        "RESERVED",
        "NEW/S",
        "EXHAUSTED IN",
        "WASTED",
    )
    lines = tuple(
        (
            view.server,
            view.source,
            view.destination,
            f"{view.size:,}",
            f"{view.in_use:,}",
            f"{view.resting:,}",
            _count(view.blocked),
            _count(view.time_wait),
            f"{view.free:,}",
            str(view.reserved),
            f"{view.new_per_s:,.0f}",
            _exhausted(view.exhausted_in_s),
            f"{view.wasted_probes:,}",
        )
        for view in views
    )
    return table.Table(heads, lines, right=frozenset(range(3, len(heads))))


def _count(number: int) -> table.Cell:
    return table.Cell(f"{number:,}", "yellow" if number else "")


def _exhausted(seconds: float | None) -> table.Cell:
    if seconds is None:
        return table.Cell("never")
    return table.Cell("now" if seconds == 0 else duration(seconds), "bold red")


def config(answer: Row) -> list[table.Part]:
    """The configuration in force as TOML; run-time changes stand above it as comments."""
    return [*_changed(answer), str(answer["toml"]).rstrip("\n")]


def config_origins(answer: Row) -> list[table.Part]:
    """Every value in force and where it came from."""
    rows = tuple((row["key"], row["value"], row["origin"]) for row in answer["values"])
    return [*_changed(answer), table.Table(("KEY", "VALUE", "FROM"), rows)]


def _changed(answer: Row) -> list[table.Part]:
    return [f"# at run time: {text}" for text in answer["overrides"]]


def _load(sessions_now: int, most: int | None) -> str:
    return f"{sessions_now:,}" if most is None else f"{sessions_now:,}/{most:,}"


def _mark(text: str, *, good: bool) -> table.Cell:
    return table.Cell(text, "green" if good else "bold red")


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment).strftime("%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Two units at most: ``0.4s``, ``12s``, ``3m20s``, ``5h12m``, ``8d4h``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for name, length, part, part_length in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= length:
            return f"{whole // length}{name}{whole % length // part_length}{part}"
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"


def size(count: int) -> str:
    """Bytes with a binary unit: ``512``, ``1.5K``, ``20M``."""
    amount = float(count)
    for unit in ("", "K", "M", "G"):
        if amount < 1024:
            return f"{amount:.0f}{unit}" if not unit or amount >= 10 else f"{amount:.1f}{unit}"
        amount /= 1024
    return f"{amount:.1f}T"


_SUBJECTS: dict[str, tuple[str, Callable[[Any], list[table.Part]]]] = {
    "status": ("/v1/status", status),
    "services": ("/v1/services", services),
    "servers": ("/v1/servers", servers),
    "ports": ("/v1/ports", ports),
    "sessions": ("/v1/sessions", sessions),
    "events": ("/v1/events", events),
    "config": ("/v1/config", config),
    "origins": ("/v1/config", config_origins),
}
