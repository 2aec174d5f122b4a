"""Events: what is kept and followed, what is told how often, and that docs/events.md knows all."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from portside.control.announce import STANDS_S, Announcer, level_of
from portside.control.event_kinds import GROUPS, KINDS
from portside.control.event_ring import Event, EventRing
from portside.control.late_closes import LateCloses
from portside.health.judge import HealthEvent

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "events.md").read_text()


def filled(count: int, *, capacity: int = 1000, start: int = 0) -> EventRing:
    ring = EventRing(capacity, start)
    for number in range(1, count + 1):
        ring.add(float(number), "server_down", f"event {number}")
    return ring


def heard(
    ring: EventRing,
    after: int | None,
    then: Callable[[EventRing], None] = lambda _: None,
    beat_s: float | None = None,
) -> list[Event | None]:
    """What a reader gets: ``then`` happens once it has caught up, and then the ring closes."""

    async def play() -> list[Event | None]:
        found: list[Event | None] = []

        async def listen() -> None:
            async for event in ring.follow(after, beat_s):
                found.append(event)

        task = asyncio.create_task(listen())
        await asyncio.sleep(0)
        then(ring)
        if beat_s is not None:
            while None not in found:
                await asyncio.sleep(beat_s)
        ring.close()
        await task
        return found

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("after", "limit", "ids"),
    [
        (0, 1000, [3, 4, 5]),
        (4, 1000, [5]),
        (5, 1000, []),
        (9, 1000, []),
        (0, 2, [4, 5]),
        (0, 0, []),
        (3, 1, [5]),
    ],
)
def test_the_oldest_are_forgotten(after, limit, ids):
    assert [event.id for event in filled(5, capacity=3).since(after, limit)] == ids


def add(count: int) -> Callable[[EventRing], None]:
    def then(ring: EventRing) -> None:
        for _ in range(count):
            ring.add(0.0, "server_up", "new")

    return then


@pytest.mark.parametrize(
    ("ring", "after", "then", "ids"),
    [
        (filled(2), None, add(2), [3, 4]),  # from now on
        (filled(2), 0, add(1), [1, 2, 3]),  # everything that is kept
        (filled(3), 1, add(0), [2, 3]),  # resumed
        (filled(3), 3, add(1), [4]),
        (filled(3), 9, add(0), [1, 2, 3]),  # an id that is still to come: the clock went back
        (filled(0), None, add(0), []),
        (filled(0, start=7), 7, add(1), [8]),
    ],
)
def test_following(ring, after, then, ids):
    found = heard(ring, after, then)
    assert [event.id for event in found if event] == ids
    assert all(event and event.kind != "events_missed" for event in found)
    assert ring.followers == 0


@pytest.mark.parametrize(
    ("ring", "after", "then", "text"),
    [
        (filled(5, capacity=3), 1, add(0), "1 event was forgotten"),
        (filled(5, capacity=3), 0, add(0), "2 events were forgotten"),
        (filled(9, capacity=3, start=100), 101, add(0), "5 events were forgotten"),
        (filled(1), None, add(2000), "1000 events were forgotten"),  # it lagged while following
        (filled(2, start=100), 17, add(0), "started anew after event 17"),
    ],
)
def test_a_reader_is_told_what_it_missed_and_goes_on(ring, after, then, text):
    first, *rest = heard(ring, after, then)
    assert first is not None and first.kind == "events_missed" and text in first.message
    assert [event.id for event in rest if event] == [event.id for event in ring.since(first.id)]


def test_a_beat_tells_that_nothing_happens():
    assert set(heard(filled(1), None, beat_s=0.005)) == {None}


def test_readers_have_no_buffer():
    async def play() -> int:
        ring = filled(0)
        readers = [ring.follow() for _ in range(500)]
        waiting = [asyncio.ensure_future(anext(reader)) for reader in readers]
        await asyncio.sleep(0)
        for _ in range(5000):  # nobody takes one
            ring.add(0.0, "server_up", "new")
        held = sum(isinstance(each, Event) for each in gc.get_objects())
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return held - len(ring.since())

    others = sum(isinstance(each, Event) for each in gc.get_objects())
    assert asyncio.run(play()) <= others


def engine_event(kind: str, moment: float, server: str = "db1") -> dict[str, Any]:
    return {"kind": kind, "time": moment, "service": "", "server": server, "message": "refused"}


def test_repeated_engine_events_are_counted_and_not_told():
    ring = EventRing()
    announcer = Announcer(ring, clock=lambda: 0.0)
    for moment in (0.0, 0.1, 9.9, 10.0):
        announcer.engine(engine_event("connect_failed", moment))
    announcer.engine(engine_event("connect_failed", 9.9, "db2"))
    announcer.tell("reload", "done")
    assert [event.message for event in ring.since()] == [
        "refused",
        "refused (2 more since the last message of this kind)",
        "refused",
        "done",
    ]
    assert announcer.counts == {"connect_failed": 5, "reload": 1}


def test_each_blocked_address_is_told_and_254_are_not():
    ring = EventRing()
    announcer = Announcer(ring)
    for number in range(254):
        announcer.engine(engine_event("host_blocked", number / 1000))
    assert len(ring.since()) == 16
    announcer.engine(engine_event("host_blocked", 11.0))
    assert "(238 more" in ring.since()[-1].message


def test_a_refused_address_is_told_once_whoever_meets_it():
    ring, now = EventRing(), [0.0]
    announcer = Announcer(ring, clock=lambda: now[0])
    place = "10.0.0.5 10.0.0.11:3306"

    def both(kind: str, about: str = place) -> int:
        before = len(ring.since())
        announcer.health(HealthEvent(kind, "by a check", "db1", about=about))
        announcer.engine({**engine_event(kind, now[0] + 0.5), "about": about})
        return len(ring.since()) - before

    assert both("host_blocked") == 1
    assert both("host_blocked", "10.0.0.6 10.0.0.11:3306") == 1, "another address"
    assert both("host_unblocked") == 1
    assert both("host_blocked") == 1, "again"
    now[0] = STANDS_S + 1
    assert both("host_blocked") == 1, "it still stands"
    assert announcer.counts == {"host_blocked": 4, "host_unblocked": 1}
    assert both("server_down", "") == 2, "what is about no address is told by each"


def test_late_closes_are_told_once_in_ten_seconds_with_their_number():
    late = LateCloses()
    assert late.news(0.0, {"db1": 0, "db2": 0}) == []
    told = "server db1: 1 close went without its FIN, which close.deadline awaits"
    assert late.news(1.0, {"db1": 1, "db2": 0}) == [("db1", told)]
    assert late.news(2.0, {"db1": 500, "db2": 0}) == []
    ((server, text),) = late.news(10.9, {"db1": 900, "db2": 7})
    assert (server, text.split(": ")[1][:8]) == ("db2", "7 closes")
    ((server, text),) = late.news(11.0, {"db1": 1201, "db2": 7})
    assert (server, "1,200 closes" in text) == ("db1", True)
    assert late.news(40.0, {"db1": 1201, "db2": 7}) == []
    # db1 was away for a reload and counts anew.
    assert late.news(50.0, {"db2": 7}) == []
    ((server, text),) = late.news(60.0, {"db1": 3, "db2": 7})
    assert (server, "3 closes" in text) == ("db1", True)


# ---- the page


def test_the_page_has_every_kind_with_its_level_and_words():
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", DOCS.split("## Kinds")[1], re.MULTILINE)
    documented = {name: (level, text) for name, level, text in rows}
    assert documented == {
        kind.name: (kind.level_name, f"{kind.text} {kind.advice}".rstrip())
        for kind in KINDS.values()
    }
    assert re.findall(r"^### (.*)$", DOCS, re.MULTILINE) == list(GROUPS)


def test_the_page_has_every_field():
    section = DOCS.split("## One event")[1].split("## ")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert documented == [field.name for field in fields(Event)]


def kinds_made() -> set[str]:
    """Every kind that the sources make, found by how they are made."""
    package = ROOT / "python" / "portside"
    python = "".join(
        path.read_text() for part in ("control", "health") for path in (package / part).glob("*.py")
    )
    found = set(re.findall(r'(?:HealthEvent|\.tell)\(\s*"(\w+)"', python))
    found |= set(re.findall(r'kind = "(\w+)"', python))
    found |= set(re.findall(r'kind = "\w+" if .* else "(\w+)"', python))
    found |= set(re.findall(r'"(\w+)" if [^"]* else "\w+", ', python))
    found |= set(re.findall(r' else "(\w+)", (?:text|_event_text)', python))
    found |= set(re.findall(r'return \[\("(\w+)",', python))
    found |= set(re.findall(r'\.time, "(\w+)"', python))
    found |= {"admin_drain", "admin_maint", "admin_ready"}  # f"admin_{state}" in verbs
    engine = (ROOT / "crates" / "engine" / "src" / "events.rs").read_text()
    variants = re.findall(r"^    ([A-Z]\w+),$", engine.split("enum Kind")[1].split("}")[0], re.M)
    found |= {re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower() for name in variants}
    return found


def test_every_kind_that_is_made_is_known_and_every_known_one_is_made():
    assert kinds_made() == set(KINDS)


def test_levels():
    assert {level_of(name) for name in KINDS} == {20, 30, 40}
    assert level_of("unheard_of") == 20
    for kind in KINDS.values():
        assert kind.level < 40 or kind.advice, f"{kind.name} is an error without advice"
