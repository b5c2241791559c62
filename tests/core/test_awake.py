"""The clock that stands still while the process does: nobody else was silent then."""

from axomsync.core.awake import STANDSTILL_SECONDS, AwakeClock
from axomsync.runtime.heartbeat import Liveness
from tests.rig.clocks import HandClock

NIGHT = 8 * 3600.0


def test_time_that_somebody_looked_at_counts_and_a_standstill_does_not() -> None:
    real = HandClock()
    awake = AwakeClock(real)
    began = awake()
    for _ in range(10):
        real.now += STANDSTILL_SECONDS
        awake()
    assert awake() - began == 10 * STANDSTILL_SECONDS
    real.now += NIGHT
    assert awake() - began == 10 * STANDSTILL_SECONDS
    real.now += 1.0
    assert awake() - began == 10 * STANDSTILL_SECONDS + 1.0


def test_workers_of_a_process_that_was_stopped_do_not_hang_and_one_that_stays_silent_does() -> None:
    real = HandClock()
    awake = AwakeClock(real)
    liveness = Liveness(60.0, awake)
    with liveness.worker("lane"):
        real.now += NIGHT
        assert liveness.hanging() == []
        for _ in range(12):
            assert liveness.hanging() == []
            real.now += STANDSTILL_SECONDS
        assert liveness.hanging() == []
        real.now += 0.1
        assert liveness.hanging() == ["lane"]
