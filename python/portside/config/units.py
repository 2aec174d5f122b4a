"""Durations and sizes as the file writes them: strings with units, never bare numbers.

A bare number is refused because nobody remembers whether it was seconds or milliseconds; zero is
refused because programs disagree on whether it means "at once" or "never". "never" is the word.
Durations become float seconds, `None` for never; the data plane counts in milliseconds, so that is
the finest unit. Pure; raises only `PydanticCustomError`, whose text is what was expected.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

_MS_PER: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES_PER: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# The engine keeps milliseconds in 64 bits, but a kernel timer argument is an int: 24 days of them.
_MAX_MS: Final = 2**31 - 1
_MAX_BYTES: Final = 1 << 50

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SIZE: Final = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)")

DURATION_FORM: Final = 'a duration with its unit (ms, s, m, h, d), such as "250ms" or "5s"'
DURATION_OR_NEVER_FORM: Final = DURATION_FORM + ', or "never"'
SIZE_FORM: Final = 'a size with its unit (B, KiB, MiB, GiB), such as "1MiB"'

_NO_ZERO: Final = "zero is refused: some read it as at once, others as never"


def bad_value(expected: str, hint: str = "") -> PydanticCustomError:
    """An error whose text is what was expected; the loader adds place, key and value."""
    return PydanticCustomError("portside", "{expected}", {"expected": expected, "hint": hint})


def parse_duration(value: object) -> float:
    """Seconds of a duration string, in whole milliseconds."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise bad_value(DURATION_FORM, _bare_number_hint(value, "s"))
    ms = float(match[1]) * _MS_PER[match[2]]
    if ms == 0:
        raise bad_value(DURATION_FORM, _NO_ZERO)
    if ms > _MAX_MS:
        raise bad_value(f"{DURATION_FORM}, at most 24d")
    if ms != int(ms):
        raise bad_value(f"{DURATION_FORM}, in whole milliseconds")
    return int(ms) / 1000


def parse_duration_or_never(value: object) -> float | None:
    """As `parse_duration`; `None` for "never"."""
    if value == "never":
        return None
    try:
        return parse_duration(value)
    except PydanticCustomError as error:
        hint = (error.context or {}).get("hint", "")
        raise bad_value(DURATION_OR_NEVER_FORM, hint) from None


def format_duration(seconds: float | None) -> str:
    """The shortest string that `parse_duration_or_never` reads back as the same value."""
    if seconds is None:
        return "never"
    ms = round(seconds * 1000)
    unit = max((u for u in _MS_PER if ms % _MS_PER[u] == 0), key=_MS_PER.__getitem__)
    return f"{ms // _MS_PER[unit]}{unit}"


def parse_size(value: object) -> int:
    """Bytes of a size string."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise bad_value(SIZE_FORM, _bare_number_hint(value, "KiB"))
    size = int(match[1]) * _BYTES_PER[match[2]]
    if size == 0 or size > _MAX_BYTES:
        raise bad_value(f"{SIZE_FORM}, above zero and at most 1048576GiB")
    return size


def format_size(size: int) -> str:
    """The shortest string that `parse_size` reads back as the same value."""
    unit = max((u for u in _BYTES_PER if size % _BYTES_PER[u] == 0), key=_BYTES_PER.__getitem__)
    return f"{size // _BYTES_PER[unit]}{unit}"


def _bare_number_hint(value: object, unit: str) -> str:
    if value in (0, "0") and value is not False:
        return _NO_ZERO
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and re.fullmatch(r"\d+", value)):
        return f'did you mean "{value}{unit}"?'
    return ""


def _text(form: str, pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": form, "pattern": pattern})


# Also how docs/configuration.md tells these values from other texts.
DURATION_PATTERN: Final = r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$"
DURATION_OR_NEVER_PATTERN: Final = DURATION_PATTERN + "|^never$"
SIZE_PATTERN: Final = r"^\d+\s*(B|KiB|MiB|GiB)$"

Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    _text(DURATION_FORM, DURATION_PATTERN),
]
"""A duration; "never" is refused."""

SecondsOrNever = Annotated[
    float | None,
    BeforeValidator(parse_duration_or_never),
    PlainSerializer(format_duration, return_type=str),
    _text(DURATION_OR_NEVER_FORM, DURATION_OR_NEVER_PATTERN),
]
"""A duration, or `None` for never."""

Bytes = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    _text(SIZE_FORM, SIZE_PATTERN),
]
"""A size in bytes."""
