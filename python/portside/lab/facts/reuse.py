"""Group 6: how soon a tuple works again, by the state that the last connection left behind.

Explicit bind with SO_REUSEADDR, 5 ms each way, tcp_tw_reuse=0, with TCP timestamps and without. A
server that still has the old connection answers the SYN with a challenge ACK; our reset ends it,
and the SYN that is sent again succeeds.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from portside.lab.facts.fact import Fact, Outcome
from portside.lab.facts.stage import (
    DELAY_S,
    Bind,
    RefusedError,
    Stage,
    connect,
    read,
    resent,
    reset,
)
from portside.lab.hosts import PROXY_ADDRESSES

_BIND = Bind(PROXY_ADDRESSES[0], 20_000, reuse=True)
_SETTLE_S = 6 * DELAY_S
# A SYN without an answer is repeated after 1 s (TCP_TIMEOUT_INIT); after a challenge at once.
_LOST_SYN_MS = 900.0

_Leave = Callable[[Stage, socket.socket, socket.socket], None]


def reached(syn_repeats: int, took_ms: float) -> Outcome:
    """The class of a connect() that succeeded."""
    if took_ms >= _LOST_SYN_MS:
        value = "after a SYN without an answer"
    else:
        value = "one challenge more" if syn_repeats else "at once"
    return Outcome(value, f"{took_ms:.1f} ms")


def _again(leave: _Leave, timestamps: bool, stage: Stage) -> Outcome:
    for host in (stage.hosts.proxy, stage.hosts.db):
        stage.settings(host, {"tcp_timestamps": str(int(timestamps))})
    client, server = stage.pair(_BIND)
    with ExitStack() as until_then:
        until_then.callback(client.close)
        until_then.callback(server.close)
        client.send(b"QUIT")
        leave(stage, client, server)
        time.sleep(_SETTLE_S)
        began = time.monotonic()
        try:
            second = connect(_BIND)
        except RefusedError as refused:
            return Outcome(f"{refused}")
        took_ms = (time.monotonic() - began) * 1000
        with second:
            return reached(resent(second), took_ms)


def _server_closes_on_quit(server: socket.socket) -> None:
    read(server)
    server.close()


def _read_to_eof(server: socket.socket) -> None:
    while read(server) == "QUIT":
        pass


def _r1(_: Stage, client: socket.socket, server: socket.socket) -> None:
    client.close()
    _read_to_eof(server)
    server.close()


def _r2(stage: Stage, client: socket.socket, server: socket.socket) -> None:
    client.close()
    _read_to_eof(server)
    # The ACK is delayed, and a FIN_WAIT1 is a whole socket: it bars its tuple.
    stage.wait_for(stage.hosts.proxy, _BIND.port, "FIN_WAIT2")


def _r3(_: Stage, client: socket.socket, server: socket.socket) -> None:
    reset(client)
    _server_closes_on_quit(server)


def _r3b(stage: Stage, client: socket.socket, server: socket.socket) -> None:
    stage.drop_next(stage.hosts.proxy, "rst")
    reset(client)
    _server_closes_on_quit(server)


def _r4(_: Stage, client: socket.socket, server: socket.socket) -> None:
    _server_closes_on_quit(server)
    read(client)
    client.close()


def _r5(_: Stage, client: socket.socket, server: socket.socket) -> None:
    _server_closes_on_quit(server)
    read(client)
    reset(client)


def _r6(stage: Stage, client: socket.socket, server: socket.socket) -> None:
    _server_closes_on_quit(server)
    read(client)
    stage.wait_for(stage.hosts.db, _BIND.port, "FIN_WAIT2")
    stage.drop_next(stage.hosts.proxy, "rst")
    reset(client)


def _r7(stage: Stage, client: socket.socket, server: socket.socket) -> None:
    client.close()
    _read_to_eof(server)
    stage.wait_for(stage.hosts.proxy, _BIND.port, "FIN_WAIT2")
    with stage.no_way_out():
        server.close()
        time.sleep(3 * DELAY_S)


_OK, _MORE, _NO = "at once", "one challenge more", "connect EADDRNOTAVAIL"
_FIRST = (
    "tuples whose close went wrong (our FIN first) rest longer or shorter than Portside's ledger"
    ' believes; the default [close] to_server = "eof-reset" leaves none such'
)
_THEIRS = (
    "a tuple that was closed well is not usable at once: give [source] more ports or addresses, so"
    " that each rests longer"
)


def _facts(
    row: str, says: str, leave: _Leave, with_ts: tuple[str, str], without: tuple[str, str]
) -> tuple[Fact, Fact]:
    means = _FIRST if row in ("R1", "R2", "R7") else _THEIRS
    quick = row in ("R1", "R5", "R6")

    def one(timestamps: bool, value: str, detail: str) -> Fact:
        return Fact(
            f"6/{row}" if timestamps else f"6/{row}-ts0",
            says if timestamps else f"{says}; no timestamps",
            Outcome(value, detail),
            partial(_again, leave, timestamps),
            means,
            delay=True,
            quick=quick,
        )

    return one(True, *with_ts), one(False, *without)


FACTS = (
    *_facts("R1", "our TIME_WAIT", _r1, (_OK, "10.6 ms"), (_NO, "")),
    *_facts(
        "R2", "our FIN_WAIT2, the server's program is late", _r2, (_MORE, "31.4 ms"), (_NO, "")
    ),
    *_facts("R3", "we closed with RST", _r3, (_OK, "10.3 ms"), (_OK, "10.3 ms")),
    *_facts("R3b", "we closed with RST, which was lost", _r3b, (_OK, "10.4 ms"), (_OK, "10.4 ms")),
    *_facts("R4", "the server's TIME_WAIT", _r4, (_OK, "10.4 ms"), (_OK, "12.8 ms")),
    *_facts("R5", "the server's FIN, then our RST", _r5, (_OK, "10.3 ms"), (_OK, "10.4 ms")),
    *_facts(
        "R6",
        "the server's FIN, then our RST, which was lost",
        _r6,
        (_MORE, "31.6 ms"),
        (_MORE, "33.4 ms"),
    ),
    *_facts("R7", "our TIME_WAIT, the last ACK was lost", _r7, (_MORE, "30.4 ms"), (_NO, "")),
)
