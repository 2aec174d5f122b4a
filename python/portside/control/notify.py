"""The service manager's side of a process: readiness, reload, watchdog, inherited listeners.

Speaks sd_notify(3) by hand over ``$NOTIFY_SOCKET`` and reads ``$LISTEN_FDS`` (sd_listen_fds(3)):
a datagram and three environment variables do not deserve a dependency. Knows nothing of balancing.
Every call is harmless without a service manager.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

LISTEN_FDS_START = 3
"""First inherited descriptor. Source: sd_listen_fds(3), SD_LISTEN_FDS_START."""


class Notifier:
    """Tells the service manager what the process is doing; silent without ``$NOTIFY_SOCKET``."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watchdog_s = watchdog_interval_s(environ)

    @property
    def watchdog_s(self) -> float | None:
        """Seconds between two signs of life (half of what systemd allows); None = none wanted."""
        return self._watchdog_s

    def ready(self, status: str) -> None:
        """Start or reload is complete."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload begins; ``ready`` must follow, also after a refusal."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The process drains and will end."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """One sign of life for the watchdog."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Asks for more time before the manager kills us (a long drain)."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the abstract namespace, which the kernel writes as a zero byte.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        # A manager that is gone or slow must never stop a balancer.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door,
        ):
            door.setblocking(False)
            door.sendto(text.encode(), address)


def watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Half of ``$WATCHDOG_USEC`` in seconds, or None. Source: sd_watchdog_enabled(3)."""
    pid = environ.get("WATCHDOG_PID")
    text = environ.get("WATCHDOG_USEC", "")
    if (pid is not None and pid != str(os.getpid())) or not text.isdigit() or int(text) == 0:
        return None
    return int(text) / 2_000_000


@dataclass(frozen=True, slots=True)
class InheritedListener:
    """A listening socket that the service manager opened for us."""

    fd: int
    address: str
    """As in a configuration: ``ip:port``, ``[ip6]:port`` or ``unix:PATH``."""


def take_inherited_listeners(
    environ: MutableMapping[str, str] | None = None,
) -> tuple[InheritedListener, ...]:
    """The listening sockets of ``$LISTEN_FDS``, in their order; the variables are removed.

    Removed and made close-on-exec so that no child believes they are its own. Descriptors that are
    not listening stream sockets are skipped.
    """
    environ = os.environ if environ is None else environ
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return ()
    found = []
    for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + int(count)):
        address = _listening_address(fd)
        if address:
            os.set_inheritable(fd, False)
            found.append(InheritedListener(fd, address))
    return tuple(found)


def _listening_address(fd: int) -> str:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return ""
        view = socket.socket(fileno=fd)
    except OSError:
        return ""
    try:
        if not view.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return ""
        name = view.getsockname()
        if view.family == socket.AF_UNIX:
            return f"unix:{name if isinstance(name, str) else name.decode()}"
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if view.family == socket.AF_INET6 else f"{host}:{port}"
    except OSError:
        return ""
    finally:
        view.detach()  # the number stays open: the engine will own it
