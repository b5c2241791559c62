"""Are the bytes on disk the ones that storage has?

A manifest has no checksums, so evidence is what storage itself says: an ETag that is the MD5 of the bytes, or the MD5 of
the parts' MD5s with a part size that nobody tells.

Failures handled: other bytes than storage has (`Corrupt`, that file is fetched anew).
"""

import hashlib
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from axomsync.errors import AxomsyncError, local_fault
from axomsync.mirror.evidence import READ_SIZE, Evidence, Follower, composite_md5, likely_part_sizes, plain_md5


class Proof(StrEnum):
    """What could be shown of a file's bytes."""

    PROVEN = "proven"  # they have the checksum that storage gives
    STRUCTURE = "structure"  # no checksum, but the format's own structure is whole
    SIZE = "size only"


class Corrupt(AxomsyncError):
    """The bytes on disk are not those that storage has."""

    exit_code = 75


def prove(path: Path, etag: str | None, seen: Evidence, beat: Callable[[], None]) -> bool:
    """Whether the ETag proves the file's bytes; False when it can prove nothing. Raises `Corrupt` when it disproves them.

    `seen` is what was hashed while the bytes arrived; only the rest is read from disk.
    """
    try:
        with path.open("rb", buffering=0) as file:
            if plain := plain_md5(etag):
                found = _md5(file.fileno(), seen, beat)
                if found != plain:
                    raise Corrupt(f"its MD5 is {found}, storage says {plain}")
                return True
            if composite := composite_md5(etag):
                size = os.fstat(file.fileno()).st_size
                candidates = likely_part_sizes(size, composite[1])
                return any(_composite(file.fileno(), size, part, seen, beat) == composite[0] for part in candidates)
    except OSError as error:
        raise local_fault(error, str(path)) from None
    return False


def _md5(descriptor: int, seen: Evidence, beat: Callable[[], None]) -> str:
    size = os.fstat(descriptor).st_size
    if seen.parts is not None and seen.parts.part_size == size and 0 in seen.parts.digests:
        return seen.parts.digests[0].hex()
    follower = seen.follower or Follower()
    follower.catch_up(descriptor, size, beat)
    return follower.hexdigest()


def _composite(descriptor: int, size: int, part: int, seen: Evidence, beat: Callable[[], None]) -> str:
    known = seen.parts.digests if seen.parts is not None and seen.parts.part_size == part else {}
    digests = [
        known.get(index) or _part_md5(descriptor, start, min(part, size - start), beat)
        for index, start in enumerate(range(0, size, part))
    ]
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def _part_md5(descriptor: int, start: int, length: int, beat: Callable[[], None]) -> bytes:
    md5, position, end = hashlib.md5(usedforsecurity=False), start, start + length
    while position < end and (piece := os.pread(descriptor, min(READ_SIZE, end - position), position)):
        md5.update(piece)
        position += len(piece)
        beat()
    return md5.digest()
