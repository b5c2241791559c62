"""Writes to the ledger about work that was done outside of it: they must not be lost, nor may the work be done twice.

Failures handled: a ledger that can't be written now (the write is kept, and done before the next work).
"""

import threading
from collections import deque
from collections.abc import Callable

from axomsync.core.errors import LocalFault


class OwedWrites:
    """Writes in the order of the work. Usable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held while the ledger writes, so that the order stays
        self._writes: deque[Callable[[], None]] = deque()

    def add(self, write: Callable[[], None]) -> None:
        """Do this write after those that are owed. Raises `LocalFault` when it is owed now."""
        with self._lock:
            self._writes.append(write)
        self.catch_up()

    def catch_up(self) -> None:
        """Do all writes that are owed. Raises `LocalFault`, and keeps the rest."""
        with self._lock:
            while self._writes:
                try:
                    self._writes[0]()
                except LocalFault:
                    raise
                except BaseException:
                    self._writes.popleft()  # another try would fail in the same way
                    raise
                self._writes.popleft()
