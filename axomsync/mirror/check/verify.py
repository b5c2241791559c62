"""Verification: published bytes are read again and compared with their recorded digests.

Failures handled: bytes that differ, are missing or too many (a `Damage`, by file and segment), a file that the disk can't
read (also a `Damage`), a folder that is removed meanwhile (`LocalFault`).
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from axomsync.core.oserrors import local_fault
from axomsync.core.records import DurableSegment, ModelFile
from axomsync.core.text import printable

READ_SIZE = 4 * 1024 * 1024
UNREADABLE = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENOENT, errno.ELOOP, errno.EISDIR})

Step = Callable[[], None]


@dataclass(frozen=True)
class Damage:
    """Damage of one file: the reason, and the segments that must be fetched again."""

    file: ModelFile
    reason: str
    segments: tuple[DurableSegment, ...]

    @property
    def bad_bytes(self) -> int:
        """Bytes in the damaged segments."""
        return sum(part.end - part.start for part in self.segments)

    def __str__(self) -> str:
        places = ", ".join(f"{part.start}-{part.end}" for part in self.segments)
        return f"{printable(self.file.rel)}: {self.reason}" + (f" (bytes {places})" if places else "")


def full_speed() -> None:
    """A step without a pause, for full speed."""


class HalfSpeed:
    """A step that rests as long as the work since the last one took; `is_over` may raise to end it."""

    def __init__(self, is_over: Step, sleep: Callable[[float], object] = time.sleep) -> None:
        self._is_over, self._sleep = is_over, sleep
        self._since = time.monotonic()

    def __call__(self) -> None:
        self._is_over()
        self._sleep(min(1.0, time.monotonic() - self._since))
        self._since = time.monotonic()


def examine(folder: Path, files: Iterable[ModelFile], step: Step) -> list[Damage]:
    """Compare the files in `folder` with their recorded digests; `step` is called every few megabytes."""
    found = (examine_file(folder / file.rel, file, step) for file in files)
    return [damage for damage in found if damage is not None]


def examine_file(path: Path, file: ModelFile, step: Step) -> Damage | None:
    """Compare one file. Raises `LocalFault`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise local_fault(error, str(path)) from None
        return Damage(
            file, "is missing" if error.errno == errno.ENOENT else f"can't be read: {error.strerror}", file.segments
        )
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Damage(file, "is no longer a file", file.segments)
        bad = tuple(part for part in file.segments if _digest(descriptor, part, step) != part.blake3)
    finally:
        os.close(descriptor)
    if status.st_size != file.size:
        return Damage(file, f"has {status.st_size} bytes instead of {file.size}", bad)
    if bad:
        return Damage(file, f"{len(bad)} of {len(file.segments)} segments differ from the published ones", bad)
    return None


def _digest(descriptor: int, part: DurableSegment, step: Step) -> str | None:
    """Digest of one segment; None when the disk can't read it."""
    digest, position = blake3(), part.start
    with suppress(OSError):
        # The page cache says nothing about the disk, and other programs need it more.
        os.posix_fadvise(descriptor, part.start, part.end - part.start, os.POSIX_FADV_DONTNEED)
        while position < part.end and (piece := os.pread(descriptor, min(READ_SIZE, part.end - position), position)):
            digest.update(piece)
            os.posix_fadvise(descriptor, position, len(piece), os.POSIX_FADV_DONTNEED)
            position += len(piece)
            step()
        return digest.hexdigest()
    return None
