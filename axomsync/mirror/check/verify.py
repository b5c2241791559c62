"""Published bytes, read again and compared with the digests that were recorded when they came.

Failures handled: bytes that differ, are missing or too many (a `Damage`, by file and segment), a file that can't be read
because the disk says so (a `Damage` too), a folder that is removed meanwhile (`LocalFault`).
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
    """What is wrong with one file: the segments that must be fetched again, and why."""

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
    """The step of one who need not care for others."""


class HalfSpeed:
    """A step that rests for as long as the work since the last one took, and ends when `is_over` raises."""

    def __init__(self, is_over: Step, sleep: Callable[[float], object] = time.sleep) -> None:
        self._is_over, self._sleep = is_over, sleep
        self._since = time.monotonic()

    def __call__(self) -> None:
        self._is_over()
        self._sleep(min(1.0, time.monotonic() - self._since))
        self._since = time.monotonic()


def examine(folder: Path, files: Iterable[ModelFile], step: Step) -> list[Damage]:
    """Compare what lies in `folder` with what was recorded of `files`; `step` is called every few megabytes."""
    found = (examine_file(folder / file.rel, file, step) for file in files)
    return [damage for damage in found if damage is not None]


def examine_file(path: Path, file: ModelFile, step: Step) -> Damage | None:
    """As `examine`, for one file. Raises `LocalFault`."""
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
            return Damage(file, "is no file any more", file.segments)
        bad = tuple(part for part in file.segments if _digest(descriptor, part, step) != part.blake3)
    finally:
        os.close(descriptor)
    if status.st_size != file.size:
        return Damage(file, f"has {status.st_size} bytes instead of {file.size}", bad)
    if bad:
        return Damage(file, f"{len(bad)} of {len(file.segments)} segments are not what was published", bad)
    return None


def _digest(descriptor: int, part: DurableSegment, step: Step) -> str | None:
    """None where the disk does not give the bytes."""
    digest, position = blake3(), part.start
    with suppress(OSError):
        # What the page cache still has says nothing of the disk; and others need the cache more than this does.
        os.posix_fadvise(descriptor, part.start, part.end - part.start, os.POSIX_FADV_DONTNEED)
        while position < part.end and (piece := os.pread(descriptor, min(READ_SIZE, part.end - position), position)):
            digest.update(piece)
            os.posix_fadvise(descriptor, position, len(piece), os.POSIX_FADV_DONTNEED)
            position += len(piece)
            step()
        return digest.hexdigest()
    return None
