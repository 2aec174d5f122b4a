"""docs/configuration.md is what the model says, and its examples load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from portside.config import load, loads, warnings
from portside.config.model import Config
from portside.config.problems import keys_of
from portside.config.reference import markdown

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/*/*.toml"))


def test_the_document_is_up_to_date() -> None:
    cure = "run: python -m portside.config.reference > docs/configuration.md"
    assert (ROOT / "docs/configuration.md").read_text() == markdown(), cure


def test_every_key_is_described() -> None:
    text = markdown()
    for name, table in keys_of(Config).items():
        assert f"[{name}]" in text
        for key in keys_of(table) if table else ():
            (row,) = re.findall(rf"^\| `{key}` \|.*\|$", _section(text, name), re.MULTILINE)
            assert row.split("|")[4].strip()


def _section(text: str, name: str) -> str:
    return re.split(rf"## `\[+{name}\]+`\n", text)[1].partition("\n## ")[0]


def test_the_example_in_the_document_loads() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", markdown(), re.DOTALL)
    assert loads(example).services


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads_without_a_doubt(path: Path) -> None:
    # Git keeps no modes, and these passwords are nobody's.
    found = [one for one in warnings(load(path)) if "every user" not in one.message]
    assert found == []


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3
