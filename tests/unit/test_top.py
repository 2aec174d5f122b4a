"""What ``portside top`` shows and asks, from fixed frames: rates, strips, order, boards, keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.cli import top as command
from portside.errors import PortsideError
from portside.top import actions, boards, order, strip
from portside.top.feed import EVENTS, SESSIONS
from portside.top.frames import WINDOW_S, Frame, History, Rates, rates
from portside.top.order import Board, Column, Field, Line, Order

from tests.unit.test_cli_show import MEMBER, STATUS, plainly

NO_RATES = Rates({}, {}, {})
PORT = {
    "source": "10.0.0.5",
    "destination": "10.0.0.12:3306",
    "server": "db2",
    "size": 100,
    "in_use": 50,
    "resting": 10,
    "blocked": 1,
    "time_wait": 5,
    "free": 30,
    "reserved": 4,
    "new_per_s": 120.4,
    "exhausted_in_s": None,
    "wasted_probes": 0,
    "closes": {},
    "peer_timestamps": True,
    "resets_lost": False,
}
SESSION = {
    "id": 7,
    "client": "10.0.1.7:51234",
    "service": "read",
    "server": "db2",
    "source": "10.0.0.5:12000",
    "destination": "10.0.0.12:3306",
    "state": "query",
    "age_s": 75.0,
    "idle_s": 0.2,
    "to_server_bytes": 100,
    "to_client_bytes": 3000,
}
EVENT = {
    "id": 1790000000001,
    "time": 1790000000.0,
    "kind": "server_down",
    "message": "server db2 is down after 3 failed checks: L4CON: connection refused",
    "service": "",
    "server": "db2",
}


def frame(time: float = 0.0, **changes: Any) -> Frame:
    status = {**STATUS, "pid": 812, "uptime_s": 100.0 + time, **changes}
    return Frame(time, status, [PORT], [SESSION], [EVENT])


def counted(time: float, accepted: int, member: int, server: int) -> Frame:
    service = STATUS["services"][0]  # type: ignore[index]
    services = [
        {
            **service,
            "accepted_total": accepted,
            "members": [{**MEMBER, "sessions_total": member}],
        }
    ]
    servers = [{**STATUS["servers"][0], "sessions_total": server}]  # type: ignore[index]
    return frame(time, services=services, servers=servers)


# ---- rates


def test_rates_are_differences_of_counters():
    found = rates(counted(10.0, 100, 50, 5), counted(12.0, 300, 250, 5))
    assert found.services["read"]["accepted_total"] == 100.0
    assert found.services["read"]["refused_total"] == 0.0
    assert found.members["read", "db1"] == 100.0
    assert found.servers["db2"]["sessions_total"] == 0.0
    assert found.total("accepted_total") == 100.0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (counted(10.0, 100, 1, 1), counted(10.0, 200, 1, 1)),  # no time between them
        (counted(10.0, 100, 1, 1), counted(11.0, 99, 1, 1)),  # removed and made anew
        (frame(10.0, services=[]), counted(11.0, 9, 1, 1)),  # new since
    ],
)
def test_no_rate_without_anything_to_compare_with(before, after):
    found = rates(before, after)
    assert found.services["read"]["accepted_total"] is None
    assert found.total("accepted_total") is None


def test_an_older_instance_that_lacks_a_key_has_rates_all_the_same():
    old = [{k: v for k, v in STATUS["servers"][0].items() if k != "close_deadlines_total"}]  # type: ignore[index,attr-defined]
    found = rates(frame(1.0, servers=old), frame(2.0, servers=old))
    assert found.servers["db2"] == {
        "sessions_total": 0.0,
        "connect_failures_total": 0.0,
        "close_deadlines_total": 0.0,
    }
    lacks = [{k: v for k, v in old[0].items() if k != "check_s"}]
    assert boards.servers(frame(servers=lacks), found).lines[0].server == "db2"


def test_the_history_spans_some_seconds_and_ends_with_the_process():
    history = History()
    assert history.rates() == NO_RATES
    for second in range(10):
        assert not history.add(counted(float(second), second * 100, 0, 0))
    assert history.rates().services["read"]["accepted_total"] == 100.0
    # A jump shows within the window, and only its mean.
    history.add(counted(10.0, 900 + 400, 0, 0))
    assert history.rates().services["read"]["accepted_total"] == pytest.approx(200.0)
    assert history.add(frame(11.0, pid=9))
    assert history.rates().services["read"]["accepted_total"] is None


@pytest.mark.parametrize(("pid", "uptime_s"), [(9, 200.0), (812, 0.5)])
def test_another_process_is_noticed_by_its_pid_or_its_age(pid, uptime_s):
    history = History()
    history.add(frame(1.0))
    assert history.add(frame(2.0, pid=pid, uptime_s=uptime_s))


# ---- strips


@pytest.mark.parametrize(
    ("counts", "width", "expected"),
    [
        ([50, 5, 1, 4, 10, 30], 20, [9, 1, 1, 1, 2, 6]),
        ([0, 0, 0, 0, 0, 18000], 10, [0, 0, 0, 0, 0, 10]),
        ([1, 0, 0, 0, 0, 17999], 10, [1, 0, 0, 0, 0, 9]),
        ([0, 0, 0, 0, 0, 0], 10, [0, 0, 0, 0, 0, 0]),
        ([1, 1, 1, 1, 1, 1], 3, [1, 1, 1, 0, 0, 0]),
        ([9, 9], 0, [0, 0]),
    ],
)
def test_a_strip_is_shared_out_in_proportion(counts, width, expected):
    assert strip.lengths(counts, width) == expected


@given(st.lists(st.integers(0, 100_000), min_size=6, max_size=6), st.integers(1, 200))
def test_a_strip_fills_its_width_and_hides_nothing(counts, width):
    found = strip.lengths(counts, width)
    assert sum(found) == (width if any(counts) else 0)
    if width >= 6:
        assert all((length > 0) == (count > 0) for count, length in zip(counts, found, strict=True))


def test_a_strip_as_text_and_its_legend():
    drawn = strip.draw(PORT, 20)
    assert "".join(text for text, _ in drawn) == "█████████▓x+░░······"
    assert drawn[0][1] == "green"
    plain = "".join(text for text, _ in strip.draw(PORT, 20, ascii_only=True))
    assert plain == "#########Tx+--......" and plain.isascii()
    assert strip.legend(ascii_only=True).isascii()
    assert len({state.glyph for state in strip.STATES}) == len(strip.STATES)


# ---- order

COLUMNS = (
    Column("NAME"),
    Column("N", right=True),
    Column("NOTE", rank=2),
    Column("TEXT", grows=True, least=6),
)


def line(key: str, number: int | None, note: str = "", parent: str = "") -> Line:
    fields = (Field(key), Field(str(number), by=number), Field(note), Field("x" * 40))
    return Line(key, fields, f"about {key}", parent)


BOARD = Board(
    COLUMNS,
    (
        line("b", 10, "first"),
        line("b1", 3, parent="b"),
        line("b2", 7, "special", parent="b"),
        line("a", 9),
        line("a1", None, parent="a"),
    ),
)


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        (Order(), "b b1 b2 a a1"),
        (Order(descending=True), "a a1 b b2 b1"),
        (Order(0), "a a1 b b1 b2"),
        (Order(1), "a a1 b b1 b2"),
        (Order(1, descending=True), "b b2 b1 a a1"),
        (Order(words="b2"), "b b2"),
        (Order(words="SPECIAL about"), "b b2"),
        (Order(words="first"), "b b1 b2"),
        (Order(words="a1"), "a a1"),
        (Order(words="b1 special"), ""),
        (Order(words="nothing"), ""),
    ],
)
def test_lines_are_sorted_and_filtered_within_their_groups(by, keys):
    assert " ".join(each.key for each in order.arrange(BOARD, by)) == keys


def test_the_next_column_and_round_again():
    by = Order(words="w", descending=True)
    seen = []
    for _ in range(5):
        by = by.next_column(4)
        seen.append(by.column)
    assert seen == [0, 1, 2, 3, None]
    assert (by.words, by.descending) == ("w", True)


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (80, {0: 5, 1: 4, 2: 7, 3: 61}),
        (20, {0: 5, 1: 4, 3: 9}),  # the note goes first
        (17, {0: 5, 1: 4, 3: 6}),
        (11, {0: 5, 1: 4}),
        (3, {0: 3}),
    ],
)
def test_columns_fit(width, widths):
    found = order.fit(BOARD, width)
    assert found == widths
    assert sum(found.values()) + len(found) - 1 <= max(width, 3)


@pytest.mark.parametrize(
    ("text", "width", "right", "expected"),
    [
        ("abc", 5, False, "abc  "),
        ("abc", 5, True, "  abc"),
        ("abcdef", 4, False, "abc…"),
        ("abcdef", 1, False, "a"),
        ("abc", 0, False, ""),
    ],
)
def test_clipping(text, width, right, expected):
    assert order.clip(text, width, right=right) == expected


def test_the_heading_shows_the_order():
    assert order.head_of(COLUMNS, 0, Order(0), 6) == "NAME▲ "
    assert order.head_of(COLUMNS, 1, Order(1, descending=True), 4) == "  N▼"
    assert order.head_of(COLUMNS, 1, Order(0), 4) == "   N"
    assert order.head_of(COLUMNS, 0, Order(0), 3) == "NA▲"


# ---- boards


def texts(board: Board, at: int) -> dict[str, str]:
    heads = [column.head for column in board.columns]
    return {
        head: each.text
        for head, each in zip(heads, board.lines[at].fields, strict=True)
        if each.text
    }


def test_services_and_their_members():
    board = boards.services(
        frame(), Rates({"read": {"accepted_total": 1234.5, "refused_total": 0.25}}, {}, {})
    )
    assert texts(board, 0) == {
        "SERVICE": "read",
        "STATE": "open",
        "SESS": "2/4,000",
        "QUEUE": "0",
        "NEW/S": "1,234",
        "REFUSED/S": "0.2",
        "LISTEN / WHY NOT": "10.0.0.5:3307",
    }
    assert texts(board, 2)["STATE"] == "not" and texts(board, 2)["WEIGHT"] == "3"
    assert "not eligible, weight 3 (file: 10)" in board.lines[2].detail
    assert "connection refused" in board.lines[2].detail
    assert [each.parent for each in board.lines] == ["", "service/read", "service/read"]
    assert board.lines[2].service == "read" and board.lines[2].server == "db2"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "eligible"),
        ({"weight": 0}, "weight 0"),
        ({"active": False}, "standby"),
        ({"active": False, "eligible": False}, "not"),
    ],
)
def test_the_word_of_a_member(changes, word):
    service = {**STATUS["services"][0], "members": [{**MEMBER, **changes}]}  # type: ignore[index,dict-item]
    assert texts(boards.services(frame(services=[service]), NO_RATES), 1)["STATE"] == word


@pytest.mark.parametrize(("is_up", "took"), [(True, "4.2ms"), (None, "4.2ms"), (False, None)])
def test_the_duration_of_a_check_is_of_a_server_that_is_up(is_up, took):
    server = {**STATUS["servers"][0], "check_s": 0.0042, "is_up": is_up}  # type: ignore[index,dict-item]
    assert texts(boards.servers(frame(servers=[server]), NO_RATES), 0).get("TOOK") == took


def test_servers():
    server = {**STATUS["servers"][0], "hosts_blocked": ["10.0.0.5"]}  # type: ignore[index,dict-item]
    board = boards.servers(
        frame(servers=[server]),
        Rates({}, {"db2": {"sessions_total": 3.0, "connect_failures_total": 10.0}}, {}),
    )
    assert texts(board, 0) == {
        "SERVER": "db2",
        "STATE": "down",
        "ELIGIBLE": "0 of 1",
        "WEIGHT": "3",
        "SESS": "0",
        "NEW/S": "3.0",
        "CHECK": "L4CON",
        "SINCE": "1m1s",
        "FAILED/S": "10",
        "DESTINATIONS / WHY": "connection refused",
    }
    assert "it refuses 10.0.0.5 (portside explain host_blocked)" in board.lines[0].detail


@pytest.mark.parametrize(
    ("left_s", "text", "style"),
    [
        (None, "never", "green"),
        (0.0, "now", "bold red"),
        (125.0, "2m5s", "bold red"),
        (7200.0, "2h0m", "yellow"),
    ],
)
def test_the_forecast_of_the_ports(left_s, text, style):
    port = {**PORT, "exhausted_in_s": left_s}
    board = boards.ports(Frame(0.0, STATUS, [port]), NO_RATES)
    cell = board.lines[0].fields[-1]
    assert (cell.text, cell.style) == (text, style)
    assert texts(board, 0)["USED"] == "60%"
    assert "50 in use, 5 TIME_WAIT, 1 blocked" in board.lines[0].detail


def test_lost_resets_are_told():
    board = boards.ports(Frame(0.0, STATUS, [{**PORT, "resets_lost": True}]), NO_RATES)
    assert "resets get lost" in board.lines[0].detail


def test_pools_have_columns_of_their_own():
    status = {
        "services": [{**STATUS["services"][0], "mode": "pool"}],  # type: ignore[index]
        "servers": [
            {**STATUS["servers"][0], "pool_busy": busy, "pool_open": 40, "pool_max": most}  # type: ignore[index]
            for busy, most in ((12, 100), (40, 40), (0, None))
        ],
    }
    made = frame(**status)
    board = boards.servers(made, NO_RATES)
    at = [column.head for column in board.columns].index("POOL")
    assert [line.fields[at] for line in board.lines] == [
        Field("12/40/100", by=12),
        Field("40/40/40", "yellow", by=40),
        Field(""),
    ]
    assert at in order.fit(board, 79), "in an 80x24 terminal"
    pooled = {
        **SESSION,
        "connection_id": 1073741831,
        "server_connection_id": 4711,
        "user": "app",
        "pinned": "user-variable",
        "tls": "TLSv1.3",
        "program": "mysql",
    }
    both = [pooled, {**SESSION, "id": 8}]
    board = boards.sessions(Frame(0.0, made.status, sessions=both), NO_RATES)
    assert texts(board, 0)["CONNECTION_ID"] == "1073741831"
    assert texts(board, 0)["PINNED"] == "user-variable"
    assert board.lines[0].detail.splitlines()[1] == (
        "CONNECTION_ID 1073741831, on the server 4711, user app, pinned: user-variable, TLSv1.3,"
        " mysql"
    )
    assert "CONNECTION_ID" not in texts(board, 1)
    assert len(board.lines[1].detail.splitlines()) == 1
    found = order.arrange(board, Order(words="4711"))
    assert [line.session for line in found] == [7], "found by any of its ids"


def test_sessions_and_events():
    board = boards.sessions(frame(), NO_RATES)
    assert texts(board, 0)["AGE"] == "1m15s" and board.lines[0].session == 7
    assert "from 10.0.0.5:12000 to 10.0.0.12:3306" in board.lines[0].detail
    board = boards.events(frame(), NO_RATES)
    assert board.lines[0].fields[1] == Field("server_down", "yellow")
    assert "portside explain WORD" in board.lines[0].detail, "what to do stands below"
    newer = {**EVENT, "id": 1790000000002, "kind": "of_a_newer_version"}
    board = boards.events(Frame(0.0, STATUS, events=[EVENT, newer]), NO_RATES)
    assert [each.fields[1].text for each in board.lines] == ["of_a_newer_version", "server_down"]


@pytest.mark.parametrize("name", boards.NAMES)
def test_empty_views_say_so(name):
    board = boards.views()[name](Frame(0.0, {**STATUS, "services": [], "servers": []}), NO_RATES)
    assert board.lines == () and board.empty.endswith(".")


# ---- actions


def chosen(view: str, at: int) -> Line:
    return boards.views()[view](frame(), NO_RATES).lines[at]


@pytest.mark.parametrize(
    ("key", "on", "verb", "args", "words"),
    [
        ("d", ("servers", 0), "drain", ("db2",), "no new sessions in read; 0 sessions there may"),
        ("d", ("services", 2), "drain", ("db2",), "portside drain db2"),
        ("m", ("servers", 0), "maint", ("db2",), "lose what is not committed"),
        ("r", ("ports", 0), "ready", ("db2",), "as its checks allow"),
        ("p", ("services", 0), "pause", ("read",), "New clients wait in the queue"),
        ("k", ("sessions", 0), "kill", ("7",), "Cut session 7: 10.0.1.7:51234 in service read"),
    ],
)
def test_keys_act_on_the_line_and_say_what_they_would_do(key, on, verb, args, words):
    found = actions.action(key, chosen(*on), frame().status)
    assert isinstance(found, actions.Action)
    assert (found.verb, found.args) == (verb, args)
    assert words in found.question


@pytest.mark.parametrize(
    ("key", "on", "text"),
    [
        ("d", ("services", 0), "d is for a server: choose a line of one."),
        ("k", ("servers", 0), "k cuts a session: choose one in the view 4."),
        ("p", ("servers", 0), "p pauses a service: choose a line of one."),
        ("r", None, "r is for a server: choose a line of one."),
    ],
)
def test_keys_that_do_not_fit_the_line_say_so(key, on, text):
    assert actions.action(key, on and chosen(*on), frame().status) == text


def test_a_paused_service_is_resumed():
    service = {**STATUS["services"][0], "state": "no server", "paused": True}  # type: ignore[index,dict-item]
    found = actions.action("p", chosen("services", 0), {**STATUS, "services": [service]})
    assert isinstance(found, actions.Action) and found.verb == "resume"


def test_weights():
    status = frame().status
    assert list(actions.members(chosen("servers", 0), status)) == ["read/db2"]
    assert list(actions.members(chosen("services", 1), status)) == ["read/db1"]
    assert actions.members(chosen("services", 0), status) == {}
    row = actions.members(chosen("servers", 0), status)["read/db2"]
    asked = actions.weight("read/db2", row, "0").question
    assert asked.endswith("in service read: from 3 to 0. It gets no new sessions.")
    assert "from 3 to what the file says, 10." in actions.weight("read/db2", row, "file").question
    with pytest.raises(PortsideError, match="'many' is not a weight"):
        actions.weight("read/db2", row, "many")


# ---- the page and the option


def test_the_page_for_pipes():
    text = plainly(command.page(frame(), NO_RATES))
    assert text.startswith("Portside 0.1.0  accepting  2/9,963 sessions")
    assert "! server db2 is down" in text
    for name in boards.NAMES:
        assert f"\n{name.upper()}\n" in text
    assert "█" in text and "10.0.1.7:51234" in text
    # "…" and blocks are what an old terminal cannot show.
    assert plainly(command.page(frame(), NO_RATES, ascii_only=True)).isascii()


@pytest.mark.parametrize(("text", "seconds"), [("200ms", 0.2), ("1s", 1.0), ("2m", 120.0)])
def test_delays(text, seconds):
    assert command.read_delay(text) == seconds


@pytest.mark.parametrize("text", ["5", "", "0s", "199ms", "soon", "-1s", "never"])
def test_what_is_no_delay(text):
    with pytest.raises(PortsideError, match=rf'"{text}" is no delay: expected a time from "200ms"'):
        command.read_delay(text)


def test_the_docs_name_every_view_and_key():
    text = (Path(__file__).parents[2] / "docs" / "top.md").read_text()
    for at, name in enumerate(boards.NAMES, 1):
        assert f"| `{at}` | {name} |" in text
    keys = set(re.findall(r"`(\S)`", text.split("| key | does |")[1].split("\n\n")[0]))
    assert keys == {*actions.VERBS, *"sSwz/?q"}
    assert f"over the last {WINDOW_S:g} s" in " ".join(text.split())
    assert f"up to {SESSIONS:,} running" in text and f"the last {EVENTS}, newest" in text
    plain = "".join(state.plain for state in strip.STATES)
    assert f"made of `{plain}`" in text
