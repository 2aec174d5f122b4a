"""The namespaces of one fact: web, proxy and db as in the lab, their settings and their sockets.

A fact's function runs on a thread inside the proxy's namespace, so sockets that it makes are the
proxy's; the listeners are the database's. Each fact gets a stage of its own: no TIME_WAIT of an
earlier one is in its way.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from portside import _core
from portside.lab.errors import LabError
from portside.lab.facts.fact import CannotMeasureError
from portside.lab.hosts import DB_ADDRESS, Host, Hosts
from portside.lab.path import PathPlan, line, path

DELAY_S = 0.005
"""Each way, on the line."""
DB_PORTS = (3306, 3307)
"""Two destinations."""

# linux/in.h; Python 3.11 has neither.
_IP_BIND_ADDRESS_NO_PORT = 24
_IP_LOCAL_PORT_RANGE = 51
# A connect() or a read that takes longer is a lost cause, not a lost SYN (1 s).
_PATIENCE_S = 4
_TOTAL_RETRANS_AT = 100  # struct tcp_info, tcpi_total_retrans; linux/tcp.h

# The kernel's own defaults, said so that a system's changes do not count, and two for exact counts:
# stray resets must not end a TIME_WAIT (RFC 1337), and the number of them has no limit in reach.
_SETTINGS = {
    "ip_local_port_range": "32768 60999",
    "tcp_timestamps": "1",
    "tcp_tw_reuse": "0",
    "tcp_fin_timeout": "60",
    "tcp_rfc1337": "1",
    "ip_autobind_reuse": "0",
    "ip_nonlocal_bind": "0",
}
_STATES = {
    "01": "ESTABLISHED",
    "02": "SYN_SENT",
    "04": "FIN_WAIT1",
    "05": "FIN_WAIT2",
    "06": "TIME_WAIT",
    "07": "CLOSE",
    "08": "CLOSE_WAIT",
    "09": "LAST_ACK",
    "0B": "CLOSING",
}
"""The fourth column of /proc/net/tcp. Source: net/tcp_states.h."""
_LISTEN = "0A"


class RefusedError(Exception):
    """bind() or connect() said no.

    Attributes:
        call: "bind" or "connect".
        name: EADDRNOTAVAIL and so on; "no answer" when it waited in vain.
    """

    def __init__(self, call: str, error: OSError) -> None:
        self.call = call
        # EINPROGRESS: SO_SNDTIMEO is over.
        late = error.errno in (errno.EINPROGRESS, errno.ETIMEDOUT)
        self.name = "no answer" if late else errno_name(error)
        super().__init__(f"{call} {self.name}")


@dataclass(frozen=True)
class Bind:
    """How a socket gets its source address and port.

    Attributes:
        source: the address to bind to; None: no bind().
        port: 0 leaves it to the kernel.
        reuse: SO_REUSEADDR.
        no_port: IP_BIND_ADDRESS_NO_PORT, the port is chosen by connect().
        ports: IP_LOCAL_PORT_RANGE.
    """

    source: str | None = None
    port: int = 0
    reuse: bool = False
    no_port: bool = False
    ports: tuple[int, int] | None = None


ANY = Bind()
"""The kernel chooses address and port."""


class Stage:
    """Made by ``stage``.

    Attributes:
        hosts: the namespaces.
        ended: set when nobody waits for the outcome any more.
    """

    def __init__(self, hosts: Hosts, drops: _core.Line | str, always: Mapping[str, str]) -> None:
        """Sets every setting and listens.

        Args:
            hosts: proxy and db must be joined.
            drops: the line between them, or why it is a cable.
            always: settings that win over what a fact asks for, as if the system enforced them.
        """
        self.hosts = hosts
        self.ended = threading.Event()
        self._line = drops
        self._always = always
        for host in (hosts.proxy, hosts.db):
            host.sysctl(_SETTINGS)
            self.settings(host, {})
        self._listeners = hosts.db.inside(lambda: {port: _listen(port) for port in DB_PORTS})

    def settings(self, host: Host, values: Mapping[str, str]) -> None:
        """``net.ipv4`` settings of one host.

        Raises:
            CannotMeasureError: the kernel has no such setting, or we may not change it.
        """

        def write() -> None:
            for key, value in {**values, **self._always}.items():
                try:
                    Path("/proc/sys/net/ipv4", key).write_text(value)
                except FileNotFoundError:
                    raise CannotMeasureError(f"this kernel has no net.ipv4.{key}") from None
                except OSError as error:
                    raise CannotMeasureError(
                        f"net.ipv4.{key} cannot be set here: {error.strerror}"
                    ) from error

        host.inside(write)

    def pair(self, bind: Bind = ANY, to: int = DB_PORTS[0]) -> tuple[socket.socket, socket.socket]:
        """A connection to the database: our end and its end.

        Raises:
            RefusedError: bind() or connect() failed.
        """
        client = connect(bind, to)
        try:
            return client, self.accept(to)
        except BaseException:
            client.close()
            raise

    def accept(self, to: int = DB_PORTS[0]) -> socket.socket:
        """The database's end of the connection that was made last."""
        if self.ended.is_set():
            raise CannotMeasureError("ended")
        server, _ = self._listeners[to].accept()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_PATIENCE_S))
        return server

    def drop_next(self, sender: Host, flag: str) -> None:
        """The line loses the next packet with this flag ("psh", "rst") that ``sender`` sends."""
        lossy = self.delayed()
        end = "a" if sender is self.hosts.proxy else "b"
        lossy.drop_also(json.dumps({"from": end, "flag": flag, "count": 1}))

    def delayed(self) -> _core.Line:
        """The line, for whoever needs packets to cross or to be lost.

        Raises:
            CannotMeasureError: proxy and db are joined by a cable.
        """
        if isinstance(self._line, str):
            raise CannotMeasureError(f"it needs /dev/net/tun: {self._line}")
        return self._line

    @contextlib.contextmanager
    def no_way_out(self) -> Iterator[None]:
        """Whatever the proxy sends to the database is lost: pure ACKs have no flag to drop by."""
        route = {"dst": f"{DB_ADDRESS}/32", "type": "blackhole"}

        def change(verb: str) -> None:
            with IPRoute() as ip:
                ip.route(verb, **route)

        change("add")
        try:
            yield
        finally:
            change("del")

    def state(self, host: Host, port: int) -> str:
        """State of the connection with our port ``port`` as ``host`` has it; "-": none."""
        found = []
        text = host.inside(lambda: Path("/proc/thread-self/net/tcp").read_text())
        for row in text.splitlines()[1:]:
            _, local, remote, code, *_ = row.split()
            if code != _LISTEN and f"{port:04X}" in (local[-4:], remote[-4:]):
                found.append(_STATES.get(code, code))
        return "+".join(found) or "-"

    def wait_for(self, host: Host, port: int, state: str) -> None:
        """Until the tuple is in ``state`` there, for a second at most: what follows tells."""
        deadline = time.monotonic() + 1.0
        while self.state(host, port) != state and time.monotonic() < deadline:
            time.sleep(DELAY_S)

    def close(self) -> None:
        """Ends the listeners."""
        for listener in self._listeners.values():
            listener.close()


