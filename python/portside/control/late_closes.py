"""Closes that waited for a server's FIN until the deadline, told without a flood. Pure.

The engine counts them per server; the instance hands the counts over once a second.
"""

from __future__ import annotations

from collections.abc import Mapping

REPEAT_S = 10.0
"""At most one sentence per server in this time: a server that hangs closes late every time."""


class LateCloses:
    """Remembers what was told of each server; servers that are gone are forgotten."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}

    def news(self, now: float, totals: Mapping[str, int]) -> list[tuple[str, str]]:
        """Server and sentence, for each with late closes that may be told now.

        Args:
            now: in seconds, of a clock that never goes back.
            totals: closes after the deadline since the start, by server.
        """
        told = {name: self._told.get(name, (float("-inf"), 0)) for name in totals}
        found = []
        for name, total in totals.items():
            at, before = told[name]
            # Fewer than before: the server was away for a while and counts anew.
            count = total - before if total >= before else total
            if count and now - at >= REPEAT_S:
                closes = "1 close" if count == 1 else f"{count:,} closes"
                text = f"server {name}: {closes} went without its FIN, which close.deadline awaits"
                found.append((name, text))
                told[name] = (now, total)
        self._told = told
        return found
