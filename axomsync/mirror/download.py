"""Lanes: threads that fetch segments of many files at once and put them on disk for good.

The order of things is what makes a crash harmless: bytes are written, then synced, then recorded in the ledger. After a
restart only what the ledger says counts. A segment is recorded with the BLAKE3 of its bytes.

Failures handled: expired URLs (one lane asks for new ones, all go on), an object that changes (only that file starts
over), a store that ignores Range (one stream for the whole file), busy or broken storage (back-off, the received bytes
stay), stragglers (fetched twice at the end), a full or failing disk (the job ends, what is durable stays), a partial file
that vanished or was truncated (only that file starts over).
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from axomsync.errors import (
    AxomsyncError,
    LocalFault,
    Rejected,
    SourceChanged,
    Stopping,
    Transient,
    UrlExpired,
    local_fault,
    printable,
)
from axomsync.filesystems import filesystem_type
from axomsync.ledger import Ledger
from axomsync.liveness import Liveness
from axomsync.meter import Gauge
from axomsync.mirror.evidence import Evidence
from axomsync.mirror.segments import SMALLEST_SEGMENT, Board, Coverage, Lease, Pace, cut, segment_size
from axomsync.policy import FIRST_LANES, LaneCount, backoff, worth_starting
from axomsync.records import DurableSegment, Manifest, ModelFile, Segment
from axomsync.storage import RangeIgnored, RangeReply, Storage
from axomsync.throttle import Throttle

log = logging.getLogger(__name__)

WRITE_SIZE = 1024 * 1024
PIECES_A_WRITE = 1000  # the kernel takes 1024
WRITE_SECONDS = 1.0  # bytes that trickle in are written this often
COMMIT_BYTES = 256 * 1024 * 1024
COMMIT_SECONDS = 5.0
COMMIT_FILES = 256
OBSERVE_SECONDS = 1.0
FOLLOW_BYTES = 64 * 1024 * 1024
REFUSED_URLS_IN_A_ROW = 5
LONGEST_PAUSE_SECONDS = 60.0  # of a lane; who is asked to wait for longer gives its lanes to others meanwhile
CHANGES_OF_A_FILE = 3
IGNORED_IN_A_ROW = 3


class ManifestChanged(SourceChanged):
    """The console lists other files, or other sizes, than when the model was begun."""


class Links:
    """The signed URLs of one model, asked for again when they expire; by one lane, while the others wait."""

    def __init__(self, manifest: Manifest, ask: Callable[[], Manifest], clock: Callable[[], float]) -> None:
        self._ask, self._clock = ask, clock
        self._lock = threading.Lock()
        self._sizes = {file.rel: file.size for file in manifest.files}
        self._generation = 0
        self._stale = False
        self._take_in(manifest)

    def url(self, rel: str) -> tuple[str, int]:
        """A URL for `rel` that is worth starting on, and its generation."""
        with self._lock:
            file = self._files[rel]
            if self._stale or not worth_starting(self._clock() - self._arrived, file.expires_in, rel in self._used):
                manifest = self._ask()
                if {file.rel: file.size for file in manifest.files} != self._sizes:
                    raise ManifestChanged("the model's files changed while they were fetched")
                self._generation += 1
                self._take_in(manifest)
            self._used.add(rel)
            return self._files[rel].url, self._generation

    def refused(self, generation: int) -> None:
        """Storage refused a URL of that generation."""
        with self._lock:
            self._stale = self._stale or generation == self._generation

    def renew(self) -> None:
        """Ask for new URLs before the next request."""
        with self._lock:
            self._stale = True

    def _take_in(self, manifest: Manifest) -> None:
        self._files = {file.rel: file for file in manifest.files}
        self._arrived, self._stale = self._clock(), False
        self._used: set[str] = set()


@dataclass(eq=False, slots=True)
class Handle:
    """An open file that several lanes use; closed when the last lets go."""

    descriptor: int
    users: int = 0


class PartialFile:
    """One file being fetched into the staging folder. Opened when first needed, closed when nobody needs it."""

    def __init__(self, job: "Job", known: ModelFile, path: Path) -> None:
        self.job, self.rel, self.size, self.path = job, known.rel, known.size, path
        self.etag = known.etag
        self.etag_is_md5 = True
        self.evidence = Evidence(known.etag, known.size)
        self.received = Coverage(known.size, (Segment(s.start, s.end) for s in known.segments))
        self.durable = Coverage(known.size, (Segment(s.start, s.end) for s in known.segments))
        self.ranges = True  # False once the store is known to ignore Range
        self.ranged = False  # it has answered with a part at least once
        self.ignored = 0  # how often in a row it answered with all where a part was asked
        self.changes = 0
        self.generation = 0  # grows when the file starts over; what was written before is worth nothing then
        self._handle: Handle | None = None
        self._lock = threading.Lock()

    def acquire(self) -> Handle:
        """An open handle, valid until it is released. Raises `LocalFault`."""
        with self._lock:
            if self._handle is None:
                self._handle = Handle(self._open())
            self._handle.users += 1
            return self._handle

    def release(self, handle: Handle) -> None:
        """The handle is no longer needed by one user."""
        with self._lock:
            handle.users -= 1
            if handle.users == 0:
                os.close(handle.descriptor)
                if handle is self._handle:
                    self._handle = None

    def start_over(self) -> None:
        """Nothing is received. Whoever still writes old bytes writes them into the old file, which nobody sees any more."""
        with self._lock:
            self._handle = None
            with suppress(FileNotFoundError):
                os.unlink(self.path)
        self.received, self.durable, self.etag = Coverage(self.size), Coverage(self.size), None
        self.evidence = Evidence(None, self.size)

    def ignore_range(self) -> None:
        """The store sent all where a part was asked. One that has sent parts before may only have slipped."""
        self.ignored += 1
        self.ranges = self.ranged and self.ignored < IGNORED_IN_A_ROW

    def _open(self) -> int:
        file = -1
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            if os.fstat(file).st_size != self.size:
                allocate(file, self.size, self.path)
            return file
        except OSError as error:
            if file >= 0:
                os.close(file)
            raise local_fault(error, str(self.path)) from None


def allocate(file: int, size: int, path: Path) -> None:
    """Give an open file `size` bytes of disk, so that a full disk is met before the download and not in its middle.

    Small files are not worth the call, and on tmpfs it would only write zeros.
    """
    os.ftruncate(file, size)
    if size < SMALLEST_SEGMENT or filesystem_type(path) == "tmpfs":
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


class Job:
    """All files of one model; `patience` is how many seconds it may bring nothing before it is given up for now."""

    def __init__(self, model_id: str, links: Links, gauge: Gauge, patience: float) -> None:
        self.model_id, self.links, self.gauge, self.patience = model_id, links, gauge, patience
        self.files: list[PartialFile] = []
        self.missing = 0  # bytes that are still to be received
        self.unnoted = 0  # bytes that were received and not yet noted in the journal
        self.over = threading.Event()
        self.failure: AxomsyncError | None = None
        self.last_progress = 0.0
        self.attempts = 0
        self.refusals = 0

    def fail(self, failure: AxomsyncError) -> None:
        """End the job; the first reason counts."""
        if self.failure is None:
            self.failure = failure
        self.over.set()

    @property
    def complete(self) -> bool:
        """All bytes of all files were received, and the journal knows them."""
        return self.missing == 0 and self.unnoted == 0


@dataclass(slots=True)
class _Note:
    file: PartialFile
    handle: Handle
    start: int
    end: int
    digest: str


class Journal:
    """Makes received bytes durable in groups: fdatasync the files, then one ledger transaction, then tell the gauges."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger, self._clock = ledger, clock
        self._pending: dict[tuple[PartialFile, int], _Note] = {}
        self._bytes = 0
        self._since: float | None = None
        self._lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self.due = threading.Event()

    def note(self, file: PartialFile, generation: int, start: int, end: int, digest: str) -> None:
        """Bytes `start` to `end` of `file` are written and have this digest; an earlier note from `start` is replaced."""
        with self._lock:
            if generation != file.generation:
                return
            known = self._pending.get((file, start))
            handle = known.handle if known else file.acquire()
            self._pending[file, start] = _Note(file, handle, start, end, digest)
            self._bytes += end - (known.end if known else start)
            self._since = self._since if self._since is not None else self._clock()
            if self._bytes >= COMMIT_BYTES or len(self._pending) >= COMMIT_FILES:
                self.due.set()

    def seconds_left(self) -> float | None:
        """Until the oldest note must be committed, None when there is none."""
        with self._lock:
            return None if self._since is None else max(0.0, self._since + COMMIT_SECONDS - self._clock())

    def commit(self) -> None:
        """Sync and record all that is noted. A file that can't be synced fails its job, the others go on."""
        with self._commit_lock:
            with self._lock:
                notes, self._pending, self._bytes, self._since = list(self._pending.values()), {}, 0, None
                self.due.clear()
            if not notes:
                return
            try:
                self._record([note for file in {n.file for n in notes} for note in self._synced(file, notes)])
            finally:
                for note in notes:
                    note.file.release(note.handle)

    def forget(self, file: PartialFile) -> None:
        """The file starts over: nothing of it is recorded any more."""
        with self._commit_lock:
            with self._lock:
                file.generation += 1
                dropped = [self._pending.pop(key) for key in list(self._pending) if key[0] is file]
            for note in dropped:
                file.release(note.handle)
            self._ledger.discard_file(file.job.model_id, file.rel)

    def _synced(self, file: PartialFile, notes: Iterable[_Note]) -> list[_Note]:
        mine = [note for note in notes if note.file is file]
        try:
            descriptor = mine[0].handle.descriptor
            os.fdatasync(descriptor)
            follower = file.evidence.follower
            for note in mine:
                # Mirroring must not push a training job's data out of the page cache; but what is still to be hashed stays.
                if follower is None or note.end <= follower.position:
                    os.posix_fadvise(descriptor, note.start, note.end - note.start, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            file.job.fail(local_fault(error, str(file.path)))
            return []
        return mine

    def _record(self, notes: list[_Note]) -> None:
        try:
            self._ledger.record_durable(
                (n.file.job.model_id, n.file.rel, n.file.etag, DurableSegment(n.start, n.end, n.digest)) for n in notes
            )
        except LocalFault as fault:
            for note in notes:
                note.file.job.fail(fault)
            return
        for note in notes:
            note.file.job.gauge.secure(note.file.durable.add(note.start, note.end))


class Lanes:
    """The threads that fetch, shared by all models. `fetch` hands them a job and waits for it."""

    def __init__(
        self,
        connections: int,
        storage: Storage,
        ledger: Ledger,
        throttle: Throttle,
        liveness: Liveness,
        stop: threading.Event,
        random: Callable[[], float],
        *,
        hashes: bool,
        first_lanes: int = FIRST_LANES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self.hashes = hashes
        self.lane_count = LaneCount(connections, first_lanes)
        self._moved = 0
        self._pace = Pace()
        self._storage, self._ledger, self._throttle, self._liveness = storage, ledger, throttle, liveness
        self._stop, self._random, self._clock = stop, random, clock
        self._journal = Journal(ledger, clock)
        self._board = Board()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def fetch(self, job: Job, step: Callable[[], None]) -> None:
        """Fetch all that `job` lacks; on return every byte is durable. Raises the error that ended it.

        `step` is called all the while; what it raises ends the job too.
        """
        job.last_progress = self._clock()
        with self._changed:
            self._start_threads()
            job.missing = sum(file.size - file.received.covered for file in job.files)
            for file in job.files:
                self._plan(file)
            if job.complete:
                job.over.set()
            self._changed.notify_all()
        try:
            while not job.over.wait(0.0 if self._follow(job) else 0.2):
                step()
        finally:
            job.over.set()
            with self._changed:
                self._board.drop(set(job.files))
            self._journal.commit()
        if job.failure is not None:
            raise job.failure

    def _follow(self, job: Job) -> bool:
        """While this thread waits, it hashes what can only be hashed in order. True when there was something to hash."""
        if not self.hashes:
            return False
        for file in job.files:
            follower = file.evidence.follower
            if follower is None or follower.position >= (end := file.received.prefix):
                continue
            handle = file.acquire()
            try:
                follower.catch_up(handle.descriptor, min(end, follower.position + FOLLOW_BYTES))
            except OSError as error:
                job.fail(local_fault(error, str(file.path)))
            finally:
                file.release(handle)
            return True
        return False

    def _plan(self, file: PartialFile) -> None:
        if file.received.covered and not self._partial_is_there(file):
            self._forget(file)
        if file.ranges:
            pieces = cut(file.received.gaps(), segment_size(file.size, self._connections))
        else:
            pieces = [Segment(0, file.size)]
        self._board.add(file, pieces)
        if not file.size:
            file.release(file.acquire())

    @staticmethod
    def _partial_is_there(file: PartialFile) -> bool:
        try:
            return file.path.stat(follow_symlinks=False).st_size == file.size
        except OSError:
            return False

    def _forget(self, file: PartialFile) -> None:
        """Discard what was received of one file, here and in the ledger."""
        self._board.drop({file})
        file.job.missing += file.received.covered
        file.job.gauge.receive(-file.received.covered)
        file.job.gauge.secure(-file.durable.covered)
        self._journal.forget(file)
        file.start_over()

    # Threads

    def _start_threads(self) -> None:
        if self._threads:
            return
        names = [f"lane-{number}" for number in range(self._connections)]
        self._threads = [threading.Thread(target=self._lane, name=name, daemon=True) for name in names]
        self._threads.append(threading.Thread(target=self._commit_loop, name="journal", daemon=True))
        for thread in self._threads:
            thread.start()

    def _commit_loop(self) -> None:
        observed_at, moved = self._clock(), 0
        while not self._stop.is_set():
            left = self._journal.seconds_left()
            if self._journal.due.wait(OBSERVE_SECONDS if left is None else min(left, OBSERVE_SECONDS)) or left == 0.0:
                self._journal.commit()
            now = self._clock()
            if now - observed_at >= OBSERVE_SECONDS:
                self._observe((self._moved - moved) / (now - observed_at), now)
                observed_at, moved = now, self._moved

    def _observe(self, rate: float, now: float) -> None:
        """Once a second: would more lanes bring more, and is one of them far behind the others?"""
        before = self.lane_count.count
        with self._changed:
            leases = self._board.leases
            if self._board.waiting and len(leases) >= before:
                self.lane_count.observe(rate, now)
                self._changed.notify_all()
            self._pace.observe(leases, now)
            for lease in self._pace.lagging(now):
                lease.slow = True
        if self.lane_count.count != before:
            with suppress(LocalFault):  # only a better beginning for the next start, which begins there
                self._ledger.set_facts(lanes=str(self.lane_count.count))

    def _lane(self) -> None:
        while not self._stop.is_set():
            lease = self._take()
            if lease is None:
                continue
            file: PartialFile = lease.file  # type: ignore[assignment]  # the board holds any hashable
            try:
                self._work(lease, file)
            except AxomsyncError as failure:
                self._retreat(lease, file)
                self._react(file, failure)
            except Exception as bug:  # a bug must end the job, not hang it
                log.exception("%s: unexpected failure", printable(file.rel))
                self._retreat(lease, file)
                file.job.fail(Rejected(f"unexpected {type(bug).__name__}: {bug}; please report it"))

    def _take(self) -> Lease | None:
        with self._changed:
            lease = None
            if len(self._board.leases) < self.lane_count.count:
                lease = self._board.take(self._pace.smallest_theft) or self._board.duplicate(self._pace.stragglers())
            if lease is None:
                self._changed.wait(1.0)
            return lease

    def _retreat(self, lease: Lease, file: PartialFile) -> None:
        """The lane leaves its lease unfinished: others take up what is left."""
        with self._changed:
            if file.job.over.is_set():
                self._board.drop({file})
            elif file.ranges:
                rest = file.received.gaps(lease.position, lease.end)
                self._board.give_back(lease, cut(rest, segment_size(file.size, 1)))
            elif not lease.lost:
                self._begin_again_without_ranges(lease, file)
            self._leave_nothing_out(file)
            self._changed.notify_all()

    def _begin_again_without_ranges(self, lease: Lease, file: PartialFile) -> None:
        """There is no going on in the middle. A lane that asked for the beginning is about to get all."""
        others = (other for other in self._board.leases if other.file is file and other is not lease)
        if first := next((other for other in others if other.start == 0), None):
            self._board.widen(first, file.size)
        else:
            self._forget(file)
            self._board.add(file, [Segment(0, file.size)])

    def _leave_nothing_out(self, file: PartialFile) -> None:
        """What was received is the truth: gaps that nobody works on and that do not wait are fetched, however they arose."""
        if not (file.received.complete or file.job.over.is_set() or self._board.knows(file)):
            self._plan(file)

    # One lease

    def _work(self, lease: Lease, file: PartialFile) -> None:
        with self._liveness.worker("lane") as beat:
            url, generation = file.job.links.url(file.rel)
            handle = file.acquire()
            asked, began = lease.end, self._clock()  # a thief may move it closer while the answer is on its way
            try:
                with self._storage.get(url, lease.position, asked, file.size, file.etag) as reply:
                    self._accept(lease, file, reply, asked)
                    _Run(self, lease, file, handle.descriptor, beat).receive(reply)
            except RangeIgnored:
                file.ignore_range()
                raise Transient("storage ignores ranges") from None
            except UrlExpired:
                file.job.links.refused(generation)
                raise
            finally:
                file.release(handle)
        with self._changed:
            if lease.left:  # storage may answer with less than was asked
                self._board.give_back(lease, file.received.gaps(lease.position, lease.end))
            else:
                self._board.finish(lease)
                self._pace.finish(lease.position - lease.start, self._clock() - began)
            self._leave_nothing_out(file)
            self._changed.notify_all()

    def _accept(self, lease: Lease, file: PartialFile, reply: RangeReply, asked: int) -> None:
        """The first answer for a file fixes its ETag; a store that sends more than was asked sends all."""
        with self._changed:
            if lease.lost:
                return
            if file.etag is None:
                self._meet(file, reply.etag)
            elif reply.etag is not None and reply.etag != file.etag:
                raise SourceChanged(f"the object changed while it was fetched (ETag {file.etag} became {reply.etag})")
            file.etag_is_md5 = reply.etag_is_md5
            if not reply.whole:
                file.ranges, file.ranged, file.ignored = True, True, 0
            else:
                if asked < file.size:
                    file.ignore_range()
                self._board.widen(lease, reply.end)

    def _meet(self, file: PartialFile, etag: str | None) -> None:
        file.etag, file.evidence = etag, Evidence(etag, file.size)
        if file.evidence.parts is not None:
            align = file.evidence.parts.part_size
            self._board.recut(file, segment_size(file.size, self._connections, align), align)

    def advance(self, lease: Lease, file: PartialFile, written: int) -> int:
        """`written` bytes more lie on disk; returns how many of them this lease still had to bring."""
        job = file.job
        with self._changed:
            count = 0 if lease.lost else max(0, min(written, lease.end - lease.position))
            new = file.received.add(lease.position, lease.position + count) if count else 0
            lease.position += count
            job.missing -= new
            job.unnoted += count
            self._moved += count
            job.last_progress, job.attempts, job.refusals = self._clock(), 0, 0
        job.gauge.receive(new)
        return count

    def noted(self, job: Job, count: int) -> None:
        """The journal knows `count` more bytes; the job is over when it knows all."""
        with self._changed:
            job.unnoted -= count
            if job.complete:
                job.over.set()

    # What to do about a failure

    def _react(self, file: PartialFile, failure: AxomsyncError) -> None:
        job = file.job
        if job.over.is_set() or isinstance(failure, Stopping):
            return
        if isinstance(failure, ManifestChanged):
            job.fail(failure)
        elif isinstance(failure, UrlExpired):
            job.refusals += 1
            if job.refusals > REFUSED_URLS_IN_A_ROW + self._connections:
                job.fail(failure)
        elif isinstance(failure, SourceChanged):
            self._start_over(file, failure)
        elif isinstance(failure, Transient):
            if failure.congestion:
                with self._changed:
                    self.lane_count.congested(self._clock())
            job.attempts += 1
            pause = backoff(min(job.attempts, 5), self._random, failure.retry_after)
            if self._clock() - job.last_progress > job.patience or pause > min(job.patience, LONGEST_PAUSE_SECONDS):
                job.fail(failure)
            else:
                job.over.wait(pause)
        else:
            job.fail(failure)

    def _start_over(self, file: PartialFile, failure: SourceChanged) -> None:
        with self._changed:
            file.changes += 1
            if file.changes > CHANGES_OF_A_FILE:
                file.job.fail(failure)
                return
            log.info("%s: %s; this file starts over", printable(file.rel), failure)
            self._forget(file)
            self._plan(file)
            file.job.links.renew()
            self._changed.notify_all()

    @property
    def stopping(self) -> bool:
        """The agent is stopping."""
        return self._stop.is_set()

    @property
    def throttle(self) -> Throttle:
        """The limit on bandwidth."""
        return self._throttle

    @property
    def journal(self) -> Journal:
        """Where written bytes are noted."""
        return self._journal


class _Run:
    """One answer of storage on its way to disk: a contiguous run of bytes with its digest."""

    def __init__(self, lanes: Lanes, lease: Lease, file: PartialFile, descriptor: int, beat: Callable[[], None]) -> None:
        self._lanes, self._lease, self._file, self._descriptor, self._beat = lanes, lease, file, descriptor, beat
        self._start = self._noted = lease.position
        self._generation = file.generation
        self._digest = blake3()
        parts = file.evidence.parts if lanes.hashes else None
        self._parts = parts.run(lease.position) if parts is not None else None
        self._written_at = time.monotonic()
        self._buffer: list[bytes] = []
        self._buffered = 0

    def receive(self, reply: RangeReply) -> None:
        """Write the body until the lease is done; what arrived is noted whatever ends it."""
        try:
            for chunk in reply.chunks:
                self._lanes.throttle.take(len(chunk))
                self._buffer.append(chunk)
                self._buffered += len(chunk)
                self._beat()
                if self._is_due():
                    self._write()
                if self._lease.lost or self._lease.position + self._buffered >= self._lease.end:
                    break
                if self._lanes.stopping or self._file.job.over.is_set():
                    raise Stopping("the agent is stopping")
                if self._lease.slow:
                    raise Transient("the connection runs under a tenth of the speed of its siblings")
        finally:
            self._write()

    def _is_due(self) -> bool:
        late = time.monotonic() - self._written_at >= WRITE_SECONDS
        return late or self._buffered >= WRITE_SIZE or len(self._buffer) >= PIECES_A_WRITE

    def _write(self) -> None:
        if not self._buffer:
            return
        position = self._lease.position
        pieces, self._buffer, self._buffered = self._buffer, [], 0
        try:
            written = os.pwritev(self._descriptor, pieces, position)
            while written < sum(map(len, pieces)):  # a signal or a limit may cut a write short
                rest = b"".join(pieces)[written:]
                written += os.pwrite(self._descriptor, rest, position + written)
        except OSError as error:
            raise local_fault(error, str(self._file.path)) from None
        left = self._lanes.advance(self._lease, self._file, written)
        for piece in pieces:
            if len(piece) > left:
                piece = piece[:left]
            self._digest.update(piece)
            if self._parts is not None:
                self._parts.update(piece)
            left -= len(piece)
        self._written_at = time.monotonic()
        self._note()

    def _note(self) -> None:
        """At once, since a lane that hangs afterwards could not."""
        position, count = self._lease.position, self._lease.position - self._noted
        if count:
            self._lanes.journal.note(self._file, self._generation, self._start, position, self._digest.hexdigest())
            self._noted = position
            self._lanes.noted(self._file.job, count)
