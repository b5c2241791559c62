"""One thread that owns the writing connection; other threads submit functions and wait.

Functions that arrive while a commit is being synced share the next commit, so a thousand small files need far fewer than a
thousand fsyncs.

Failures handled: a crash at any point and a function that fails (each is whole or absent), a disk that fails (all waiting
threads get the error), a failed write that no thread waited for (the next write of the same row fails too, so that no row
continues from a step that was not recorded), a lock or a disk that delays a write (`trouble` reports it meanwhile), a lock
at the end of the process (`end_waits`), any other failure (no thread waits for ever).
"""

import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from axomsync.core.awake import awake_seconds
from axomsync.core.turns import TURNS
from axomsync.ledger.database import DAMAGE, LedgerFault, Trouble, ledger_fault, open_for_writing, sqlite_fault

T = TypeVar("T")

GROUP_COMMIT_MOST = 256
LOCKED_SECONDS = 3.0  # another program may hold the lock so long before it is reported; commands wait five seconds
SLOW_SECONDS = 10.0  # a disk under load may be slow
LOOK_SECONDS = 0.25  # while another program holds the lock

# SQLite's errors for a wrong statement or value, not for the disk.
_BUGS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)


@dataclass(frozen=True)
class _Failed:
    why: BaseException


class Write(Future[T]):
    """A submitted write. `heard` is true once a thread waits for its outcome."""

    heard = False

    def result(self, timeout: float | None = None) -> T:
        """Wait for the outcome: the return value of the work; raises its exception, or the reason why it is not on disk."""
        self.heard = True
        with TURNS.lent():
            return super().result(timeout)


@dataclass(frozen=True)
class _Job:
    work: Callable[[Database], Any]
    write: Write[Any]
    row: Hashable | None


class Committer:
    """The writing connection to the file at `path`, until `close`; waits `patience` seconds for another program's lock."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self._writer = open_for_writing(path, patience)
        look = min(LOOK_SECONDS, patience)
        self._writer.conn.execute(f"PRAGMA busy_timeout = {look * 1000:.0f}")  # `_begin` goes on waiting
        self._patience, self._waits_end = patience, math.inf
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._unheard: dict[Hashable, Write[Any]] = {}  # last failed write of a row; for the committing thread only
        self._fault: LedgerFault | None = None  # why the last commit failed
        self._changes = 0
        self.written_at = time.monotonic()  # monotonic time of the last write to disk
        self._waits_since: tuple[float, Trouble] | None = None  # monotonic time, and the obstacle of the current commit
        self._thread = threading.Thread(target=self._write_loop, name="ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the submitted writes, then close the connection."""
        self._jobs.put(None)
        self._thread.join()
        self._writer.close()

    def end_waits(self, at: float) -> None:
        """From `at` on (monotonic time), wait no more for another program's lock: writes fail at once."""
        self._waits_end = at

    def submit(self, work: Callable[[Database], T], row: Hashable | None = None) -> Write[T]:
        """Submit `work` for a transaction; the write is done once it is synced to disk. `row` is the row it concerns."""
        write: Write[T] = Write()
        self._jobs.put(_Job(work, write, row))
        return write

    def write(self, work: Callable[[Database], T], row: Hashable | None = None) -> T:
        """Submit `work` and wait for it."""
        return self.submit(work, row).result()

    def execute(self, sql: str, *parameters: object, row: Hashable | None = None) -> Write[None]:
        """Submit a single statement."""

        def work(db: Database) -> None:
            db.conn.execute(sql, parameters)

        return self.submit(work, row)

    def trouble(self) -> Trouble | None:
        """The obstacle that delays writes now or failed the last one, if it is the disk's or a lock's. Never waits."""
        if (waits := self._waits_since) is not None:
            since, for_what = waits
            patience = LOCKED_SECONDS if for_what is Trouble.LOCKED else SLOW_SECONDS
            if awake_seconds() - since > patience:
                return for_what
        return None if self._fault is None else self._fault.trouble

    def _write_loop(self) -> None:
        closing = False
        while not closing:
            group = [self._jobs.get()]
            while group[-1] is not None and len(group) < GROUP_COMMIT_MOST:
                try:
                    group.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            closing = group[-1] is None
            self._do([job for job in group if job is not None])

    def _do(self, jobs: list[_Job]) -> None:
        try:
            outcomes = self._commit(jobs)
            self._fault = None
        except BaseException as failure:  # noqa: BLE001  # any failure: no thread may wait for ever
            outcomes = [_Failed(failure)] * len(jobs)
            self._fault = failure if isinstance(failure, LedgerFault) else None
        finally:
            self._waits_since = None
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, _Failed):
                if job.row is not None:
                    self._unheard[job.row] = job.write
                job.write.set_exception(outcome.why)
            else:
                job.write.set_result(outcome)

    def _commit(self, jobs: list[_Job]) -> list[Any]:
        """Run all `jobs` in one transaction; returns the result of each, or `_Failed`. Raises if none is on disk."""
        connection = self._writer.conn
        try:
            self._waits_since = (awake_seconds(), Trouble.LOCKED)
            with TURNS.taken():  # before SQLite's lock, for which others may wait
                self._begin()
                self._waits_since = (awake_seconds(), Trouble.SLOW)
                outcomes = [self._in_savepoint(job) for job in jobs]
            changes = connection.total_changes
            connection.execute("COMMIT")
            if changes != self._changes:
                self._changes, self.written_at = changes, time.monotonic()
        except BaseException as error:
            with suppress(sqlite3.Error):  # SQLite may already have rolled back
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error | OSError):
                raise sqlite_fault(error, self.path) from None
            raise
        return outcomes

    def _begin(self) -> None:
        """Begin a transaction once no other program holds the lock. Raises `sqlite3.OperationalError` after the patience."""
        ends = time.monotonic() + self._patience
        while True:
            try:
                # IMMEDIATE: a deferred transaction that reads first can fail at once with SQLITE_BUSY_SNAPSHOT.
                self._writer.conn.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() >= min(ends, self._waits_end):
                    raise
            else:
                return

    def _in_savepoint(self, job: _Job) -> Any:
        """Run one job; returns its result, or `_Failed` if it changed nothing. Raises if the disk is at fault."""
        connection = self._writer.conn
        before = self._unheard.pop(job.row, None)
        if before is not None and not before.heard and (why := before.exception()) is not None:
            return _Failed(why)
        connection.execute("SAVEPOINT job")
        try:
            result = job.work(self._writer)
        except Exception as failure:
            if isinstance(failure, sqlite3.Error | OSError) and not isinstance(failure, _BUGS):
                raise  # the whole group fails and gets the reason
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return _Failed(self._told(failure))  # only this job fails
        connection.execute("RELEASE job")
        return result

    def _told(self, failure: Exception) -> Exception:
        """Replace errors of a damaged row by `LedgerFault`: they are no bug of the job that read it."""
        return ledger_fault(self.path, Trouble.DAMAGED) if isinstance(failure, DAMAGE) else failure
