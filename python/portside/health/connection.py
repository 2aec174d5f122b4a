"""Opens and closes the connections of checks, by the rules that sessions follow.

For: binding to a source address, telling a local shortage from a server's failure, and closing
so that neither a TIME_WAIT nor an Aborted_connects is left. Every socket that a check opens
comes from ``open_to`` and ends in ``reset`` or ``close_after_quit``. It must not know what is
said on it. A port lent by the data plane travels with its socket and goes back when that closes.

Close rules (docs/how-it-works.md; measured): after QUIT no FIN of ours; read until the server's
FIN, then RST (SO_LINGER 1, 0). A connection closed before the server noticed it (``quiet``)
costs the server nothing: the ACK of its SYN-ACK is held back (TCP_QUICKACK 0) and an RST goes
out instead, so that accept() never returns it. A plain close would count as Aborted_connects,
and at max_connect_errors of them (default 100) the server blocks our address with ERR 1129.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Protocol

from .judge import Status
from .target import CloseRule, Destination

# Not in the socket module of Python 3.11. Source: linux/in.h.
IP_BIND_ADDRESS_NO_PORT = 24
LINGER_RESET = struct.pack("ii", 1, 0)
PEEK_AGAIN_S = 0.01
_SYN_SENT = 2  # include/net/tcp_states.h

# The system had no room for us; the server was not even asked.
LOCAL_SHORTAGE = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EPERM,
        errno.ENETUNREACH,
        errno.EAFNOSUPPORT,
    }
)
# Answers of the other side (or of its file) that no lateness of ours can cause.
DEFINITIVE = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.EACCES, errno.ENOTSOCK})


class PortLease(Protocol):
    """A source port lent by the data plane: ``portside._core.PortLease``."""

    # ruff: noqa: D102  described where they are implemented
    @property
    def source(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def resets_are_lost(self) -> bool: ...
    def give_back(self, how: str) -> None: ...


class PortDoor(Protocol):
    """Where checks lease source ports: the data plane."""

    def lease(
        self, server: str, destination: str, avoid: Sequence[str] | None = None
    ) -> PortLease | None: ...


class CheckSocket(socket.socket):
    """A check's connection; gives its port back when it is closed.

    Attributes:
        lease: the port, None where the kernel chose it.
        ended: how the connection ended, as ``PortLease.give_back`` takes it.
    """

    lease: PortLease | None = None
    ended = "reset"

    def close(self) -> None:
        """Closes, then gives the port back."""
        super().close()
        if self.lease is not None:
            self.lease.give_back(self.ended)
            self.lease = None


class NoPort(Exception):
    """No port to lease; ``is_gone``: because none of our addresses is on this host."""

    def __init__(self, text: str, *, is_gone: bool) -> None:
        super().__init__(text)
        self.is_gone = is_gone


class PortRefused(Exception):
    """The kernel did not let us have this port; another one may do."""


class CheckError(Exception):
    """A check ended here: its status and what to tell."""

    def __init__(self, status: Status, detail: str, *, definitive: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.definitive = definitive


def _words(error: OSError) -> str:
    if error.errno is None:
        return str(error)
    return f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)})"


def connect_error(error: OSError, destination: Destination, source: str) -> CheckError:
    """What a failed socket(), bind() or connect() says about the server, or about us."""
    way = f"{source} -> {destination.text}" if source else destination.text
    detail = f"connect {way}: {_words(error)}"
    if error.errno in LOCAL_SHORTAGE:
        return CheckError(Status.SOCKERR, f"{detail}; not the database")
    if error.errno == errno.ETIMEDOUT:
        return CheckError(Status.L4TOUT, detail)
    return CheckError(Status.L4CON, detail, definitive=error.errno in DEFINITIVE)


def _make_socket(
    destination: Destination, source: str, lease: PortLease | None, *, quiet: bool
) -> CheckSocket:
    """A non-blocking socket, bound to the source.

    Raises:
        CheckError: NO_SOURCE when the source address is gone, else SOCKERR.
        PortRefused: another program has the leased port.
    """
    try:
        if destination.path:
            return _non_blocking(CheckSocket(socket.AF_UNIX, socket.SOCK_STREAM))
        family = socket.AF_INET6 if destination.version == 6 else socket.AF_INET
        sock = _non_blocking(CheckSocket(family, socket.SOCK_STREAM))
    except OSError as error:
        if lease is not None:
            lease.give_back("unused")
        raise connect_error(error, destination, source) from None
    sock.lease, sock.ended = lease, "unused"
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if quiet:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        if lease is not None:
            sock.bind((lease.source, lease.port))
        elif source:
            # The port is chosen by connect(), per destination: bind(ip, 0) alone would take a port
            # away from every destination.
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
    except OSError as error:
        is_gone = bool(source) and error.errno == errno.EADDRNOTAVAIL
        is_taken = lease is not None and error.errno == errno.EADDRINUSE
        sock.ended = "source-gone" if is_gone else "port-in-use" if is_taken else "unused"
        sock.close()
        if is_taken:
            raise PortRefused from None
        if is_gone:
            text = f"source address {source} is not on this host"
            raise CheckError(Status.NO_SOURCE, text) from None
        raise connect_error(error, destination, source) from None
    return sock


def _non_blocking(sock: CheckSocket) -> CheckSocket:
    sock.setblocking(False)
    return sock


async def open_to(
    destination: Destination,
    source: str,
    deadline: float,
    *,
    quiet: bool = False,
    lease: PortLease | None = None,
) -> CheckSocket:
    """A connected, non-blocking socket to a literal destination.

    Args:
        destination: an IP address or unix socket; names are resolved before.
        source: our address, "" = the kernel's choice.
        deadline: in the running loop's time.
        quiet: the connection will be closed at once and the server is not to notice.
        lease: the port to use, with ``source`` its address; it goes back with the socket.

    Raises:
        CheckError: L4CON, L4TOUT, SOCKERR or NO_SOURCE.
        PortRefused: the kernel wants another port than the leased one.
    """
    loop = asyncio.get_running_loop()
    sock = _make_socket(destination, source, lease, quiet=quiet)
    sock.ended = "not-connected"
    where: str | tuple[str, int] = destination.path or (destination.host, destination.port)
    try:
        async with asyncio.timeout_at(deadline):
            await loop.sock_connect(sock, where)
    except TimeoutError as error:
        if _old_connection_answers(sock):
            sock.ended = "open-at-server"
            reset(sock)
            text = (
                f"connect {destination.text}: an old connection of our port is still open there,"
                " since our reset to it was lost on the way; not the database"
            )
            raise CheckError(Status.SOCKERR, text) from None
        reset(sock)
        if isinstance(error, OSError) and error.errno is not None:
            raise connect_error(error, destination, source) from None
        text = f"connect {destination.text}: no answer in time"
        raise CheckError(Status.L4TOUT, text) from None
    except OSError as error:
        is_taken = lease is not None and error.errno == errno.EADDRNOTAVAIL
        sock.ended = "tuple-in-use" if is_taken else "not-connected"
        sock.close()
        if is_taken:
            raise PortRefused from None
        raise connect_error(error, destination, source) from None
    except BaseException:
        reset(sock)
        raise
    sock.ended = "reset"
    return sock


def knock_unix(destination: Destination) -> None:
    """Finds out whether somebody holds a unix socket, unseen by it. Raises CheckError if not.

    connect() of the wrong type is refused by the kernel with EPROTOTYPE where a stream socket is
    bound, and with ECONNREFUSED where only its file was left. A stream connect() would be
    accepted by the server and counted as Aborted_connects. Source: unix_find_bsd(),
    net/unix/af_unix.c.
    """
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError as error:
        raise connect_error(error, destination, "") from None
    with sock:
        try:
            sock.connect(destination.path)
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                return
            raise connect_error(error, destination, "") from None
    text = f"connect {destination.text}: it is a datagram socket, not MySQL's"
    raise CheckError(Status.L4CON, text, definitive=True)


def _old_connection_answers(sock: CheckSocket) -> bool:
    """The connect() met the former connection of a port of ours, see engine/src/sys.rs.

    Source: struct tcp_info, include/uapi/linux/tcp.h: tcpi_state is its first byte, tcpi_segs_in
    the word at 140. A host that is down answers nothing at all.
    """
    if sock.lease is None:
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    return len(info) == 144 and info[0] == _SYN_SENT and struct.unpack_from("I", info, 140)[0] > 0


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def peek_first(sock: socket.socket, size: int) -> bytes:
    """Waits for bytes and returns them without taking them; b"" at the end of the stream."""
    while True:
        await _readable(sock)
        # A wake-up without data is allowed: select(2), BUGS.
        with contextlib.suppress(BlockingIOError):
            return sock.recv(size, socket.MSG_PEEK)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    fd = sock.fileno()
    loop.add_reader(fd, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def has_timestamps(sock: socket.socket) -> bool:
    """Whether both ends of a TCP connection use timestamps. Source: tcp_info.tcpi_options."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
    except OSError:
        return True
    return bool(info[5] & 1)  # TCPI_OPT_TIMESTAMPS, linux/tcp.h


