"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(
    condition: Callable[[], Value], timeout_s: float = 10.0, what: str = "", step_s: float = 0.02
) -> Value:
    """The first true value of ``condition()``; AssertionError with the last one after the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:g} s still {value!r}: {what or condition}")
        time.sleep(step_s)
