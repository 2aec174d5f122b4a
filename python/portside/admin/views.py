"""The shapes in which an instance is seen: by the Python API, the admin API and the command line.

Frozen, flat, JSON-ready (``as_json``). ``control.picture`` puts them together from the
configuration, the runtime state and the engine's counters.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class MemberView:
    """A server inside one service."""

    server: str
    weight: int
    file_weight: int
    """What the configuration file says; differs from ``weight`` when an override holds."""
    backup: bool
    eligible: bool
    active: bool
    """Whether new sessions may go there now: eligible, and not a backup that waits its turn."""
    why: str
    """Why it is not eligible; empty when it is."""
    sessions: int
    sessions_total: int
    share: float
    """Its part of the service's sessions so far, 0 to 1."""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service: listeners, load, members."""

    name: str
    listen: tuple[str, ...]
    mode: str
    balance: str
    state: str
    """``open``, ``paused``, ``no server`` (nothing eligible, or every connect fails) or ``closed``
    (not accepting)."""
    paused: bool
    """Whether an administrator holds clients back, whatever else is wrong."""
    sessions: int
    max_connections: int | None
    queued: int
    accepted_total: int
    refused_total: int
    commands_refused_total: int
    """Pool mode: commands that got an error of Portside's in place of a server connection."""
    to_server_bytes_total: int
    to_client_bytes_total: int
    members: tuple[MemberView, ...]


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server: its health, its load, and what an administrator said about it."""

    name: str
    destinations: tuple[str, ...]
    state: str
    """``up``, ``down``, ``drain``, ``maint``, ``unchecked`` or ``unknown`` (no result yet)."""
    admin: str
    """``ready``, ``drain`` or ``maint``."""
    is_up: bool | None
    """The verdict of the checks, whatever an administrator said; None while unknown."""
    check: str
    """The last check's status word, such as L7OK; empty before the first."""
    check_s: float | None
    """How long the last check that passed took, in seconds; None before the first."""
    reason: str
    """The last error in words."""
    since_s: float | None
    """Seconds in this state."""
    role: str
    """``primary`` (writable), ``replica``, ``read-only``, or empty when no check tells."""
    lag_s: float | None
    sessions: int
    max_connections: int | None
    sessions_total: int
    connect_failures_total: int
    left_before_login_total: int
    close_deadlines_total: int
    """Closes that went without the server's FIN, because it had not come by ``close.deadline``."""
    pool_busy: int
    """Pool mode: server connections in a session's hands."""
    pool_open: int
    """Pool mode: server connections open."""
    pool_max: int | None
    """Pool mode: server connections at most; None: no pool uses it."""
    pool_login_error: str
    """Pool mode: the account that it did not let in, and why; "" when it let it in since."""
    pool_full_error: str
    """Pool mode: what it said a moment ago when it had no place for one more connection; or ""."""
    breaker: str
    connect_error: str
    """Why its breaker is not closed, if a connect failed in the last 30 s; or ""."""
    hosts_blocked: tuple[str, ...]
    """Source addresses that this server refuses (errors 1129 and 1130)."""
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionView:
    """One running session; fields as ``Engine.sessions`` gives them."""

    id: int
    client: str
    service: str
    server: str
    """Where it is connected to; pool mode: "" while it has no server connection, and so are the
    next two."""
    source: str
    destination: str
    state: str
    age_s: float
    idle_s: float
    to_server_bytes: int
    to_client_bytes: int
    user: str = ""
    """Pool mode: its account."""
    program: str = ""
    """Pool mode: what its client calls itself (the connection attribute `program_name`)."""
    connection_id: int | None = None
    """Pool mode: what its client sees as CONNECTION_ID(), and what KILL takes."""
    server_connection_id: int | None = None
    """Pool mode: the id on the server of the connection that it has now; None: none."""
    pinned: str = ""
    """Pool mode: why it keeps its server connection; "" also when that was lost."""
    tls: str = ""
    """Pool mode: version of the client's TLS; "" without."""
    tls_cipher: str = ""
    """Pool mode: its cipher."""


@dataclass(frozen=True, slots=True)
class PortView:
    """The source ports of one of our addresses towards one destination.

    ``in_use`` to ``reserved`` count every tuple once and add up to ``size``.
    """

    source: str
    destination: str
    server: str
    size: int
    """Tuples in the range, listeners of ours left out."""
    in_use: int
    resting: int
    """Closed well, or never: usable, and those unused for longest first."""
    blocked: int
    """Another program has the port, our address is gone, or the server refuses it."""
    time_wait: int
    """Our FIN was first, or the kernel said so: 60 s."""
    free: int
    reserved: int
    """Kept for checks and never used by them yet."""
    new_per_s: float
    """Connections per second, a mean over 10 s."""
    exhausted_in_s: float | None
    """Seconds until no tuple is usable at this rate; None: never, or less than 10 s of samples."""
    wasted_probes: int
    """Tries since the start that the kernel refused."""
    closes: dict[str, int]
    """Closes of sessions in the last minute, by outcome."""
    peer_timestamps: bool | None
    """Whether the server's TCP uses timestamps; None before the first close."""
    resets_lost: bool
    """The path swallows resets: our FIN answers the server's, tuples rest 60 s."""


@dataclass(frozen=True, slots=True)
class ReloadView:
    """What the last reload did: ``ok``, what changed, or the mistakes."""

    ok: bool
    time: float
    message: str
    changes: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What is allowed but doubtful in the new file; in the log, too."""


@dataclass(frozen=True, slots=True)
class StatusView:
    """One page about an instance."""

    version: str
    pid: int
    uptime_s: float
    config_path: str
    generation: int
    accepting: bool
    workers: int
    sessions: int
    max_sessions: int
    last_reload: ReloadView | None
    overrides: tuple[str, ...]
    """Runtime changes in force, each in words."""
    alerts: tuple[str, ...]
    """What needs a person, each in one sentence."""
    services: tuple[ServiceView, ...]
    servers: tuple[ServerView, ...]


def as_json(view: Any) -> Any:  # noqa: ANN401
    """Plain dicts and lists from a view or a sequence of views."""
    if dataclasses.is_dataclass(view) and not isinstance(view, type):
        return dataclasses.asdict(view)
    return [as_json(each) for each in view]
