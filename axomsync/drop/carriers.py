"""The threads that upload files in the order of the `backlog`, and the failures that stop all these threads.

Eight carry files of every kind. A small file spends most of its time on the way to the far side and back; so while small
ones wait, more carriers begin, as long as they bring more files a second. These take no others, and end when none waits.
Where a gate judges each file there are only the eight: it is a program for each file that is under way. Without a gate,
small files are worked on in turn (`core/turns`).

Failures handled: a key that the console refuses (no upload begins until a pause ends or a person asks for it), a ledger that
can't be written for a while, a row that a person had forgotten meanwhile, a bug that one file triggers (the thread goes on
with the next file), a far side that fails, also if the next try succeeds (fewer carriers), a process that may have no more
threads (those that are there go on) or open files (fewer carriers).
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Container, Iterable
from contextlib import nullcontext

from axomsync.core.errors import Forgotten, KeyRefused, LocalFault, Stopping
from axomsync.core.policy import LaneCount
from axomsync.core.records import Upload, UploadState
from axomsync.core.turns import TURNS
from axomsync.drop.backlog import Backlog
from axomsync.drop.names import packing_of
from axomsync.drop.pipeline import Outcome, Uploader
from axomsync.drop.source import is_pushed
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)

UPLOADS_AT_ONCE = 8
SMALL_AT_ONCE = 64  # at most, with those eight
RATE_SECONDS = 0.25  # files are counted at least for so long
FILES_OF_A_CARRIER = 4  # and until there were so many for each: few files a second are a rate with much chance in it
SLOW_SECONDS = 10.0  # or, to see that the rate has collapsed, for so long
BUSY = 0.5  # of a core that carriers take: Python runs one of them at a time, so more of them would bring little more
KEY_PAUSE_SECONDS = 30.0
LONGEST_WAIT_SECONDS = 5.0  # a carrier checks at least this often whether the agent stops


class Carriers:
    """Carries files, from the first `begin` to `end`. `went_on` is called whenever something was done for a file.

    `connections`: a number in `[transfer] connections`, which is the most, if it is more than eight. `cpu`: CPU-seconds of
    the calling thread.
    """

    def __init__(
        self,
        uploader: Uploader,
        context: WorkerContext,
        went_on: Callable[[], None],
        connections: int | None = None,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._uploader = uploader
        self._context = context
        self._ledger = context.ledger
        self._problems = context.problems
        self._clock = context.clock
        self._went_on = went_on
        self._backlog = Backlog(UPLOADS_AT_ONCE)
        self._lock = threading.Lock()  # guards the threads, and what follows from the rate
        self._threads: dict[int, threading.Thread] = {}
        self._judged = context.gates.before_upload.is_there
        most = UPLOADS_AT_ONCE if self._judged else min(connections or SMALL_AT_ONCE, SMALL_AT_ONCE)
        self._most = max(UPLOADS_AT_ONCE, most)
        self._count = LaneCount(self._most, UPLOADS_AT_ONCE, least=UPLOADS_AT_ONCE, thrifty=True)
        self._cpu = cpu
        self._failed_tries = 0
        self._done, self._used = 0, 0.0  # files and CPU-seconds since `_observed_at`
        self._observed_at: float | None = None  # None while no small file waits
        self._ended = threading.Event()
        self._key_refused: KeyRefused | None = None
        self._ledger_fault: LocalFault | None = None
        self._key_pause_ends = self._key_refused_at = -math.inf

    def busy(self) -> frozenset[int]:
        """The rows that wait or are carried now."""
        return self._backlog.members()

    def stopped_by(self) -> KeyRefused | LocalFault | None:
        """The failure that stops all files; None if there is none."""
        return self._key_refused or self._ledger_fault

    @property
    def pause_ends(self) -> float:
        """Monotonic time; a refused key keeps files from being begun until then. In the past if there is no pause."""
        return self._key_pause_ends

    def end_pause(self) -> None:
        """Try the key again now."""
        self._key_pause_ends = -math.inf

    def wait_until_idle(self, patience: float) -> bool:
        """Wait at most `patience` seconds; True if nothing waits and nothing is carried then."""
        return self._backlog.wait_until_empty(patience)

    def begin(self, rows: Iterable[Upload], only: Container[bytes] | None) -> bool:
        """Queue these rows for the carriers, limited to the paths in `only` and files of `push`; True if there was one."""
        if self._context.paused() or self._clock() < self._key_pause_ends or self._context.stop.is_set():
            return False
        begun = False
        for row in rows:
            if only is None or row.path in only or is_pushed(row.path):
                is_packed = packing_of(row.path) is not None
                self._backlog.add(row.id, row.stamp.size, row.stamp.mtime_ns, row.attempts, is_packed=is_packed)
                begun = True
        if len(self._backlog) and len(self._threads) < UPLOADS_AT_ONCE:
            with self._lock:
                self._begin_threads(UPLOADS_AT_ONCE)
        return begun

    def end(self) -> None:
        """Finish the files that are carried now, and begin no others."""
        with self._lock:
            self._ended.set()
            threads = list(self._threads.values())
        self._backlog.clear()
        for thread in threads:
            thread.join()
        self._uploader.close()

    def _begin_threads(self, count: int) -> None:
        """Begin carriers until there are `count` of them, under the lock."""
        for number in range(count):
            if number in self._threads or self._ended.is_set():
                continue
            thread = threading.Thread(target=self._carry_all, args=(number,), name=f"upload-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system allows no more; those that are there go on
                if not self._threads:
                    raise
                return
            self._threads[number] = thread

    def _carry_all(self, number: int) -> None:
        """Run one carrier until the agent stops or the pass is over, or it is one too many."""
        only_small = number >= UPLOADS_AT_ONCE
        while not (self._context.stop.is_set() or self._ended.is_set()):
            row = self._backlog.take(LONGEST_WAIT_SECONDS, only_small=only_small)
            if row is None:
                if only_small and self._leaves(number):
                    return
                continue
            went_on = False
            try:
                went_on = self._carry(row)
            except Exception:  # no failure may end the carrier
                log.exception("an upload failed in a way that was not foreseen")
            finally:
                self._backlog.done(row)  # before the loop is woken, which must see it
                if went_on:
                    self._went_on()
            if only_small and number >= self._count.count and self._leaves(number):
                return
        self._backlog.clear()  # else `wait_until_idle` would wait for uploads without a carrier

    def _leaves(self, number: int) -> bool:
        """End a carrier of small files; False if small files wait and it is wanted again."""
        with self._lock:
            if self._backlog.has_small and number < self._count.count:
                return False
            del self._threads[number]
            return True

    def _observe(self, outcome: Outcome, used: float) -> None:
        """Count a file that took `used` CPU-seconds, and begin more carriers while they bring more files a second."""
        with self._lock:
            now = self._clock()
            failed = self._uploader.failed_tries
            if outcome is Outcome.HINDERED or failed > self._failed_tries:
                self._count.congested(now)
            self._failed_tries = failed
            self._done += outcome is Outcome.DONE
            self._used += used
            if self._observed_at is None or not self._backlog.has_small:
                self._observed_at, self._done, self._used = now if self._backlog.has_small else None, 0, 0.0
                return
            seconds, is_enough = now - self._observed_at, self._done >= FILES_OF_A_CARRIER * self._count.count
            if seconds >= (RATE_SECONDS if is_enough else SLOW_SECONDS):
                may_grow = is_enough and self._used / seconds < BUSY
                self._count.most = self._most if may_grow else self._count.count
                self._count.observe(self._done / seconds, now)
                self._observed_at, self._done, self._used = now, 0, 0.0
                self._begin_threads(self._count.count)

    def _takes_turns(self, row: int) -> bool:
        """Whether a file is mostly work of Python: not a larger one, and not one that a program judges."""
        return self._backlog.is_small(row) and not self._judged

    def _carry(self, row: int) -> bool:
        """Carry one file. True if its row changed or the key was refused: then the loop must look again."""
        began = self._clock()
        if began < self._key_pause_ends:
            return False  # the key was refused while this file waited
        try:
            with self._context.liveness.worker("upload") as beat:
                used = self._cpu()
                with TURNS.taken() if self._takes_turns(row) else nullcontext():
                    outcome = self._uploader.carry(row, beat)
            self._observe(outcome, self._cpu() - used)
            went_on = outcome is not Outcome.LATER
            # A file that was begun before the refusal may have had its URL already.
            if (
                self._key_refused is not None
                and began > self._key_refused_at
                and self._ledger.read.upload(row).state is UploadState.UPLOADED
            ):
                self._key_refused = None
                self._problems.clear("console")
            if self._ledger_fault is not None and went_on:
                self._ledger_fault = None
                self._problems.clear("ledger")
            return went_on
        except (Stopping, Forgotten):
            return False
        except KeyRefused as refused:
            self._key_refused, self._key_refused_at = refused, self._clock()
            self._key_pause_ends = self._key_refused_at + KEY_PAUSE_SECONDS
            self._problems.report("console", str(refused), self._context.now() + KEY_PAUSE_SECONDS)
            return True
        except LocalFault as fault:  # of the ledger; a fault of the file is in its row
            self._ledger_fault = fault
            self._problems.report("ledger", str(fault))
            return False
