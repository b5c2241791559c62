"""A clock for judging how long others have been silent: it stands still while this process does.

A process that was stopped (SIGSTOP, Ctrl-Z, a frozen container) has heard nothing because it did not listen: neither
storage nor the console, the disk or one of its threads is to blame. Intervals are another matter, they run on.

Failures handled: a standstill, found by whoever looks first after it.
"""

import threading
import time
from collections.abc import Callable

STANDSTILL_SECONDS = 5.0  # without a look; a running agent looks each second, from more than one thread


class AwakeClock:
    """Call it for the seconds that the process has run. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked, self._stood_still = clock(), 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        # Without a lock: every piece of every transfer asks. Read first, so that a standstill which another thread notes at
        # this moment can only make the result larger: somebody is then blamed later, never wrongly.
        stood_still = self._stood_still
        now = self._clock()
        if now - self._looked > STANDSTILL_SECONDS:
            stood_still = self._note_standstill(now)
        elif now > self._looked:
            self._looked = now
        return now - stood_still

    def _note_standstill(self, now: float) -> float:
        with self._lock:
            if (pause := now - self._looked) > STANDSTILL_SECONDS:
                self._stood_still += pause
            self._looked = max(now, self._looked)
            return self._stood_still


awake_seconds = AwakeClock()  # of this process, as it has one monotonic clock
