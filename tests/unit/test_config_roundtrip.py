"""load(dump(x)) = x for any configuration, and every key of any TOML text has its place."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from portside.config import loads, positions
from portside.config.dump import dump, write_value
from portside.config.positions import Path
from portside.config.units import format_duration, format_size

duration = st.integers(1, 10**8).map(lambda ms: format_duration(ms / 1000))
or_never = duration | st.just("never")
size = st.integers(1, 1 << 40).map(format_size)
count = st.integers(1, 10**6)
any_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
networks = st.lists(st.ip_addresses().map(str), max_size=3)
secret = any_text


def table(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


source = table(
    ports=st.sampled_from(["auto", "1024-65535", "2000-2000"]),
    reserve=st.integers(0, 99),
    keepalive=or_never,
    user_timeout=or_never,
)
close = table(
    to_server=st.sampled_from(["eof-reset", "eof", "linger2", "reset-now", "fin"]),
    to_client=st.sampled_from(["fin-reset", "fin"]),
    deadline=duration,
    abandon_bytes=size,
    abandon_time=duration,
    tls_hold=duration,
)
timeouts = table(connect=duration, login=duration, queue=or_never, idle=or_never, drain=or_never)
check = table(interval=duration, fast_interval=duration, timeout=duration, fall=count, rise=count)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """A file without mistakes, as tables."""
    names = draw(st.lists(st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True), min_size=1, max_size=4,
                          unique=True))  # fmt: skip
    login = {"user": draw(any_text), "password": draw(secret)}
    servers = [
        {
            "name": name,
            "address": draw(st.sampled_from([f"10.1.0.{at}:3306", [f"[fd00::{at}]:1", "h:2"]])),
            **draw(
                table(
                    max_connections=count,
                    send_proxy=st.booleans(),
                    slowstart=or_never,
                    source=source,
                    close=close,
                    timeouts=timeouts,
                    check=st.just(False) | check,
                )
            ),
        }
        for at, name in enumerate(names)
    ]
    member = st.sampled_from(names)
    services = [
        {
            "name": f"s{at}",
            "listen": draw(
                st.sampled_from(
                    [f"127.0.0.1:{4000 + at}", [{"address": f"unix:/s{at}", "mode": "0600"}]]
                )
            ),
            "servers": [
                draw(st.just(name) | table(weight=st.integers(0, 256)).map({"name": name}.__or__))
                for name in draw(st.lists(member, min_size=1, unique=True))
            ],
            **draw(
                table(
                    balance=st.sampled_from(["leastconn", "first"]),
                    failback=st.sampled_from(["manual", "auto"]),
                    on_down=st.sampled_from(["close-sessions", "keep-sessions"]),
                    max_connections=count,
                    queue=st.integers(0, 99),
                    retries=st.integers(0, 9),
                    allow=networks,
                    probe_networks=networks,
                    close=close,
                    timeouts=timeouts,
                )
            ),
        }
        for at in range(draw(st.integers(1, 3)))
    ]
    tables = {
        "portside": draw(table(workers=st.just("auto") | count, resolve=or_never)),
        "source": draw(source),
        "close": draw(close),
        "timeouts": draw(timeouts),
        "check": {**draw(check), **draw(st.sampled_from([{}, login]))},
        "log": draw(table(sessions=st.sampled_from(["errors", "1/7"]), file=st.just("/l"))),
    }
    return {**tables, "server": servers, "service": services}


def as_toml(tables: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {write_value(value)}" for key, value in tables.items())


@given(files())
def test_a_configuration_survives_being_written(tables: dict[str, Any]) -> None:
    config = loads(as_toml(tables))
    written = dump(config, reveal=True)
    again = loads(written)
    assert again == config
    # What each table set itself survives too, not only the values in force.
    assert dump(again, reveal=True) == written


@given(files())
def test_a_dump_shows_no_secret(tables: dict[str, Any]) -> None:
    password = "geheim\u2009wort"
    tables["check"] = {"user": "m", "password": password}
    assert password not in dump(loads(as_toml(tables)))


scalar = st.booleans() | st.integers(-5, 5) | any_text | st.just("# no [comment] = { here }")
key = any_text | st.from_regex(r"[A-Za-z0-9_-]{1,5}", fullmatch=True)
tree = st.recursive(
    scalar,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(key, below, max_size=3),
    max_leaves=12,
)


def paths_of(node: Any, path: Path = ()) -> list[Path]:
    if not isinstance(node, dict | list):
        return []
    found = []
    for step, below in node.items() if isinstance(node, dict) else enumerate(node):
        found += [(*path, step), *paths_of(below, (*path, step))]
    return found


@given(st.dictionaries(key, tree, max_size=5), st.integers(0, 3))
def test_every_key_and_entry_has_its_place(tables: dict[str, Any], blank_lines: int) -> None:
    lines = [f"{write_value({key: value})[2:-2]}" for key, value in tables.items()]
    text = ("\n" * (blank_lines + 1)).join(lines)
    assert tomllib.loads(text) == tables
    places = positions.scan(text, "x").places
    assert set(places) == set(paths_of(tables))
    for at, name in enumerate(tables):
        assert places[(name,)] == (1 + at * (blank_lines + 1), 1)


def test_places_in_every_form_that_toml_has() -> None:
    text = '''\
# a comment with [a.table]
top = 1  # "text"
[a.b]
"quoted key".'x' = """
[not.a.table]
""" # behind
date = 1979-05-27T07:32:00Z
lines = [
  "one",  # ]
  { deep = 'it' },  # ends
  ['x', "]"],
]
[[list]]
n = 1
[list.below]
m = 2
[[list]]
n = 3
'''
    tomllib.loads(text)
    places = positions.scan(text, "x").places
    assert places[("a", "b", "quoted key", "x")] == (4, 1)
    assert places[("a", "b", "date")] == (7, 1)
    assert places[("a", "b", "lines", 1, "deep")] == (10, 5)
    assert places[("a", "b", "lines", 2, 1)] == (11, 9)
    assert places[("list", 0, "below", "m")] == (16, 1)
    assert places[("list", 1, "n")] == (18, 1)
