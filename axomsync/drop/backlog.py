"""Files that wait to be carried to storage: the oldest first, and never all carriers busy with large ones.

A waiting file costs a few numbers, so fifty thousand that are dropped at once need no memory worth mentioning.
"""

import heapq
import threading

LARGE_BYTES = 64 * 1024 * 1024
KEPT_FOR_SMALL = 2  # carriers that take no large file, so that small ones need not wait for hours


class Backlog:
    """Ids of uploads that wait or are carried. Safe to use from any thread."""

    def __init__(self, carriers: int) -> None:
        self._most_large = max(1, carriers - KEPT_FOR_SMALL)
        self._waiting: dict[bool, list[tuple[int, int]]] = {False: [], True: []}  # by largeness: (mtime in ns, id)
        self._members: set[int] = set()
        self._large: set[int] = set()
        self._changed = threading.Condition()

    def members(self) -> frozenset[int]:
        """All that wait or are carried now."""
        with self._changed:
            return frozenset(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, upload: int, size: int, mtime_ns: int) -> None:
        """Another one waits, unless it does so already or is being carried."""
        with self._changed:
            if upload not in self._members:
                self._members.add(upload)
                heapq.heappush(self._waiting[size >= LARGE_BYTES], (mtime_ns, upload))
                self._changed.notify()

    def take(self, patience: float) -> int | None:
        """The one to be carried next; None when there was none for `patience` seconds. `done` ends its being carried."""
        with self._changed:
            if not self._next():
                self._changed.wait(patience)
            if not (queue := self._next()):
                return None
            _, upload = heapq.heappop(queue)
            if queue is self._waiting[True]:
                self._large.add(upload)
            return upload

    def _next(self) -> list[tuple[int, int]]:
        """The queue whose first is the next, an empty one when there is none."""
        small, large = self._waiting[False], self._waiting[True]
        if not large or len(self._large) >= self._most_large:
            return small
        return min(small, large) if small else large

    def done(self, upload: int) -> None:
        """It is no longer carried, however that ended."""
        with self._changed:
            self._members.discard(upload)
            self._large.discard(upload)
            self._changed.notify_all()

    def wait_until_empty(self, patience: float) -> bool:
        """Whether nothing waits and nothing is carried, after at most `patience` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._members, patience)

    def clear(self) -> None:
        """Forget those that wait."""
        with self._changed:
            for queue in self._waiting.values():
                self._members.difference_update(upload for _, upload in queue)
                queue.clear()
            self._changed.notify_all()
