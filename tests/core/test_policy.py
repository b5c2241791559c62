"""Decisions about time and lanes, with a clock set by the test."""

import math
import random
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from axomsync.config.units import parse_bandwidth
from axomsync.core.policy import BACKOFF_CAP, BandwidthRule, LaneCount, backoff, bandwidth_at, worth_starting

MONDAY = datetime(2027, 1, 4)  # noqa: DTZ001  # a timetable is about local time


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, allow_infinity=True))
def test_backoff_stays_within_its_bounds(attempt: int, chance: float, asked: float | None) -> None:
    wait = backoff(attempt, lambda: chance, asked)
    assert 0 <= wait <= max(BACKOFF_CAP, min(asked or 0, 3600))
    assert wait <= max(2.0**attempt if attempt < 20 else math.inf, min(asked or 0, 3600))
    if asked is not None:
        assert wait >= min(asked, 3600), "the far side is asked sooner than it wants"


def test_backoff_spreads_over_a_growing_window() -> None:
    chance = random.Random(7).random
    for attempt, window in ((1, 2), (3, 8), (20, 300)):
        waits = [backoff(attempt, chance) for _ in range(500)]
        assert min(waits) < window * 0.05
        assert max(waits) > window * 0.95


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.booleans())
def test_worth_starting_needs_a_live_url(age: float, expires_in: float, used: bool) -> None:
    assert worth_starting(age, None, used)
    assert worth_starting(age, expires_in, used=False), "a URL that nobody tried is worth a try whatever the clocks say"
    if worth_starting(age, expires_in, used=True):
        assert age < expires_in
    else:
        assert age >= expires_in - 30


def minute_by_minute(rules: tuple[BandwidthRule, ...], begin: datetime, minutes: int) -> list[float | None]:
    return [bandwidth_at(rules, begin + timedelta(minutes=minute)) for minute in range(minutes)]


def test_bandwidth_timetable_holds_over_weeks() -> None:
    rules = parse_bandwidth(["Mon-Fri 08:00 50MB/s", "Mon-Fri 20:00 off", "Sun 12:30 1MB/s"])
    week = minute_by_minute(rules, MONDAY, 7 * 24 * 60)
    assert minute_by_minute(rules, MONDAY + timedelta(weeks=3), 7 * 24 * 60) == week
    for day in range(7):
        for hour, expected in {
            0: [1e6, None, None, None, None, None, None],
            8: [50e6, 50e6, 50e6, 50e6, 50e6, None, None],
            12: [50e6, 50e6, 50e6, 50e6, 50e6, None, None],
            13: [50e6, 50e6, 50e6, 50e6, 50e6, None, 1e6],
            20: [None, None, None, None, None, None, 1e6],
        }.items():
            assert week[(day * 24 + hour) * 60] == expected[day], (day, hour)
    assert [week[(6 * 24 + 12) * 60 + minute] for minute in (29, 30)] == [None, 1e6]


_RULES = st.lists(
    st.builds(
        BandwidthRule,
        st.frozensets(st.integers(0, 6), min_size=1),
        st.integers(0, 1439),
        st.none() | st.floats(1, 1e12),
    ),
    min_size=1,
    max_size=6,
)


@given(_RULES, st.integers(0, 7 * 1440 - 1))
def test_bandwidth_at_follows_the_rule_that_began_last(rules: list[BandwidthRule], at: int) -> None:
    def minutes_since(rule: BandwidthRule) -> int:
        return min((at - (day * 1440 + rule.minute)) % (7 * 1440) for day in rule.days)

    begun = [minutes_since(rule) for rule in rules]
    possible = {rule.rate for rule, since in zip(rules, begun, strict=True) if since == min(begun)}
    assert bandwidth_at(tuple(rules), MONDAY + timedelta(minutes=at)) in possible


def test_bandwidth_without_rules_has_no_limit() -> None:
    assert bandwidth_at((), MONDAY) is None


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 64),
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0.5, 100), st.booleans()), max_size=60),
)
def test_lane_count_stays_within_its_bounds(
    most: int, first: int, least: int, thrifty: bool, story: list[tuple[float, float, bool]]
) -> None:
    least = min(least, most)
    lanes, now = LaneCount(most, first, least=least, thrifty=thrifty), 0.0
    for rate, seconds, overrun in story:
        now += seconds
        before = lanes.count
        count = lanes.congested(now) if overrun else lanes.observe(rate, now)
        assert least <= count <= most
        assert count == lanes.count
        if overrun:
            assert count == max(least, before // 2)


def settled(lanes: LaneCount, throughput: dict[int, float], seconds: float = 40.0) -> int:
    for step in range(int(seconds * 4)):
        count = lanes.count
        rate = throughput[max(known for known in throughput if known <= count)]
        lanes.observe(rate, step / 4)
    return lanes.count


def test_lane_count_grows_while_the_rate_grows() -> None:
    assert settled(LaneCount(64), {1: 25, 2: 50, 4: 100, 8: 200, 16: 380, 32: 370, 64: 360}) == 16
    assert settled(LaneCount(64), {1: 100, 2: 200, 4: 300, 8: 20}) == 4, "more lanes were slower"
    assert settled(LaneCount(3), {1: 1, 2: 2, 3: 3}) == 3


def test_thrifty_lane_count_keeps_no_lanes_that_bring_little() -> None:
    throughput: dict[int, float] = {1: 10, 2: 20, 4: 40, 8: 42, 16: 42}
    assert settled(LaneCount(16), throughput) == 16
    assert settled(LaneCount(16, thrifty=True), throughput, seconds=4) == 4


def test_thrifty_lane_count_begins_again_when_the_rate_collapses() -> None:
    lanes = LaneCount(64, 8, least=8, thrifty=True)
    for step in range(200):
        lanes.observe(5.0 * lanes.count if step < 60 else 4.0, step / 4)
        assert step != 59 or lanes.count == 64
        assert step < 90 or lanes.count <= 16


def test_lane_count_reaches_all_lanes_in_two_seconds_when_connections_are_capped() -> None:
    assert settled(LaneCount(16), {lanes: 20 * lanes for lanes in range(1, 17)}, seconds=2) == 16


def test_lane_count_waits_for_connections_that_start_slowly() -> None:
    lanes, changed, count = LaneCount(16), 0.0, 4
    for step in range(80):
        now = step / 4
        if lanes.count != count:
            changed, count = now, lanes.count
        fresh = count / 2 if changed else 0  # half of the lanes have just started
        lanes.observe(20 * (count - fresh) + 20 * fresh * min(1.0, (now - changed) / 1.5), now)
    assert lanes.count == 16


def test_lane_count_grows_though_requests_begin_with_a_burst() -> None:
    """Bytes like nginx's limit_rate gives: one second's worth at once, then none for that second, for each new request."""
    for first in (1, 2, 4, 8):
        lanes, begun = LaneCount(16, first), [0.0] * first
        for step in range(40):
            now = step / 4
            lanes.observe(sum(2.0 if now - start < 0.75 else 0.5 if now - start < 2.25 else 1.0 for start in begun), now)
            begun = [start if now - start < 3 else now for start in begun[: lanes.count]]
            begun += [now] * (lanes.count - len(begun))
        assert lanes.count == 16


def test_lane_count_probes_less_often_when_more_lanes_are_slower() -> None:
    lanes, tries = LaneCount(64, 4), []
    for step in range(600 * 4):
        before = lanes.count
        lanes.observe({4: 300.0, 8: 20.0}[before], step / 4)
        if lanes.count > before:
            tries.append(step / 4)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses == sorted(pauses)
    assert len(tries) < 16
