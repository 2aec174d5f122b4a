"""The sockets of the admin API and of the metrics, and the HTTP servers on them.

A unix socket gets its mode before anybody can see it (bound under another name, then renamed), a
dead instance's socket file is replaced, a live one is refused. The servers run on the loop of the
instance and leave the process's signals alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from portside.admin.address import ensure_directory
from portside.admin.connections import Acceptor, Connection
from portside.control.owner import Owner, explain_bind_failure, name_of, split_tcp
from portside.errors import PortsideError

BACKLOG = 1024
"""A crowd of connections must not fill the kernel's queue before a health check's."""


def open_unix(path: Path, mode: int) -> socket.socket:
    """A listening unix socket at ``path`` with ``mode``; replaces the file of a dead instance.

    Raises:
        PortsideError: a live instance listens there, the path is no socket, or it cannot be made.
    """
    ensure_directory(path)
    if len(os.fsencode(path)) > 100:  # sun_path holds 108 bytes, unix(7); room for the suffix
        raise PortsideError(f"the admin socket's path is too long for a socket: {path}.")
    _refuse_live(path)
    made = path.with_name(f"{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.unlink(missing_ok=True)
        listener.bind(str(made))
        made.chmod(mode)
        listener.listen(BACKLOG)
        made.rename(path)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)
        raise PortsideError(
            f"cannot make the admin socket {path}: {error.strerror}. "
            "Set [admin] socket to a path this user may write."
        ) from None
    listener.setblocking(False)
    return listener


def _refuse_live(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_socket():
        raise PortsideError(f"{path} exists and is not a socket; remove it or set [admin] socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
            who = _peer(probe)
        except ConnectionRefusedError:
            return  # the file of an instance that died
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            if not isinstance(error, BlockingIOError | TimeoutError):
                raise PortsideError(f"cannot use {path}: {error.strerror}.") from None
            who = "another process, which is too busy to answer,"
    raise PortsideError(
        f"cannot listen on {path}: {who} already listens there. "
        "A second instance on this host needs its own [admin] socket."
    )


def _peer(connected: socket.socket) -> str:
    """The process that listens behind a unix socket, from SO_PEERCRED (pid, uid, gid)."""
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack(
        "3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return str(Owner(pid, name_of(pid)))


def open_tcp(address: str) -> socket.socket:
    """A listening TCP socket on ``ip:port``.

    Raises:
        PortsideError: with the owner of the address, or the right that is missing.
    """
    host, port = split_tcp(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortsideError(explain_bind_failure(address, error.errno or 0)) from None
    listener.setblocking(False)
    return listener


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process's signals belong to the supervisor."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """One application on one listening socket, on the running loop."""

    def __init__(self, app: Starlette, listener: socket.socket, name: str) -> None:
        self._listener = listener
        self._name = name
        self._config = uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            ws="none",
            timeout_keep_alive=3600,  # ours is shorter, and ends clients that do not read as well
            timeout_graceful_shutdown=1,
        )
        self._server = _QuietServer(self._config)
        self._acceptor: Acceptor | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serves from now on; returns once requests are taken."""
        # No sockets: the acceptor hands connections over.
        self._task = asyncio.create_task(self._server.serve(sockets=[]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.005)
        if self._task.done():
            self._task.result()
        self._acceptor = Acceptor(self._listener, self._name, self._make_connection)

    def _make_connection(self) -> Connection:
        return Connection(self._config, self._server.server_state, {})

    async def stop(self, unlink: Path | None = None) -> None:
        """Ends open requests within a second and closes the socket; removes its file if ours."""
        if self._acceptor is not None:
            self._acceptor.stop()
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=3.0)
            self._task.cancel()
        self._listener.close()
        if unlink is not None:
            with contextlib.suppress(OSError):
                unlink.unlink()
