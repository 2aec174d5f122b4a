"""Verdicts as tables: fall and rise, what never counts, when the next check is due."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.health.judge import (
    STATUS_WORDS,
    CheckResult,
    DestinationResult,
    HostBlocked,
    Readings,
    Rules,
    ServerState,
    Status,
    Verdict,
    first_delay_s,
    hinted_due,
    is_settled,
    next_delay_s,
    step,
    unchecked,
)

RULES = Rules(interval_s=2.0, fast_interval_s=0.5, fall=3, rise=2)
RESULTS = {
    "+": CheckResult(Status.L7OK, readings=Readings(read_only=False)),
    "-": CheckResult(Status.L4CON, detail="connect: Connection refused (ECONNREFUSED)"),
    "s": CheckResult(Status.SOCKERR, detail="connect: Too many open files (EMFILE)"),
    "n": CheckResult(Status.NO_SOURCE, detail="source address 10.0.0.5 is not on this host"),
    "v": CheckResult(Status.L7TOUT, void=True),
    "f": CheckResult(Status.L7OK, detail="alive but full", full=True),
}
LETTER = {Verdict.UP: "U", Verdict.DOWN: "D", Verdict.UNKNOWN: "?"}


def play(script: str, state: ServerState | None = None) -> tuple[ServerState, str, list[str]]:
    """The last state, the verdict after each result, and the kinds of events in order."""
    state = state or ServerState("db1")
    verdicts, kinds = "", []
    for number, letter in enumerate(script):
        state, events = step(state, RULES, RESULTS[letter], float(number + 1))
        verdicts += LETTER[state.verdict]
        kinds += [event.kind for event in events]
    return state, verdicts, kinds


@pytest.mark.parametrize(
    ("script", "verdicts", "kinds"),
    [
        ("+", "U", ["server_up"]),
        ("-", "D", ["server_down"]),
        ("+--", "UUU", ["server_up"]),
        ("+---", "UUUD", ["server_up", "server_down"]),
        ("+--+--+", "UUUUUUU", ["server_up"]),
        ("-+", "DD", ["server_down"]),
        ("-++", "DDU", ["server_down", "server_up"]),
        ("-+-+-++", "DDDDDDU", ["server_down", "server_up"]),
        ("vvv", "???", ["checks_void"]),
        ("sss", "???", ["check_impossible"]),
        ("+ssssss", "UUUUUUU", ["server_up", "check_impossible"]),
        ("+vvvvvv", "UUUUUUU", ["server_up", "checks_void"]),
        ("-ssssss", "DDDDDDD", ["server_down", "check_impossible"]),
        ("+-v-s-", "UUUUUD", ["server_up", "check_impossible", "server_down"]),
        ("-+v+", "DDDU", ["server_down", "server_up"]),
        ("+nn+", "UUUU", ["server_up", "no_source", "source_back"]),
        ("+fff", "UUUU", ["server_up"]),
        ("f", "U", ["server_up"]),
    ],
)
def test_verdicts(script, verdicts, kinds):
    _, seen, events = play(script)
    assert (seen, events) == (verdicts, kinds)


@given(st.text("+-", max_size=12), st.text("svn", min_size=1, max_size=40))
def test_what_is_ours_never_changes_a_verdict(before, ours):
    state, _, _ = play(before)
    after, _, _ = play(ours, state)
    assert (after.verdict, after.since, after.readings) == (
        state.verdict,
        state.since,
        state.readings,
    )
    assert (after.good, after.bad) == (state.good, state.bad)


@given(st.text("+-sv", max_size=60))
def test_verdict_follows_fall_and_rise(script):
    """Against the rule written the other way round: over the counted results only."""
    state, _, _ = play(script)
    counted = [letter for letter in script if letter in "+-"]
    verdict = Verdict.UNKNOWN
    run = ""
    for letter in counted:
        run = run + letter if run.endswith(letter) else letter
        if verdict is Verdict.UNKNOWN:
            verdict = Verdict.UP if letter == "+" else Verdict.DOWN
        elif letter == "+" and len(run) >= RULES.rise:
            verdict = Verdict.UP
        elif letter == "-" and len(run) >= RULES.fall:
            verdict = Verdict.DOWN
    assert state.verdict is verdict


def test_down_event_says_why():
    state, _, _ = play("+--")
    _, (event,) = step(state, RULES, RESULTS["-"], 9.0)
    assert event.message == (
        "server db1 is down after 3 failed checks: "
        "L4CON: connect: Connection refused (ECONNREFUSED)"
    )


def test_since_and_up_since():
    first, _, _ = play("+")
    assert (first.since, first.up_since) == (1.0, None)
    back, _, _ = play("+---++")
    assert (back.since, back.up_since) == (6.0, 6.0)
    down, _, _ = play("+---++---")
    assert down.up_since is None


def test_full_server_keeps_its_readings():
    state, _, _ = play("+f")
    assert state.readings == Readings(read_only=False)


def test_readings_that_are_gone_are_unknown():
    state, _, _ = play("+")
    state, _ = step(state, RULES, CheckResult(Status.L7OK, readings=Readings()), 2.0)
    assert state.readings.read_only is None


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        (Readings(), Readings(read_only=True), []),
        (Readings(read_only=True), Readings(read_only=False), ["became_writable"]),
        (Readings(read_only=False), Readings(read_only=True), ["became_read_only"]),
        (Readings(replicating=True), Readings(replicating=False), ["replication_stopped"]),
        (Readings(replicating=False), Readings(replicating=True), ["replication_running"]),
        (Readings(), Readings(note="GRANT it"), ["reading_missing"]),
        (Readings(note="GRANT it"), Readings(note="GRANT it"), []),
    ],
)
def test_role_events(old, new, kinds):
    state = replace(play("+")[0], readings=old)
    _, events = step(state, RULES, CheckResult(Status.L7OK, readings=new), 2.0)
    assert [event.kind for event in events] == kinds


@pytest.mark.parametrize(
    ("errno", "cure"), [(1129, "FLUSH HOSTS"), (1130, "CREATE USER"), (1045, "password")]
)
def test_refused_address_is_told_once_with_its_cure(errno, cure):
    block = HostBlocked("10.0.0.5", "10.0.0.11:3306", errno, "no")
    other = DestinationResult("10.0.0.11:3306", Status.L7OK, source="10.0.0.6", blocked=(block,))
    refused = CheckResult(Status.L7OK, destinations=(other,))
    state, events = step(ServerState("db1"), RULES, refused, 1.0)
    assert [event.kind for event in events] == ["host_blocked", "server_up"]
    text = f"server db1: 10.0.0.11:3306 refuses our address 10.0.0.5: ERR {errno}: no; cure: "
    assert events[0].message.startswith(text)
    assert cure in events[0].message
    state, events = step(state, RULES, refused, 2.0)
    assert events == ()
    again = DestinationResult("10.0.0.11:3306", Status.L7OK, source="10.0.0.5")
    state, events = step(state, RULES, CheckResult(Status.L7OK, destinations=(again,)), 3.0)
    assert [event.kind for event in events] == ["host_unblocked"]
    assert events[0].message == "server db1: 10.0.0.11:3306 accepts our address 10.0.0.5 again"
    assert state.blocked == frozenset()


@pytest.mark.parametrize(
    ("script", "base_s"),
    [
        ("", 0.5),
        ("+", 2.0),
        ("+-", 0.5),
        ("+---", 2.0),
        ("+---+", 0.5),
        ("+---++", 2.0),
        ("+v", 0.5),
        ("+vv+", 2.0),
        ("+s", 2.0),
    ],
)
def test_next_delay(script, base_s):
    state, _, _ = play(script)
    assert next_delay_s(state, RULES, 0.5) == pytest.approx(base_s)
    assert next_delay_s(state, RULES, 0.0) == pytest.approx(base_s * 0.9)
    assert next_delay_s(state, RULES, 0.999) < base_s * 1.1


def test_fast_interval_is_never_slower():
    state, _, _ = play("+-")
    assert next_delay_s(state, Rules(interval_s=0.1, fast_interval_s=0.5), 0.5) == 0.1


def test_first_check_is_soon():
    assert first_delay_s(RULES, 0.0) == 0.0
    assert first_delay_s(RULES, 0.999) < 0.25
    assert first_delay_s(Rules(interval_s=0.1), 0.999) < 0.1


@pytest.mark.parametrize(
    ("due", "last_started", "now", "expected"),
    [
        (10.0, 5.0, 6.0, 6.0),  # at once
        (10.0, 5.9, 6.0, 6.4),  # the last check began 0.1 s ago
        (6.1, 5.9, 6.0, 6.1),  # never later than planned
    ],
)
def test_hint_is_rate_limited(due, last_started, now, expected):
    assert hinted_due(due, last_started, now) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("script", "settled"),
    [
        ("", False),
        ("v", False),
        ("ss", False),
        ("sss", True),
        ("n", True),
        ("+", True),
        ("-", True),
    ],
)
def test_settled(script, settled):
    assert is_settled(play(script)[0], RULES) is settled


def test_unchecked_server_is_up_and_unknown_inside():
    state = unchecked("db1", 7.0)
    assert (state.verdict, state.since, state.readings.read_only) == (Verdict.UP, 7.0, None)


def test_every_status_has_its_sentence():
    assert set(STATUS_WORDS) == set(Status)
    assert all(words.endswith(".") for words in STATUS_WORDS.values())
    assert {one for one in Status if one.is_ours} == {Status.SOCKERR, Status.NO_SOURCE}
    assert {one for one in Status if one.passed} == {Status.L4OK, Status.L7OK, Status.NO_CHECK}
