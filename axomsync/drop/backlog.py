"""Finished files that wait for a carrier: oldest first; large files never keep all carriers busy.

Files with more failed tries go behind files with fewer. Otherwise files that can't be uploaded would keep all carriers busy,
since they are tried again and again and are the oldest.

A waiting file costs a few numbers, so fifty thousand files dropped at once need little memory.
"""

import heapq
import threading
from typing import NamedTuple

LARGE_BYTES = 64 * 1024 * 1024
SMALL_BYTES = 512 * 1024  # at most, of files that many carriers may hold at once
KEPT_FOR_SMALL = 2  # carriers that take no large file, so that small ones need not wait for hours


class _Place(NamedTuple):
    """Sort key of a waiting upload; the smallest is the next."""

    attempts: int
    mtime_ns: int
    upload: int


class Backlog:
    """Ids of uploads that wait or are carried. Safe to use from any thread.

    `carriers`: how many there are at most that take files of every size.
    """

    def __init__(self, carriers: int) -> None:
        self._most_large = max(1, carriers - KEPT_FOR_SMALL)
        self._waiting_small: list[_Place] = []
        self._waiting: list[_Place] = []  # neither small nor large
        self._waiting_large: list[_Place] = []
        self._members: set[int] = set()
        self._large: set[int] = set()  # of those that are carried, as the next one
        self._small: set[int] = set()
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._changed_small = threading.Condition(lock)  # for who takes small ones only
        self._emptied = threading.Condition(lock)  # apart: who waits for the end is not woken by each file

    def members(self) -> frozenset[int]:
        """All uploads that wait or are carried now."""
        with self._changed:
            return frozenset(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def has_small(self) -> bool:
        """True if a small file waits."""
        return bool(self._waiting_small)

    def is_small(self, upload: int) -> bool:
        """True if this upload, which is carried, is a small file."""
        return upload in self._small

    def add(self, upload: int, size: int, mtime_ns: int, attempts: int, *, is_packed: bool = False) -> None:
        """Add an upload, unless it already waits or is carried; `attempts` counts its failures in a row.

        A packed one is never small: it may hold much, and takes that room on the disk.
        """
        with self._changed:
            if upload not in self._members:
                self._members.add(upload)
                is_small = size <= SMALL_BYTES and not is_packed
                queue = self._waiting_small if is_small else self._waiting_large if size >= LARGE_BYTES else self._waiting
                heapq.heappush(queue, _Place(attempts, mtime_ns, upload))
                self._changed.notify()
                if is_small:
                    self._changed_small.notify()

    def take(self, patience: float, *, only_small: bool = False) -> int | None:
        """Take the next upload, until `done` is called for it; None if there was none for `patience` seconds."""
        with self._changed:
            if not self._next(only_small):
                (self._changed_small if only_small else self._changed).wait(patience)
            if not (queue := self._next(only_small)):
                return None
            upload = heapq.heappop(queue).upload
            if queue is self._waiting_large:
                self._large.add(upload)
            elif queue is self._waiting_small:
                self._small.add(upload)
            return upload

    def _next(self, only_small: bool) -> list[_Place]:
        """The queue with the next upload; empty if none may be taken."""
        if only_small:
            return self._waiting_small
        queues = [self._waiting_small, self._waiting]
        if len(self._large) < self._most_large:
            queues.append(self._waiting_large)
        return min(filter(None, queues), key=lambda queue: queue[0], default=[])

    def done(self, upload: int) -> None:
        """Mark an upload as no longer carried, after success or failure."""
        with self._changed:
            self._members.discard(upload)
            self._small.discard(upload)
            if upload in self._large:
                self._large.remove(upload)
                self._changed.notify()  # another large one may be taken
            if not self._members:
                self._emptied.notify_all()

    def wait_until_empty(self, patience: float) -> bool:
        """Wait at most `patience` seconds; True if nothing waits and nothing is carried then."""
        with self._changed:
            return self._emptied.wait_for(lambda: not self._members, patience)

    def clear(self) -> None:
        """Remove all waiting uploads."""
        with self._changed:
            for queue in (self._waiting_small, self._waiting, self._waiting_large):
                self._members.difference_update(place.upload for place in queue)
                queue.clear()
            self._changed.notify_all()
            self._changed_small.notify_all()
            if not self._members:
                self._emptied.notify_all()
