"""A lock that a worker may wait for long, and show meanwhile that it lives.

Failures handled: an end that comes first (`step` raises, and the lock is not taken).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STEP_SECONDS = 1.0


@contextmanager
def held(lock: "threading.Lock | threading.Semaphore", step: Callable[[], None]) -> Iterator[None]:
    """Hold the lock for the block; `step` is called each second while it is waited for."""
    while not lock.acquire(timeout=STEP_SECONDS):
        step()
    try:
        yield
    finally:
        lock.release()
