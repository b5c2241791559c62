"""Who is still making progress: workers beat, and whoever feeds a watchdog asks.

A worker that waits for work beats at each turn of its loop; one that is busy beats with each piece of work done. Silence
beyond a worker's limit means that it hangs, whatever the rest of the process does.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Beat = Callable[[], None]


class Liveness:
    """The beats of all workers. `clock` is monotonic, in seconds; so is `limit`, which may be changed at any time."""

    def __init__(self, limit: float, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self._last: dict[int, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._numbers = iter(range(1 << 62))

    @contextmanager
    def worker(self, name: str) -> Iterator[Beat]:
        """For as long as the block runs, the worker must call what it is given at least once a `limit`."""
        with self._lock:
            number = next(self._numbers)
            self._last[number] = (name, self._clock())

        def beat() -> None:
            self._last[number] = (name, self._clock())

        try:
            yield beat
        finally:
            with self._lock:
                del self._last[number]

    def hanging(self) -> list[str]:
        """Names of the workers that have been silent for longer than the limit."""
        now = self._clock()
        with self._lock:
            return sorted({name for name, last in self._last.values() if now - last > self.limit})
