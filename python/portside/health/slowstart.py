"""How a server that came back grows to its full weight. Pure: the time since is an argument."""

from __future__ import annotations

SLOW_START_STEPS = 10


def slow_start_share(up_for_s: float | None, slow_start_s: float | None) -> float:
    """The share of its weight that a returned server gets: 0.1, 0.2 ... 1.0.

    ``up_for_s`` None: it did not come back (it was up from the start): 1.0. Ten steps, because each
    step is a new snapshot for the engine.
    """
    if up_for_s is None or not slow_start_s or up_for_s >= slow_start_s:
        return 1.0
    done = int(max(0.0, up_for_s) / slow_start_s * SLOW_START_STEPS)
    return (done + 1) / SLOW_START_STEPS


def slow_start_next_s(up_for_s: float | None, slow_start_s: float | None) -> float | None:
    """Seconds until ``slow_start_share`` changes, None when it will not."""
    if up_for_s is None or not slow_start_s or up_for_s >= slow_start_s:
        return None
    step_s = slow_start_s / SLOW_START_STEPS
    return step_s - max(0.0, up_for_s) % step_s
