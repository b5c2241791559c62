"""Models to import: folders of another disk or box, found by their records, and copied file by file.

Nothing there is trusted, since others may write to it: folders and files are opened by descriptor and no link is followed.
A file is compared with the digests of its record while it is copied, so what is done to the source meanwhile can't reach the
copy. The source is only read.

Failures handled: a record that can't be right, a folder that can't be read, a file that is missing, no regular file, or
differs from its record (`Rejected`, with the file and the place), one that changes while it is read (`SourceChanged`), a
disk that fails (`LocalFault`), a copy that an earlier try left (compared again).
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from axomsync.core.documents import NotADocument
from axomsync.core.errors import AxomsyncError, Rejected, SourceChanged
from axomsync.core.folders import Folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import LOST_FOUND
from axomsync.core.records import ModelFile
from axomsync.core.text import printable
from axomsync.mirror.check.verify import examine_file
from axomsync.mirror.fetch.hashing import Evidence
from axomsync.mirror.fetch.partial import allocate
from axomsync.mirror.publish.record import Record, record_in

DEPTH = 2  # a mirror folder holds names, and these hold versions
COPY_SIZE = 4 * 1024 * 1024
SYNC_BYTES = 256 * 1024 * 1024  # as a download: so much may wait to be written to the disk
_NO_FILE = frozenset({errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.ENODEV})

Step = Callable[[], None]


@dataclass(frozen=True)
class Source:
    """A folder with the record of a model, `below` the one that was named."""

    named: Path
    below: bytes
    record: Record

    @property
    def folder(self) -> Path:
        """Its path, for messages."""
        return self.named / os.fsdecode(self.below)


def find(place: Path, step: Step) -> Iterator[Source | AxomsyncError]:
    """Yields every model in `place`: a model's folder, that of a name, or a mirror folder; or why one can't be used."""
    try:
        with Folder.open(place) as opened:
            yield from _find(opened, place, b"", step)
    except OSError as error:
        yield local_fault(error, str(place))


def _find(opened: Folder, named: Path, below: bytes, step: Step) -> Iterator[Source | AxomsyncError]:
    step()
    try:
        record = record_in(opened)
        names = [] if record is not None or len(below.split(b"/")) > DEPTH else sorted(opened.names())
    except (NotADocument, ValueError) as fault:
        place = printable(os.fsdecode(opened.path))
        yield Rejected(f"{place}: this is not a record of a model: {printable(str(fault))}; take another copy")
        return
    except OSError as error:
        yield local_fault(error)
        return
    if record is not None:
        yield Source(named, below.strip(b"/"), record)
    for name in names:
        if name.startswith(b".") or name == os.fsencode(LOST_FOUND):
            continue  # no label is like that; the inner part of a mirror folder, and what belongs to a disk
        try:
            status = opened.status(name)
            if status is None or not stat.S_ISDIR(status.st_mode):
                continue  # such as `current`, which leads to one of the others
            folder = opened.descend(name)
        except OSError as error:
            yield local_fault(error)
            continue
        with folder:
            yield from _find(folder, named, b"%b/%b" % (below, name), step)


def check_digests(file: ModelFile) -> None:
    """Check that the record can prove each byte of a file. Raises `Rejected`."""
    parts = sorted(file.segments, key=lambda part: part.start)
    ends = [0, *(part.end for part in parts)]
    if any(part.start != end for part, end in zip(parts, ends, strict=False)) or ends[-1] != file.size:
        raise Rejected(
            f"{printable(file.rel)}: its record has no digests for all of it, so nothing proves the bytes; take a copy that "
            "`axomsync verify` finds whole"
        )


def copy(source: Source, file: ModelFile, target: Path, evidence: Evidence, step: Callable[[int], None]) -> None:
    """Copy one file to `target` and compare it with its record; `step` gets the number of bytes of each piece.

    `evidence` takes the checksums in passing. What an earlier try left at `target` is kept if it is right.
    Raises `Rejected`, `SourceChanged`, `LocalFault`.
    """
    if os.path.lexists(target) and examine_file(target, file, lambda: step(0)) is None:
        step(file.size)
        return
    with suppress(FileNotFoundError):
        target.unlink()
    place = f"{printable(str(source.folder / file.rel))}"
    try:
        descriptor = _open(source, file)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise Rejected(f"{place}: it is a link or no regular file; only plain files are taken") from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise Rejected(f"{place}: its record lists it, and it is missing; copy the model again") from None
        raise local_fault(error) from None
    try:
        before = os.fstat(descriptor)
        if before.st_size != file.size:
            raise Rejected(f"{place}: it has {before.st_size} bytes instead of {file.size}; copy the model again")
        wrong = _copy(descriptor, place, file, target, evidence, step)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if wrong is None:
        return
    if (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (after.st_size, after.st_mtime_ns, after.st_ctime_ns):
        raise SourceChanged(f"{place}: it changed while it was read")
    raise Rejected(f"{place}: its bytes {wrong} differ from its record; copy the model again")


def _open(source: Source, file: ModelFile) -> int:
    folder, name = os.path.split(os.fsencode(file.rel))
    with Folder.open(source.named) as top, top.descend(b"%b/%b" % (source.below, folder)) as opened:
        return opened.open_file(name)


def _copy(
    descriptor: int, place: str, file: ModelFile, target: Path, evidence: Evidence, step: Callable[[int], None]
) -> str | None:
    """Copy an open file segment by segment; returns the place of the first one that differs from its record."""
    try:
        copied = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise local_fault(error, str(target)) from None
    try:
        writer = _Writer(copied, file, target, evidence)
        for part in sorted(file.segments, key=lambda part: part.start):
            digest, position = blake3(), part.start
            while position < part.end:
                piece = _read(descriptor, place, position, min(COPY_SIZE, part.end - position))
                if not piece:
                    break  # it shrinks; the digest differs
                digest.update(piece)
                writer.write(piece)
                position += len(piece)
                step(len(piece))
            if digest.hexdigest() != part.blake3:
                return f"{part.start}-{part.end}"
        writer.sync()
    finally:
        os.close(copied)
    return None


def _read(descriptor: int, place: str, position: int, length: int) -> bytes:
    try:
        piece = os.pread(descriptor, length, position)
        os.posix_fadvise(descriptor, position, length, os.POSIX_FADV_DONTNEED)  # other programs need the page cache more
    except OSError as error:
        raise local_fault(error, place) from None
    return piece


class _Writer:
    """Writes the copy in order, takes its checksums, and syncs it from time to time. Raises `LocalFault`."""

    def __init__(self, descriptor: int, file: ModelFile, target: Path, evidence: Evidence) -> None:
        self._descriptor, self._target, self._follower = descriptor, target, evidence.follower
        self._run = evidence.parts.run(0) if evidence.parts is not None else None
        self._position = self._synced = 0
        try:
            allocate(descriptor, file.size)
        except OSError as error:
            raise local_fault(error, str(target)) from None

    def write(self, piece: bytes) -> None:
        try:
            rest = memoryview(piece)
            while rest:
                written = os.pwrite(self._descriptor, rest, self._position)
                self._position += written
                rest = rest[written:]
            if self._run is not None:
                self._run.update(piece)
            if self._follower is not None:
                self._follower.catch_up(self._descriptor, self._position)
        except OSError as error:
            raise local_fault(error, str(self._target)) from None
        if self._position - self._synced >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
            os.posix_fadvise(self._descriptor, self._synced, self._position - self._synced, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise local_fault(error, str(self._target)) from None
        self._synced = self._position
