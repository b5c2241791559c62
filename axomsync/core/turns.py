"""Turns: of the threads that ask for one, only one at a time runs Python code.

At each system call Python gives its lock up, and a thread that waits for it runs in between. Where many threads make many
short system calls, as for small files, most of these are two switches between threads, which cost more than the call. A
thread that has the turn lends it to the others only while it waits: for the far side, for a disk, for another thread.

A turn is no lock: nothing may rely on being alone.

Failures handled: a thread that waits though it has the turn (the others go on without turns after a moment), a folder whose
system calls are slow, or a busy machine, so that who has the turn waits more than he works (no turns for a while).
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 0.05  # for the turn, while it does not change hands
LOOK_SECONDS = 0.5  # that turns were had; then it is judged whether they were used
USED = 0.6  # CPU-seconds in one second of turns, at least: with less, to wait in turn costs more than the switches
WITHOUT_SECONDS = 10.0  # how long there are no turns where they are no use


class _Mine(threading.local):
    has = False  # the turn


class Turns:
    """A turn that goes round. `clock`: monotonic seconds; `cpu`: CPU-seconds of the calling thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.thread_time) -> None:
        self._clock, self._cpu = clock, cpu
        self._turn = threading.Lock()
        self._mine = _Mine()
        self._without_until = -math.inf
        # Of the thread that has the turn; it alone writes these.
        self._taken = 0  # how often it changed hands
        self._since = self._used_since = 0.0
        self._had = self._used = 0.0  # seconds and CPU-seconds, since the last judgement

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Run the block in turn with other such blocks. One within another is a part of that."""
        if self._mine.has:
            yield
            return
        self._take()
        try:
            yield
        finally:
            self._give()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Wait in the block; if the thread has the turn, others have it meanwhile."""
        if not self._mine.has:
            yield
            return
        self._give()
        try:
            yield
        finally:
            self._take()

    def _take(self) -> None:
        if self._clock() < self._without_until:
            return
        taken = self._taken
        while not self._turn.acquire(timeout=PATIENCE_SECONDS):
            if self._taken == taken:
                self._without_until = self._clock() + WITHOUT_SECONDS
                return
            taken = self._taken
        self._taken += 1
        self._since, self._used_since = self._clock(), self._cpu()
        self._mine.has = True

    def _give(self) -> None:
        if not self._mine.has:  # there were no turns when it would have been taken
            return
        self._had += self._clock() - self._since
        self._used += self._cpu() - self._used_since
        if self._had >= LOOK_SECONDS:
            if self._used < USED * self._had:
                self._without_until = self._clock() + WITHOUT_SECONDS
            self._had = self._used = 0.0
        self._mine.has = False
        self._turn.release()


TURNS = Turns()  # of this process, as Python's lock is
