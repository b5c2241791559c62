"""What the ETags of a storage host are, as its objects have shown: MD5s up to which size, parts of which sizes.

Kept in the ledger, so that what one model or upload has shown holds for the next ones. A habit is no promise: what speaks
against it later changes it.

Failures handled: a ledger that can't be written (the habit is learned again), a fact that can't be read (nothing is known).
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
    """Of one host. Sizes are bytes."""

    md5_up_to: int = -1  # the largest object whose ETag was seen to be its MD5
    no_md5_from: int | None = None  # the smallest whose ETag looked like an MD5 and was none
    part_sizes: tuple[int, ...] = ()  # that composite ETags were seen to be made with, the latest first

    def etag_is_md5(self, size: int) -> bool | None:
        """Whether the ETag of an object of that size is its MD5, where it looks like one; None when nothing tells."""
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
        """What is known of a host."""
        with self._lock:
            if host not in self._known:
                self._known[host] = self._read(host)
            return self._known[host]

    def saw_md5(self, host: str, size: int) -> None:
        """The ETag of an object of that size was its MD5."""
        known = self.of(host)
        if size > known.md5_up_to:
            refuted = known.no_md5_from is not None and size >= known.no_md5_from
            self._learn(host, replace(known, md5_up_to=size, no_md5_from=None if refuted else known.no_md5_from))

    def saw_no_md5(self, host: str, size: int) -> None:
        """An ETag looked like an MD5 and is shown to be none."""
        known = self.of(host)
        if known.no_md5_from is None or size < known.no_md5_from:
            self._learn(host, replace(known, no_md5_from=size, md5_up_to=min(known.md5_up_to, size - 1)))

    def saw_part_size(self, host: str, part: int) -> None:
        """A composite ETag was made of parts of that size."""
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
