"""A model during its download: its files in the staging folder, and the received bytes of each.

Failures handled: a disk that is full or can't be written (`LocalFault`, when a file is made, not in the middle of it), an
object that changes while lanes still write the old one (the new file is another inode).
"""

import errno
import math
import os
import threading
import time
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from axomsync.core.errors import AxomsyncError, LocalFault
from axomsync.core.oserrors import local_fault
from axomsync.core.records import DurableSegment, ModelFile, Segment
from axomsync.mirror.fetch.hashing import Evidence
from axomsync.mirror.fetch.segments import SMALLEST_SEGMENT, Coverage
from axomsync.mirror.fetch.urls import SignedUrls
from axomsync.runtime.meter import Gauge
from axomsync.transport.gateways import BLOCK

IGNORED_IN_A_ROW = 3
CLOCKS_APART_SECONDS = 60.0  # largest difference between clocks of one storage's servers
TROUBLE_SECONDS = 5.0
PROBE_SECONDS = 2.0
SHARE_WHILE_OTHERS_WAIT = 1 / 20  # of a job's patience, while other jobs wait
LONGEST_PAUSE_SECONDS = 60.0  # for a longer pause a job gives up its place


@dataclass(eq=False, slots=True)
class Handle:
    """An open file that several lanes use; the last one closes it."""

    descriptor: int
    users: int = 0


