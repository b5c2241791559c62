"""Learned ETag habits of each storage host: up to which size they are MD5s, and which part sizes are in use.

They are kept in the ledger, so that the evidence of one model or upload helps the next ones. A habit is no promise: later
evidence changes it.

Failures handled: a ledger that can't be written (the habit is learned again), an unreadable fact (nothing is known).
"""

import json
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from axomsync.core.errors import LocalFault
from axomsync.ledger import Ledger

PART_SIZES_MOST = 8


@dataclass(frozen=True)
class HostHabits:
    """Habits of one host. Sizes are bytes."""

    md5_up_to: int = -1  # size of the largest object whose ETag was its MD5
    no_md5_from: int | None = None  # size of the smallest one whose ETag only looked like an MD5
    part_sizes: tuple[int, ...] = ()  # seen in composite ETags, the latest first

    def etag_is_md5(self, size: int) -> bool | None:
        """Predict whether an ETag that looks like an MD5 is one, for an object of `size` bytes; None when unknown."""
        if size <= self.md5_up_to:
            return True
        return False if self.no_md5_from is not None and size >= self.no_md5_from else None


_SHAPE = TypeAdapter(HostHabits)


class Habits:
    """The habits of all hosts. Usable from any thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[str, HostHabits] = {}
        self._lock = threading.Lock()

    def of(self, host: str) -> HostHabits:
        """The known habits of a host."""
        with self._lock:
            if host not in self._known:
                self._known[host] = self._read(host)
            return self._known[host]

    def saw_md5(self, host: str, size: int) -> None:
        """Record that the ETag of an object of `size` bytes was its MD5."""
        known = self.of(host)
        if size > known.md5_up_to:
            refuted = known.no_md5_from is not None and size >= known.no_md5_from
            self._learn(host, replace(known, md5_up_to=size, no_md5_from=None if refuted else known.no_md5_from))

    def saw_no_md5(self, host: str, size: int) -> None:
        """Record that an ETag of an object of `size` bytes looked like an MD5 and was none."""
        known = self.of(host)
        if known.no_md5_from is None or size < known.no_md5_from:
            self._learn(host, replace(known, no_md5_from=size, md5_up_to=min(known.md5_up_to, size - 1)))

    def saw_part_size(self, host: str, part: int) -> None:
        """Record the part size of a composite ETag."""
        known = self.of(host)
        if part not in known.part_sizes[:1]:
            sizes = (part, *(each for each in known.part_sizes if each != part))[:PART_SIZES_MOST]
            self._learn(host, replace(known, part_sizes=sizes))

    def _learn(self, host: str, habits: HostHabits) -> None:
        with self._lock:
            self._known[host] = habits
        with suppress(LocalFault):
            self._ledger.set_facts(**{_fact_of(host): json.dumps(asdict(habits))})

    def _read(self, host: str) -> HostHabits:
        try:
            return _SHAPE.validate_json(self._ledger.read.facts().get(_fact_of(host)) or "{}")
        except (ValidationError, LocalFault):
            return HostHabits()


def _fact_of(host: str) -> str:
    return f"etags {host}"
