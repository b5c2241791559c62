"""Until when what failed is left alone: stored and shown by the wall clock, judged by one that nobody sets.

A wait that this process has begun, or has seen before, ends when its seconds have passed, however the wall clock is set.
Of one from an earlier life nothing but the wall time of its end is left.

Failures handled: a clock that was set back or forward, under way or between two lives (a stored time that is further ahead
than any wait is long was planned by a clock that was wrong: it has come).
"""

import time
from collections.abc import Callable, Hashable

from axomsync.core.policy import LONGEST_WAIT_SECONDS


class Waits:
    """What waits, by a name of the caller's. Usable from any thread. `now` is the wall clock, `clock` monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self._now, self._clock = now, clock
        self._known: dict[Hashable, tuple[float, float]] = {}  # the end by the wall clock as it was stored, and by the other

    def begin(self, what: Hashable, seconds: float) -> float:
        """`what` waits from now on; returns the wall time of the end, to be stored and shown."""
        due = self._now() + seconds
        self._known[what] = (due, self._clock() + seconds)
        return due

    def left(self, what: Hashable, due: float | None, longest: float = LONGEST_WAIT_SECONDS) -> float:
        """Seconds that `what` still waits, whose stored wall time is `due`: 0 when that has come, or is None."""
        if due is None:
            self._known.pop(what, None)
            return 0.0
        known = self._known.get(what)
        if known is None or known[0] != due:
            seconds = due - self._now()
            known = self._known[what] = (due, self._clock() + (seconds if 0.0 < seconds <= longest else 0.0))
        return max(0.0, known[1] - self._clock())
