"""Checksums taken while the bytes arrive, so that verification needs no second reading.

Storage's ETag is the MD5 of the whole object, or the MD5 of its parts' MD5s with an unknown part size. A lane hashes each
part that it receives completely. The whole of a large object can only be hashed in order: a follower does that behind the
lanes, from the page cache. Bytes that neither has seen, such as those before a restart, are read from disk at the end.
"""

import hashlib
import os
from collections.abc import Callable, Sequence

from axomsync.storage.s3 import MEBIBYTE, composite_md5, has_parts, likely_part_sizes, plain_md5

READ_SIZE = 1024 * 1024
HASHED_BY_ONE_LANE = 16 * MEBIBYTE  # an object up to this size arrives in one run and counts as one part


class PartDigests:
    """MD5s of the parts of one object that arrived completely in one run."""

    def __init__(self, size: int, part_size: int) -> None:
        self.size, self.part_size = size, part_size
        self.digests: dict[int, bytes] = {}

    def run(self, position: int) -> "PartRun":
        """Start a run of bytes at `position`."""
        return PartRun(self, position)


class PartRun:
    """Hashes the parts that arrive completely within one run."""

    def __init__(self, parts: PartDigests, position: int) -> None:
        self._parts, self._position = parts, position
        # A run that begins inside a part can only hash the parts after it.
        self._md5 = None if position % parts.part_size else hashlib.md5(usedforsecurity=False)

    def update(self, piece: bytes | memoryview) -> None:
        """Hash the next bytes of the run."""
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


class Follower:
    """MD5 of a file from its beginning to `position`."""

    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.position = 0

    def catch_up(self, descriptor: int, end: int, beat: Callable[[], None] = lambda: None) -> None:
        """Hash up to `end`. Raises `OSError`."""
        while self.position < end:
            piece = os.pread(descriptor, min(READ_SIZE, end - self.position), self.position)
            if not piece:
                return
            self._md5.update(piece)
            os.posix_fadvise(descriptor, self.position, len(piece), os.POSIX_FADV_DONTNEED)
            self.position += len(piece)
            beat()

    def hexdigest(self) -> str:
        """The MD5 of the bytes up to `position`."""
        return self._md5.hexdigest()


class Evidence:
    """Checksum data of one object while it arrives; the form of its ETag decides which."""

    def __init__(self, etag: str | None, size: int, part_sizes: Sequence[int] = ()) -> None:
        """`part_sizes`: sizes seen in the host's earlier composite ETags."""
        self.parts: PartDigests | None = None
        self.follower: Follower | None = None
        composite = composite_md5(etag)
        fitting = (
            [*(part for part in part_sizes if has_parts(size, part, composite[1])), *likely_part_sizes(size, composite[1])]
            if composite
            else []
        )
        if fitting:
            self.parts = PartDigests(size, fitting[0])
        elif plain_md5(etag) is not None and 0 < size <= HASHED_BY_ONE_LANE:
            self.parts = PartDigests(size, size)
        elif plain_md5(etag) is not None:
            self.follower = Follower()