@contextlib.contextmanager
def stage(delay: bool, always: Mapping[str, str]) -> Iterator[Stage]:
    """Namespaces for one fact, over the line (5 ms each way) or over a cable.

    Where no line can be had it is a cable too: most states do not depend on the delay, and what
    does calls ``Stage.delayed``.

    Raises:
        LabError: namespaces cannot be had.
        CannotMeasureError: a setting is refused.
    """
    with Hosts() as hosts, contextlib.ExitStack() as opened:
        drops: _core.Line | str = "not asked for"
        if delay:
            try:
                plan = PathPlan(delay_us=round(DELAY_S * 1e6))
                drops = opened.enter_context(line(hosts, plan))
            except LabError as error:
                said = error.__cause__
                drops = str(said.strerror if isinstance(said, OSError) else said)
        if isinstance(drops, str):
            opened.enter_context(path(hosts, PathPlan()))
        one = Stage(hosts, drops, always)
        try:
            yield one
        finally:
            one.ended.set()
            one.close()


def connect(bind: Bind, to: int = DB_PORTS[0]) -> socket.socket:
    """A connection to the database.

    Raises:
        RefusedError: bind() or connect() failed, or the kernel has no IP_LOCAL_PORT_RANGE.
    """
    client = _prepare(bind)
    try:
        client.connect((DB_ADDRESS, to))
    except OSError as error:
        client.close()
        raise RefusedError("connect", error) from error
    return client


def _prepare(bind: Bind) -> socket.socket:
    """A socket with its options, bound as told. Raises as ``connect``."""
    client = socket.socket()
    try:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_PATIENCE_S))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_PATIENCE_S))
        if bind.reuse:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if bind.no_port:
            client.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        if bind.ports:
            _set_ports(client, bind.ports)
        if bind.source is not None:
            _bind(client, bind.source, bind.port)
    except BaseException:
        client.close()
        raise
    return client


def reset(one: socket.socket) -> None:
    """Closes with RST: SO_LINGER, 0 s."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def read(one: socket.socket) -> str:
    """What a read gives: the text, "EOF", or the name of the error."""
    try:
        return one.recv(100).decode() or "EOF"
    except BlockingIOError:
        return "nothing"  # SO_RCVTIMEO
    except OSError as error:
        return errno_name(error)


def resent(client: socket.socket) -> int:
    """Packets that a connection had to send again, its SYN included."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("=I", info, _TOTAL_RETRANS_AT)[0])


def errno_name(error: OSError) -> str:
    """EADDRINUSE and so on."""
    return errno.errorcode.get(error.errno or 0, f"errno {error.errno}")


def _set_ports(client: socket.socket, ports: tuple[int, int]) -> None:
    low, high = ports
    try:
        client.setsockopt(
            socket.IPPROTO_IP, _IP_LOCAL_PORT_RANGE, struct.pack("=I", high << 16 | low)
        )
    except OSError as error:
        # A kernel that lacks it is what the reader wants to know: an outcome, not an excuse.
        raise RefusedError("IP_LOCAL_PORT_RANGE", error) from error


def _bind(client: socket.socket, source: str, port: int) -> None:
    try:
        client.bind((source, port))
    except OSError as error:
        raise RefusedError("bind", error) from error


def _listen(port: int) -> socket.socket:
    listener = socket.create_server((DB_ADDRESS, port), backlog=1000)
    listener.settimeout(_PATIENCE_S)
    return listener


def _timeval(seconds: int) -> bytes:
    return struct.pack("@ll", seconds, 0)
