"""Overrides, composition and what follows for sessions: tables in, values out."""

from dataclasses import replace

import pytest
from portside.config.load import loads
from portside.control.difference import changes, restart_mistakes
from portside.control.state import AdminState, Overrides, World, actions, compose
from portside.health.judge import Readings, Status, Verdict
from portside.health.monitor import ServerHealth
from portside.health.requirement import ServerView

TEXT = """
[portside]
workers = 2
[check]
user = "monitor"
password = "x"
[[server]]
name = "db1"
address = "10.0.0.11:3306"
[[server]]
name = "db2"
address = "10.0.0.12:3306"
slowstart = "10s"
[[service]]
name = "write"
listen = "127.0.0.1:13306"
require = "writable"
servers = ["db1", { name = "db2", backup = true }]
[[service]]
name = "read"
listen = "127.0.0.1:13307"
on_down = "keep-sessions"
servers = [{ name = "db1", weight = 1 }, { name = "db2", weight = 10 }]
"""
CONFIG = loads(TEXT)


def health(
    name: str, verdict: Verdict, *, read_only: bool = False, up_since: float | None = None
) -> ServerHealth:
    """A server as the monitor shows it."""
    up = verdict is Verdict.UP
    view = ServerView(
        name,
        verdict,
        Status.L7OK if up else Status.L4CON,
        "" if up else "connection refused",
        settled=True,
        readings=Readings(read_only=read_only, replica=read_only),
    )
    return ServerHealth(
        name=name,
        status=str(verdict),
        code=str(view.code),
        detail=view.detail,
        since=100.0,
        up_since=up_since,
        latency_s=0.001,
        writable=not read_only,
        replicating=None,
        lag_s=None,
        note="",
        destinations=(),
        blocked=(),
        checks=3,
        failures=0,
        view=view,
    )


BOTH_UP = {
    "db1": health("db1", Verdict.UP),
    "db2": health("db2", Verdict.UP, read_only=True),
}
DB1_DOWN = {**BOTH_UP, "db1": health("db1", Verdict.DOWN)}
PROMOTED = {
    "db1": health("db1", Verdict.DOWN),
    "db2": health("db2", Verdict.UP),
}


def composed(overrides=Overrides(), healths=BOTH_UP, before=None, now=100.0):  # noqa: B008
    """A composition from scratch, or following ``before``."""
    decisions = before.world.decisions if before else {}
    return compose(World(CONFIG, overrides, {}, decisions), healths, now)


def test_all_up():
    standing = composed().standing
    assert standing["write"].active == {"db1"}
    assert standing["write"].holder == "db1"
    assert standing["read"].active == {"db1", "db2"}


def test_drain_takes_a_server_out_of_every_service_and_says_how_back():
    overrides = Overrides().with_server("db1", AdminState.DRAIN)
    standing = composed(overrides).standing
    member = standing["read"].members["db1"]
    assert not member.eligible
    assert member.why == "server db1 is in drain; on the proxy: portside ready db1"
    assert standing["read"].active == {"db2"}
    assert standing["write"].active == frozenset()


def test_weight_zero_takes_nothing_though_it_is_eligible():
    overrides = Overrides().with_weight("read", "db2", 0)
    composition = composed(overrides)
    assert composition.standing["read"].active == {"db1"}
    assert composition.standing["read"].members["db2"].eligible
    assert composition.members["read", "db2"].weight == 0


def test_slow_start_scales_a_returned_server_and_says_when_it_changes():
    healths = {**BOTH_UP, "db2": health("db2", Verdict.UP, read_only=True, up_since=97.5)}
    composition = composed(healths=healths)
    assert composition.members["read", "db2"].ramp == pytest.approx(0.3)
    assert composition.members["read", "db1"].ramp == 1.0
    assert composition.next_change_s == pytest.approx(0.5)


def test_a_server_never_checked_is_not_eligible():
    standing = composed(healths={}).standing
    assert not standing["read"].active
    assert standing["read"].members["db1"].why == "server db1 has not been checked yet"


def test_sessions_on_a_down_server_are_closed_where_the_service_says_so():
    before, after = composed(), composed(healths=DB1_DOWN)
    found = actions(before.standing, after.standing, Overrides(), Overrides())
    assert [(a.server, a.service, a.at_boundary) for a in found] == [("db1", "write", False)]


