"""What `check --connect` says where a server takes less than pools may open there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from portside.config.load import in_file, loads
from portside.config.server_limits import ServerLimits, doubts

TEXT = """\
[[server]]
name = "db1"
address = "10.0.0.11:3306"
{server}
[[service]]
name = "a"
listen = "10.0.0.5:3306"
mode = "{mode}"
servers = ["db1"]
{service}
[[service]]
name = "b"
listen = "10.0.0.5:3307"
mode = "{mode}"
servers = ["db1"]
[[user]]
name = "app"
password = "app-pw"
[pool]
max = 60
"""
FULL = (
    "max_connections is {has}, less than the {wanted} that may be open and one each for KILL and a"
    " check: clients will get error 1040"
)


def said(limits: ServerLimits | None, mode: str = "pool", **keys: str) -> list[str]:
    parts = {"server": "", "service": "", **keys}
    config = loads(TEXT.format(mode=mode, **parts), "p.toml")
    told = {"db1": limits} if limits else {}
    found = in_file(config, doubts(config, told))
    return [f"{one.line} {one.key}: {one.message}; {one.hint}" for one in found]


@pytest.mark.parametrize(
    ("keys", "has", "place", "wanted"),
    [
        ({}, 61, "20 pool.max", 60),
        ({}, 62, "", 60),
        ({"service": "pool = { max = 80 }"}, 81, '10 service "a" pool.max', 80),
        ({"service": "pool = { max = 40 }"}, 61, "20 pool.max", 60),
        ({"server": "max_connections = 30"}, 31, '4 server "db1" max_connections', 30),
        ({"server": "max_connections = 30"}, 32, "", 30),
        ({"server": "max_connections = 1000"}, 151, '4 server "db1" max_connections', "1,000"),
    ],
)
def test_connections(keys: dict[str, str], has: int, place: str, wanted: object) -> None:
    cure = f"lower it to {has - 2}, or raise max_connections there"
    text = f"{place}: server db1's {FULL.format(has=has, wanted=wanted)}; {cure}"
    assert said(ServerLimits(has, None), **keys) == ([text] if place else [])


def test_prepared_statements() -> None:
    assert said(ServerLimits(None, 60 * 64)) == []
    assert said(ServerLimits(None, 60 * 64 - 1)) == [
        "20 pool.max: server db1's max_prepared_stmt_count is 3,839, and 60 connections may keep 64"
        " statements each: clients will get error 1461; raise it there above 3,840, or lower max"
    ]


def test_nothing_is_said_of_relays_and_of_servers_that_were_not_asked() -> None:
    assert said(ServerLimits(1, 1), mode="relay") == []
    assert said(None) == []


def test_the_statements_of_a_connection_are_as_many_as_the_engine_keeps() -> None:
    core = Path(__file__).parents[2] / "crates/core/src/pool/statements.rs"
    kept = re.search(r"const COUNT_MAX: usize = (\d+);", core.read_text())
    assert kept is not None and kept[1] == "64"
