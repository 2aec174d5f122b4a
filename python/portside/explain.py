"""Every status word, event, close outcome and termination reason in sentences, with what to do.

One list for `portside explain` and the docs. The engine explains its own codes
(`_core.explain_codes()`), `control.event_kinds` the events, the checks their status words; what an
administrator can do about the last is said here. Pure: the engine's codes are passed in.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from portside.control.event_kinds import KINDS
from portside.errors import PortsideError
from portside.health.judge import STATUS_WORDS


@dataclass(frozen=True, slots=True)
class Code:
    """A word that stands in a log line, a metric, an event or a view."""

    code: str
    kind: str
    """"check status", "event", "client error", or the engine's: "cause", "phase", ..."""
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


_NOT_TRIED: Final = Code(
    "NOT_TRIED",
    "check status",
    "portside check --connect made no login with this account; the detail says why.",
    "Of a password's hash the first client's login tells the rest; else mend what failed before.",
)


_CLIENT_ERRORS: Final = (
    Code(
        "1040",
        "client error",
        "In a text that begins with portside: no server connection was free in time"
        " (timeouts.queue, queue), or max_connections of the service is reached. Else it is a"
        " server's own.",
        "Pool mode: portside show sessions, PINNED, says who keeps a connection. Relays: portside"
        " show services. A server's own: raise max_connections there or lower ours.",
    ),
    Code(
        "1045",
        "client error",
        "In a text that begins with portside: the client's name or password is not one of [[user]]."
        " Else a server refuses the account: its password there, or no account for our address.",
        "portside check --connect tries every account from every source address.",
    ),
    Code(
        "1053",
        "client error",
        "Pool mode: the connection was lost, or its server was taken away, after a command was sent"
        " on it; nobody knows whether it was done. An open transaction is lost.",
        "portside show events says what became of the server.",
    ),
    Code(
        "1235",
        "client error",
        "Pool mode: what was asked cannot be answered truly with shared connections; the text names"
        " it.",
        "docs/pooling.md has the cases; a service in relay mode has none of them.",
    ),
    Code(
        "1429",
        "client error",
        "No server could be connected to for this client; the text says why for each.",
        "portside show, then portside show events.",
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
    events = (Code(kind.name, "event", kind.text, kind.advice) for kind in KINDS.values())
    return (*statuses, _NOT_TRIED, *events, *_CLIENT_ERRORS, *engines)


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
