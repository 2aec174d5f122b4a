"""Where the admin API of an instance is found: one rule for the server and the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from portside.errors import PortsideError


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """A unix socket (``path``) or a TCP address (``host``, ``port``)."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


SYSTEM_SOCKET = Path("/run/portside/admin.sock")


def default_socket(environ: Mapping[str, str] | None = None) -> Path:
    """The socket of an instance without ``[admin] socket``.

    In /run/portside for root and for whoever may write there (a unit's ``RuntimeDirectory=``), else
    below ``$XDG_RUNTIME_DIR``, and without a login session in a directory of this user's in /tmp.
    """
    environ = os.environ if environ is None else environ
    if os.geteuid() == 0 or os.access(SYSTEM_SOCKET.parent, os.W_OK):
        return SYSTEM_SOCKET
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    base = Path(runtime) / "portside" if runtime else Path(f"/tmp/portside-{os.geteuid()}")  # noqa: S108
    return base / "admin.sock"


def parse(text: str) -> AdminAddress:
    """An address from ``-a/--admin`` or ``$PORTSIDE_ADMIN``.

    Understood: ``/path``, ``unix:/path``, ``host:port``, ``[ip6]:port``, ``http://host:port``.

    Raises:
        PortsideError: it is none of these.
    """
    stripped = text.removeprefix("http://").rstrip("/") if "://" in text else text
    if stripped.startswith("unix:"):
        return AdminAddress(path=Path(stripped.removeprefix("unix:")))
    if "/" in stripped:
        return AdminAddress(path=Path(stripped))
    host, colon, port = stripped.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise PortsideError(
            f"{text!r} is not an admin address: expected a socket's path or host:port."
        )
    return AdminAddress(host=host.strip("[]"), port=int(port))


def choose(given: str | None, environ: Mapping[str, str] | None = None) -> AdminAddress:
    """The address a command talks to: the option, else ``$PORTSIDE_ADMIN``, else the default.

    A user whose own default socket is not there gets the system's instance, if there is one: the
    socket's group decides whether that is allowed.
    """
    environ = os.environ if environ is None else environ
    if text := given or environ.get("PORTSIDE_ADMIN", ""):
        return parse(text)
    own = default_socket(environ)
    return AdminAddress(path=SYSTEM_SOCKET if not own.exists() and _is_there() else own)


def _is_there() -> bool:
    try:
        return SYSTEM_SOCKET.exists()
    except OSError:  # a directory that we may not search
        return False


def ensure_directory(path: Path) -> None:
    """Makes the directory of a socket if need be: 0755 below /run, else for this user only.

    Raises:
        PortsideError: it cannot be made, or somebody else prepared one of that name in /tmp.
    """
    folder = path.parent
    try:
        folder.mkdir(mode=0o755 if folder.is_relative_to("/run") else 0o700, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise PortsideError(
            f"cannot make the directory of the admin socket {path}: {error.strerror}. "
            "Set [admin] socket to a path this user may write."
        ) from None
    is_ours = state.st_uid == os.geteuid() and not state.st_mode & 0o077
    if folder == Path(f"/tmp/portside-{os.geteuid()}") and not is_ours:  # noqa: S108
        raise PortsideError(
            f"{folder} is not a directory that only this user may enter: "
            "remove it, or set [admin] socket or $XDG_RUNTIME_DIR."
        )
