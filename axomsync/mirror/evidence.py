"""Checksums taken while the bytes arrive, so that verifying a model costs no second reading.

Storage's ETag is the MD5 of the whole object, or the MD5 of its parts' MD5s. Parts can be hashed by the lanes as they come,
each by the lane that brings it whole; the whole can only be hashed in order, which a follower does behind the lanes, out
of the page cache. What neither has seen (after a restart, say) is read from disk at the end.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable
from typing import Protocol

from axomsync.mirror.integrity import likely_part_sizes

READ_SIZE = 1024 * 1024


class Observer(Protocol):
    """Looks at the bytes of one run, in order."""

    def update(self, piece: bytes) -> None:
        """The next bytes of the run."""


class PartDigests:
    """MD5s of the parts of one multipart object, as far as they were seen whole."""

    def __init__(self, size: int, part_size: int) -> None:
        self.size, self.part_size = size, part_size
        self.digests: dict[int, bytes] = {}

    def run(self, position: int) -> "PartRun":
        """An observer for bytes that arrive from `position` on."""
        return PartRun(self, position)

    def forget(self) -> None:
        """The object is fetched anew."""
        self.digests = {}


class PartRun:
    """Feeds the parts that one run brings from their beginning to their end."""

    def __init__(self, parts: PartDigests, position: int) -> None:
        self._parts, self._position = parts, position
        # A run that begins inside a part can't hash it; the next one that it reaches can be.
        self._md5 = None if position % parts.part_size else hashlib.md5(usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        """The next bytes of the run."""
        parts, view = self._parts, memoryview(piece)
        while view:
            end = min(parts.size, (self._position // parts.part_size + 1) * parts.part_size)
            head, view = view[: end - self._position], view[end - self._position :]
            if self._md5 is not None:
                self._md5.update(head)
            self._position += len(head)
            if self._position == end:
                if self._md5 is not None:
                    parts.digests[(end - 1) // parts.part_size] = self._md5.digest()
                self._md5 = hashlib.md5(usedforsecurity=False)


def part_size_of(etag: str | None, size: int) -> int | None:
    """The part size that a composite ETag most likely has, None when the ETag is no composite or none fits."""
    match = re.fullmatch(r'"?[0-9a-fA-F]{32}-(\d{1,5})"?', etag or "")
    fitting = likely_part_sizes(size, int(match[1])) if match else []
    return fitting[0] if fitting else None


class Follower:
    """Computes the MD5 of a file behind the lanes that write it. `prefix` tells how many bytes from 0 on are there."""

    def __init__(self, descriptor: int, size: int, prefix: Callable[[], int]) -> None:
        self._descriptor, self._size, self._prefix = descriptor, size, prefix
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.position = 0
        self._moved = threading.Event()

    def catch_up(self) -> None:
        """Hash what has arrived since the last call."""
        end = self._prefix()
        while self.position < end:
            piece = os.pread(self._descriptor, min(READ_SIZE, end - self.position), self.position)
            self._md5.update(piece)
            self.position += len(piece)

    def hexdigest(self) -> str:
        """The MD5 of the whole file, once it has arrived."""
        self.catch_up()
        return self._md5.hexdigest()
