"""``portside run``: the balancer in the foreground, one process."""

from __future__ import annotations

import signal
from pathlib import Path


def main(config: Path) -> int:
    """Runs ``config`` until a signal ends it; returns the exit code.

    Raises:
        PortsideError: the start failed; the caller prints it and exits 1.
    """
    # Until the supervisor takes signals, a reload signal must not end the process nor be forgotten:
    # the file may have been read already.
    early: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _frame: early.append(number))
    from portside.control import supervisor

    return supervisor.run(config, early_reloads=early)
