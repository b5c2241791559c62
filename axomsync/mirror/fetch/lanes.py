"""Lanes: threads that fetch segments of many files at once and make them durable.

The order makes a crash harmless: bytes are written, then synced, then recorded in the ledger. After a restart only the
ledger counts. A segment is recorded with the BLAKE3 of its bytes.

Failures handled: expired URLs (one lane asks for new ones, all go on), busy or broken storage (a pause, in which the lanes
work for other jobs; received bytes stay; a job without progress leaves its place to waiting ones), a gateway that fails (the
lease goes another way, without a pause), a full or failing disk (the job ends, durable bytes stay), a bug (the job ends, the
lane goes on); for more, see `requests` and `dispatch`.
"""

import logging
import threading
from collections.abc import Callable

from axomsync.core.errors import AxomsyncError, Bug, GatewayFault, SourceChanged, Stopping, Transient, UrlExpired
from axomsync.core.oserrors import local_fault, unforeseen
from axomsync.core.text import printable
from axomsync.mirror.fetch.dispatch import Dispatcher
from axomsync.mirror.fetch.journal import Journal
from axomsync.mirror.fetch.partial import Job, PartialFile
from axomsync.mirror.fetch.receive import Tools
from axomsync.mirror.fetch.requests import Requests
from axomsync.mirror.fetch.segments import Lease
from axomsync.mirror.fetch.urls import ManifestChanged
from axomsync.runtime.habits import Habits
from axomsync.runtime.worker import WorkerContext
from axomsync.storage.s3 import still_refused

log = logging.getLogger(__name__)

OBSERVE_SECONDS = 0.25
FOLLOW_BYTES = 64 * 1024 * 1024
REFUSED_URLS_IN_A_ROW = 3  # the second is requested at once, the others after a pause


class Lanes:
    """The download threads, shared by all models. `fetch` queues a job and waits for its end."""

    def __init__(self, connections: int, context: WorkerContext, *, hashes: bool) -> None:
        self._connections, self._hashes = connections, hashes
        self._liveness, self._stop, self._clock = context.liveness, context.stop, context.awake
        self.storage, self.habits = context.storage, Habits(context.ledger)
        self.ring = context.ring
        self._journal = Journal(context.ledger, context.clock)
        self._dispatcher = Dispatcher(connections, context, self._journal, self.habits, hashes=hashes)
        tools = Tools(self._dispatcher, self._journal, context.throttle, context.stop, hashes)
        self._requests = Requests(self.storage, self.ring, self._dispatcher, tools, self._clock)
        self._start_lock = threading.Lock()  # guards `_threads`
        self._threads: list[threading.Thread] = []

    def fetch(self, job: Job, step: Callable[[], None]) -> None:
        """Fetch all missing bytes of `job`; on return every byte is durable. Raises the error that ended it.

        `step` is called repeatedly; an exception from it ends the job too.
        """
        self._start_threads()
        self._dispatcher.begin(job)
        try:
            while not job.over.wait(0.0 if self._follow(job) else 0.2):
                step()
        finally:
            job.over.set()
            self._dispatcher.end(job)
            self._journal.commit()
        if job.failure is not None:
            raise job.failure

    def _follow(self, job: Job) -> bool:
        """Hash files that need it in order, in this otherwise waiting thread. True when there was something to hash."""
        if not self._hashes:
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

    # Threads

    def _start_threads(self) -> None:
        with self._start_lock:
            if self._threads:
                return
            names = [f"lane-{number}" for number in range(self._connections)]
            self._threads = [threading.Thread(target=self._lane, name=name, daemon=True) for name in names]
            self._threads.append(threading.Thread(target=self._commit_loop, name="journal", daemon=True))
            for thread in self._threads:
                thread.start()

    def _commit_loop(self) -> None:
        observed_at = self._clock()
        while not self._stop.is_set():
            left = self._journal.seconds_left()
            if self._journal.due.wait(OBSERVE_SECONDS if left is None else min(left, OBSERVE_SECONDS)) or left == 0.0:
                self._journal.commit()
            if (now := self._clock()) - observed_at >= OBSERVE_SECONDS:
                self._dispatcher.observe(now - observed_at, now)
                observed_at = now

    def _lane(self) -> None:
        while not self._stop.is_set():
            lease = self._dispatcher.take()
            if lease is None:
                continue
            file = lease.file
            try:
                self._carry(lease, file)
            except Exception as bug:  # it must end the job, not hang it or end the lane
                failure = unforeseen(bug)
                if isinstance(failure, Bug):
                    log.exception("%s: unexpected failure", printable(file.rel))
                file.job.fail(failure.about(printable(file.rel)))
                self._dispatcher.give_up(lease)

    def _carry(self, lease: Lease[PartialFile], file: PartialFile) -> None:
        generation = file.generation
        try:
            self._request(lease)
        except GatewayFault:  # the ring knows; the lease goes another way
            self._dispatcher.give_up(lease)
        except AxomsyncError as failure:
            if isinstance(failure, Transient) and lease.gateway is None and not failure.congestion:
                self.ring.storage_fails_too()
            pause = self._dispatcher.pause(file.job, failure)  # before other lanes can take the lease
            self._dispatcher.give_up(lease)
            self._react(file, failure, generation, pause)

    # One lease

    def _request(self, lease: Lease[PartialFile]) -> None:
        with self._liveness.worker("lane") as beat:
            self._requests.serve(lease, beat)

    def _react(self, file: PartialFile, failure: AxomsyncError, generation: int, pause: float) -> None:
        """React to a failure of the job; during `pause` seconds no lane takes it."""
        job = file.job
        if job.over.is_set() or isinstance(failure, Stopping):
            return
        if isinstance(failure, ManifestChanged):
            job.fail(failure)
            return
        failure = failure.about(printable(file.rel))
        if isinstance(failure, UrlExpired):
            if len(job.refused) >= REFUSED_URLS_IN_A_ROW:
                job.fail(still_refused(failure))
        elif isinstance(failure, SourceChanged):
            self._dispatcher.start_over(file, failure, generation)
        elif isinstance(failure, Transient):
            self._wait_or_end(file, failure, pause)
        else:
            job.fail(failure)

    def _wait_or_end(self, file: PartialFile, failure: Transient, pause: float) -> None:
        job, now = file.job, self._clock()
        if failure.congestion:
            self._dispatcher.is_congested(file)
        if job.is_out_of_patience(now, pause):
            job.fail(failure)
        elif job.gives_way(now, pause):
            job.gave_way = True
            job.fail(failure)
        elif self._dispatcher.falls_into_trouble(job):  # lasting trouble must not look like a slow download
            job.tell(failure)
