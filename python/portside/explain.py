"""Every status word, event, close outcome and termination reason in sentences, with what to do.

One list for `portside explain` and the docs. The engine explains its own codes
(`_core.explain_codes()`), the checks their status words; what an administrator can do about each
is said here. Pure: whoever calls passes the engine's codes in.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from portside.errors import PortsideError
from portside.health.judge import STATUS_WORDS


@dataclass(frozen=True, slots=True)
class Code:
    """A word that stands in a log line, a metric, an event or a view."""

    code: str
    kind: str
    """"check status", "event", or the engine's: "cause", "phase", "server close", ..."""
    text: str
    advice: str = ""
    """What to look at or do; "" where nothing is wrong."""

    def __str__(self) -> str:
        return f"{self.code} ({self.kind}): {self.text} {self.advice}".rstrip()


class UnknownCode(PortsideError):
    """No such word; the text names the nearest ones."""


_STATUS_ADVICE: Final = {
    "L4CON": "Is the server running, and does it listen on that address? A firewall that rejects"
    " looks the same. On the proxy: mariadb -h HOST -P PORT.",
    "L4TOUT": "A firewall that drops, a host that is down, or a full accept queue on the server"
    " (nstat -az TcpExtListenOverflows there).",
    "L6RSP": "Compare the TLS versions and the certificate of the server with what is asked for.",
    "L6TOUT": "The host answers but its TLS does not: look at the load of the server.",
    "L7TOUT": "The server is overloaded, or hangs in a lock or on its disk; look at its process"
    " list. If it is only slow, raise check.timeout.",
    "L7RSP": "Is that port MySQL? A server that expects a PROXY header hangs up too: see"
    " send_proxy and proxy_protocol_networks.",
    "L7STS": "The error's number says it: 1045 is the account or its GRANT for our address, 1040"
    " too many connections, 1129 a blocked host (FLUSH HOSTS), 1130 no GRANT for our address.",
    "SOCKERR": "Look at this host, not at the server: file limit, memory, routes, ports.",
    "NO_SOURCE": "Compare source.addresses with ip address on this host. An address that moved away"
    " (a VIP) is used again as soon as it is back.",
    "NO_CHECK": "Without a check only failing connections tell that it is down.",
}

_EVENTS: Final = (
    Code(
        "connect_failed",
        "event",
        "A session could not be connected to this server; a check is made at once.",
        "Sessions go to other servers where there are any. portside show servers says what the"
        " check found.",
    ),
    Code(
        "breaker_open",
        "event",
        "Three connects to this server failed in a row, so the data plane stopped using it without"
        " waiting for the checks.",
        "One connection is let through after a second to see whether it is back.",
    ),
    Code("breaker_closed", "event", "A connect to this server worked again: it is used again."),
    Code(
        "host_blocked",
        "event",
        "The server refuses one of our source addresses: ERR 1129 (too many connections that ended"
        " before their login, max_connect_errors) or 1130 (no GRANT for the address). Other source"
        " addresses go on being used.",
        "1129: FLUSH HOSTS on the server (MySQL 8: TRUNCATE performance_schema.host_cache), and"
        " find who hangs up early: probe_networks keeps probes of other balancers away from it."
        " 1130: GRANT for every source address; portside check --connect tries them all.",
    ),
    Code("host_unblocked", "event", "The server accepts that source address again."),
    Code(
        "queue_full",
        "event",
        "Every server of the service was full and so was its queue: clients got an error.",
        "Raise max_connections of the servers if they can take it, or queue; portside show services"
        " says who waits.",
    ),
    Code(
        "accept_paused",
        "event",
        "New clients wait in the kernel's queue: the process has as many sessions as it may, or no"
        " descriptor was left.",
        "portside check -c FILE prints the arithmetic; raise LimitNOFILE= or max_sessions.",
    ),
    Code("accept_resumed", "event", "New clients are accepted again."),
    Code(
        "ports_exhausted",
        "event",
        "No source port towards this server was left; sessions wait in the queue. It is not the"
        " database.",
        "portside show ports says what they are busy with. Add addresses to source.addresses, or"
        " widen source.ports.",
    ),
    Code(
        "source_suspended",
        "event",
        "A source address is not on this host any more (a VIP that moved); it is left out.",
        "Nothing, if it moved on purpose; it is used again when it comes back.",
    ),
    Code("source_back", "event", "A source address is on this host again and used again."),
    Code(
        "resets_lost",
        "event",
        "Something on the way to this server swallows resets, so it keeps old connections open and"
        " a source port that is used again does not get through. For now our FIN answers the"
        " server's (it keeps a TIME_WAIT, which blocks nobody), and ports rest 60 s; five quiet"
        " minutes later resets are tried again.",
        'Look for a firewall that drops RST, or use close = { to_server = "eof" } for this server.',
    ),
    Code(
        "worker_died",
        "event",
        "A worker thread ended by a fault of ours; its sessions are lost, and a new one took over"
        " its listeners.",
        "Please report it with the log around it.",
    ),
    Code(
        "log_dropped",
        "event",
        "Session log lines were lost because they were written faster than the disk or pipe takes.",
        'Use log.sessions = "1/100" or "errors", or log.file on a faster disk.',
    ),
)


def codes(engine: str) -> tuple[Code, ...]:
    """Every code there is.

    Args:
        engine: what `_core.explain_codes()` returned.
    """
    statuses = (
        Code(str(status), "check status", text, _STATUS_ADVICE.get(str(status), ""))
        for status, text in STATUS_WORDS.items()
    )
    engines = (Code(row["code"], row["kind"], row["text"]) for row in json.loads(engine))
    return (*statuses, *_EVENTS, *engines)


def explain(word: str, known: Sequence[Code]) -> list[Code]:
    """What a word means; a termination "cause/phase" is explained part by part.

    Raises:
        UnknownCode: nobody uses this word; the nearest ones are in the text.
    """
    found = _lookup(word, known)
    if not found and "/" in word:
        cause, _, phase = word.partition("/")
        parts = [
            *_lookup(cause, (code for code in known if code.kind != "phase")),
            *_lookup(phase, (code for code in known if code.kind == "phase")),
        ]
        found = parts if len(parts) >= 2 else []
    if not found:
        near = difflib.get_close_matches(word.lower(), {c.code.lower(): c for c in known}, n=3)
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        raise UnknownCode(f'"{word}" is no code of Portside{hint or "."} All: portside explain')
    return found


def _lookup(word: str, known: Iterable[Code]) -> list[Code]:
    return [code for code in known if code.code.lower() == word.lower()]
