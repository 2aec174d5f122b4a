"""Logs in as an account of pool mode, as pooled connections do.

For: `portside check --connect`. The data plane's own login code says what there is to say, on a
socket that probe.py has opened by the rules of checks; here its outcome becomes a check's answer.
Blocking: runs in a thread of probe.py.
"""

from __future__ import annotations

import json
import socket
from typing import Final

from portside import _core

from .judge import Readings, Status
from .login import Answer

STATUSES: Final = {
    "good": Status.L7OK,
    "refused": Status.L7STS,
    "tls": Status.L6RSP,
    "late": Status.L7TOUT,
    "broken": Status.L7RSP,
}


def log_in(sock: socket.socket, account: str, limit_s: float) -> Answer:
    """Logs in, chooses the account's schema, asks for the limits, says QUIT; closes ``sock``.

    Args:
        sock: a duplicate of a connected, non-blocking socket.
        account: as ``_core.try_login`` takes it.
        limit_s: at most.
    """
    with sock:
        try:
            said = json.loads(_core.try_login(sock.fileno(), account, limit_s))
        except _core.EngineError as error:
            return Answer(Status.SOCKERR, f"{error.args[0]}; not the database")
    detail = said["text"] or said["tls"] or ""
    told = Readings(
        max_connections=said["max_connections"],
        max_prepared_statements=said["max_prepared_statements"],
    )
    return Answer(STATUSES[said["outcome"]], detail, definitive=True, readings=told)
