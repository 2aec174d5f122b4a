"""Group 8: many addresses, and who takes whose ports within one host.

An explicit bind is [source] ports of Portside; a kernel-chosen connect() is any other program. To
make the kernel choose one port its range is that port alone.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from functools import partial

from pyroute2 import IPRoute

from portside.lab.facts.fact import Fact, Outcome
from portside.lab.facts.stage import (
    DB_PORTS,
    Bind,
    RefusedError,
    Stage,
    connect,
    errno_name,
    reset,
)
from portside.lab.hosts import DB_ADDRESS, PROXY_ADDRESSES

_PORT = 20_000
_HERE, _OTHER = PROXY_ADDRESSES[:2]
_NETWORK = "10.99.0"
_EXPLICIT = Bind(_HERE, _PORT, reuse=True)
_CHOSEN = Bind(_HERE, no_port=True)
_CHOSEN_OTHER = Bind(_OTHER, no_port=True)


def _local_route(stage: Stage) -> Outcome:
    """Bind to addresses that only a local route makes ours."""
    del stage
    with IPRoute() as ip:
        ip.route("add", dst=f"{_NETWORK}.0/24", type="local", table=255, scope="host", oif=1)
    refused = []
    for last in (0, 1, 128, 255):
        try:
            connect(Bind(f"{_NETWORK}.{last}", _PORT, reuse=True)).close()
        except RefusedError as error:
            refused.append(f".{last}: {error}")
    return Outcome("; ".join(refused) or "bind and connect work", ".0, .1, .128, .255")


def _freebind(stage: Stage) -> Outcome:
    """An address without a route, by IP_FREEBIND."""
    del stage
    with socket.socket() as client:
        client.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND, linux/in.h
        try:
            client.bind((f"{_NETWORK}.7", _PORT))
        except OSError as error:
            return Outcome(f"bind {errno_name(error)}")
        client.settimeout(2)
        try:
            client.connect((DB_ADDRESS, DB_PORTS[0]))
        except TimeoutError:
            return Outcome("bind ok, connect no answer")
        except OSError as error:
            return Outcome(f"bind ok, connect {errno_name(error)}")
    return Outcome("bind ok, connect ok")


def _held(holder: Bind, state: str, tries: dict[str, Bind], stage: Stage) -> Outcome:
    """What each try comes to, towards the other destination, while ``holder`` has the port."""
    proxy = stage.hosts.proxy
    stage.settings(proxy, {"ip_local_port_range": f"{_PORT} {_PORT}"})
    client, server = stage.pair(holder)
    with client, server:
        if state == "TIME_WAIT":
            client.close()
            server.recv(1)
            server.close()
        answers = {name: _attempt(bind) for name, bind in tries.items()}
    return Outcome(", ".join(f"{name}: {answer}" for name, answer in answers.items()))


def _attempt(bind: Bind, to: int = DB_PORTS[1]) -> str:
    try:
        reset(connect(bind, to))  # no TIME_WAIT of this one is in the next one's way
    except RefusedError as refused:
        return f"{refused}"
    return "ok"


def _listener_there(stage: Stage) -> Outcome:
    """A program listens on the port, on every address."""
    del stage
    with socket.create_server(("", _PORT)):
        return Outcome(_attempt(_EXPLICIT))


def _same_tuple(stage: Stage) -> Outcome:
    """Another program has exactly this connection."""
    client, server = stage.pair(_EXPLICIT)
    with client, server:
        return Outcome(_attempt(_EXPLICIT, DB_PORTS[0]))


def _listen_on_ours(stage: Stage) -> Outcome:
    """A program wants to listen on a port that we hold."""
    client, server = stage.pair(_EXPLICIT)
    with client, server, contextlib.ExitStack() as opened:
        try:
            opened.enter_context(socket.create_server(("", _PORT)))
        except OSError as error:
            return Outcome(f"listen {errno_name(error)}")
    return Outcome("ok")


_ADDRESSES = (
    'a network in [source] addresses ("10.9.0.0/24" with ip route add local) does not work as'
    " described: list addresses that the host has"
)
_OUTSIDE = (
    "whether [source] ports may overlap net.ipv4.ip_local_port_range depends on this; outside of it"
    ' ("auto", 12000-29999) or reserved (ip_local_reserved_ports) they do no harm either way'
)
_PROBES = "Portside's ledger finds such a port by trying; see WASTED and BLOCKED in show ports"


def _facts_of(
    row: str, says: str, holder: Bind, tries: dict[str, Bind], value: str
) -> tuple[Fact, Fact]:
    def one(state: str, quick: bool) -> Fact:
        measure: Callable[[Stage], Outcome] = partial(_held, holder, state, tries)
        suffix = "" if state == "ESTABLISHED" else "-tw"
        return Fact(
            f"8/{row}{suffix}", f"{says}, {state}", Outcome(value), measure, _OUTSIDE, quick=quick
        )

    return one("ESTABLISHED", True), one("TIME_WAIT", False)


FACTS = (
    Fact(
        "8/route",
        "ip route add local 10.99.0.0/24: plain bind to its addresses",
        Outcome("bind and connect work", "256 addresses, .0 and .255 too"),
        _local_route,
        _ADDRESSES,
        quick=True,
    ),
    Fact(
        "8/freebind",
        "IP_FREEBIND without that route",
        Outcome("bind ok, connect ENETUNREACH"),
        _freebind,
        _ADDRESSES,
    ),
    *_facts_of(
        "explicit",
        "port held by an explicit bind",
        _EXPLICIT,
        {"explicit": _EXPLICIT, "kernel's": _CHOSEN, "kernel's, other address": _CHOSEN_OTHER},
        "explicit: ok, kernel's: connect EADDRNOTAVAIL,"
        " kernel's, other address: connect EADDRNOTAVAIL",
    ),
    *_facts_of(
        "kernel",
        "port held by a kernel-chosen connect()",
        _CHOSEN,
        {"explicit": _EXPLICIT, "kernel's": _CHOSEN},
        "explicit: bind EADDRINUSE, kernel's: ok",
    ),
    *_facts_of(
        "other-ip",
        "port held by a kernel-chosen connect() from another address",
        _CHOSEN_OTHER,
        {"explicit": _EXPLICIT, "kernel's": _CHOSEN},
        "explicit: ok, kernel's: ok",
    ),
    Fact(
        "8/listener",
        "explicit bind to a port on which a program listens on every address",
        Outcome("bind EADDRINUSE"),
        _listener_there,
        _PROBES,
        quick=True,
    ),
    Fact(
        "8/same-tuple",
        "explicit bind and connect for a tuple that another program has, ESTABLISHED",
        Outcome("connect EADDRNOTAVAIL", "bind ok"),
        _same_tuple,
        _PROBES,
    ),
    Fact(
        "8/listen-on-ours",
        "listen() with SO_REUSEADDR on a port that an explicit bind holds",
        Outcome("ok"),
        _listen_on_ours,
        "a program started after Portside cannot listen on one of its ports: move [source] ports",
    ),
)
