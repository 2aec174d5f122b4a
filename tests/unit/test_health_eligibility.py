"""Who may take sessions, as tables: require, the two-writers rule, failback, switch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portside.health.eligibility import (
    ServiceDecision,
    ServiceState,
    SwitchRefused,
    decide,
    decide_all,
    switch,
)
from portside.health.judge import Readings, Status, Verdict
from portside.health.requirement import MemberRules, ServerView, ServiceRules, refusal

WRITABLE = Readings(read_only=False, replica=False)
REPLICA = Readings(read_only=True, replica=True, replicating=True, lag_s=0.0)
# What a letter says of a server.
SERVERS = {
    "W": (Verdict.UP, Status.L7OK, "", WRITABLE),
    "R": (Verdict.UP, Status.L7OK, "", REPLICA),
    "r": (Verdict.UP, Status.L7OK, "", Readings(False, True, True, 0.0)),  # read_only forgotten
    "u": (Verdict.UP, Status.L4OK, "", Readings()),
    "d": (Verdict.DOWN, Status.L4CON, "refused", WRITABLE),
    "c": (Verdict.DOWN, Status.L7OK, "", WRITABLE),
    "n": (Verdict.UP, Status.NO_SOURCE, "source address 10.0.0.5 is not on this host", WRITABLE),
    "?": (Verdict.UNKNOWN, None, "", Readings()),
}


def views(letters: str) -> dict[str, ServerView]:
    """Servers db1, db2 ... from one letter each."""
    found = {}
    for number, letter in enumerate(letters, 1):
        verdict, code, detail, readings = SERVERS[letter]
        name = f"db{number}"
        found[name] = ServerView(
            name, verdict, code, detail, settled=letter != "?", readings=readings
        )
    return found


def service(members: str, require="writable", *, manual=None, max_lag_s=None) -> ServiceRules:
    """Members from one letter each: m(ember) or b(ackup)."""
    rules = tuple(MemberRules(f"db{n}", kind == "b") for n, kind in enumerate(members, 1))
    manual = "b" in members if manual is None else manual
    return ServiceRules("write", rules, require, max_lag_s, manual)


def play(rules: ServiceRules, *steps: str) -> tuple[list[str], list[str], ServiceDecision]:
    """The eligible members after each step, the kinds of events, the last decision.

    A step is the letters of the servers, or ">db1" for a switch (decided with the servers before).
    """
    decision, seen, kinds, servers = None, [], [], {}
    for one in steps:
        if one.startswith(">"):
            state, event = switch(rules, servers, decision, one[1:])
            kinds.append(event.kind)
            assert decision is not None
            decision = ServiceDecision(rules.name, state, decision.members)
        else:
            servers = views(one)
        decision, events = decide(rules, servers, decision)
        kinds += [event.kind for event in events]
        seen.append("+".join(decision.eligible))
    assert decision is not None
    return seen, kinds, decision


@pytest.mark.parametrize(
    ("members", "steps", "eligible"),
    [
        # One writer, found by read_only alone.
        ("m", ["W", "d", "W"], ["db1", "", "db1"]),
        ("m", ["u"], [""]),
        ("mb", ["WR"], ["db1"]),
        ("mb", ["RW"], ["db2"]),
        # Unknown is not writable, and a backup does not take over from an unread primary.
        ("mb", ["?W", "WW"], ["", "db1"]),
        ("mb", ["?W", "dW"], ["", "db2"]),
        ("mb", ["??", "R?", "RW"], ["", "", "db2"]),
        # A flapping primary with a read-only replica keeps its writes.
        ("mb", ["WR", "dR", "WR", "dR", "WR"], ["db1", "", "db1", "", "db1"]),
        # Two writable servers: the present one stays, whichever it is.
        ("mb", ["WR", "WW", "WW"], ["db1", "db1", "db1"]),
        ("mb", ["RW", "WW"], ["db2", "db2"]),
        ("mm", ["WW"], ["db1"]),
        # A replica that lost read_only does not win over a primary at the start.
        ("mm", ["rW"], ["db2"]),
        # Failover by promotion; the old primary comes back and waits, even when it is the last.
        ("mb", ["WR", "dR", "dW", "WW", "Wd", "WR"], ["db1", "", "db2", "db2", "", ""]),
        # ... until somebody says so.
        ("mb", ["WR", "dW", "WR", ">db1"], ["db1", "db2", "", "db1"]),
        ("mb", ["WR", "dW", "WW", ">db1", "WW"], ["db1", "db2", "db2", "db1", "db1"]),
        # Portside starts while the primary is away: it waits as well when it returns.
        ("mb", ["dW", "WW", "Wd"], ["db2", "db2", ""]),
        # A planned change by the administrator in the database is followed.
        ("mb", ["WR", "RW"], ["db1", "db2"]),
        # No source address: others are used.
        ("mb", ["WR", "nW"], ["db1", "db2"]),
    ],
)
def test_writer(members, steps, eligible):
    assert play(service(members), *steps)[0] == eligible


@pytest.mark.parametrize(
    ("steps", "eligible"),
    [
        (["WR", "dW", "WW", "WR"], ["db1", "db2", "db2", "db1"]),
        (["WR", "dW", "Wd"], ["db1", "db2", "db1"]),
    ],
)
def test_writer_with_auto_failback(steps, eligible):
    """The present one stays while it is writable; nobody waits for a switch."""
    assert play(service("mb", manual=False), *steps)[0] == eligible


def test_two_writers_are_told_once():
    _, kinds, decision = play(service("mbb"), "WRR", "WWR", "WWR", "WWW", "WRR", "WWR")
    assert kinds == ["two_writers", "two_writers", "two_writers"]
    assert decision.member("db2").why == (
        "server db2 is writable, but db1 takes the writes: never two writers"
    )


def held(servers: dict[str, ServerView], *names: str) -> dict[str, ServerView]:
    """The servers with some drained by an administrator."""
    return {
        name: replace(one, held=f"server {name} is in drain" if name in names else "")
        for name, one in servers.items()
    }


def test_draining_the_writer_moves_no_writes():
    """Its running sessions still write: a second writer must not start meanwhile."""
    rules = service("mb")
    decision, _ = decide(rules, views("WW"), None)
    decision, events = decide(rules, held(views("WW"), "db1"), decision)
    assert (decision.eligible, decision.state.holder) == ((), "db1")
    assert decision.member("db1").why == "server db1 is in drain"
    assert [event.kind for event in events] == ["service_down"]
    decision, _ = decide(rules, views("WW"), decision)
    assert decision.eligible == ("db1",)


def test_drained_server_does_not_become_the_writer():
    rules = service("mbb")
    decision, _ = decide(rules, views("WRR"), None)
    decision, _ = decide(rules, held(views("dWW"), "db2"), decision)
    assert decision.eligible == ("db3",)


def test_draining_the_others_brings_the_backup_in():
    rules = service("mb", "none")
    decision, _ = decide(rules, views("uu"), None)
    decision, _ = decide(rules, held(views("uu"), "db1"), decision)
    assert decision.eligible == ("db2",)
    decision, _ = decide(rules, views("uu"), decision)
    assert (decision.eligible, "switch write db1" in decision.member("db1").why) == (
        ("db2",),
        True,
    )


def test_events_of_a_failover():
    _, kinds, decision = play(service("mb"), "WR", "dR", "dW", "WW")
    assert kinds == ["service_down", "failover", "service_up", "two_writers"]
    assert decision.member("db1").why == (
        "server db1 was replaced and waits: failback is manual; "
        "on the proxy: portside switch write db1"
    )


@settings(deadline=None)
@given(st.text("mb", min_size=1, max_size=4), st.data())
def test_never_two_writers(members, data):
    rules = service(members)
    decision = None
    for _ in range(data.draw(st.integers(1, 12))):
        size = len(members)
        servers = views(data.draw(st.text("".join(SERVERS), min_size=size, max_size=size)))
        if decision is not None and data.draw(st.booleans()):
            target = data.draw(st.sampled_from([one.server for one in rules.members]))
            try:
                state, _ = switch(rules, servers, decision, target)
            except SwitchRefused:
                state = decision.state
            decision = ServiceDecision(rules.name, state, decision.members)
        before = decision
        decision, _ = decide(rules, servers, decision)
        assert len(decision.eligible) <= 1
        for name in decision.eligible:
            assert servers[name].readings.read_only is False
            assert servers[name].verdict is Verdict.UP
            assert name not in decision.state.waiting
            # Only a switch lets a waiting server back in.
            assert before is None or name not in before.state.waiting
        assert all(bool(member.why) is not member.eligible for member in decision.members)
        # The same input once more changes nothing and tells nothing.
        assert decide(rules, servers, decision) == (decision, ())


# ---- services that do not write


@pytest.mark.parametrize(
    ("members", "manual", "steps", "eligible"),
    [
        ("mm", False, ["uu", "du", "uu"], ["db1+db2", "db2", "db1+db2"]),
        ("mb", False, ["uu", "du"], ["db1+db2", "db2"]),  # the engine keeps the backup back
        ("mb", True, ["uu", "du", "uu"], ["db1", "db2", "db2"]),
        ("mb", True, ["uu", "du", "uu", ">db1"], ["db1", "db2", "db2", "db1"]),
        ("mb", True, ["uu", "du", "ud"], ["db1", "db2", ""]),
        ("mb", True, ["uu", "dd", "ud"], ["db1", "", "db1"]),
        ("mb", True, ["uu", ">db2", "uu"], ["db1", "db2", "db2"]),
        ("mb", True, ["?u", "uu"], ["", "db1"]),
        ("mb", True, ["?u", "du"], ["", "db2"]),
        ("mmb", True, ["uuu", "duu", "ddu", "uuu"], ["db1+db2", "db2", "db3", "db3"]),
        ("bb", True, ["uu"], ["db1+db2"]),
    ],
)
def test_tiers(members, manual, steps, eligible):
    assert play(service(members, "none", manual=manual), *steps)[0] == eligible


def test_switch_to_manual_failback_by_reload_keeps_who_serves():
    auto, manual = service("mb", "none", manual=False), service("mb", "none", manual=True)
    decision, _ = decide(auto, views("uu"), None)
    decision, _ = decide(manual, views("uu"), decision)
    assert decision.eligible == ("db1",)


def test_removed_member_is_forgotten():
    _, _, decision = play(service("mb"), "WR", "dW")
    assert decision.state == ServiceState("db2", frozenset({"db1"}), frozenset())
    after, _ = decide(service("m"), views("W"), decision)
    assert after.eligible == ("db1",)  # without a backup failback is "auto"
    alone = ServiceRules("write", (MemberRules("db2"),), "writable")
    gone, _ = decide(alone, views("dW"), decision)
    assert gone.state == ServiceState("db2")


# ---- what one server lacks


@pytest.mark.parametrize(
    ("require", "max_lag_s", "readings", "why"),
    [
        ("none", None, Readings(), ""),
        ("writable", None, WRITABLE, ""),
        ("writable", None, REPLICA, "server db1 is read-only"),
        ("writable", None, Readings(), "it is not known whether server db1 is writable: the check"),
        ("writable", None, Readings(note="GRANT X"), "is writable: GRANT X"),
        ("replicating", 10.0, WRITABLE, ""),
        ("replicating", 10.0, Readings(read_only=False), ""),
        ("replicating", 10.0, REPLICA, ""),
        ("replicating", 10.0, Readings(True, True, True, 10.0), ""),
        ("replicating", 10.0, Readings(True, True, True, 12.0), "lags 12 s behind, at most 10 s"),
        ("replicating", 10.0, Readings(True, True, True, None), "its lag is not known"),
        ("replicating", None, Readings(True, True, True, None), ""),
        ("replicating", None, Readings(True, True, False, None, "IO"), "is stopped (IO"),
        ("replicating", None, Readings(False, True, False, None), "replication is stopped"),
        ("replicating", None, Readings(True, False), "replicates from nobody"),
        ("replicating", None, Readings(True, None), "not known whether server db1 replicates"),
    ],
)
def test_requirement(require, max_lag_s, readings, why):
    server = ServerView("db1", Verdict.UP, Status.L7OK, "", True, readings)
    seen = refusal(service("m", require, max_lag_s=max_lag_s), server)
    assert seen == "" if not why else why in seen


@pytest.mark.parametrize(
    ("letter", "why"),
    [
        ("d", "server db1 is down (L4CON: refused)"),
        ("c", "server db1 is coming back: check.rise good checks in a row are needed"),
        ("?", "server db1 has not been checked yet"),
        ("n", "server db1 cannot be reached from here (NO_SOURCE: source address 10.0.0.5"),
    ],
)
def test_liveness(letter, why):
    assert refusal(service("m", "none"), views(letter)["db1"]).startswith(why)


def test_clients_do_not_see_what_the_server_told_the_check():
    detail = "ERR 1045 Access denied for user 'monitor'@'10.0.0.5'"
    server = ServerView("db1", Verdict.DOWN, Status.L7STS, detail)
    assert refusal(service("m", "none"), server) == "server db1 is down (L7STS)"


def test_server_that_nobody_watches_is_not_eligible():
    decision, _ = decide(service("m", "none"), {}, None)
    assert decision.member("db1").why == "server db1 has not been checked yet"


# ---- switch


@pytest.mark.parametrize(
    ("members", "require", "letters", "target", "why"),
    [
        ("mb", "writable", "WR", "db2", "server db2 is read-only; promote it first"),
        ("mb", "writable", "Wd", "db2", "server db2 is down (L4CON: refused)"),
        ("mb", "writable", "Wu", "db2", "it is not known whether server db2 is writable"),
        ("mb", "writable", "WW", "db9", "service write has no server db9; it has db1, db2"),
        ("mm", "none", "uu", "db2", "has no backup"),
    ],
)
def test_switch_is_refused_with_the_reason(members, require, letters, target, why):
    rules = service(members, require)
    servers = views(letters)
    decision, _ = decide(rules, servers, None)
    with pytest.raises(SwitchRefused) as refused:
        switch(rules, servers, decision, target)
    assert why in str(refused.value)


def test_switch_of_an_auto_service_is_refused():
    rules = service("mb", "none", manual=False)
    with pytest.raises(SwitchRefused, match='failback = "auto"'):
        switch(rules, views("uu"), None, "db2")


def test_planned_switch_lets_the_old_one_back_after_a_failure():
    steps = ["WR", "WW", ">db2", "RW", "Wd"]
    assert play(service("mb"), *steps)[0] == ["db1", "db1", "db2", "db2", "db1"]


def test_decide_all_keeps_services_apart():
    write, read = service("mb"), ServiceRules("read", service("mm").members, "replicating")
    decisions, events = decide_all([write, read], views("WR"), {})
    assert decisions["write"].eligible == ("db1",)
    assert decisions["read"].eligible == ("db1", "db2")
    assert events == ()
