"""Comparison of the bytes on disk with storage's checksum.

A manifest usually has no checksums, so the evidence is storage's own: an ETag that is the MD5 of the bytes, or the MD5 of
the parts' MD5s with an unknown part size. `proving` decides what follows from a comparison.

Failures handled: bytes that differ from storage's (`Corrupt`, they are fetched again), a disk that can't be read
(`LocalFault`).
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from axomsync.core.errors import AxomsyncError
from axomsync.core.oserrors import local_fault
from axomsync.mirror.fetch.hashing import READ_SIZE, Evidence, Follower
from axomsync.storage.s3 import composite_md5, has_parts, likely_part_sizes, plain_md5


class Corrupt(AxomsyncError):
    """The bytes on disk differ from storage's."""

    exit_code = 75


@dataclass(frozen=True)
class Comparison:
    """Result of comparing a file with an ETag."""

    proven: bool
    part_size: int | None = None  # part size that explains a composite ETag
    md5: str | None = None  # MD5 of the file, if the ETag looks like an MD5 and differs
    # If no part size is right: the composite ETag for each fitting one of `part_sizes`, or for the only possible one.
    composites: tuple[tuple[int, str], ...] = ()


def compare(
    path: Path, etag: str | None, seen: Evidence, beat: Callable[[], None], part_sizes: Sequence[int] = ()
) -> Comparison:
    """Compare a file with its ETag. `part_sizes` are tried first. Raises `LocalFault`.

    `seen` holds the checksums taken on arrival; only the rest is read from disk.
    """
    try:
        with path.open("rb", buffering=0) as file:
            if plain := plain_md5(etag):
                md5 = _md5(file.fileno(), seen, beat)
                return Comparison(proven=md5 == plain, md5=None if md5 == plain else md5)
            if composite := composite_md5(etag):
                size = os.fstat(file.fileno()).st_size
                told = [part for part in part_sizes if has_parts(size, part, composite[1])]
                if composite[1] == 1:  # one part: its size is the file's size
                    told = [size]
                found: dict[int, str] = {}
                for part in dict.fromkeys((*told, *likely_part_sizes(size, composite[1]))):
                    found[part] = _composite(file.fileno(), size, part, seen, beat)
                    if found[part] == composite[0]:
                        return Comparison(proven=True, part_size=part)
                return Comparison(proven=False, composites=tuple((part, found[part]) for part in told))
    except OSError as error:
        raise local_fault(error, str(path)) from None
    return Comparison(proven=False)


def digests(path: Path, algorithms: Iterable[str], beat: Callable[[], None]) -> dict[str, str]:
    """Digests of a file in hex, by algorithm: "md5", "sha256", "blake3". Reads once. Raises `LocalFault`."""
    made = {name: blake3() if name == "blake3" else hashlib.new(name, usedforsecurity=False) for name in algorithms}
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(READ_SIZE):
                for digest in made.values():
                    digest.update(piece)
                beat()
    except OSError as error:
        raise local_fault(error, str(path)) from None
    return {name: digest.hexdigest() for name, digest in made.items()}


def _md5(descriptor: int, seen: Evidence, beat: Callable[[], None]) -> str:
    size = os.fstat(descriptor).st_size
    if seen.parts is not None and seen.parts.part_size == size and 0 in seen.parts.digests:
        return seen.parts.digests[0].hex()
    follower = seen.follower or Follower()
    follower.catch_up(descriptor, size, beat)
    return follower.hexdigest()


def _composite(descriptor: int, size: int, part: int, seen: Evidence, beat: Callable[[], None]) -> str:
    known = seen.parts.digests if seen.parts is not None and seen.parts.part_size == part else {}
    found = [
        known.get(index) or _part_md5(descriptor, start, min(part, size - start), beat)
        for index, start in enumerate(range(0, size, part))
    ]
    return f"{hashlib.md5(b''.join(found), usedforsecurity=False).hexdigest()}-{len(found)}"


def _part_md5(descriptor: int, start: int, length: int, beat: Callable[[], None]) -> bytes:
    md5, position, end = hashlib.md5(usedforsecurity=False), start, start + length
    while position < end and (piece := os.pread(descriptor, min(READ_SIZE, end - position), position)):
        md5.update(piece)
        position += len(piece)
        beat()
    return md5.digest()
