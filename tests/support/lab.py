"""The load and the sink of ``crates/lab``, as objects with readable reports."""

from __future__ import annotations

import json
from typing import Any

from portside import _core


class Load:
    """PHP-like clients on a thread of their own; keys of the plan as in ``_core.Load``."""

    def __init__(self, target: str, **plan: Any) -> None:
        self._load = _core.Load(json.dumps({"target": target, **plan}))

    def report(self) -> dict[str, Any]:
        """What has been done so far, at most 100 ms old."""
        found: dict[str, Any] = json.loads(self._load.report())
        return found

    def finish(self, timeout_s: float = 20.0) -> dict[str, Any]:
        """Stops it and returns the last report."""
        self._load.stop()
        assert self._load.wait(timeout_s), f"sessions are stuck: {self.report()}"
        return self.report()

    def wait(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Waits for the end of a bounded plan and returns the last report."""
        assert self._load.wait(timeout_s), f"sessions are stuck: {self.report()}"
        return self.report()


class Sink:
    """A fast MySQL-speaking server; keys of the plan as in ``_core.Sink``."""

    def __init__(self, **plan: Any) -> None:
        self._sink = _core.Sink(json.dumps(plan))
        self.address = self._sink.addresses()[0]

    def report(self) -> dict[str, int]:
        """What it has seen so far."""
        found: dict[str, int] = json.loads(self._sink.report())
        return found
