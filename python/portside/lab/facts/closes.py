"""Group 5: who keeps what after each order of closing, and what the server's program still reads.

Over the line, 5 ms each way, so that packets cross as told. C is our end, S the database's; the
states are those that both hosts have for the tuple some 80 ms after the last step. In S11 and T2 C
stands for a client and S for Portside.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from portside.lab.facts.fact import Fact, Outcome
from portside.lab.facts.stage import DELAY_S, Stage, read, reset

_SETTLE_S = 6 * DELAY_S + 0.05


@dataclass
class Scene:
    """One connection and its two ends.

    Attributes:
        stage: loses packets on demand.
        c: our end.
        s: the database's end.
        port: C's.
        heard: what S (or C, then said so) has read.
    """

    stage: Stage
    c: socket.socket
    s: socket.socket
    port: int
    heard: list[str] = field(default_factory=list)

    def quit(self) -> None:
        """C says QUIT."""
        self.c.send(b"QUIT")

    def s_reads(self, times: int = 1) -> None:
        """S reads, and waits for it."""
        self.heard += [read(self.s) for _ in range(times)]

    def c_reads(self, times: int = 1) -> None:
        """C reads, and waits for it."""
        self.heard += [f"C: {read(self.c)}" for _ in range(times)]

    def wait(self, ways: float) -> None:
        """As long as a packet takes so many times."""
        time.sleep(ways * DELAY_S)

    def lose(self, flag: str, *, of_server: bool = False) -> None:
        """The next packet with this flag is lost."""
        hosts = self.stage.hosts
        self.stage.drop_next(hosts.db if of_server else hosts.proxy, flag)


def ended(c: str, s: str, heard: Sequence[str]) -> Outcome:
    """States on both sides and what was read, as one text."""
    said = f"; reads {', '.join(heard)}" if heard else ""
    return Outcome(f"C {c}, S {s}{said}")


def _play(act: Callable[[Scene], None], stage: Stage) -> Outcome:
    c, s = stage.pair()
    port = c.getsockname()[1]
    scene = Scene(stage, c, s, port)
    try:
        act(scene)
        time.sleep(_SETTLE_S)
        hosts = stage.hosts
        return ended(stage.state(hosts.proxy, port), stage.state(hosts.db, port), scene.heard)
    finally:
        c.close()
        s.close()


def _a(one: Scene) -> None:
    one.quit()
    one.c.close()
    one.s_reads(2)
    one.s.close()


def _a2(one: Scene) -> None:
    one.stage.delayed()
    one.quit()
    one.s_reads()
    one.s.close()
    one.c.close()


def _s8a(one: Scene) -> None:
    one.quit()
    reset(one.c)
    one.wait(3)
    one.s_reads(2)


def _s8b(one: Scene) -> None:
    reset(one.c)
    one.wait(3)
    one.s_reads()


def _s8c(one: Scene) -> None:
    one.lose("psh")
    one.quit()
    reset(one.c)
    one.wait(3)
    one.s_reads()


def _server_closes_on_quit(one: Scene) -> None:
    one.quit()
    one.s_reads()
    one.s.close()
    read(one.c)


def _s9a(one: Scene) -> None:
    _server_closes_on_quit(one)
    one.c.close()


def _s9b(one: Scene) -> None:
    _server_closes_on_quit(one)
    reset(one.c)


def _s9d(one: Scene) -> None:
    _server_closes_on_quit(one)
    # Our ACK of its FIN is delayed; without it S repeats the FIN, and another RST answers.
    one.stage.wait_for(one.stage.hosts.db, one.port, "FIN_WAIT2")
    one.lose("rst")
    reset(one.c)


def _s9d_at_once(one: Scene) -> None:
    _server_closes_on_quit(one)
    one.lose("rst")
    reset(one.c)


def _half_close(one: Scene) -> None:
    one.quit()
    one.c.shutdown(socket.SHUT_WR)
    one.s_reads(2)
    one.s.close()
    read(one.c)


def _s10a(one: Scene) -> None:
    _half_close(one)
    one.c.close()


def _s10b(one: Scene) -> None:
    _half_close(one)
    reset(one.c)


def _s10c(one: Scene) -> None:
    one.quit()
    one.c.shutdown(socket.SHUT_WR)
    reset(one.c)
    one.wait(3)
    one.s_reads(2)


def _s10d(one: Scene) -> None:
    one.quit()
    one.c.shutdown(socket.SHUT_WR)
    one.s_reads(2)
    reset(one.c)
    one.wait(3)
    one.s.close()


def _s10e(one: Scene) -> None:
    one.stage.delayed()
    one.c.close()
    one.s.close()


def _s11a(one: Scene) -> None:
    one.quit()
    one.c.close()
    one.s_reads(2)
    reset(one.s)


def _s11b(one: Scene) -> None:
    one.quit()
    one.s_reads()
    reset(one.s)
    one.c.close()
    one.heard.clear()  # the row is about states


def _s11d(one: Scene) -> None:
    one.quit()
    one.s_reads()
    reset(one.s)
    one.heard.clear()
    one.c_reads()


def _s11f(one: Scene) -> None:
    one.s.send(b"reply")
    reset(one.s)
    one.wait(3)
    one.c_reads(2)


def _t2(one: Scene) -> None:
    one.quit()
    one.c.close()
    one.s_reads(2)
    one.stage.wait_for(one.stage.hosts.proxy, one.port, "FIN_WAIT2")
    one.lose("rst", of_server=True)
    reset(one.s)
    one.heard.clear()


_SERVER = (
    'Portside\'s close towards the database ([close] to_server = "eof-reset") rests on this: watch'
    ' TIME_WAIT in portside show ports, and take to_server = "eof" if it grows'
)
_CLIENT = (
    'Portside\'s close towards clients ([close] to_client = "fin-reset") rests on this: take'
    ' to_client = "fin" if clients report errors'
)
_OTHERS = "it shows why Portside does not close this way; its own close does not depend on it"
_NOW = (
    '[close] to_server = "reset-now" loses or keeps QUIT by this; the default, "eof-reset", does'
    " not depend on it"
)


def _fact(
    row: str, says: str, measured: Outcome, act: Callable[[Scene], None], means: str = _OTHERS
) -> Fact:
    quick = row in ("A", "S8a", "S9a", "S9b", "S9d", "S10b", "S11a", "S11d", "T2")
    play = partial(_play, act)
    return Fact(f"5/{row}", says, measured, play, means, delay=True, quick=quick)


FACTS = (
    _fact("A", "C: QUIT, close", ended("TIME_WAIT", "-", ["QUIT", "EOF"]), _a),
    _fact("A2", "both close, their FINs cross", ended("TIME_WAIT", "TIME_WAIT", ["QUIT"]), _a2),
    _fact("S8a", "C: QUIT, RST", ended("-", "-", ["QUIT", "ECONNRESET"]), _s8a, _NOW),
    _fact("S8b", "C: RST only", ended("-", "-", ["ECONNRESET"]), _s8b),
    _fact("S8c", "C: QUIT, which is lost, RST", ended("-", "-", ["ECONNRESET"]), _s8c, _NOW),
    _fact("S9a", "C: QUIT, waits for EOF, close", ended("-", "TIME_WAIT", ["QUIT"]), _s9a),
    _fact("S9b", "C: QUIT, waits for EOF, RST", ended("-", "-", ["QUIT"]), _s9b, _SERVER),
    _fact(
        "S9d",
        "C: QUIT, waits for EOF, RST, which is lost",
        ended("-", "FIN_WAIT2", ["QUIT"]),
        _s9d,
        _SERVER,
    ),
    _fact(
        "S9d-now",
        "C: QUIT, waits for EOF, RST, which is lost; no ACK before",
        ended("-", "FIN_WAIT1", ["QUIT"]),
        _s9d_at_once,
        _SERVER,
    ),
    _fact(
        "S10a",
        "C: QUIT, shutdown, waits for EOF, close",
        ended("TIME_WAIT", "-", ["QUIT", "EOF"]),
        _s10a,
    ),
    _fact(
        "S10b",
        "C: QUIT, shutdown, waits for EOF, RST: too late",
        ended("TIME_WAIT", "-", ["QUIT", "EOF"]),
        _s10b,
    ),
    _fact("S10c", "C: QUIT, shutdown, RST at once", ended("-", "-", ["QUIT", "EOF"]), _s10c),
    _fact(
        "S10d", "C: QUIT, shutdown; S has read it; C: RST", ended("-", "-", ["QUIT", "EOF"]), _s10d
    ),
    _fact("S10e", "both close at once", ended("TIME_WAIT", "TIME_WAIT", []), _s10e),
    _fact(
        "S11a",
        "C: QUIT, close; S: RST after the FIN",
        ended("-", "-", ["QUIT", "EOF"]),
        _s11a,
        _CLIENT,
    ),
    _fact("S11b", "S: RST on QUIT, C has closed", ended("-", "-", []), _s11b, _CLIENT),
    _fact(
        "S11d",
        "S: RST on QUIT, C waits in read()",
        ended("-", "-", ["C: ECONNRESET"]),
        _s11d,
        _CLIENT,
    ),
    _fact(
        "S11f",
        "S: reply, RST, before C reads",
        ended("-", "-", ["C: reply", "C: ECONNRESET"]),
        _s11f,
        _CLIENT,
    ),
    _fact(
        "T2",
        "C: QUIT, close; S: RST after the FIN, which is lost",
        ended("FIN_WAIT2", "-", []),
        _t2,
        _CLIENT,
    ),
)
