"""The five views of ``portside top`` as boards of lines, from frames. Pure.

Every line carries in words what may not fit into its columns, and the names that a key acts upon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from portside.cli.show import duration, pool, size
from portside.control.event_kinds import KINDS
from portside.top import strip
from portside.top.frames import Frame, Rates, Row
from portside.top.order import Board, Column, Field, Line

GOOD, BAD, WARN, QUIET = "green", "bold red", "yellow", "bright_black"
SOON_S = 600.0
"""Ports that run out within this are red: the time to find somebody who may add an address."""


def services(frame: Frame, rates: Rates) -> Board:
    """Each service with its members below it."""
    columns = (
        Column("SERVICE"),
        Column("STATE"),
        Column("SESS", right=True),
        Column("QUEUE", rank=1, right=True),
        Column("NEW/S", right=True),
        Column("WEIGHT", rank=1, right=True),
        Column("SHARE", rank=2, right=True),
        Column("REFUSED/S", rank=2, right=True),
        Column("OUT/S", rank=3, right=True),
        Column("LISTEN / WHY NOT", grows=True, least=16),
    )
    lines: list[Line] = []
    for row in frame.status["services"]:
        lines.append(_service(row, rates))
        lines += [_member(row, member, rates) for member in row["members"]]
    return Board(columns, tuple(lines))


def _service(row: Row, rates: Rates) -> Line:
    name = row["name"]
    rate = rates.services.get(name, {})
    listen = " ".join(row["listen"])
    fields = (
        Field(name, "bold"),
        Field(row["state"], GOOD if row["state"] == "open" else BAD),
        _load(row["sessions"], row["max_connections"]),
        _number(row["queued"], WARN if row["queued"] else ""),
        _per_s(rate.get("accepted_total")),
        Field(""),
        Field(""),
        _per_s(rate.get("refused_total"), BAD),
        _bytes_per_s(rate.get("to_client_bytes_total")),
        Field(listen),
    )
    detail = (
        f"service {name}: {row['mode']}, {row['balance']}, listens on {listen}; "
        f"{row['accepted_total']:,} clients so far, {row['refused_total']:,} of them refused"
    )
    return Line(f"service/{name}", fields, detail, service=name)


def _member(service: Row, row: Row, rates: Rates) -> Line:
    name, server = service["name"], row["server"]
    word, style = _eligible(row)
    kept = row["weight"] == row["file_weight"]
    backup = "backup" if row["backup"] else ""
    fields = (
        Field(f"  {server}"),
        Field(word, style),
        _number(row["sessions"]),
        Field(""),
        _per_s(rates.members.get((name, server))),
        _number(row["weight"], "" if kept else WARN),
        Field(f"{row['share']:.0%}", by=row["share"]),
        Field(""),
        Field(""),
        Field(row["why"] or backup),
    )
    written = "" if kept else f" (file: {row['file_weight']})"
    detail = (
        f"server {server} in service {name}: {_words(row)}, weight {row['weight']}{written}, "
        f"{row['sessions_total']:,} sessions so far ({row['share']:.0%})"
        + (f", {backup}" if backup else "")
        + (f"; {row['why']}" if row["why"] else "")
    )
    key = f"member/{name}/{server}"
    return Line(key, fields, detail, parent=f"service/{name}", service=name, server=server)


def _eligible(member: Row) -> tuple[str, str]:
    if member["weight"] == 0:
        return "weight 0", WARN
    if member["active"]:
        return "eligible", GOOD
    return ("standby", "") if member["eligible"] else ("not", BAD)


def _words(member: Row) -> str:
    word = _eligible(member)[0]
    return "not eligible" if word == "not" else word


def servers(frame: Frame, rates: Rates) -> Board:
    """Each server once, with the services that use it. POOL: as `portside show servers` has it."""
    rows = frame.status["servers"]
    has_pool = any(row.get("pool_max") for row in rows)  # an older instance has none
    columns = (
        Column("SERVER"),
        Column("STATE"),
        Column("ELIGIBLE", rank=1),
        Column("WEIGHT", rank=1, right=True),
        Column("SESS", right=True),
        *((Column("POOL", right=True),) if has_pool else ()),
        Column("NEW/S", right=True),
        Column("CHECK"),
        Column("TOOK", right=True),
        Column("ROLE", rank=2),
        Column("LAG", rank=2, right=True),
        Column("SINCE", rank=3, right=True),
        Column("FAILED/S", rank=3, right=True),
        Column("LATE/S", rank=4, right=True),
        Column("DESTINATIONS / WHY", rank=1, grows=True, least=10),
    )
    members: dict[str, list[tuple[str, Row]]] = {}
    for service in frame.status["services"]:
        for member in service["members"]:
            members.setdefault(member["server"], []).append((service["name"], member))
    lines = (_server(row, members.get(row["name"], []), rates, has_pool) for row in rows)
    return Board(columns, tuple(lines))


def _server(row: Row, members: Sequence[tuple[str, Row]], rates: Rates, has_pool: bool) -> Line:
    name = row["name"]
    rate = rates.servers.get(name, {})
    where = " ".join(row["destinations"])
    active = sum(member["active"] for _, member in members)
    weights = sorted({member["weight"] for _, member in members})
    changed = any(member["weight"] != member["file_weight"] for _, member in members)
    # The last check that passed says nothing of a server that is down. An instance that is a
    # little older has no check_s: new keys do not raise the API's level.
    took_s = None if row["is_up"] is False else row.get("check_s")
    lag_s, since_s = row["lag_s"], row["since_s"]
    fields = (
        Field(name, "bold"),
        Field(row["state"], GOOD if row["state"] in {"up", "unchecked"} else BAD),
        Field(f"{active} of {len(members)}", "" if active else WARN, by=active),
        Field(
            "-".join(str(each) for each in {weights[0]: 0, weights[-1]: 0}) if weights else "",
            WARN if changed else "",
            by=float(weights[-1]) if weights else None,
        ),
        _load(row["sessions"], row["max_connections"]),
        *((_pool(row),) if has_pool else ()),
        _per_s(rate.get("sessions_total")),
        Field(row["check"]),
        Field("" if took_s is None else _short(took_s), by=took_s),
        Field(row["role"]),
        Field("" if lag_s is None else f"{lag_s:.0f}s", by=lag_s),
        Field("" if since_s is None else duration(since_s), by=since_s),
        _per_s(rate.get("connect_failures_total"), BAD),
        _per_s(rate.get("close_deadlines_total"), WARN),
        Field(row["reason"] or where),
    )
    each = "; ".join(f"{s} {_words(m)}, weight {m['weight']}" for s, m in members)
    blocked = ", ".join(source or "the route's address" for source in row["hosts_blocked"])
    detail = (
        f"server {name} at {where}: {row['state']}"
        + (f", {row['reason']}" if row["reason"] else "")
        + (f"; in {each}" if each else "; in no service")
        + (f"; it refuses {blocked} (portside explain host_blocked)" if blocked else "")
    )
    return Line(f"server/{name}", fields, detail, server=name)


def ports(frame: Frame, _: Rates, *, ascii_only: bool = False) -> Board:
    """A strip for each source address and destination, with the forecast."""
    columns = (
        Column("SERVER", rank=1),
        Column("SOURCE"),
        Column("DESTINATION"),
        Column("STRIP", grows=True, least=12),
        Column("USED", rank=1, right=True),
        Column("NEW/S", rank=1, right=True),
        Column("EMPTY IN", right=True),
    )
    lines = tuple(_port(row, ascii_only) for row in frame.ports)
    empty = 'The kernel chooses the source ports: [source] ports = "auto" lets Portside do it.'
    return Board(columns, lines, empty)


def _port(row: Row, ascii_only: bool) -> Line:
    used = row["size"] - row["free"] - row["resting"]
    share = used / row["size"] if row["size"] else 0.0
    left_s = row["exhausted_in_s"]
    forecast = "never" if left_s is None else "now" if left_s == 0 else duration(left_s)
    style = GOOD if left_s is None else BAD if left_s < SOON_S else WARN
    fields = (
        Field(row["server"]),
        Field(row["source"]),
        Field(row["destination"]),
        Field("", by=share, draw=partial(strip.draw, row, ascii_only=ascii_only)),
        Field(f"{share:.0%}", by=share),
        Field(f"{row['new_per_s']:,.0f}", by=row["new_per_s"]),
        Field(forecast, style, by=float("inf") if left_s is None else left_s),
    )
    counts = ", ".join(f"{row[state.key]:,} {state.words}" for state in strip.STATES)
    lost = "; resets get lost: FIN instead, ports rest 60 s" if row["resets_lost"] else ""
    detail = f"{row['size']:,} ports: {counts}{lost}\n{strip.legend(ascii_only=ascii_only)}"
    key = f"port/{row['server']}/{row['source']}/{row['destination']}"
    return Line(key, fields, detail, server=row["server"])


def sessions(frame: Frame, _: Rates) -> Board:
    """Running sessions; where there are pools with what these have more."""
    has_pool = any(row["mode"] == "pool" for row in frame.status["services"])
    columns = (
        Column("ID", right=True),
        *((Column("CONNECTION_ID", rank=2, right=True),) if has_pool else ()),
        Column("CLIENT"),
        Column("SERVICE", rank=2 if has_pool else 1),
        Column("SERVER"),
        Column("STATE"),
        *((Column("PINNED", rank=1),) if has_pool else ()),
        Column("AGE", right=True),
        Column("IDLE", right=True),
        Column("SENT", rank=2, right=True),
        Column("RECEIVED", rank=2, right=True),
        Column("SOURCE", rank=3, grows=True, least=15),
    )
    lines = tuple(_session(row, has_pool) for row in frame.sessions)
    return Board(columns, lines, "No sessions.")


def _session(row: Row, has_pool: bool) -> Line:
    sent, received = row["to_server_bytes"], row["to_client_bytes"]
    own = row.get("connection_id")
    fields = (
        Field(str(row["id"]), by=row["id"]),
        *((Field(str(own or ""), by=own),) if has_pool else ()),
        Field(row["client"]),
        Field(row["service"]),
        Field(row["server"] or "-"),
        Field(row["state"], GOOD if row["state"] == "query" else ""),
        *((Field(row.get("pinned", "")),) if has_pool else ()),
        Field(duration(row["age_s"]), by=row["age_s"]),
        Field(duration(row["idle_s"]), by=row["idle_s"]),
        Field(size(sent), by=sent),
        Field(size(received), by=received),
        Field(row["source"]),
    )
    way = f"{row['source'] or 'the kernel`s choice'} to {row['destination']}"
    detail = (
        f"session {row['id']}: {row['client']} in service {row['service']}"
        + (f", server {row['server']}, from {way}" if row["server"] else "")
        + f"; {row['state']}, {size(sent)} sent, {size(received)} received"
        + (f"\n{_pooled(row)}" if own else "")
    )
    key = f"session/{row['id']}"
    return Line(
        key, fields, detail, service=row["service"], server=row["server"], session=row["id"]
    )


def _pooled(row: Row) -> str:
    """What a session of a pool has more."""
    there = row["server_connection_id"]
    parts = (
        f"CONNECTION_ID {row['connection_id']}",
        there and f"on the server {there}",
        row["user"] and f"user {row['user']}",
        row["pinned"] and f"pinned: {row['pinned']}",
        row["tls"],
        row["program"],
    )
    return ", ".join(part for part in parts if part)


def events(frame: Frame, _: Rates) -> Board:
    """The last events, the newest first."""
    columns = (Column("TIME"), Column("KIND", rank=1), Column("EVENT", grows=True, least=30))
    return Board(columns, tuple(_event(row) for row in reversed(frame.events)), "No events.")


def _event(row: Row) -> Line:
    kind = KINDS.get(row["kind"])
    level = "info" if kind is None else kind.level_name
    style = {"error": BAD, "warning": WARN}.get(level, "")
    moment = datetime.fromtimestamp(row["time"]).strftime("%m-%d %H:%M:%S")
    fields = (
        Field(moment, by=row["id"]),
        Field(row["kind"], style),
        Field(row["message"]),
    )
    advice = "" if kind is None else f"\n{kind.text} {kind.advice}".rstrip()
    detail = f"{row['message']}{advice}"
    key = f"event/{row['id']}"
    return Line(key, fields, detail, service=row["service"], server=row["server"])


def _pool(row: Row) -> Field:
    """Connections in use, open, at most."""
    if not row.get("pool_max"):
        return Field("")
    is_full = row["pool_busy"] >= row["pool_max"]
    return Field(pool(row), WARN if is_full else "", by=row["pool_busy"])


def _number(count: int, style: str = "") -> Field:
    return Field(f"{count:,}", style, by=count)


def _load(count: int, most: int | None) -> Field:
    if most is None:
        return _number(count)
    return Field(f"{count:,}/{most:,}", WARN if count >= most * 0.9 else "", by=count)


def _per_s(rate: float | None, style: str = "") -> Field:
    """A rate; ``style`` when it is not 0. Small ones keep a digit: 0.3/s is not nothing."""
    if rate is None:
        return Field("", QUIET)
    text = f"{rate:.1f}" if 0 < rate < 10 else f"{rate:,.0f}"
    return Field(text, style if rate else "", by=rate)


def _bytes_per_s(rate: float | None) -> Field:
    return Field("", QUIET) if rate is None else Field(size(int(rate)), by=rate)


def _short(seconds: float) -> str:
    """``0.4ms``, ``12ms``, ``1.5s``."""
    if seconds >= 1:
        return f"{seconds:.1f}s"
    ms = seconds * 1000
    return f"{ms:.1f}ms" if ms < 10 else f"{ms:.0f}ms"


Make = Callable[[Frame, Rates], Board]
NAMES = ("services", "servers", "ports", "sessions", "events")
"""The views, by the names of ``portside show``; in the order of the keys 1 to 5."""


def views(*, ascii_only: bool = False) -> Mapping[str, Make]:
    """What makes each view; ``ascii_only``: the strips without blocks."""
    makes = (services, servers, partial(ports, ascii_only=ascii_only), sessions, events)
    return dict(zip(NAMES, makes, strict=True))


def headline(status: Mapping[str, Any], rates: Rates) -> str:
    """One line about the instance; what matters least stands last."""
    new = rates.total("accepted_total")
    return "  ".join(
        (
            f"Portside {status['version']}",
            "accepting" if status["accepting"] else "draining",
            f"{status['sessions']:,}/{status['max_sessions']:,} sessions",
            "" if new is None else f"{_per_s(new).text}/s",
            f"up {duration(status['uptime_s'])}",
            f"pid {status['pid']}",
            status["config_path"],
        )
    )
