"""Lanes: threads that fetch segments of many files at once and put them on disk for good.

The order of things is what makes a crash harmless: bytes are written, then synced, then recorded in the ledger. After a
restart only what the ledger says counts. A segment is recorded with the BLAKE3 of its bytes.

Failures handled: expired URLs (one lane asks for new ones, all go on), an object that changes (only that file starts
over), a store that ignores Range (one stream for the whole file), busy or broken storage (back-off, in which the lanes
work for other jobs; the received bytes stay; a job that brings nothing leaves its place to others that wait), stragglers
(fetched twice at the end), a full or failing disk (the job ends, what is durable stays), a partial file that
vanished or was truncated (only that file starts over).
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from blake3 import blake3

from axomsync.core.errors import AxomsyncError, LocalFault, Refused, Rejected, SourceChanged, Stopping, Transient, UrlExpired
from axomsync.core.oserrors import local_fault
from axomsync.core.policy import FIRST_LANES, LaneCount, backoff
from axomsync.core.records import Segment
from axomsync.core.text import printable
from axomsync.mirror.fetch.hashing import Evidence
from axomsync.mirror.fetch.journal import Journal
from axomsync.mirror.fetch.partial import Job, PartialFile
from axomsync.mirror.fetch.segments import Host, Lease, cut, segment_size
from axomsync.mirror.fetch.urls import ManifestChanged
from axomsync.runtime.habits import Habits
from axomsync.runtime.worker import WorkerContext
from axomsync.storage.client import RangeIgnored, RangeReply
from axomsync.storage.s3 import still_refused

log = logging.getLogger(__name__)

WRITE_SIZE = 128 * 1024  # what is written and hashed while it is still in the CPU's cache costs a fifth less
PIECES_A_WRITE = 1000  # the kernel takes 1024
WRITE_SECONDS = 1.0  # bytes that trickle in are written this often
OBSERVE_SECONDS = 0.25
FOLLOW_BYTES = 64 * 1024 * 1024
REFUSED_URLS_IN_A_ROW = 3  # of which the second is asked for at once, the others after a pause
TROUBLE_SECONDS = 5.0
PROBE_SECONDS = 2.0
SHARE_WHILE_OTHERS_WAIT = 1 / 20  # of a job's patience
LONGEST_PAUSE_SECONDS = 60.0  # of a lane; who is asked to wait for longer gives its lanes to others meanwhile
CHANGES_OF_A_FILE = 3


class Lanes:
    """The threads that fetch, shared by all models. `fetch` hands them a job and waits for it."""

    def __init__(self, connections: int, context: WorkerContext, *, hashes: bool) -> None:
        self._connections, self.hashes = connections, hashes
        self._ledger, self._liveness, self._clock = context.ledger, context.liveness, context.clock
        self._stop, self._random = context.stop, context.random
        self.storage, self.throttle = context.storage, context.throttle
        self.journal = Journal(context.ledger, context.clock)  # where written bytes are noted
        self.habits = Habits(context.ledger)
        self._hosts: dict[str, Host[PartialFile]] = {}
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
                for host in self._hosts.values():
                    host.board.drop(set(job.files))
            self.journal.commit()
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
        self._host(file).board.add(file, pieces)
        if not file.size:
            file.release(file.acquire())

    def _host(self, file: PartialFile) -> Host[PartialFile]:
        if file.host not in self._hosts:
            first = int(self._ledger.read.facts().get(_fact_of(file.host)) or FIRST_LANES)
            self._hosts[file.host] = Host(LaneCount(self._connections, first))
        return self._hosts[file.host]

    @staticmethod
    def _partial_is_there(file: PartialFile) -> bool:
        try:
            return file.path.stat(follow_symlinks=False).st_size == file.size
        except FileNotFoundError:
            return False
        except OSError as error:
            raise local_fault(error, str(file.path)) from None

    def _forget(self, file: PartialFile) -> None:
        """Discard what was received of one file, here and in the ledger."""
        self._host(file).board.drop({file})
        file.job.missing += file.received.covered
        file.job.gauge.receive(-file.received.covered)
        file.job.gauge.secure(-file.durable.covered)
        self.journal.forget(file)
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
        observed_at = self._clock()
        while not self._stop.is_set():
            left = self.journal.seconds_left()
            if self.journal.due.wait(OBSERVE_SECONDS if left is None else min(left, OBSERVE_SECONDS)) or left == 0.0:
                self.journal.commit()
            if (now := self._clock()) - observed_at >= OBSERVE_SECONDS:
                for name, host in list(self._hosts.items()):
                    self._observe(name, host, now - observed_at, now)
                observed_at = now

    def _observe(self, name: str, host: Host[PartialFile], seconds: float, now: float) -> None:
        """Would more lanes bring more, and is one of them far behind the others?"""
        with self._changed:
            before, host.moved, rate = host.lanes.count, 0, host.moved / seconds
            full = host.board.waiting and len(host.board.leases) >= before
            if full and host.lanes.observe(rate, now) > before:
                self._changed.notify_all()
            host.pace.observe(host.board.leases, now)
            for lease in host.pace.lagging(now):
                lease.slow = True
            host.board.shrink(self.throttle.lanes(host.lanes.count))
        if host.lanes.count != before:
            with suppress(LocalFault):  # only a better beginning for the next start, which begins there
                self._ledger.set_facts(**{_fact_of(name): str(host.lanes.count)})

    def _lane(self) -> None:
        while not self._stop.is_set():
            lease = self._take()
            if lease is None:
                continue
            file = lease.file
            try:
                self._carry(lease, file)
            except Exception as bug:  # it must end the job, and neither hang it nor end the lane
                log.exception("%s: unexpected failure", printable(file.rel))
                file.job.fail(Transient(f"{printable(file.rel)}: unexpected {type(bug).__name__}: {bug}; please report it"))
                self._retreat(lease, file)

    def _carry(self, lease: Lease[PartialFile], file: PartialFile) -> None:
        generation = file.generation
        try:
            self._work(lease, file)
        except AxomsyncError as failure:
            pause = self._pause(file.job, failure)  # before others can take the lease up
            self._retreat(lease, file)
            self._react(file, failure, generation, pause)

    def _take(self) -> Lease[PartialFile] | None:
        with self._changed:
            patience, now = 1.0, self._clock()
            for host in sorted(self._hosts.values(), key=lambda host: len(host.board.leases)):
                if len(host.board.leases) < self.throttle.lanes(host.lanes.count):
                    board = host.board
                    lease = board.take(host.pace.smallest_theft, lambda file: _pauses_for(file, now) <= 0.0)
                    lease = lease or board.duplicate(host.pace.stragglers())
                    if lease is not None:
                        if (job := lease.file.job).failing_since is not None:
                            job.probed_until = now + PROBE_SECONDS
                        return lease
                    patience = min([patience, *(_pauses_for(file, now) for file, _ in board.waiting)])
            self._changed.wait(patience)
            return None

    def _retreat(self, lease: Lease[PartialFile], file: PartialFile) -> None:
        """The lane leaves its lease unfinished: others take up what is left."""
        with self._changed:
            board = self._host(file).board
            if file.job.over.is_set():
                board.drop({file})
            elif file.ranges:
                rest = file.received.gaps(lease.position, lease.end)
                board.give_back(lease, cut(rest, segment_size(file.size, 1)))
            elif not lease.lost:
                self._begin_again_without_ranges(lease, file)
            self._leave_nothing_out(file)
            self._changed.notify_all()

    def _begin_again_without_ranges(self, lease: Lease[PartialFile], file: PartialFile) -> None:
        """There is no going on in the middle. A lane that asked for the beginning is about to get all."""
        board = self._host(file).board
        others = (other for other in board.leases if other.file is file and other is not lease)
        if first := next((other for other in others if other.start == 0), None):
            board.widen(first, file.size)
        else:
            self._forget(file)
            board.add(file, [Segment(0, file.size)])

    def _leave_nothing_out(self, file: PartialFile) -> None:
        """What was received is the truth: gaps that nobody works on and that do not wait are fetched, however they arose."""
        if not (file.received.complete or file.job.over.is_set() or self._host(file).board.knows(file)):
            self._plan(file)
            self._changed.notify_all()

    # One lease

    def _work(self, lease: Lease[PartialFile], file: PartialFile) -> None:
        with self._liveness.worker("lane") as beat:
            url, generation, fresh = file.job.links.url(file.rel)
            etag = None if file.ignores_etags else file.etag
            handle = file.acquire()
            asked, began = lease.end, self._clock()  # a thief may move it closer while the answer is on its way
            try:
                with self.storage.get(url, lease.position, asked, file.size, etag) as reply:
                    self._accept(lease, file, reply, asked, began)
                    _Run(self, lease, file, handle.descriptor, beat).receive(reply)
            except RangeIgnored:
                file.ignore_range()
                raise Transient("storage ignores ranges") from None
            except (UrlExpired, Refused) as refusal:
                if isinstance(refusal, Refused) and fresh:
                    raise
                file.job.links.refused(generation)
                file.job.refused.add(generation)
                raise UrlExpired(str(refusal)) from None
            finally:
                file.release(handle)
        with self._changed:
            host = self._host(file)
            if lease.left:  # storage may answer with less than was asked
                host.board.give_back(lease, file.received.gaps(lease.position, lease.end))
            else:
                host.board.finish(lease)
                host.pace.finish(lease.position - lease.start, self._clock() - began)
            self._leave_nothing_out(file)  # nobody is woken for the rest: this lane takes what is next itself

    def _accept(self, lease: Lease[PartialFile], file: PartialFile, reply: RangeReply, asked: int, began: float) -> None:
        """The first answer for a file fixes its ETag; a store that sends more than was asked sends all."""
        file.job.links.worked(file.rel)
        with self._changed:
            if lease.lost:
                return
            file.last_answer = began
            file.job.note_dates(reply.answered, reply.modified)
            if file.etag is None and not file.ignores_etags:
                file.job.last_meeting = max(file.job.last_meeting, began)
                self._meet(file, reply.etag)
            elif reply.etag is not None and reply.etag != file.etag and not file.ignores_etags:
                raise SourceChanged(f"the object changed while it was fetched (ETag {file.etag} became {reply.etag})")
            file.etag_is_md5 = reply.etag_is_md5
            if not reply.whole:
                file.ranges, file.ranged, file.ignored = True, True, 0
            else:
                if asked < file.size:
                    file.ignore_range()
                self._host(file).board.widen(lease, reply.end)

    def _meet(self, file: PartialFile, etag: str | None) -> None:
        file.etag = None if file.ignores_etags else etag
        file.evidence = Evidence(file.etag, file.size, self.habits.of(file.host).part_sizes)
        if file.evidence.parts is not None:
            align = file.evidence.parts.part_size
            self._host(file).board.recut(file, segment_size(file.size, self._connections, align), align)

    def advance(self, lease: Lease[PartialFile], file: PartialFile, written: int) -> int:
        """`written` bytes more lie on disk; returns how many of them this lease still had to bring."""
        job = file.job
        with self._changed:
            count = 0 if lease.lost else max(0, min(written, lease.end - lease.position))
            new = file.received.add(lease.position, lease.position + count) if count else 0
            lease.position += count
            job.missing -= new
            job.unnoted += count
            self._host(file).moved += count
            recovered = False
            if file.came_further():
                if job.failing_since is not None:
                    self._changed.notify_all()
                job.last_progress, job.attempts, job.failing_since, job.probed_until = self._clock(), 0, None, 0.0
                job.refused.clear()
                recovered, job.in_trouble = job.in_trouble, False
        if recovered:
            job.tell(None)
        job.gauge.receive(new)
        return count

    def noted(self, job: Job, count: int) -> None:
        """The journal knows `count` more bytes; the job is over when it knows all."""
        with self._changed:
            job.unnoted -= count
            if job.complete:
                job.over.set()

    # What to do about a failure

    def _react(self, file: PartialFile, failure: AxomsyncError, generation: int, pause: float) -> None:
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
            self._start_over(file, failure, generation)
        elif isinstance(failure, Transient):
            if failure.congestion:
                with self._changed:
                    self._host(file).lanes.congested(self._clock())
            if self._clock() - job.last_progress > job.patience or pause > min(job.patience, LONGEST_PAUSE_SECONDS):
                job.fail(failure)
            elif self._gives_way(job, pause):
                job.gave_way = True
                job.fail(failure)
            else:
                self._tell(job, failure)
        else:
            job.fail(failure)

    def _tell(self, job: Job, failure: Transient) -> None:
        """Most trouble is over in a moment. What lasts must not look like a download that is merely slow."""
        with self._changed:
            new = not job.in_trouble and self._clock() - job.last_progress > TROUBLE_SECONDS
            job.in_trouble = job.in_trouble or new
        if new:
            job.tell(failure)

    def _gives_way(self, job: Job, pause: float) -> bool:
        """Whether a job that would go on failing until after the `pause` leaves its place to another."""
        since = job.failing_since  # another lane may bring bytes meanwhile
        limit = job.patience * SHARE_WHILE_OTHERS_WAIT
        return since is not None and self._clock() + pause - since > limit and job.others_wait()

    def _pause(self, job: Job, failure: AxomsyncError) -> float:
        """Have no lane take up this job for a while, and return how many seconds: they go on with others meanwhile.

        What fails at the same time fails for the same reason, and is one failure.
        """
        if not isinstance(failure, Transient) and not (isinstance(failure, UrlExpired) and len(job.refused) > 1):
            return 0.0
        retry_after, now = getattr(failure, "retry_after", None), self._clock()
        with self._changed:
            job.failing_since = job.failing_since if job.failing_since is not None else now
            first = now >= job.trouble_until
            job.attempts += first
            if first or retry_after is not None:
                pause = backoff(min(job.attempts, 5), self._random, retry_after)
                job.trouble_until, job.probed_until = max(job.trouble_until, now + pause), 0.0
            return job.trouble_until - now

    def _start_over(self, file: PartialFile, failure: SourceChanged, generation: int) -> None:
        with self._changed:
            if file.generation != generation:
                return  # another lane met the same change before
            file.changes += 1
            file.job.is_disturbed = True
            if file.etag is not None:
                file.left.append(file.etag)
            file.furthest = 0
            if file.changes > CHANGES_OF_A_FILE and (self.hashes or file.ignores_etags or len(file.left) < 2):
                file.job.fail(_changes_too_often(file, failure))
                return
            file.ignores_etags = file.changes > CHANGES_OF_A_FILE
            if file.received.covered:
                log.info("%s; this file starts over", failure)
            self._forget(file)
            self._plan(file)
            file.job.links.renew()
            self._changed.notify_all()

    @property
    def stopping(self) -> bool:
        """The agent is stopping."""
        return self._stop.is_set()


def _pauses_for(file: PartialFile, now: float) -> float:
    """Seconds until the job of a file may be taken up again."""
    return max(file.job.trouble_until, file.job.probed_until) - now


def _changes_too_often(file: PartialFile, failure: SourceChanged) -> AxomsyncError:
    """What to say of an object that changed again and again, or that only seems to."""
    without = '[mirror] verify = "size" does without them'
    if len(set(file.left)) < len(file.left):  # it changed back
        return Rejected(f"{failure}; its storage gives different ETags for one object in turn: {without}")
    advice = "if that lasts, publish the model again in the console"
    doubt = f", unless its storage's servers disagree on ETags: {without}" if len(file.left) > 1 else ""
    return SourceChanged(f"{failure}; {advice}{doubt}")


def _fact_of(host: str) -> str:
    """Under which name the ledger remembers how many lanes served a host best."""
    return f"lanes {host}"


class _Run:
    """One answer of storage on its way to disk: a contiguous run of bytes with its digest."""

    def __init__(
        self, lanes: Lanes, lease: Lease[PartialFile], file: PartialFile, descriptor: int, beat: Callable[[], None]
    ) -> None:
        self._lanes, self._lease, self._file, self._descriptor, self._beat = lanes, lease, file, descriptor, beat
        self._start = self._noted = lease.position
        self._generation = file.generation
        self._digest = blake3()
        parts = file.evidence.parts if lanes.hashes else None
        self._parts = parts.run(lease.position) if parts is not None else None
        self._written_at = time.monotonic()
        self._buffer: list[memoryview] = []
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
                if self._lease.lost or self._lease.surplus or self._lease.position + self._buffered >= self._lease.end:
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