def reset(sock: socket.socket) -> None:
    """Closes at once with an RST and leaves no TIME_WAIT. Never raises."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    sock.close()


def hang_up(sock: socket.socket) -> None:
    """Ends a connection that another thread reads: its recv() returns at once. Never raises."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


async def close_after_quit(sock: socket.socket, rule: CloseRule) -> None:
    """Closes by the server's rule, as its sessions do (docs/how-it-works.md).

    "eof-reset" reads until the server's FIN, then resets: no TIME_WAIT on either host, nothing
    aborted. Where resets are known to be lost, and with "eof", our FIN answers the server's.

    Call it when QUIT was sent, or when the server has said its last word (an ERR). Without a FIN
    by the deadline it resets when everything was delivered; else the kernel gets TCP_LINGER2 -1,
    which delivers what is queued and then forgets the socket. Never raises.
    """
    if rule.to_server == "reset-now":
        reset(sock)
        return
    if rule.to_server in ("linger2", "fin"):
        if rule.to_server == "linger2":
            _forget_after_delivery(sock)
        _close_first(sock)
        return
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(rule.deadline_s):
            while await loop.sock_recv(sock, 65536):
                pass
        if isinstance(sock, CheckSocket):
            is_lost = sock.lease is not None and sock.lease.resets_are_lost
            if is_lost or rule.to_server == "eof":
                sock.ended = "server-first-fin"
                sock.close()
                return
            sock.ended = "server-first"
    except TimeoutError:
        _close_without_fin(sock)
        return
    except OSError:
        pass
    except BaseException:
        reset(sock)
        raise
    reset(sock)


def _close_without_fin(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX or _unsent_bytes(sock) == 0:
        reset(sock)
        return
    _forget_after_delivery(sock)
    _close_first(sock)


def _close_first(sock: socket.socket) -> None:
    """Our FIN first: a TIME_WAIT may stay here, and the port's lender is told."""
    if isinstance(sock, CheckSocket):
        sock.ended = "we-first" if has_timestamps(sock) else "we-first-no-timestamps"
    sock.close()


def _forget_after_delivery(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # a unix socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, -1)


def _unsent_bytes(sock: socket.socket) -> int:
    """Bytes that the other host has not acknowledged (SIOCOUTQ)."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    count: int = struct.unpack("i", answer)[0]
    return count
