"""Every kind of event there is: how loud it is in the log, what it means, what to do.

One list for the log's levels, ``portside explain``, the metric ``portside_events_total`` and
docs/events.md, which a test holds to it. Whoever makes an event (the engine, the checks, the
verbs) names its kind; nothing here knows when one happens. Pure.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EventKind:
    """One kind of event.

    Attributes:
        name: as it stands in the log, the API and the metric.
        level: of ``logging``.
        text: what has happened, in sentences.
        advice: what to look at or do; "" where nothing is wrong.
    """

    name: str
    level: int
    text: str
    advice: str = ""

    @property
    def level_name(self) -> str:
        """``info``, ``warning`` or ``error``, as the log says it."""
        return logging.getLevelName(self.level).lower()


_INFO, _WARNING, _ERROR = logging.INFO, logging.WARNING, logging.ERROR

_SERVERS = (
    EventKind("server_up", _INFO, "The checks found the server up; the message says by what."),
    EventKind(
        "server_down",
        _WARNING,
        "So many checks in a row failed that the server counts as down; the message has the last"
        " one's status word and error.",
        "portside explain WORD says what to look at; portside show servers has all of them.",
    ),
    EventKind("became_writable", _INFO, "read_only is off now on the server."),
    EventKind(
        "became_read_only",
        _INFO,
        "read_only is on now on the server: services that need a writable one leave it.",
    ),
    EventKind("replication_running", _INFO, "Replication runs again on the server."),
    EventKind(
        "replication_stopped",
        _WARNING,
        "A replication thread of the server has stopped: services that need it leave the server.",
        "SHOW REPLICA STATUS there has the error.",
    ),
    EventKind(
        "reading_missing",
        _WARNING,
        "The check's user may not read what the service needs to know.",
        "The message has the GRANT that is missing.",
    ),
    EventKind(
        "no_source",
        _WARNING,
        "No check could be made: none of the source addresses for this server is on this host.",
        "Compare source.addresses with ip address.",
    ),
    EventKind(
        "check_impossible",
        _WARNING,
        "This host could not make the check (port, descriptor, memory, route); the verdict on the"
        " server stays.",
        "Look at this host, not at the server: portside explain SOCKERR.",
    ),
    EventKind(
        "checks_void",
        _WARNING,
        "Three checks in a row do not count, because this process was held up.",
        "Look for CPU shortage on this host, and for slow Python checks.",
    ),
    EventKind("resolved", _INFO, "A server's name has other addresses, or resolves again."),
    EventKind(
        "resolve_failed",
        _WARNING,
        "A server's name does not resolve; the addresses known before stay in use.",
        "Ask the name server: getent ahosts NAME.",
    ),
)

_CONNECTING = (
    EventKind(
        "connect_failed",
        _WARNING,
        "A session could not be connected to this server; a check is made at once.",
        "Sessions go to other servers where there are any. portside show servers says what the"
        " check found.",
    ),
    EventKind(
        "breaker_open",
        _WARNING,
        "Three connects to this server failed in a row, so the data plane stopped using it without"
        " waiting for the checks.",
        "One connection is let through after a second to see whether it is back.",
    ),
    EventKind("breaker_closed", _INFO, "A connect to this server worked again: it is used again."),
    EventKind(
        "host_blocked",
        _WARNING,
        "The server refuses one of our source addresses: ERR 1129 (too many connections that ended"
        " before their login, max_connect_errors) or 1130 (no GRANT for the address). Other source"
        " addresses go on being used.",
        "1129: FLUSH HOSTS on the server (MySQL 8: TRUNCATE performance_schema.host_cache), and"
        " find who hangs up early: probe_networks keeps probes of other balancers away from it."
        " 1130: GRANT for every source address; portside check --connect tries them all.",
    ),
    EventKind("host_unblocked", _INFO, "The server accepts that source address again."),
    EventKind(
        "write_refused",
        _WARNING,
        "Pool mode: a client's write met a server that is read-only (ERR 1290 or 1836). The client"
        " got the server's error. At most one event per server and minute, with the number so far.",
        "Clients write to a service of replicas, or the primary has become read-only: give the"
        ' service for writes require = "writable". ERR 1290 also stands for other options, such as'
        " secure_file_priv.",
    ),
    EventKind(
        "login_refused",
        _WARNING,
        "Pool mode: a server does not let an account of ours in; clients of that account get error"
        " 1429 with the same reason. At most one event per server and minute, with the number so"
        " far.",
        "The message has the server's error and the cure; portside check --connect tries every"
        " [[user]] on every server, from every source address.",
    ),
    EventKind(
        "server_full",
        _WARNING,
        "Pool mode: a server has no place for one more connection of ours (ERR 1040, 1203 or 1226),"
        " so clients wait for those that are there. At most one event per server and minute.",
        "Raise max_connections (or the account's limit) there, or lower [pool] max.",
    ),
    EventKind(
        "close_deadlines",
        _WARNING,
        "The server's FIN was still missing when close.deadline had passed after our QUIT, so"
        " sessions were closed without it. One event per server and 10 s, with the number.",
        "A server that is overloaded or hangs closes late; so does one behind a firewall that"
        " loses packets. portside show ports says how the closes ended.",
    ),
)

_PORTS = (
    EventKind(
        "ports_exhausted",
        _ERROR,
        "No source port towards this server was left; sessions wait in the queue. It is not the"
        " database.",
        "portside show ports says what they are busy with. Add addresses to source.addresses, or"
        " widen source.ports.",
    ),
    EventKind(
        "source_suspended",
        _WARNING,
        "A source address is not on this host any more (a VIP that moved); it is left out.",
        "Nothing, if it moved on purpose; it is used again when it comes back.",
    ),
    EventKind("source_back", _INFO, "A source address is on this host again and used again."),
    EventKind(
        "resets_lost",
        _WARNING,
        "Something on the way to this server swallows resets, so it keeps old connections open and"
        " a source port that is used again does not get through. For now our FIN answers the"
        " server's (it keeps a TIME_WAIT, which blocks nobody), and ports rest 60 s; five quiet"
        " minutes later resets are tried again.",
        'Look for a firewall that drops RST, or use close = { to_server = "eof" } for this server.',
    ),
)

_SERVICES = (
    EventKind("service_up", _INFO, "The service has a server for new sessions again."),
    EventKind(
        "service_down",
        _ERROR,
        "No server of the service may take new sessions; clients read the reason in their error.",
        "The message names each server and what keeps it out.",
    ),
    EventKind(
        "failover",
        _WARNING,
        "The service's sessions go to another server now; the message says from where and why.",
        'With failback = "manual" the old one waits: portside switch SERVICE SERVER.',
    ),
    EventKind("switched", _INFO, "The service went to the server that an administrator named."),
    EventKind(
        "two_writers",
        _ERROR,
        "Two servers of the service are writable: the one that had the writes keeps them.",
        "Set read_only on the other before their data drift apart.",
    ),
    EventKind(
        "queue_full",
        _WARNING,
        "Every server of the service was full and so was its queue: clients got an error.",
        "Raise max_connections of the servers if they can take it, or queue; portside show services"
        " says who waits.",
    ),
    EventKind(
        "pool_exhausted",
        _WARNING,
        "Pool mode: clients waited in vain for a free server connection and got error 1040. At most"
        " one event per service and minute; the number in it counts all commands refused so far.",
        "portside show sessions, PINNED, says who keeps a connection; raise [pool] max if the"
        " servers can take it.",
    ),
    EventKind(
        "sessions_closed",
        _WARNING,
        "Running sessions were closed: their server is down, in maint, or lost the writes.",
    ),
)

_ADMIN = (
    EventKind("admin_drain", _INFO, "An administrator said drain: no new sessions there."),
    EventKind("admin_maint", _INFO, "An administrator said maint: its sessions end, too."),
    EventKind("admin_ready", _INFO, "An administrator took the server back."),
    EventKind("admin_weight", _INFO, "An administrator set a weight."),
    EventKind("admin_pause", _INFO, "An administrator paused the service: new clients wait."),
    EventKind("admin_resume", _INFO, "An administrator ended a pause."),
    EventKind("reload", _INFO, "A reload was put in force; the message has what changed."),
    EventKind(
        "reload_refused",
        _WARNING,
        "A reload was refused; the configuration in force stays.",
        "The message has the mistakes; portside check -c FILE has them with their lines.",
    ),
)

_PROCESS = (
    EventKind(
        "accept_paused",
        _WARNING,
        "New clients wait in the kernel's queue: the process has as many sessions as it may, or no"
        " descriptor was left.",
        "portside check -c FILE prints the arithmetic; raise LimitNOFILE= or max_sessions.",
    ),
    EventKind("accept_resumed", _INFO, "New clients are accepted again."),
    EventKind(
        "worker_died",
        _ERROR,
        "A worker thread ended by a fault of ours; its sessions are lost, and a new one took over"
        " its listeners.",
        "Please report it with the log around it.",
    ),
    EventKind(
        "log_dropped",
        _WARNING,
        "Session log lines were lost because they were written faster than the disk or pipe takes.",
        'Use log.sessions = "1/100" or "errors", or log.file on a faster disk.',
    ),
    EventKind(
        "apply_failed",
        _ERROR,
        "The engine refused a change that was decided; it goes on with what it has, and it is asked"
        " again.",
        "Please report it with the log around it.",
    ),
    EventKind(
        "events_missed",
        _WARNING,
        "Only in the event stream: events between the reader's last one and the next were forgotten"
        " before it took them.",
        "The log has all of them.",
    ),
)

GROUPS: dict[str, tuple[EventKind, ...]] = {
    "Servers": _SERVERS,
    "Connections to servers": _CONNECTING,
    "Source ports": _PORTS,
    "Services": _SERVICES,
    "What an administrator did": _ADMIN,
    "The process": _PROCESS,
}
"""By what they are about, in the order of docs/events.md."""

KINDS: dict[str, EventKind] = {kind.name: kind for group in GROUPS.values() for kind in group}
"""By name."""
