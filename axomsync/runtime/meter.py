"""Transfers in flight: bytes received, bytes durable, rate and time left. The shown progress never goes backwards."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from axomsync.core.records import Transfer

RATE_WINDOW_SECONDS = 10.0


class Gauge:
    """One transfer. Its numbers cover the whole file or model, not only this try."""

    def __init__(self, direction: str, name: str, total: int, done: int, now: float) -> None:
        self.direction, self.name, self.total = direction, name, total
        self._done = self._shown = self._received = done
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])
        self._moved = 0
        self._lock = threading.Lock()

    def receive(self, count: int) -> None:
        """Add `count` bytes received or sent; negative to take back useless ones."""
        with self._lock:
            self._received += count
            self._moved += max(0, count)

    def secure(self, count: int) -> None:
        """Add `count` bytes that are durable or confirmed by storage."""
        with self._lock:
            self._done += count
            self._shown = max(self._shown, self._done)

    @property
    def moved(self) -> int:
        """Bytes that went over the wire for this transfer, useless ones included."""
        return self._moved

    def read(self, now: float) -> Transfer:
        """The transfer at `now` (monotonic seconds)."""
        with self._lock:
            self._samples.append((now, self._moved))
            while len(self._samples) > 2 and now - self._samples[0][0] > RATE_WINDOW_SECONDS:
                self._samples.popleft()
            since, moved = self._samples[0]
            rate = (self._moved - moved) / (now - since) if now > since else 0.0
            received = max(self._shown, min(self._received, self.total))
            eta = (self.total - received) / rate if rate > 0 else None
            return Transfer(self.direction, self.name, self._shown, received, self.total, rate, eta)


class Meter:
    """All transfers in flight. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._gauges: dict[tuple[str, str], Gauge] = {}
        self._live: set[Gauge] = set()  # including gauges hidden by another of the same name
        self._ended: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def transfer(self, direction: str, name: str, total: int, done: int = 0) -> Iterator[Gauge]:
        """Show a gauge for the duration of the block."""
        gauge = Gauge(direction, name, total, done, self._clock())
        self._gauges[direction, name] = gauge
        with self._lock:
            self._live.add(gauge)
        try:
            yield gauge
        finally:
            if self._gauges.get((direction, name)) is gauge:  # two models can have one name; the later one is shown
                del self._gauges[direction, name]
            with self._lock:
                self._live.remove(gauge)
                self._ended[direction] += gauge.moved

    def read(self) -> list[Transfer]:
        """All transfers now."""
        now = self._clock()
        return [gauge.read(now) for gauge in list(self._gauges.values())]

    def totals(self) -> dict[str, int]:
        """Bytes over the wire since the start, by direction; they never go backwards."""
        with self._lock:
            totals = {direction: self._ended[direction] for direction in ("up", "down")}
            for gauge in self._live:
                totals[gauge.direction] += gauge.moved
        return totals
