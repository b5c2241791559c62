"""Waits before retries: stored and shown by the wall clock, measured by the monotonic clock.

A wait that this process started or saw ends after its seconds, however the wall clock is set. A wait of an earlier process
has only the wall time of its end.

Failures handled: a clock that was set back or forward, while running or between two runs (a stored time further ahead than
the longest wait came from a wrong clock, so the wait is over).
"""

import time
from collections.abc import Callable, Hashable

from axomsync.core.policy import LONGEST_WAIT_SECONDS


class Waits:
    """All waits, by a key of the caller. Usable from any thread. `now`: wall clock; `clock`: monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self._now, self._clock = now, clock
        self._known: dict[Hashable, tuple[float, float]] = {}  # end by the stored wall time, end by the monotonic clock

    def begin(self, what: Hashable, seconds: float) -> float:
        """Start a wait of `seconds`; returns the wall time of its end, to store and show."""
        due = self._now() + seconds
        self._known[what] = (due, self._clock() + seconds)
        return due

    def left(self, what: Hashable, due: float | None, longest: float = LONGEST_WAIT_SECONDS) -> float:
        """Seconds left until the stored wall time `due`: 0 when it has come or is None."""
        if due is None:
            self._known.pop(what, None)
            return 0.0
        known = self._known.get(what)
        if known is None or known[0] != due:
            seconds = due - self._now()
            known = self._known[what] = (due, self._clock() + (seconds if 0.0 < seconds <= longest else 0.0))
        return max(0.0, known[1] - self._clock())
