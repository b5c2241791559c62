"""Makes received bytes durable: they are synced before the ledger records them.

Failures handled: a file that can't be synced, a ledger that can't be written (the jobs of those files end, the others go
on), a file that starts over while its bytes are noted.
"""

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from axomsync.core.errors import LocalFault
from axomsync.core.oserrors import local_fault
from axomsync.core.records import DurableSegment
from axomsync.ledger import Ledger
from axomsync.mirror.fetch.partial import Handle, PartialFile

COMMIT_BYTES = 256 * 1024 * 1024
COMMIT_SECONDS = 5.0
FIRST_COMMIT_SECONDS = 0.25  # even in a crash loop each short life makes progress
SHARE_OF_LIFE = 4  # at most a quarter of the time since the first byte is not durable
COMMIT_FILES = 256


@dataclass(slots=True)
class _Note:
    file: PartialFile
    handle: Handle
    start: int
    end: int
    digest: str
    gateway: str | None


class Journal:
    """Commits received bytes in groups: fdatasync the files, then one ledger transaction, then update the gauges.

    The disk begins to write all files of a group before the first is waited for: one after the other, each would wait for
    the disk alone, and lanes that fetch small files would be far ahead of it in the end.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger, self._clock = ledger, clock
        self._pending: dict[tuple[PartialFile, int], _Note] = {}
        self._bytes = 0
        self._since: float | None = None
        self._began: float | None = None
        self._lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self.due = threading.Event()

    def note(
        self, file: PartialFile, generation: int, start: int, end: int, digest: str, gateway: str | None = None
    ) -> None:
        """Record that bytes `start` to `end` are written, and their digest; replaces an earlier record from `start`.

        `gateway`: the one that they came through.
        """
        with self._lock:
            if generation != file.generation:
                return
            known = self._pending.get((file, start))
            handle = known.handle if known else file.acquire()
            self._pending[file, start] = _Note(file, handle, start, end, digest, gateway)
            self._bytes += end - (known.end if known else start)
            self._since = self._since if self._since is not None else self._clock()
            self._began = self._began if self._began is not None else self._since
            if self._bytes >= COMMIT_BYTES or len(self._pending) >= COMMIT_FILES:
                self.due.set()

    def seconds_left(self) -> float | None:
        """Seconds until the oldest note must be committed; None without notes."""
        with self._lock:
            if self._since is None or self._began is None:
                return None
            pause = max(FIRST_COMMIT_SECONDS, min(COMMIT_SECONDS, (self._since - self._began) / SHARE_OF_LIFE))
            return max(0.0, self._since + pause - self._clock())

    def commit(self) -> None:
        """Sync and record all notes. A file that can't be synced fails its job; the others go on."""
        with self._commit_lock:
            with self._lock:
                notes, self._pending, self._bytes, self._since = list(self._pending.values()), {}, 0, None
                self.due.clear()
            if not notes:
                return
            of_files: dict[PartialFile, list[_Note]] = {}
            for note in notes:
                of_files.setdefault(note.file, []).append(note)
            for file, mine in of_files.items():
                with suppress(OSError):  # `_sync` meets it again
                    _pass_on_to_disk(file, mine)
            try:
                self._record([note for file, mine in of_files.items() if self._sync(file, mine) for note in mine])
            finally:
                for note in notes:
                    note.file.release(note.handle)

    def forget(self, file: PartialFile) -> None:
        """Drop all notes and records of a file that starts over."""
        with self._commit_lock:
            with self._lock:
                file.generation += 1
                dropped = [self._pending.pop(key) for key in list(self._pending) if key[0] is file]
            for note in dropped:
                file.release(note.handle)
            self._ledger.discard_file(file.job.model_id, file.rel)

    def _sync(self, file: PartialFile, mine: list[_Note]) -> bool:
        """Sync the noted bytes of one file; on failure its job fails and the result is False."""
        try:
            os.fdatasync(mine[0].handle.descriptor)
            _pass_on_to_disk(file, mine)
        except OSError as error:
            file.job.fail(local_fault(error, str(file.path)))
            return False
        return True

    def _record(self, notes: list[_Note]) -> None:
        try:
            self._ledger.record_durable(
                (n.file.job.model_id, n.file.rel, n.file.etag, DurableSegment(n.start, n.end, n.digest, n.gateway))
                for n in notes
            )
        except LocalFault as fault:
            for note in notes:
                note.file.job.fail(fault)
            return
        for note in notes:
            note.file.job.gauge.secure(note.file.durable.add(note.start, note.end))


def _pass_on_to_disk(file: PartialFile, mine: Iterable[_Note]) -> None:
    """Have the kernel begin to write these bytes of a file, and drop from the page cache what is written.

    Mirroring must not push a training job's data out of the page cache; but bytes not yet hashed stay.
    """
    follower = file.evidence.follower
    for note in mine:
        if follower is None or note.end <= follower.position:
            os.posix_fadvise(note.handle.descriptor, note.start, note.end - note.start, os.POSIX_FADV_DONTNEED)
