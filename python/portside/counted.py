"""A count with its word, as people write it. Pure."""

from __future__ import annotations


def counted(count: int, word: str) -> str:
    """``1 server``, ``2 servers``, ``1,000 servers``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
