"""ProxySQL's rows as they may be shown: printed from what was read, secrets hidden by key.

The file's own text is never shown: there a password may be continued, escaped, or in a comment.
"""

from __future__ import annotations

from typing import Final

from portside.importer.notes import HIDDEN, SECRET, printable
from portside.importer.proxysql.libconfig import Node

# Free text: people note passwords there, and a program's arguments hold them.
_FREE: Final = ("comment", "arg1", "arg2", "arg3", "arg4", "arg5")
_TEXT_MAX: Final = 200
_ROW_MAX: Final = 500


def shown(name: str, node: Node) -> str:
    """`name = value` on one line, without control characters, cut where it is long."""
    text = printable(_value(name, node))
    return text if len(text) <= _ROW_MAX else f"{text[:_ROW_MAX]}..."


def _value(name: str, node: Node) -> str:
    value = node.value
    if name in _FREE or SECRET.search(name):
        return f'"{HIDDEN}"'
    if isinstance(value, dict):
        inner = ", ".join(f"{key} = {_value(key, one)}" for key, one in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"( {', '.join(_value(name, one) for one in value)} )"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    if SECRET.search(value):
        return f'"{HIDDEN}"'
    cut = value if len(value) <= _TEXT_MAX else f"{value[:_TEXT_MAX]}..."
    return '"' + cut.replace("\\", "\\\\").replace('"', '\\"') + '"'
