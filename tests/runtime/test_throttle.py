"""The bandwidth limit, the meter and the heartbeats of workers, with clocks set by the test."""

import heapq
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axomsync.config.units import parse_bandwidth
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.throttle import Throttle
from tests.rig.clocks import HandClock

MONDAY = datetime(2027, 1, 4)  # noqa: DTZ001  # a timetable is about local time
MEBIBYTE = 1 << 20


class World:
    """A clock that only moves when somebody sleeps, and lanes that take turns on it."""

    def __init__(self, begin: datetime = MONDAY) -> None:
        self.now = 1000.0
        self.begin = begin
        self.slept = 0.0

    def clock(self) -> float:
        return self.now

    def local_time(self) -> datetime:
        return self.begin + timedelta(seconds=self.now - 1000.0)

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 5, "storage drops a sender that is silent for long"
        self.slept = seconds

    def throttle(self, bandwidth: object) -> Throttle:
        return Throttle(parse_bandwidth(bandwidth), self.clock, self.sleep, self.local_time)

    def run(self, throttle: Throttle, lanes: int, seconds: float, chunk: int | None = None) -> float:
        """Bytes per second of several lanes: each moves a piece at a time as uploads do, or what storage sends at once."""
        end, moved = self.now + seconds, 0
        turns = [(self.now, lane) for lane in range(lanes)]
        while turns[0][0] < end:
            self.now, lane = heapq.heappop(turns)
            piece = chunk or throttle.piece(MEBIBYTE)
            self.slept = 0.0
            throttle.take(piece)
            moved += piece
            # A lane needs a moment for a piece even without a limit.
            heapq.heappush(turns, (self.now + self.slept + piece / 10e9, lane))
        self.now = end
        return moved / seconds


@pytest.mark.parametrize("rate", [1_000_000, 10_000_000, 200_000_000])
@pytest.mark.parametrize("lanes", [1, 4, 16, 256])
def test_throttle_keeps_the_rate_for_any_number_of_lanes(rate: int, lanes: int) -> None:
    world = World()
    assert world.run(world.throttle(f"{rate}B/s"), lanes, 60) == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("rate", [100_000, 300_000, 1_000_000, 5_000_000, 100_000_000])
def test_throttle_uses_fewer_lanes_at_a_low_rate(rate: int) -> None:
    world = World()
    throttle = world.throttle(f"{rate}B/s")
    assert world.run(throttle, throttle.lanes(16), 60, chunk=400 * 1024) == pytest.approx(rate, rel=0.1)


def test_throttle_without_a_limit_allows_all_lanes() -> None:
    assert World().throttle(["00:00 off"]).lanes(16) == 16


def test_throttle_at_a_tiny_rate_still_moves_bytes() -> None:
    world = World()
    assert 1_000 <= world.run(world.throttle("1kB/s"), 4, 60) <= 4 * 4096


def test_throttle_follows_the_timetable_while_lanes_run() -> None:
    world = World()
    throttle = world.throttle(["00:00 1MB/s", "00:01 20MB/s", "00:02 off"])
    assert world.run(throttle, 8, 60) == pytest.approx(1e6, rel=0.1)
    assert world.run(throttle, 8, 60) == pytest.approx(20e6, rel=0.1)
    assert world.run(throttle, 1, 1) > 1e9


def test_throttle_cancels_debt_when_the_rate_changes() -> None:
    world = World()
    throttle = world.throttle("1kB/s")
    world.run(throttle, 16, 600)
    throttle.change(parse_bandwidth("50MB/s"))
    assert world.run(throttle, 16, 10) == pytest.approx(50e6, rel=0.1)
    throttle.change(())
    assert throttle.piece(MEBIBYTE) == MEBIBYTE
    world.slept = 0.0
    throttle.take(1 << 40)
    assert world.slept == 0.0


# The meter


@given(
    st.lists(
        st.tuples(st.sampled_from(["receive", "secure"]), st.integers(-500, 1000), st.floats(0.01, 5)),
        min_size=1,
        max_size=40,
    )
)
def test_meter_progress_never_goes_backwards(story: list[tuple[str, int, float]]) -> None:
    clock = HandClock()
    meter = Meter(clock)
    with meter.transfer("down", "llama/v1", 10_000, done=300) as gauge:
        seen = []
        for act, count, seconds in story:
            clock.now += seconds
            getattr(gauge, act)(count)
            (transfer,) = meter.read()
            assert transfer.bytes_received >= transfer.bytes_done >= 300
            assert transfer.rate >= 0
            assert transfer.eta is None or transfer.eta >= 0
            seen.append(transfer.bytes_done)
        assert all(earlier <= later for earlier, later in pairwise(seen))
    assert meter.read() == []


def test_meter_rate_and_time_left_cover_the_last_ten_seconds() -> None:
    clock = HandClock()
    meter = Meter(clock)
    with meter.transfer("up", "a.jsonl", 100_000) as gauge:
        for rate in (0, 0, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000):
            clock.now += 1
            gauge.receive(rate)
            (transfer,) = meter.read()
        assert transfer.rate == pytest.approx(1000, rel=0.2)
        assert transfer.eta == pytest.approx((100_000 - 13_000) / transfer.rate)
        clock.now += 60
        meter.read()
        clock.now += 1
        assert meter.read()[0].rate == 0
        assert meter.read()[0].eta is None


def test_meter_shows_the_live_one_of_two_transfers_with_one_name() -> None:
    meter = Meter(HandClock())
    with meter.transfer("down", "llama/v1", 10) as _:
        with meter.transfer("down", "llama/v1", 20):
            pass
        first = meter.transfer("down", "llama/v1", 10)
        first.__enter__()
        with meter.transfer("down", "llama/v1", 20):
            first.__exit__(None, None, None)
            assert [transfer.bytes_total for transfer in meter.read()] == [20]


# Beats


def test_liveness_reports_a_worker_that_is_silent_beyond_the_limit() -> None:
    clock = HandClock()
    liveness = Liveness(10.0, clock)
    assert liveness.hanging() == []
    with liveness.worker("lane") as lane, liveness.worker("drop") as drop, liveness.worker("lane"):
        clock.now += 10
        assert liveness.hanging() == []
        drop()
        clock.now += 0.1
        assert liveness.hanging() == ["lane"]
        lane()
        assert liveness.hanging() == ["lane"], "its sibling of the same name still hangs"
        liveness.limit = 60.0
        assert liveness.hanging() == []
        clock.now += 60
        assert liveness.hanging() == ["drop", "lane"]
    assert liveness.hanging() == []


def test_liveness_forgets_a_worker_that_failed() -> None:
    clock = HandClock()
    liveness = Liveness(10.0, clock)
    with pytest.raises(ValueError, match="dead"), liveness.worker("lane"):
        raise ValueError("dead")
    clock.now += 100
    assert liveness.hanging() == []
