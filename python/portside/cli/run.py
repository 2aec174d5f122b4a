"""``portside run``: the balancer in the foreground, one process."""

from __future__ import annotations

import signal
from pathlib import Path


def main(config: Path) -> int:
    """Runs ``config`` until a signal ends it; returns the exit code.

    Raises:
        PortsideError: the start failed; the caller prints it and exits 1.
    """
    # Until the supervisor takes signals, an early reload signal must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from portside.control import supervisor

    return supervisor.run(config)
