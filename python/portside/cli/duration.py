"""Durations of options: "10s", "250ms", "5m"; a bare number is refused, as in the file."""

from __future__ import annotations

import re

from portside.errors import PortsideError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MOST_S = 7 * 86_400


def read_seconds(option: str, text: str) -> float:
    """Seconds of an option's value, above 0.

    Raises:
        PortsideError: it is no such duration.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)", text)
    seconds = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    if not 0 < seconds <= _MOST_S:
        raise PortsideError(
            f"{option} {text}: expected a duration with its unit (ms, s, m, h), up to 7 days, such"
            ' as "10s".'
        )
    return seconds
