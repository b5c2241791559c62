"""Distribution of bytes to lanes. All state that lanes share changes here, under one lock.

Failures handled: a store that ignores Range (one stream for the whole file), an object that changes (only that file starts
over; after a few times its job fails, or ETags are ignored), a partial file that vanished or was truncated (fetched again),
leases that are given up unfinished, stragglers (fetched twice at the end), busy storage (fewer lanes).
"""

import logging
import threading
from contextlib import suppress

from axomsync.core.errors import AxomsyncError, LocalFault, Rejected, SourceChanged, Transient, UrlExpired
from axomsync.core.oserrors import local_fault
from axomsync.core.policy import FIRST_LANES, LaneCount, backoff
from axomsync.core.records import Segment
from axomsync.mirror.fetch.hashing import Evidence
from axomsync.mirror.fetch.journal import Journal
from axomsync.mirror.fetch.partial import Job, PartialFile
from axomsync.mirror.fetch.segments import Host, Lease, cut, segment_size
from axomsync.runtime.habits import Habits
from axomsync.runtime.worker import WorkerContext
from axomsync.storage.client import RangeReply
from axomsync.transport.gateways import start_place

log = logging.getLogger(__name__)

CHANGES_OF_A_FILE = 3
LONGEST_BACKOFF = 5  # after so many failures in a row pauses stop growing


