"""What is said under the table of ``portside show ports``."""

from __future__ import annotations

from dataclasses import replace

import pytest
from portside.admin.views import PortView
from portside.ports.words import NONE_OF_OURS, alerts, closes, sentences

GOOD = PortView(
    source="10.0.0.5",
    destination="10.0.0.11:3306",
    server="db1",
    size=1000,
    in_use=20,
    resting=100,
    blocked=0,
    time_wait=0,
    free=864,
    reserved=16,
    new_per_s=50.0,
    exhausted_in_s=None,
    wasted_probes=0,
    closes={"eof-reset": 3000, "linger2": 2},
    peer_timestamps=True,
    resets_lost=False,
)


def said(*rows: PortView) -> str:
    return "\n".join(sentences(rows))


def test_nothing_wrong_is_one_sentence():
    assert sentences([GOOD]) == [
        "db1, 10.0.0.11:3306: 964 of 1,000 source ports are usable, and they come back as fast as"
        " they are taken."
    ]


def test_no_ports_of_ours():
    assert sentences([]) == [NONE_OF_OURS]


def test_exhausted_by_open_sessions_names_the_gain_of_an_address():
    text = said(replace(GOOD, in_use=984, resting=0, free=0, exhausted_in_s=0.0))
    assert "no source port is left, of 1,000. This is not the database." in text
    assert "984 sessions are open at the same time" in text
    assert "source.addresses (1,000 more ports each)" in text


@pytest.mark.parametrize(
    ("timestamps", "wanted"),
    [(False, "has no timestamps"), (True, "With timestamps at both ends")],
)
def test_exhausted_by_time_wait_says_who_closes_first(timestamps: bool, wanted: str):
    row = replace(
        GOOD, in_use=0, resting=0, free=400, time_wait=584, exhausted_in_s=40.0,
        peer_timestamps=timestamps,
    )  # fmt: skip
    assert "no source port will be left in 40 s at this rate. 584 are in TIME_WAIT" in said(row)
    assert wanted in said(row)


def test_blocked_ports_point_at_the_kernels_range():
    text = said(replace(GOOD, blocked=500, free=364))
    assert "464 of 1,000 are usable. 500 are blocked" in text
    assert "net.ipv4.ip_local_port_range" in text


def test_one_address_with_ports_left_is_enough():
    empty = replace(GOOD, source="10.0.0.6", free=0, resting=0, in_use=984, exhausted_in_s=0.0)
    assert "no source port" not in said(empty, GOOD)
    assert said(empty, GOOD).startswith("db1, 10.0.0.11:3306: 964 of 2,000")


def test_lost_resets_and_wasted_tries_get_their_own_sentence():
    text = said(replace(GOOD, resets_lost=True, wasted_probes=12_345))
    assert "swallows our resets" in text and 'close = { to_server = "eof" } for server db1' in text
    assert "12,345 tries since the start" in text


def test_every_destination_is_spoken_of():
    other = replace(GOOD, server="db2", destination="10.0.0.12:3306")
    assert [text.partition(":")[0] for text in sentences([GOOD, other])] == [
        "db1, 10.0.0.11",
        "db2, 10.0.0.12",
    ]


def test_closes_are_added_up():
    assert closes([GOOD, GOOD]).startswith("Closes of the last minute: eof-reset 6,000, linger2 4")
    assert closes([replace(GOOD, closes={})]) == "Closes of the last minute: none."


def test_only_what_needs_a_person_is_an_alert():
    assert alerts([]) == alerts([GOOD]) == []
    gone = replace(GOOD, free=0, resting=0, in_use=984, exhausted_in_s=0.0)
    assert alerts([gone]) == [
        "server db1, 10.0.0.11:3306: no source port is left, of 1,000: portside show ports db1"
    ]
    going = replace(GOOD, exhausted_in_s=300.0, resets_lost=True)
    one, two = alerts([going])
    assert "no source port will be left in 5 min at this rate" in one
    assert "the path swallows resets" in two