class PartialFile:
    """One file on its way into the staging folder. Opened when first needed, closed when no longer used."""

    def __init__(self, job: "Job", known: ModelFile, path: Path) -> None:
        self.job, self.rel, self.size, self.path = job, known.rel, known.size, path
        self.host = job.urls.host(known.rel)
        self.etag = known.etag
        self.etag_is_md5 = True
        self.evidence = Evidence(known.etag, known.size)
        self.believed = known.segments  # received by an earlier process, not yet verified
        self.last_answer: float | None = None  # by `Job.clock`: when the last successful request was made
        self.left: list[str] = []  # earlier ETags of the object
        self.ignores_etags = False  # storage's servers give different ETags for it
        self.received = Coverage(known.size, (Segment(s.start, s.end) for s in known.segments))
        self.durable = Coverage(known.size, (Segment(s.start, s.end) for s in known.segments))
        self.ranges = True  # False once the store is known to ignore Range
        self.ranged = False  # the store has answered with a part at least once
        self.ignored = 0  # answers in a row with all instead of a part
        self.changes = 0
        self.furthest = 0  # most bytes ever received: a file that starts over again and again makes no progress
        self.direct = False  # ask storage itself, and no gateway
        self.barred: dict[int, set[str]] = {}  # by block: gateways whose bytes are in doubt
        self.copies: list[DurableSegment] = []  # came through gateways and were discarded, since nothing proved them
        self.copies_etag: str | None = None
        self.agreed = False  # two copies that came by different ways were the same
        self.generation = 0  # grows when the file starts over; earlier bytes are then void
        self._handle: Handle | None = None
        self._given_up = False
        self._lock = threading.Lock()

    def acquire(self) -> Handle:
        """Return an open handle, valid until `release`. Raises `LocalFault`."""
        with self._lock:
            if self._given_up:
                raise LocalFault(f"{self.path}: no job waits for it any more")
            if self._handle is None:
                self._handle = Handle(self._open())
            self._handle.users += 1
            return self._handle

    def release(self, handle: Handle) -> None:
        """Give back the handle of one user."""
        with self._lock:
            handle.users -= 1
            if handle.users == 0:
                os.close(handle.descriptor)
                if handle is self._handle:
                    self._handle = None

    def give_up(self) -> None:
        """Refuse to open the file again, even to a lane that is about to: its folder will be removed."""
        with self._lock:
            self._given_up = True

    def start_over(self) -> None:
        """Discard everything received. Lanes that still write old bytes write into the old file, which has no name."""
        with self._lock:
            self._handle = None
            with suppress(FileNotFoundError):
                os.unlink(self.path)
        self.received, self.durable, self.etag = Coverage(self.size), Coverage(self.size), None
        self.believed, self.last_answer, self.agreed = (), None, False
        self.evidence = Evidence(None, self.size)

    def fetch_anew(self) -> None:
        """Discard a complete file like `start_over`; the bytes that follow count as progress."""
        self.start_over()
        self.furthest = 0

    def lose(self, damaged: Container[DurableSegment], rest: Iterable[DurableSegment]) -> None:
        """Discard the `damaged` segments; the `rest` is verified and stays."""
        kept = [Segment(part.start, part.end) for part in rest if part not in damaged]
        self.received, self.durable = Coverage(self.size, kept), Coverage(self.size, kept)
        self.believed, self.evidence, self.furthest = (), Evidence(self.etag, self.size), self.received.covered

    def bar(self, gateway: str, position: int) -> None:
        """Do not ask this gateway for the block of `position` again."""
        self.barred.setdefault(position // BLOCK, set()).add(gateway)

    def distrust(self, copy: Iterable[DurableSegment]) -> None:
        """Remember a copy that is discarded: the next one comes through other gateways, the third from storage."""
        self.direct = self.direct or bool(self.copies)
        self.copies_etag = self.etag
        for part in copy:
            if part.gateway is not None:
                self.copies.append(part)
                for position in range(part.start // BLOCK * BLOCK, part.end, BLOCK):
                    self.bar(part.gateway, position)

    def came_further(self) -> bool:
        """Check whether more bytes are there than ever before."""
        further = self.received.covered > self.furthest
        self.furthest = max(self.furthest, self.received.covered)
        return further

    def ignore_range(self) -> None:
        """Count an answer with all instead of a part. After earlier parts a few such answers are tolerated."""
        self.ignored += 1
        self.ranges = self.ranged and self.ignored < IGNORED_IN_A_ROW

    def _open(self) -> int:
        file = -1
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            if os.fstat(file).st_size != self.size:
                allocate(file, self.size)
            return file
        except OSError as error:
            if file >= 0:
                os.close(file)
            raise local_fault(error, str(self.path)) from None


def allocate(file: int, size: int) -> None:
    """Give an open file `size` bytes of disk, so that a full disk is met before the download, not in its middle.

    It also halves the CPU time of writing to tmpfs, where lanes would wait for one another's pages. Small files are not
    worth the call.
    """
    os.ftruncate(file, size)
    if size < SMALLEST_SEGMENT:
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


class Job:
    """All files of one model; after `patience` seconds without progress it is given up for now.

    While `others_wait` for its place, the limit is a small share of these seconds: otherwise models without progress would
    keep all places. `tell` gets a failure that lasts, and None as soon as bytes arrive again.
    """

    def __init__(
        self,
        model_id: str,
        urls: SignedUrls,
        gauge: Gauge,
        patience: float,
        tell: Callable[[AxomsyncError | None], None],
        clock: Callable[[], float] = time.monotonic,
        others_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self.clock, self.others_wait = clock, others_wait
        self.model_id, self.urls, self.gauge, self.patience = model_id, urls, gauge, patience
        self.files: list[PartialFile] = []
        self.missing = 0  # bytes that are still to be received
        self.unnoted = 0  # bytes that were received and not yet noted in the journal
        self.over = threading.Event()
        self.failure: AxomsyncError | None = None
        self.last_progress = 0.0
        self.attempts = 0  # failures in a row
        self.failing_since: float | None = None  # start of an unbroken row of failures
        self.gave_way = False  # it ended because other jobs waited
        self.probed_until = 0.0  # until then one lane probes and the others wait
        self.trouble_until = 0.0  # until then no lane takes it, and further failures don't count
        self.refused: set[int] = set()  # generations of URLs refused since bytes last arrived
        self.last_meeting = -math.inf  # when a file's ETag was first seen
        self._first_answer: float | None = None  # by storage's clock
        self.is_disturbed = False  # an object may have been stored since the job began
        self.tell = tell
        self.in_trouble = False

    def again(self, gauge: Gauge) -> Self:
        """Start the same job again, to replace wrong bytes of some files."""
        self.gauge, self.failure, self.gave_way = gauge, None, False
        self.over.clear()
        return self

    def note_dates(self, answered: float | None, modified: float | None) -> None:
        """Store storage's dates: of its first answer, and of the storing of the object."""
        self._first_answer = self._first_answer if self._first_answer is not None else answered
        if modified is None or self._first_answer is None or modified > self._first_answer - CLOCKS_APART_SECONDS:
            self.is_disturbed = True

    # Progress and setbacks. The caller holds the lanes' lock.

    def came_further(self, now: float) -> bool:
        """Record arrived bytes; returns True when they end trouble that was logged."""
        self.last_progress, self.attempts, self.failing_since, self.probed_until = now, 0, None, 0.0
        self.refused.clear()
        recovered, self.in_trouble = self.in_trouble, False
        return recovered

    def set_back(self, now: float, pause: Callable[[int], float], *, asked: bool) -> float:
        """Record a failure and pause the job for all lanes; returns the seconds.

        `pause` maps the number of failures in a row to seconds; `asked`: storage asked for the pause. Failures at the same
        time have the same cause and count once.
        """
        self.failing_since = self.failing_since if self.failing_since is not None else now
        first = now >= self.trouble_until
        self.attempts += first
        if first or asked:
            self.trouble_until, self.probed_until = max(self.trouble_until, now + pause(self.attempts)), 0.0
        return self.trouble_until - now

    def pauses_for(self, now: float) -> float:
        """Seconds until a lane may take it again."""
        return max(self.trouble_until, self.probed_until) - now

    def probe(self, now: float) -> None:
        """Let one lane try; while the job fails, the others wait for the result."""
        if self.failing_since is not None:
            self.probed_until = now + PROBE_SECONDS

    def falls_into_trouble(self, now: float) -> bool:
        """True when trouble has lasted long enough to log it, and was not logged before."""
        new = not self.in_trouble and now - self.last_progress > TROUBLE_SECONDS
        self.in_trouble = self.in_trouble or new
        return new

    def is_out_of_patience(self, now: float, pause: float) -> bool:
        """True when it was without progress for too long, or must pause for too long."""
        return now - self.last_progress > self.patience or pause > min(self.patience, LONGEST_PAUSE_SECONDS)

    def gives_way(self, now: float, pause: float) -> bool:
        """True when it would still fail after the `pause` while others wait for its place."""
        since, limit = self.failing_since, self.patience * SHARE_WHILE_OTHERS_WAIT
        return since is not None and now + pause - since > limit and self.others_wait()

    def fail(self, failure: AxomsyncError) -> None:
        """End the job with `failure`, unless it has one already."""
        if self.failure is None:
            self.failure = failure
        self.over.set()

    @property
    def complete(self) -> bool:
        """True when all bytes of all files are received and noted in the journal."""
        return self.missing == 0 and self.unnoted == 0
