"""Where the password of ``--mysql USER@HOST`` comes from: a file, the environment, a prompt."""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from portside.doctor.errors import DoctorError

PASSWORD: Final = "PORTSIDE_MYSQL_PASSWORD"  # noqa: S105  the name of a variable
_PORT: Final = 3306


@dataclass(frozen=True)
class Login:
    """One server and who asks it. ``host`` is a unix socket's path when it begins with "/"."""

    user: str
    host: str
    port: int = _PORT
    password: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """As people write it."""
        if self.host.startswith("/"):
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_login(text: str, password_file: Path | None) -> Login:
    """``USER@HOST``, ``USER@HOST:PORT``, ``USER@[IP6]:PORT`` or ``USER@/path``, with its password.

    Raises:
        DoctorError: it is none of these, or there is no password to be had.
    """
    user, at, place = text.rpartition("@")
    host, port = place, _PORT
    if not place.startswith("/") and (place.count(":") == 1 or "]:" in place):
        host, _, number = place.rpartition(":")
        port = int(number) if number.isdigit() else 0
    if not (user and at and host) or not 0 < port < 65536:
        raise DoctorError(f"--mysql {text}: expected USER@HOST, USER@HOST:PORT or USER@/socket")
    return Login(user, host.strip("[]"), port, _password(text, password_file))


def _password(text: str, file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text("utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise DoctorError(f"the password file {file} cannot be read: {reason}") from error
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    if sys.stdin.isatty():
        return getpass.getpass(f"Password of {text}: ")
    raise DoctorError(
        f"--mysql {text}: no password; give --mysql-password-file FILE or ${PASSWORD}, or run it"
        " on a terminal, which is asked"
    )
