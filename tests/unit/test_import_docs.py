"""docs/from-haproxy.md and the importer's own sentences name only what exists."""

from __future__ import annotations

import re
from pathlib import Path

from portside import _core
from portside.cli import cli
from portside.config.model import Config
from portside.config.problems import keys_of
from portside.explain import codes
from portside.importer.haproxy import reasons

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "from-haproxy.md").read_text()
SOURCES = "\n".join(file.read_text() for file in (ROOT / "python/portside/importer").rglob("*.py"))


def test_metrics_exist() -> None:
    known = (ROOT / "docs/metrics.md").read_text()
    named = set(re.findall(r"`(portside_[a-z_]+)`", DOCUMENT))
    assert len(named) > 15 and all(f"`{name}`" in known for name in named)


def test_session_log_keys_exist() -> None:
    known = (ROOT / "docs/operations.md").read_text()
    table = DOCUMENT.split("## Log lines")[1].split("| `%ts` | `end` |")[0]
    keys = {
        key
        for row in re.findall(r"^\| (?:`%|none|`\[).*?\| (.*) \|$", table, re.MULTILINE)
        for key in re.findall(r"`([a-z_]+)`", row)
    }
    assert len(keys) > 12 and all(f"| `{key}` |" in known for key in keys), keys


def test_ends_exist() -> None:
    known = {one.code for one in codes(_core.explain_codes())}
    ends = DOCUMENT.split("| `%ts` | `end` |")[1].split("## ")[0]
    causes = set(re.findall(r"`([a-z-]+)/[a-z.]*`", ends))
    assert len(causes) > 10 and causes <= known, causes - known


def test_keys_exist() -> None:
    """`table.key` in the document and in the sentences that end up in comments."""
    tables = {name: set(keys_of(below)) for name, below in keys_of(Config).items() if below}
    for text in (DOCUMENT, SOURCES):
        for table, key in re.findall(r"\b(source|close|timeouts|check)\.([a-z_]+)\b", text):
            is_code = key in ("line", "value", "lower")  # of Python
            assert is_code or key in tables[table], f"{table}.{key}"


def test_commands_exist() -> None:
    for command in re.findall(r"`portside ([a-z]+)", DOCUMENT + SOURCES):
        assert command in cli.commands, command


def test_every_reason_is_a_sentence_of_one_line() -> None:
    for table in (reasons.GLOBAL, reasons.PROXY, reasons.SERVER, reasons.BIND, reasons.SECTIONS):
        for key, text in table.items():
            assert "\n" not in text and not text.endswith("."), key
