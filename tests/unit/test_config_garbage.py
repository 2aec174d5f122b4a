"""Whatever stands in a file, the answer is a configuration or mistakes with places."""

from __future__ import annotations

import copy
import os
import tomllib
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from portside.config import Config, loads, warnings
from portside.errors import ConfigError

from tests.unit.test_config_load import EVERY_KEY
from tests.unit.test_config_roundtrip import as_toml, paths_of, tree

os.environ.setdefault("PORTSIDE_MONITOR_PASSWORD", "x")
WHOLE = tomllib.loads(EVERY_KEY)
PATHS = paths_of(WHOLE)

junk = tree | st.sampled_from(
    [[], {}, [[]], [{}], "", "0", -1, 0, 2**63, True, 1.5, ["x", 1], {"a": 1}]
)


def with_junk(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    tables = copy.deepcopy(WHOLE)
    node: Any = tables
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return tables


def verdict(text: str) -> Config | ConfigError:
    try:
        return loads(text, "p.toml")
    except ConfigError as error:
        return error


@settings(max_examples=300)
@given(st.sampled_from(PATHS), junk)
@example(("server",), {})
@example(("server",), [])
@example(("server", 0), 5)
@example(("service", 0, "servers"), [[]])
@example(("service", 0, "listen"), [{}])
@example(("check",), [1])
@example(("check", "password"), {"file": 5})
@example(("log", "file"), "a\x00b")
def test_any_value_anywhere(path: tuple[str | int, ...], value: Any) -> None:
    found = verdict(as_toml(with_junk(path, value)))
    if isinstance(found, Config):
        warnings(found)
    else:
        assert all(problem.line > 0 or not problem.column for problem in found.problems)
        assert str(found)


@settings(max_examples=200)
@given(st.sampled_from(PATHS), st.text(max_size=5), junk)
def test_any_key_anywhere(path: tuple[str | int, ...], key: str, value: Any) -> None:
    node: Any = WHOLE
    for step in path:
        node = node[step]
    if isinstance(node, dict) and key not in node:
        found = verdict(as_toml(with_junk((*path, key), value)))
        assert isinstance(found, Config | ConfigError)


@settings(max_examples=200)
@given(st.integers(0, len(EVERY_KEY)), st.integers(0, 40), st.text(max_size=3))
def test_any_cut_of_the_text(at: int, length: int, inserted: str) -> None:
    verdict(EVERY_KEY[:at] + inserted + EVERY_KEY[at + length :])


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PATHS), min_size=2, max_size=6), junk)
def test_several_broken_places_at_once(paths: list[tuple[str | int, ...]], value: Any) -> None:
    tables = copy.deepcopy(WHOLE)
    for path in paths:
        node: Any = tables
        for step in path[:-1]:
            is_there = isinstance(node, dict) and step in node
            is_entry = isinstance(node, list) and isinstance(step, int) and step < len(node)
            node = node[step] if is_there or is_entry else None
        if isinstance(node, dict) and isinstance(path[-1], str):
            node[path[-1]] = copy.deepcopy(value)
    verdict(as_toml(tables))
