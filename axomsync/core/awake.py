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
        with self._lock:
            now = self._clock()
            if (pause := now - self._looked) > STANDSTILL_SECONDS:
                self._stood_still += pause
            self._looked = now
            return now - self._stood_still


awake_seconds = AwakeClock()  # of this process, as it has one monotonic clock
