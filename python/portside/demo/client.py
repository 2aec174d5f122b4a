"""The web server's side of the demo: ``python -m portside.demo.client PLAN``.

Runs one load (``portside._core.Load``) and prints its report as one JSON line every 250 ms, the
final one last. A process of its own, because a process is what can run in another network
namespace.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from portside.demo.child import death_note


@dataclass(frozen=True)
class Figures:
    """What a load has seen so far; durations in microseconds."""

    seconds: float = 0.0
    done: bool = False
    sessions_ok: int = 0
    sessions_failed: int = 0
    sessions_open: int = 0
    queries_ok: int = 0
    received_bytes: int = 0
    sessions_per_s: float = 0.0
    p50_us: int = 0
    p99_us: int = 0
    max_us: int = 0
    by_server: Mapping[str, int] = field(default_factory=dict)
    errors: Sequence[Mapping[str, Any]] = ()


class RemoteLoad:
    """A load in a child process, on the host that ``prefix`` leads to."""

    def __init__(self, plan: Mapping[str, Any], prefix: Sequence[str] = ()) -> None:
        """Starts it.

        Args:
            plan: see ``portside._core.Load``.
            prefix: command in front, such as ``nsenter``.
        """
        command = [*prefix, *death_note(), sys.executable, "-m", "portside.demo.client"]
        self._process = subprocess.Popen(
            [*command, json.dumps(plan)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._latest = Figures()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def figures(self) -> Figures:
        """The latest figures, at most half a second old."""
        return self._latest

    @property
    def is_running(self) -> bool:
        """True until the last session has ended."""
        return self._reader.is_alive()

    def result(self, timeout_s: float) -> Figures:
        """Waits for the end; RuntimeError when it does not come or the child failed."""
        self._reader.join(timeout_s)
        if self._reader.is_alive():
            self.end()
            raise RuntimeError(f"the load did not end within {timeout_s:g} s")
        code = self._process.wait()
        if code != 0 or not self._latest.done:
            raise RuntimeError(f"the load ended with code {code}")
        return self._latest

    def end(self) -> None:
        """Kills it; harmless when it has ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 (PIPE above)
        with self._process.stdout as lines:
            for line in lines:
                self._latest = Figures(**json.loads(line))


def main() -> int:
    """Runs the plan of the command line."""
    from portside import _core

    load = _core.Load(sys.argv[1])
    while not load.wait(0.25):
        print(load.report(), flush=True)
    print(load.report(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
