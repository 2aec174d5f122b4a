"""A network namespace of a test's own: private ports, addresses and counters, on loopback only.

A thread that has entered the namespace makes sockets there, and so do the threads it starts: that
is how ``_core.Load`` and ``_core.Sink`` get in.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

_CLONE_NEWNET = 0x40000000  # sched.h


class Namespace:
    """``with Namespace() as place:``; needs root."""

    def __init__(self) -> None:
        self.name = f"ps-ops-{os.getpid()}-{id(self) % 10000}"
        self.prefix = ("ip", "netns", "exec", self.name)

    def __enter__(self) -> Namespace:
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        _ip("netns", "del", self.name)

    def ip(self, *args: str) -> None:
        """An ``ip`` command inside."""
        _ip("-n", self.name, *args)

    def inside(self, make: Callable[[], Value]) -> Value:
        """What ``make`` returns, called on a thread that is inside."""
        found: list[Value] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                _enter(f"/run/netns/{self.name}")
                found.append(make())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return found[0]


def _ip(*args: str) -> None:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(args)}: {done.stderr}"


def _enter(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)
