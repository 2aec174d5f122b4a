"""A configuration back to TOML: only what its tables set themselves, so that it loads as the same.

For generated configurations (the demo, tests, `import`) and `show config`. Secrets are written as
their reference, `{ file = ... }` or `{ env = ... }`; one that stood in the file is "***" unless
asked for. `tomllib` cannot write, and the shapes here are few, so the writer is our own.
"""

from __future__ import annotations

import re
from typing import Any, Final

from portside.config.model import Config

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES: Final = {
    **{code: f"\\u{code:04x}" for code in (*range(0x20), 0x7F)},
    ord("\n"): "\\n",
    ord("\t"): "\\t",
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


def dump(config: Config, *, reveal: bool = False) -> str:
    """The configuration as TOML.

    Args:
        config: what to write.
        reveal: write secrets that stood in the file in clear; for a file that only we read.
    """
    tables = config.model_dump(
        mode="json", by_alias=True, exclude_unset=True, context={"reveal": reveal}
    )
    parts = []
    for name, table in tables.items():
        if isinstance(table, list):
            parts += [f"[[{name}]]\n{_pairs(item)}" for item in table]
        elif table:
            parts.append(f"[{name}]\n{_pairs(table)}")
    return "\n".join(parts)


def write_value(value: object) -> str:
    """One value as TOML; a table is written inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, list):
        return f"[{', '.join(write_value(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = [f"{write_key(k)} = {write_value(v)}" for k, v in value.items() if v is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    return str(value)


def write_key(key: str) -> str:
    """A key as TOML: bare where it can be."""
    return key if _BARE_KEY.fullmatch(key) else write_value(key)


def _pairs(table: dict[str, Any]) -> str:
    lines = []
    for key, value in table.items():
        if value is None and key == "check":
            lines.append("check = false\n")
        elif value is not None and value != {}:
            lines.append(f"{write_key(key)} = {write_value(value)}\n")
    return "".join(lines)
