"""A model while it is fetched: its files in the staging folder, and how much of each is there.

Failures handled: a disk that is full or can't be written (`LocalFault`, met when the file is made and not in the middle of
it), an object that changes while lanes still write the old one (the new file is another one).
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

IGNORED_IN_A_ROW = 3
CLOCKS_APART_SECONDS = 60.0  # of the servers of one storage
TROUBLE_SECONDS = 5.0
PROBE_SECONDS = 2.0
SHARE_WHILE_OTHERS_WAIT = 1 / 20  # of a job's patience
LONGEST_PAUSE_SECONDS = 60.0  # of a lane; who is asked to wait for longer gives its lanes to others meanwhile


@dataclass(eq=False, slots=True)
class Handle:
    """An open file that several lanes use; closed when the last lets go."""

    descriptor: int
    users: int = 0


class PartialFile:
    """One file being fetched into the staging folder. Opened when first needed, closed when nobody needs it."""

    def __init__(self, job: "Job", known: ModelFile, path: Path) -> None:
        self.job, self.rel, self.size, self.path = job, known.rel, known.size, path
        self.host = job.urls.host(known.rel)
        self.etag = known.etag
        self.etag_is_md5 = True
        self.evidence = Evidence(known.etag, known.size)
        self.believed = known.segments  # what an earlier life received, and nobody has looked at since
        self.last_answer: float | None = None  # when the last request was made that storage answered well, by `Job.clock`
        self.left: list[str] = []  # ETags that it changed from
        self.ignores_etags = False  # storage's servers give different ones for it
        self.received = Coverage(known.size, (Segment(s.start, s.end) for s in known.segments))
        self.durable = Coverage(known.size, (Segment(s.start, s.end) for s in known.segments))
        self.ranges = True  # False once the store is known to ignore Range
        self.ranged = False  # it has answered with a part at least once
        self.ignored = 0  # how often in a row it answered with all where a part was asked
        self.changes = 0
        self.furthest = 0  # bytes that were there at most: what begins again and again gets no further
        self.generation = 0  # grows when the file starts over; what was written before is worth nothing then
        self._handle: Handle | None = None
        self._given_up = False
        self._lock = threading.Lock()

    def acquire(self) -> Handle:
        """An open handle, valid until it is released. Raises `LocalFault`."""
        with self._lock:
            if self._given_up:
                raise LocalFault(f"{self.path}: nobody waits for it any more")
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

    def give_up(self) -> None:
        """Never open the file again, not even for a lane that is about to: its folder will be removed."""
        with self._lock:
            self._given_up = True

    def start_over(self) -> None:
        """Nothing is received. Whoever still writes old bytes writes them into the old file, which nobody sees any more."""
        with self._lock:
            self._handle = None
            with suppress(FileNotFoundError):
                os.unlink(self.path)
        self.received, self.durable, self.etag = Coverage(self.size), Coverage(self.size), None
        self.believed, self.last_answer = (), None
        self.evidence = Evidence(None, self.size)

    def fetch_anew(self) -> None:
        """As `start_over`, of a file that was complete: what comes now is progress."""
        self.start_over()
        self.furthest = 0

    def lose(self, damaged: Container[DurableSegment], rest: Iterable[DurableSegment]) -> None:
        """These segments are to be fetched again; the `rest` was looked at and is whole."""
        kept = [Segment(part.start, part.end) for part in rest if part not in damaged]
        self.received, self.durable = Coverage(self.size, kept), Coverage(self.size, kept)
        self.believed, self.evidence, self.furthest = (), Evidence(self.etag, self.size), self.received.covered

    def came_further(self) -> bool:
        """Whether more of it is there than ever before."""
        further = self.received.covered > self.furthest
        self.furthest = max(self.furthest, self.received.covered)
        return further

    def ignore_range(self) -> None:
        """The store sent all where a part was asked. One that has sent parts before may only have slipped."""
        self.ignored += 1
        self.ranges = self.ranged and self.ignored < IGNORED_IN_A_ROW

    def _open(self) -> int:
        file = -1
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            if os.fstat(file).st_size != self.size:
                allocate(file, self.size)
            return file
        except OSError as error:
            if file >= 0:
                os.close(file)
            raise local_fault(error, str(self.path)) from None


def allocate(file: int, size: int) -> None:
    """Give an open file `size` bytes of disk, so that a full disk is met before the download and not in its middle.

    It also halves the CPU of writing to tmpfs, where lanes would wait for one another's pages. Small files are not worth
    the call.
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
    """All files of one model; `patience` is how many seconds it may bring nothing before it is given up for now.

    While `others_wait` for its place, a small share of these seconds must do: models that storage gives nothing of would
    keep all places otherwise. `tell` is called with what goes wrong when that lasts, and with None as soon as bytes come
    again.
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
        self.attempts = 0  # in a row that failed
        self.failing_since: float | None = None  # since when nothing but failures came
        self.gave_way = False  # it ended because others waited
        self.probed_until = 0.0  # one lane tries whether it goes again, the others wait for that
        self.trouble_until = 0.0  # no lane takes it up before then, and who fails before then adds nothing to the attempts
        self.refused: set[int] = set()  # generations of URLs that were refused since bytes last came
        self.last_meeting = -math.inf  # when a file's ETag was first seen
        self._first_answer: float | None = None  # by storage's clock
        self.is_disturbed = False  # an object may have been stored since the job began
        self.tell = tell
        self.in_trouble = False

    def again(self, gauge: Gauge) -> Self:
        """The same job once more, for what turned out to be wrong with some of its files."""
        self.gauge, self.failure, self.gave_way = gauge, None, False
        self.over.clear()
        return self

    def note_dates(self, answered: float | None, modified: float | None) -> None:
        """What storage says of when it answered, and of when the object was stored."""
        self._first_answer = self._first_answer if self._first_answer is not None else answered
        if modified is None or self._first_answer is None or modified > self._first_answer - CLOCKS_APART_SECONDS:
            self.is_disturbed = True

    # Progress and setbacks. Whoever calls holds the lanes' lock.

    def came_further(self, now: float) -> bool:
        """Note that bytes came; returns whether that ends a trouble that was told."""
        self.last_progress, self.attempts, self.failing_since, self.probed_until = now, 0, None, 0.0
        self.refused.clear()
        recovered, self.in_trouble = self.in_trouble, False
        return recovered

    def set_back(self, now: float, pause: Callable[[int], float], *, asked: bool) -> float:
        """Note a failure, and have no lane take up the job for a while; returns how many seconds.

        `pause` gives the seconds for so many failures in a row; `asked`: storage said for how long. What fails at the same
        time fails for the same reason, and is one failure.
        """
        self.failing_since = self.failing_since if self.failing_since is not None else now
        first = now >= self.trouble_until
        self.attempts += first
        if first or asked:
            self.trouble_until, self.probed_until = max(self.trouble_until, now + pause(self.attempts)), 0.0
        return self.trouble_until - now

    def pauses_for(self, now: float) -> float:
        """Seconds until a lane may take it up again."""
        return max(self.trouble_until, self.probed_until) - now

    def probe(self, now: float) -> None:
        """One lane tries it now; while it fails, the others wait for what that one meets."""
        if self.failing_since is not None:
            self.probed_until = now + PROBE_SECONDS

    def falls_into_trouble(self, now: float) -> bool:
        """Whether trouble has lasted long enough to be told, and was not told before."""
        new = not self.in_trouble and now - self.last_progress > TROUBLE_SECONDS
        self.in_trouble = self.in_trouble or new
        return new

    def is_out_of_patience(self, now: float, pause: float) -> bool:
        """Whether it has brought nothing for too long, or is to wait for too long."""
        return now - self.last_progress > self.patience or pause > min(self.patience, LONGEST_PAUSE_SECONDS)

    def gives_way(self, now: float, pause: float) -> bool:
        """Whether it would go on failing until after the `pause` while others wait for its place."""
        since, limit = self.failing_since, self.patience * SHARE_WHILE_OTHERS_WAIT
        return since is not None and now + pause - since > limit and self.others_wait()

    def fail(self, failure: AxomsyncError) -> None:
        """End the job; the first reason counts."""
        if self.failure is None:
            self.failure = failure
        self.over.set()

    @property
    def complete(self) -> bool:
        """All bytes of all files were received, and the journal knows them."""
        return self.missing == 0 and self.unnoted == 0
