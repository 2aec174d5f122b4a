"""User functions for test_health_usercheck.py: what users write, and what goes wrong in it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time

from portside.health.usercheck import CheckTarget


def passes(server: CheckTarget) -> bool:
    return bool(server.name)


def says_no(server: CheckTarget) -> bool:
    return False


def says_why(server: CheckTarget) -> str:
    return f"{server.name} at {server.host}:{server.port} is in maintenance"


def passes_with_text(server: CheckTarget) -> tuple[bool, str]:
    return True, f"pid {os.getpid()}"


def returns_garbage(server: CheckTarget) -> object:
    return {"up": object}


def returns_nothing(server: CheckTarget) -> None:
    return None


def raises(server: CheckTarget) -> bool:
    raise ValueError("no such cluster")


def exits(server: CheckTarget) -> bool:
    sys.exit(3)


def loops(server: CheckTarget) -> bool:
    while True:
        pass


def ignores_signals_and_sleeps(server: CheckTarget) -> bool:
    import signal

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)
    return True


def crashes(server: CheckTarget) -> bool:
    print("about to touch address zero", flush=True)
    ctypes.string_at(0)
    return True


def forks(server: CheckTarget) -> tuple[bool, str]:
    """Both sides return; the child's must go nowhere."""
    child = os.fork()
    return True, f"pid {os.getpid()} child {child}"


def forks_and_child_stays(server: CheckTarget) -> tuple[bool, str]:
    child = os.fork()
    if child == 0:
        time.sleep(600)
    return True, str(child)


def grandchild_stays(server: CheckTarget) -> tuple[bool, str]:
    started = subprocess.run(
        ["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True
    )
    return True, started.stdout.strip()


def thread_stays(server: CheckTarget) -> tuple[bool, str]:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return True, f"pid {os.getpid()}"


def prints(server: CheckTarget) -> tuple[bool, str]:
    for stream in (sys.stdout, sys.stderr):
        print('{"status": "L7STS", "detail": "fooled", "clean": true}\n' * 5_000, file=stream)
    os.write(1, b"\0\xff" * 100_000)
    return True, sys.stdin.read() or "nothing to read"


NOT_A_FUNCTION = 7
