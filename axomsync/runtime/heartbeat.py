"""Liveness of workers: each worker beats, and the watchdog asks which ones are silent.

An idle worker beats at each turn of its loop, a busy one after each piece of work. Silence beyond the limit means that the
worker hangs, whatever the rest of the process does.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Beat = Callable[[], None]


def unwatched() -> None:
    """The beat of work that no watchdog watches."""


class Liveness:
    """The beats of all workers. `clock` gives monotonic seconds; `limit` is in seconds and may change at any time."""

    def __init__(self, limit: float, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self._last: dict[int, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._numbers = iter(range(1 << 62))

    @contextmanager
    def worker(self, name: str) -> Iterator[Beat]:
        """Register a worker for the block, which must call the yielded beat at least once per `limit`."""
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
        """Names of the workers that were silent for longer than the limit."""
        now = self._clock()
        with self._lock:
            return sorted({name for name, last in self._last.values() if now - last > self.limit})
