"""Rates and the time to exhaustion, from made-up samples with made-up times."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portside.ports.trend import Sample, Trends, exhausted_in_s, slope

SIZE = 10_000


def samples(seconds: int, usable: Callable[[int], float], tw: Callable[[int], float] = lambda _: 0):
    """One a second, from 0 to ``seconds``."""
    return [Sample(t, int(usable(t)), int(tw(t)), 0, {}) for t in range(seconds + 1)]


def row(**counts: Any) -> dict[str, Any]:
    base = {
        "server": "db1",
        "source": "10.0.0.5",
        "destination": "10.0.0.11:3306",
        "size": SIZE,
        "in_use": 0,
        "resting": 0,
        "blocked": 0,
        "time_wait": 0,
        "free": SIZE,
        "reserved": 0,
        "wasted_probes": 0,
        "opened_total": 0,
        "closes": {},
        "peer_timestamps": None,
        "resets_lost": False,
    }
    return base | counts


def test_a_steady_fall_ends_when_the_line_says():
    assert exhausted_in_s(samples(30, lambda t: SIZE - 100 * t)) == pytest.approx(70, abs=0.5)


def test_less_than_ten_seconds_tell_nothing():
    fall = samples(10, lambda t: SIZE - 100 * t)
    assert exhausted_in_s(fall[:10]) is None
    assert exhausted_in_s(fall) == pytest.approx(90, abs=1)


def test_steady_recycling_is_never():
    noise = random.Random(7)
    busy = samples(60, lambda _: 5000 + noise.randint(-200, 200))
    assert exhausted_in_s(busy) is None
    assert exhausted_in_s(samples(60, lambda _: SIZE)) is None
    assert exhausted_in_s(samples(60, lambda t: 100 + t)) is None


@pytest.mark.parametrize("since", range(16, 60))
def test_a_load_that_began_and_stays_is_no_exhaustion(since: int):
    """60 of 84 ports in use from one second to the next, and then as many as long as it lasts."""
    noise = random.Random(since)
    step = samples(since + 20, lambda t: 84 if t < 20 else 24 + noise.randint(-1, 1))
    assert exhausted_in_s(step) is None


def test_a_step_that_goes_on_falling_is_one():
    falling = samples(60, lambda t: 9000 if t < 20 else 9000 - 100 * (t - 20))
    assert exhausted_in_s(falling) == pytest.approx(5000 / 100, rel=0.6)


def test_nothing_left_is_now_also_without_a_trend():
    assert exhausted_in_s(samples(0, lambda _: 0)) == 0.0
    assert exhausted_in_s([]) is None


def test_time_wait_that_comes_back_in_time_is_no_exhaustion():
    """At 100/s a naive close keeps 6,000 tuples busy: of 10,000 there are always some left."""
    ramp = samples(30, lambda t: SIZE - 100 * t, lambda t: 100 * t)
    assert exhausted_in_s(ramp) is None
    late = samples(55, lambda t: 7000 - 100 * t, lambda t: 100 * t)
    assert exhausted_in_s(late) is None


def test_time_wait_that_comes_back_too_late_is_one():
    """At 470/s the article's 28,232 ports are gone within the 60 s."""
    ramp = samples(20, lambda t: 28_232 - 480 * t, lambda t: 480 * t)
    assert exhausted_in_s(ramp) == pytest.approx(28_232 / 480 - 20, abs=0.5)


def test_only_the_last_minute_counts():
    turned = samples(200, lambda t: 9000 - 50 * t if t < 100 else 4000)
    assert exhausted_in_s(turned) is None


def test_slope_of_points_at_one_time_is_none():
    assert slope([(1.0, 3.0), (1.0, 5.0)]) == (0.0, 0.0)


@given(st.lists(st.integers(0, SIZE), min_size=1, max_size=80))
def test_the_time_is_never_negative(values: list[int]):
    left = exhausted_in_s([Sample(t, v, 0, 0, {}) for t, v in enumerate(values)])
    assert left is None or left >= 0
    assert (left == 0.0) == (values[-1] == 0)


def test_rates_and_closes_of_the_last_minute():
    trends = Trends()
    for t in range(101):
        trends.add(t, [row(opened_total=50 * t, closes={"eof-reset": 50 * t, "linger2": 3})])
    (view,) = trends.views(
        100.0, [row(opened_total=5000, closes={"eof-reset": 5000, "linger2": 3})]
    )
    assert view.new_per_s == 50.0
    assert view.closes == {"eof-reset": 3000}, "what happened before this minute is not told"
    assert view.exhausted_in_s is None


def test_the_first_minute_counts_from_the_start():
    trends = Trends()
    trends.add(0.0, [row(closes={"eof-reset": 2})])
    (view,) = trends.views(0.5, [row(closes={"eof-reset": 7})])
    assert view.closes == {"eof-reset": 7}
    assert view.new_per_s == 0.0


def test_the_present_counts_before_the_next_sample():
    trends = Trends()
    trends.add(0.0, [row()])
    (view,) = trends.views(0.4, [row(free=0, in_use=SIZE)])
    assert view.exhausted_in_s == 0.0
    (view,) = trends.views(0.8, [row()])
    assert view.exhausted_in_s is None


def test_rows_that_go_and_come_begin_anew():
    trends = Trends()
    for t in range(30):
        trends.add(t, [row(opened_total=1000 * t)])
    trends.add(30.0, [])
    trends.add(31.0, [row(opened_total=0)])
    trends.add(32.0, [row(opened_total=5)])
    (view,) = trends.views(32.0, [row(opened_total=5)])
    assert view.new_per_s == 5.0


def test_a_counter_that_begins_anew_makes_no_negative_rate():
    trends = Trends()
    trends.add(0.0, [row(opened_total=1000)])
    trends.add(1.0, [row(opened_total=3)])
    trends.add(2.0, [row(opened_total=9)])
    (view,) = trends.views(2.0, [row(opened_total=9)])
    assert view.new_per_s == 6.0
