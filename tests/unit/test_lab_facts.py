"""The pure parts of ``portside lab --facts``: what is the same, a curve's shape, what is said."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from portside.errors import ExitCode
from portside.lab.facts import capacity, catalog, cliff, closes, memory, report, reuse, run
from portside.lab.facts.fact import CannotMeasureError, Fact, Outcome, Result, Verdict, is_same
from portside.lab.facts.stage import Bind, RefusedError
from portside.lab.report import About
from rich.console import Console

DOCS = Path(__file__).parents[2] / "docs" / "facts.md"


def a_fact(number: str, value: str | float = "flat", tolerance: float = 0.0) -> Fact:
    return Fact(
        number,
        f"sentence of {number}",
        Outcome(value, "33 us"),
        lambda _: Outcome(value),
        f"set key-{number}",
        tolerance,
    )


RESULTS = [
    Result(a_fact("3/same"), Outcome("flat", "40 us")),
    Result(a_fact("3/unmeasured"), None, "no such setting"),
    Result(a_fact("3/differs"), Outcome("cliff at half", "50 us")),
]


@pytest.mark.parametrize(
    ("measured", "here", "tolerance", "same"),
    [
        ("flat", "flat", 0.0, True),
        ("flat", "cliff at half", 0.0, False),
        ("flat", "cliff at half", 9.0, False),
        (411, 411, 0.0, True),
        (411, 412, 0.0, False),
        (411, 300, 0.3, True),
        (411, 84, 0.3, False),
        (411, 700, 0.3, False),
        (411, "411", 0.3, False),
    ],
)
def test_words_must_be_equal_and_numbers_near(measured, here, tolerance, same):
    assert is_same(measured, here, tolerance) is same
    result = Result(a_fact("7/x", measured, tolerance), Outcome(here, "other figures"))
    assert result.verdict is (Verdict.SAME if same else Verdict.DIFFERS)


def refused(call: str, number: int) -> RefusedError:
    return RefusedError(call, OSError(number, ""))


@pytest.mark.parametrize(
    ("connections", "stopped", "value"),
    [
        (1000, refused("connect", 99), "4 x the range, then connect EADDRNOTAVAIL"),
        (1004, refused("connect", 99), "4 x the range, then connect EADDRNOTAVAIL"),
        (992, refused("bind", 98), "4 x the range, then bind EADDRINUSE"),
        (900, refused("bind", 98), "3.60 x the range, then bind EADDRINUSE"),
        (0, refused("IP_LOCAL_PORT_RANGE", 92), "0 x the range, then IP_LOCAL_PORT_RANGE ENOPR"),
        (250, refused("connect", 115), "1 x the range, then connect no answer"),
        (1500, None, "no end"),
    ],
)
def test_a_filled_range_is_counted_in_ranges(connections, stopped, value):
    assert str(capacity.filled(connections, 250, stopped).value).startswith(value)


def test_every_tuple_of_a_way_is_used_once_per_round():
    way = capacity.Way(addresses=4, explicit=True, destinations=2)
    turns = capacity.turns(way)
    assert len(turns) == len(set(turns)) == way.tuples == 2000
    # Addresses in turn, so that each holds the same share at any time.
    assert [address for address, _, _ in turns[:5]][-1] == turns[0][0]
    kernel = capacity.turns(capacity.Way())
    assert set(kernel) == {(None, 0, 3306)} and len(kernel) == 1000
    assert capacity.Way().bind == Bind()


@pytest.mark.parametrize(
    ("at", "full", "value"),
    [
        # The tables' own figures, 28,232 ports.
        ((24.4, 33.3, 2959, 2810), 7392, "cliff at half"),
        ((24.4, 33.3, 140, 2810), None, "cliff at half"),
        ((18, 18, 18, 21), 5900, "flat"),
        # A busy machine.
        ((24, 45, 26, 38), None, "flat"),
        ((20, 25, 60, 70), None, "flat"),
        ((20, 40, 100, 200), None, "climbs"),
    ],
)
def test_the_shape_of_a_curve_is_told_by_ratios(at, full, value):
    found = cliff.shape(cliff.Curve(at, full))
    assert found.value == value
    assert ("failing" in found.detail) is (full is not None)


def test_a_curve_looks_just_before_and_just_behind_the_half():
    spent = [10.0] * 4000 + [700.0] * 4000
    assert cliff.curve_of(spent, [], 8000) == cliff.Curve([10, 10, 700, 700], None)
    assert cliff.curve_of(spent, [5, 1, 9], 8000).full == 5


def test_a_curve_of_a_range_that_was_never_reached_cannot_be_told():
    with pytest.raises(CannotMeasureError, match=r"^only 10 of 8,000 ports could be taken"):
        cliff.curve_of([1.0] * 10, [], 8000)


@pytest.mark.parametrize(
    ("repeats", "took_ms", "value"),
    [
        (0, 10.4, "at once"),
        (0, 140.0, "at once"),  # a busy machine
        (1, 31.6, "one challenge more"),
        (1, 1016.0, "after a SYN without an answer"),
        (3, 7000.0, "after a SYN without an answer"),
    ],
)
def test_a_connect_is_classed_by_its_repeats_and_its_time(repeats, took_ms, value):
    assert reuse.reached(repeats, took_ms) == Outcome(value, f"{took_ms:.1f} ms")


def test_a_close_is_told_by_both_states_and_what_was_read():
    assert closes.ended("-", "TIME_WAIT", ["QUIT", "EOF"]).value == (
        "C -, S TIME_WAIT; reads QUIT, EOF"
    )
    assert closes.ended("-", "-", []).value == "C -, S -"


SLABINFO = """slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
eventpoll_epi       {buckets}    9  128   32    1 : tunables    0    0    0 : slabdata 1 1 0
tw_sock_TCP         {waits}      9  252   16    1 : tunables    0    0    0 : slabdata 1 1 0
dentry              {dentries}   9  192   21    1 : tunables    0    0    0 : slabdata 1 1 0
"""


def test_bytes_per_time_wait_count_merged_buckets_and_no_noise():
    before = SLABINFO.format(buckets=100, waits=50, dentries=1000)
    after = SLABINFO.format(buckets=100 + 1250, waits=50 + 1000, dentries=1000 + 400)
    found = memory.bytes_each(before, after, 1000)
    assert found == Outcome(416, "eventpoll_epi 160, tw_sock_TCP 256")


def test_a_slabinfo_without_the_cache_says_so():
    text = SLABINFO.format(buckets=100, waits=50, dentries=1000)
    with pytest.raises(CannotMeasureError, match="does not show tw_sock_TCP growing"):
        memory.bytes_each(text, text, 1000)


def test_a_slabinfo_that_cannot_be_read_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_SLABINFO", tmp_path / "none")
    with pytest.raises(CannotMeasureError) as caught:
        memory.FACTS[0].measure(None)
    assert str(caught.value) == "/proc/slabinfo cannot be read: No such file or directory"


def test_what_differs_stands_first_and_says_what_to_do():
    assert [one.fact.id for one in report.ordered(RESULTS)] == [
        "3/differs",
        "3/unmeasured",
        "3/same",
    ]
    assert report.sentences(RESULTS) == [
        "3/differs: cliff at half here, on 6.18 it was flat. For Portside: set key-3/differs."
    ]
    assert report.count_line(RESULTS, 3) == (
        "3 facts: 1 as on 6.18, 1 differ, 1 could not be measured here."
    )
    assert report.count_line(RESULTS[:1], 3) == (
        "1 facts: 1 as on 6.18, 0 differ. --quick left 2 out."
    )


def test_the_table_has_both_outcomes_and_the_reason():
    console = Console(width=170, record=True, file=io.StringIO())
    console.print(report.table(RESULTS, "5.10.0"))
    rows = [line for line in console.export_text().splitlines() if "3/" in line]
    assert re.search(r"3/differs .* flat \(33 us\) .* cliff at half \(50 us\) .* NO ", rows[0])
    assert re.search(r"3/unmeasured .* no such setting .* not measured", rows[1])
    assert re.search(r"3/same .* flat \(40 us\) .* yes ", rows[2])


def test_json_has_every_fact_and_can_be_written():
    about = About("portside lab --facts", "5.10.0", {"Portside": "0.1.0"}, "")
    found = json.loads(json.dumps(report.as_json(RESULTS, about, 5)))
    assert found["counts"] == {"differs": 1, "not measured": 1, "same": 1}
    assert (found["left_out"], found["measured_on"]) == (2, "6.18")
    by_id = {one["id"]: one for one in found["facts"]}
    assert by_id["3/unmeasured"]["here"] is None
    assert by_id["3/unmeasured"]["why"] == "no such setting"
    assert by_id["3/differs"]["here"] == {"value": "cliff at half", "detail": "50 us"}
    assert by_id["3/differs"]["verdict"] == "differs"


def test_every_fact_has_a_number_of_its_own_and_stands_alone():
    ids = [fact.id for fact in catalog.FACTS]
    assert len(ids) == len(set(ids)) and len(ids) > 60
    assert {fact.group for fact in catalog.FACTS} == set(catalog.GROUPS)
    for fact in catalog.FACTS:
        # Rows are sorted and left out: none may lean on the one above, and sentences are joined.
        assert not fact.says.startswith("the same"), fact.id
        assert fact.means and not fact.means.endswith("."), fact.id
    quick = catalog.choose(True)
    assert {fact.group for fact in quick} >= {"2", "3", "4", "5", "6", "8"}
    assert 10 < len(quick) < len(catalog.choose(False)) == len(ids)


def test_docs_name_every_group_and_no_fact_that_does_not_exist():
    text = DOCS.read_text()
    named = set(re.findall(r"\b[2-8]/[A-Za-z][\w'-]*", text))
    assert named and named <= {fact.id for fact in catalog.FACTS}
    for number, title in catalog.GROUPS.items():
        assert f"| {number} | {title} |" in text


@pytest.mark.parametrize(
    "arguments", [["direct"], ["--delay", "none"], ["--svg", "x.svg"], ["--server", "mariadb"]]
)
def test_facts_refuses_what_it_would_ignore(arguments, capsys):
    from portside.cli import run_command

    assert run_command(["lab", "--facts", *arguments]) == ExitCode.USAGE
    assert "--facts goes with --quick and --json only." in capsys.readouterr().err


@contextlib.contextmanager
def nowhere(delay, always):
    """A stage without namespaces: what a fact raises or returns is all that counts."""
    proxy = SimpleNamespace(inside=lambda act: act())
    yield SimpleNamespace(hosts=SimpleNamespace(proxy=proxy))


@pytest.mark.parametrize(
    ("raised", "why"),
    [
        (CannotMeasureError("no such setting"), "no such setting"),
        (refused("bind", 98), "its first connection failed: bind EADDRINUSE"),
        (OSError(24, "Too many open files"), "the system refused: Too many open files"),
        (TimeoutError("timed out"), "the system refused: timed out"),
    ],
)
def test_whatever_stops_an_experiment_is_a_reason(monkeypatch, raised, why):
    def fail(_):
        raise raised

    monkeypatch.setattr(run, "stage", nowhere)
    fact = replace(a_fact("2/x"), measure=fail)
    assert run.measure(fact, {}) == Result(fact, None, why)


def test_what_differs_is_measured_again_before_it_is_said(monkeypatch):
    monkeypatch.setattr(run, "stage", nowhere)
    for outcomes, verdict in (
        (["climbs", "flat"], Verdict.SAME),
        (["climbs", "climbs", "climbs"], Verdict.DIFFERS),
    ):
        left = [Outcome(value) for value in outcomes]
        fact = replace(a_fact("3/x"), measure=lambda _, left=left: left.pop(0))
        assert run.measure(fact, {}).verdict is verdict
        assert left == []


def test_a_result_without_an_outcome_is_not_measured():
    assert replace(RESULTS[0], here=None, why="x").verdict is Verdict.UNMEASURED
