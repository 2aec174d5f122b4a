"""The process in which a user's check function runs: the child's side of usercheck.py.

For: importing the function, calling it once for each line on standard input, and answering with
one line on a pipe of its own, since the function may print. Whatever the function does to this
process must at worst end it. It must not know of monitors or verdicts.

Started by ``usercheck``, never by hand; it dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from .judge import Status
from .usercheck import CheckTarget

# Source: linux/prctl.h.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# Below PIPE_BUF (4,096), so that an answer is one write and one line.
MAX_DETAIL = 500


def main(function: str, reply_fd: int) -> None:
    """Serves calls until standard input ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Grandchildren become our children, so that wait() tells whether anything was left behind.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.set_inheritable(reply_fd, False)
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    # Without a terminal there is none to take over; Ctrl-C goes to the balancer alone.
    try:
        call = _find(function)
    except BaseException as error:
        _reply(
            reply_fd, {"error": f"cannot import it: {type(error).__name__}: {error}"[:MAX_DETAIL]}
        )
        return
    _reply(reply_fd, {"ready": True})
    for line in requests:
        _reply(reply_fd, _serve(call, line))


def _reply(fd: int, answer: dict[str, object]) -> None:
    os.write(fd, json.dumps(answer).encode() + b"\n")


def _find(function: str) -> Callable[[CheckTarget], object]:
    module, _, name = function.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{function} is a {type(found).__name__}, not a function")
    call: Callable[[CheckTarget], object] = found
    return call


def _serve(call: Callable[[CheckTarget], object], line: str) -> dict[str, object]:
    fields = json.loads(line)
    fields["addresses"] = tuple(fields["addresses"])
    own_pid = os.getpid()
    threads = threading.active_count()
    try:
        status, detail = outcome(call(CheckTarget(**fields)))
    except BaseException as error:
        status, detail = Status.L7STS, f"the function raised {type(error).__name__}: {error}"
    if os.getpid() != own_pid:
        # A child that the function forked came back from the call as well: it has no business here.
        os._exit(0)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    clean = threading.active_count() <= threads and not _has_children()
    return {"status": status, "detail": detail[:MAX_DETAIL], "clean": clean}


def outcome(value: object) -> tuple[Status, str]:
    """The status and words for what a function returned. Pure."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], bool):
        return outcome_of(value[0], str(value[1]))
    if isinstance(value, bool):
        return outcome_of(value, "" if value else "the function returned False")
    if isinstance(value, str) and value:
        return Status.L7STS, value
    text = f"the function returned {value!r}; expected True, False, a text, or (bool, text)"
    return Status.L7RSP, text


def outcome_of(ok: bool, text: str) -> tuple[Status, str]:
    """L7OK or L7STS with the function's own words."""
    return (Status.L7OK if ok else Status.L7STS), text


def _has_children() -> bool:
    """True when a child still runs; a dead one that nobody waited for is taken away."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