class Dispatcher:
    """Gives leases to lanes. `hashes`: see `Tools`."""

    def __init__(self, connections: int, context: WorkerContext, journal: Journal, habits: Habits, *, hashes: bool) -> None:
        self._connections, self._journal, self._habits, self._hashes = connections, journal, habits, hashes
        self._ledger, self._throttle = context.ledger, context.throttle
        self._ring, self._box = context.ring, context.identity
        self._random, self._clock = context.random, context.awake
        self._changed = threading.Condition()  # guards `_hosts`, and the leases, files and jobs in it
        self._hosts: dict[str, Host[PartialFile]] = {}

    # Jobs

    def begin(self, job: Job) -> None:
        """Queue all missing bytes of the job. Raises `LocalFault`."""
        with self._changed:
            job.last_progress = self._clock()
            job.missing = sum(file.size - file.received.covered for file in job.files)
            for file in job.files:
                self._plan(file)
            if self._ring.is_there:
                place = start_place(self._box, job.model_id)
                for host in {file.host: self._host(file) for file in job.files}.values():
                    host.board.begin_at(place, set(job.files))
            if job.complete:
                job.over.set()
            self._changed.notify_all()

    def end(self, job: Job) -> None:
        """Drop the job's waiting segments and leases."""
        with self._changed:
            for host in self._hosts.values():
                host.board.drop(set(job.files))

    def noted(self, job: Job, count: int) -> None:
        """Count bytes that the journal has noted; the job is over when all are noted."""
        with self._changed:
            job.unnoted -= count
            if job.complete:
                job.over.set()

    # Leases

    def take(self) -> Lease[PartialFile] | None:
        """Lease the next bytes to fetch; None when there were none for a while."""
        with self._changed:
            patience, now = 1.0, self._clock()
            for host in sorted(self._hosts.values(), key=lambda host: len(host.board.leases)):
                if len(host.board.leases) < self._throttle.lanes(host.lanes.count):
                    board = host.board
                    lease = board.take(host.pace.smallest_theft, lambda file: file.job.pauses_for(now) <= 0.0)
                    lease = lease or board.duplicate(each for each in host.pace.stragglers() if each.gateway is None)
                    if lease is not None:
                        lease.file.job.probe(now)
                        return lease
                    patience = min([patience, *(file.job.pauses_for(now) for file, _ in board.waiting)])
            self._changed.wait(patience)
            return None

    def accept(self, lease: Lease[PartialFile], reply: RangeReply, asked: int, began: float) -> None:
        """Process an answer's headers: the first answer for a file fixes its ETag; one beyond `asked` is the whole file.

        `asked` is the end of the requested range, `began` the time of the request by the clock. Raises `SourceChanged`.
        """
        file = lease.file
        file.job.urls.worked(file.rel)
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

    def advance(self, lease: Lease[PartialFile], written: int) -> int:
        """Count `written` more bytes on disk; returns how many of them this lease still had to bring."""
        file, job = lease.file, lease.file.job
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
                recovered = job.came_further(self._clock())
        if recovered:
            job.tell(None)
        job.gauge.receive(new)
        return count

    def finish(self, lease: Lease[PartialFile], began: float) -> None:
        """End the lease after the answer. No lane is woken for the rest: the calling lane takes the next lease itself."""
        file = lease.file
        with self._changed:
            host = self._host(file)
            if lease.left:  # storage may send less than requested
                host.board.give_back(lease, file.received.gaps(lease.position, lease.end))
            else:
                host.board.finish(lease)
                host.pace.finish(lease.position - lease.start, self._clock() - began)
            self._leave_nothing_out(file)

    def give_up(self, lease: Lease[PartialFile]) -> None:
        """Give back an unfinished lease: other lanes take the rest."""
        file = lease.file
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

    # Setbacks

    def pause(self, job: Job, failure: AxomsyncError) -> float:
        """Pause a job for all lanes; returns the seconds. Lanes work for other jobs meanwhile."""
        if not isinstance(failure, Transient) and not (isinstance(failure, UrlExpired) and len(job.refused) > 1):
            return 0.0
        asked = getattr(failure, "retry_after", None)
        with self._changed:
            return job.set_back(
                self._clock(),
                lambda attempts: backoff(min(attempts, LONGEST_BACKOFF), self._random, asked),
                asked=asked is not None,
            )

    def is_congested(self, file: PartialFile) -> None:
        """Reduce the lanes: storage asked for fewer requests."""
        with self._changed:
            self._host(file).lanes.congested(self._clock())

    def falls_into_trouble(self, job: Job) -> bool:
        """Call the job's own method under the lock."""
        with self._changed:
            return job.falls_into_trouble(self._clock())

    def start_over(self, file: PartialFile, failure: SourceChanged, generation: int) -> None:
        """Fetch a file again whose object changed since `generation` of the file began."""
        with self._changed:
            if file.generation != generation:
                return  # another lane met the same change before
            file.changes += 1
            file.job.is_disturbed = True
            if file.etag is not None:
                file.left.append(file.etag)
            file.furthest = 0
            if file.changes > CHANGES_OF_A_FILE and (self._hashes or file.ignores_etags or len(file.left) < 2):
                file.job.fail(_changes_too_often(file, failure))
                return
            file.ignores_etags = file.changes > CHANGES_OF_A_FILE
            if file.received.covered:
                log.info("%s; this file starts over", failure)
            self._forget(file)
            self._plan(file)
            file.job.urls.renew()
            self._changed.notify_all()

    # How many lanes

    def observe(self, seconds: float, now: float) -> None:
        """Adjust the number of lanes after the last `seconds`, and mark lanes that are far behind the others."""
        for name, host in list(self._hosts.items()):
            with self._changed:
                before, host.moved, rate = host.lanes.count, 0, host.moved / seconds
                full = host.board.waiting and len(host.board.leases) >= before
                if full and host.lanes.observe(rate, now) > before:
                    self._changed.notify_all()
                host.pace.observe(host.board.leases, now)
                for lease in host.pace.lagging(now):
                    lease.slow = lease.gateway is None
                host.board.shrink(self._throttle.lanes(host.lanes.count))
            if host.lanes.count != before:
                with suppress(LocalFault):  # only the next start's first value depends on it
                    self._ledger.set_facts(**{_fact_of(name): str(host.lanes.count)})

    # Under the lock

    def _host(self, file: PartialFile) -> Host[PartialFile]:
        if file.host not in self._hosts:
            first = int(self._ledger.read.facts().get(_fact_of(file.host)) or FIRST_LANES)
            self._hosts[file.host] = Host(LaneCount(self._connections, first))
        return self._hosts[file.host]

    def _plan(self, file: PartialFile) -> None:
        if file.received.covered and not _partial_is_there(file):
            self._forget(file)
        if file.ranges:
            pieces = cut(file.received.gaps(), segment_size(file.size, self._connections))
        else:
            pieces = [Segment(0, file.size)]
        self._host(file).board.add(file, pieces)
        if not file.size:
            file.release(file.acquire())

    def _meet(self, file: PartialFile, etag: str | None) -> None:
        file.etag = None if file.ignores_etags else etag
        file.evidence = Evidence(file.etag, file.size, self._habits.of(file.host).part_sizes)
        if file.evidence.parts is not None:
            align = file.evidence.parts.part_size
            self._host(file).board.recut(file, segment_size(file.size, self._connections, align), align)

    def _forget(self, file: PartialFile) -> None:
        """Discard the received bytes of one file, here and in the ledger."""
        self._host(file).board.drop({file})
        file.job.missing += file.received.covered
        file.job.gauge.receive(-file.received.covered)
        file.job.gauge.secure(-file.durable.covered)
        self._journal.forget(file)
        file.start_over()

    def _begin_again_without_ranges(self, lease: Lease[PartialFile], file: PartialFile) -> None:
        """Fetch the whole file again in one stream, unless another lane requested it from its beginning."""
        board = self._host(file).board
        others = (other for other in board.leases if other.file is file and other is not lease)
        if first := next((other for other in others if other.start == 0), None):
            board.widen(first, file.size)
        else:
            self._forget(file)
            board.add(file, [Segment(0, file.size)])

    def _leave_nothing_out(self, file: PartialFile) -> None:
        """Queue gaps that no lane works on: the received bytes decide what is missing, however a gap arose."""
        if not (file.received.complete or file.job.over.is_set() or self._host(file).board.knows(file)):
            self._plan(file)
            self._changed.notify_all()


def _partial_is_there(file: PartialFile) -> bool:
    try:
        return file.path.stat(follow_symlinks=False).st_size == file.size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise local_fault(error, str(file.path)) from None


def _changes_too_often(file: PartialFile, failure: SourceChanged) -> AxomsyncError:
    """The failure for an object that changed, or seems to change, again and again."""
    without = '[mirror] verify = "size" does without them'
    if len(set(file.left)) < len(file.left):  # it changed back
        return Rejected(f"{failure}; its storage gives different ETags for one object in turn: {without}")
    advice = "if this persists, publish the model again in the console"
    doubt = f", unless its storage's servers disagree on ETags: {without}" if len(file.left) > 1 else ""
    return SourceChanged(f"{failure}; {advice}{doubt}")


def _fact_of(host: str) -> str:
    """The ledger's key for a host's best number of lanes."""
    return f"lanes {host}"
