"""Connections to one console: a call has one for itself, namely the one that was used last.

httpx's own pool looks at all connections that it keeps, at each request and at each end of one: a hundred system calls for
each question, where 64 threads ask at once.

Failures handled: a console that ended a kept connection (httpx makes another one), a crowd that went away (the connections
that nobody used for a while are closed with the next call), an end while calls are under way (they fail).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

KEPT_SECONDS = 5.0  # httpx's own choice: servers close an idle connection after a while


class Connections:
    """Transports of httpx, which `make` makes, with one connection each. Usable from any thread."""

    def __init__(self, make: Callable[[], httpx.BaseTransport], clock: Callable[[], float] = time.monotonic) -> None:
        self._make, self._clock = make, clock
        self._lock = threading.Lock()  # guards what follows
        self._used: set[httpx.BaseTransport] = set()
        self._free: deque[tuple[float, httpx.BaseTransport]] = deque()  # since when; the one that was used last is the last

    @contextmanager
    def one(self) -> Iterator[httpx.BaseTransport]:
        """Yield a transport that nobody else uses meanwhile."""
        with self._lock:
            transport = self._free.pop()[1] if self._free else self._make()
            self._used.add(transport)
        try:
            yield transport
        finally:
            for each in self._given_back(transport):
                each.close()

    def _given_back(self, transport: httpx.BaseTransport) -> list[httpx.BaseTransport]:
        """Keep a transport for the next call; returns those that nobody wants any more."""
        with self._lock:
            if transport not in self._used:
                return []  # closed meanwhile
            self._used.remove(transport)
            now, unwanted = self._clock(), []
            while self._free and now - self._free[0][0] > KEPT_SECONDS:
                unwanted.append(self._free.popleft()[1])
            self._free.append((now, transport))
            return unwanted

    def close(self) -> None:
        """Close all, those in use too."""
        with self._lock:
            every = [*self._used, *(transport for _, transport in self._free)]
            self._used.clear()
            self._free.clear()
        for transport in every:
            transport.close()