def test_nothing_happens_twice_for_a_server_that_stays_down():
    down = composed(healths=DB1_DOWN)
    assert actions(down.standing, down.standing, Overrides(), Overrides()) == ()


def test_when_the_writes_move_the_old_holder_loses_its_sessions():
    before = composed()
    after = composed(healths=PROMOTED, before=before)
    assert after.standing["write"].holder == "db2"
    found = actions(before.standing, after.standing, Overrides(), Overrides())
    assert [(a.server, a.service) for a in found] == [("db1", "write")]


def test_a_switched_writer_loses_its_sessions_even_if_it_is_still_writable():
    both_writable = {**BOTH_UP, "db2": health("db2", Verdict.UP)}
    before = composed(healths=both_writable)
    decision = before.world.decisions["write"]
    switched = replace(decision, state=replace(decision.state, holder="db2"))
    world = replace(before.world, decisions={**before.world.decisions, "write": switched})
    after = compose(world, both_writable, 100.0)
    found = actions(before.standing, after.standing, Overrides(), Overrides())
    assert [(a.server, a.service) for a in found] == [("db1", "write")]


def test_maint_ends_sessions_at_boundaries_once():
    before = composed()
    maint = Overrides().with_server("db2", AdminState.MAINT)
    after = composed(maint)
    found = actions(before.standing, after.standing, Overrides(), maint)
    assert [(a.server, a.service, a.at_boundary) for a in found] == [("db2", None, True)]
    assert actions(after.standing, after.standing, maint, maint) == ()


def test_drain_closes_nothing():
    drained = Overrides().with_server("db2", AdminState.DRAIN)
    assert actions(composed().standing, composed(drained).standing, Overrides(), drained) == ()


def test_ready_and_none_remove_an_override():
    overrides = (
        Overrides()
        .with_server("db1", AdminState.MAINT)
        .with_weight("read", "db1", 5)
        .with_pause("read", True)
    )
    back = (
        overrides.with_server("db1", AdminState.READY)
        .with_weight("read", "db1", None)
        .with_pause("read", False)
    )
    assert back == Overrides()


def test_overrides_are_shown_beside_the_files_value():
    overrides = (
        Overrides()
        .with_server("db1", AdminState.MAINT)
        .with_weight("read", "db2", 5)
        .with_pause("write", True)
    )
    assert overrides.words(CONFIG) == (
        "server db1: maint",
        "service read, server db2: weight 5 (file: 10)",
        "service write: paused",
    )


def test_a_reload_keeps_overrides_that_still_name_something():
    overrides = (
        Overrides()
        .with_server("db1", AdminState.DRAIN)
        .with_server("db2", AdminState.MAINT)
        .with_weight("read", "db2", 5)
        .with_pause("write", True)
    )
    smaller = loads(
        '[[server]]\nname="db1"\naddress="10.0.0.11:3306"\n'
        '[[service]]\nname="read"\nlisten="127.0.0.1:13307"\nservers=["db1"]\n'
    )
    assert overrides.fitted(smaller) == Overrides({"db1": AdminState.DRAIN})


def test_changes_are_named():
    other = loads(
        TEXT.replace("10.0.0.12", "10.0.0.99")
        .replace('name = "write"', 'name = "write2"')
        .replace("workers = 2", "workers = 2\nresolve = '1m'")
    )
    assert changes(CONFIG, other) == (
        "server db2: address changed",
        "service write2: added",
        "service write: removed (it drains)",
        "[portside]: resolve changed",
    )
    assert changes(CONFIG, CONFIG) == ()


def test_a_reload_names_changed_users_and_never_their_passwords():
    def users(*tables: str):
        return loads(TEXT + "".join(f"[[user]]\n{table}\n" for table in tables))

    one = 'name = "a"\npassword = "first-secret"'
    other = 'name = "b"\npassword = "x"'
    new = 'name = "a"\npassword = "second-secret"\nmax_connections = 5'
    assert changes(users(one, other), users(new, 'name = "c"\npassword = "x"')) == (
        "user c: added",
        "user b: removed (no new logins)",
        "user a: password, max_connections changed",
    )


def test_what_needs_a_restart_is_refused():
    other = loads(TEXT.replace("workers = 2", "workers = 3"))
    (text,) = restart_mistakes(CONFIG, other)
    assert text.startswith("[portside] workers cannot change on reload (now 2, new 3)")
