"""The load and the sink as processes of their own, away from the interpreter of the tests."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

# portside._core.Load and Sink are the same code as the binaries; the package always has them.
_CHILD = """
import json, sys
from portside._core import Load, Sink
kind, plan = sys.argv[1], sys.argv[2]
one = {"load": Load, "sink": Sink}[kind](plan)
print(json.dumps(one.addresses() if kind == "sink" else []), flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "wait":
        one.wait(120.0)
    elif word == "stop":
        one.stop()
        one.wait(30.0)
    print(one.report(), flush=True)
"""


class LabProcess:
    """One load or sink.

    ``nice`` in a plan, 0 to 19, gives way to the other processes of a busy machine.
    """

    def __init__(self, kind: str, plan: dict[str, Any]) -> None:
        nice = str(plan.pop("nice", 0))
        self._process = subprocess.Popen(
            ["nice", "-n", nice, sys.executable, "-c", _CHILD, kind, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        first = self._process.stdout.readline()  # type: ignore[union-attr]
        if not first:
            self._process.wait()
            raise RuntimeError(f"the {kind} did not start: its message is above")
        self.addresses: list[str] = json.loads(first)

    def report(self, word: str = "report") -> dict[str, Any]:
        """The report, after doing what ``word`` says: report, wait, stop."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def sink(**plan: Any) -> Iterator[LabProcess]:
    """A sink; ``addresses[0]`` is where it listens."""
    one = LabProcess("sink", plan)
    try:
        yield one
    finally:
        one.end()


@contextlib.contextmanager
def load(**plan: Any) -> Iterator[LabProcess]:
    """A load that runs."""
    one = LabProcess("load", plan)
    try:
        yield one
    finally:
        one.end()


def run_load(**plan: Any) -> dict[str, Any]:
    """A bounded load's report."""
    with load(**plan) as one:
        return one.report("wait")
