"""How long the console has let its callers wait. Usable from any thread.

A call that ended is waited for no longer, however it ended; and while others are answered, a slow one is no silence.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Silence:
    """The calls under way that have no answer yet. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: dict[object, float] = {}  # when each began
        self._answered = -math.inf  # when one was answered last

    @contextmanager
    def until_answered(self) -> Iterator[None]:
        """A call that waits for the headers of its answer."""
        call = object()
        with self._lock:
            self._under_way[call] = self._clock()
        try:
            yield
            self._answered = self._clock()
        finally:
            with self._lock:
                del self._under_way[call]

    def seconds(self) -> float:
        """Seconds for which the oldest call under way has waited without an answer to any; 0 when none waits."""
        with self._lock:
            oldest = min(self._under_way.values(), default=None)
        return 0.0 if oldest is None else max(0.0, self._clock() - max(oldest, self._answered))
