"""One thread that owns the writing connection; others hand it closures and wait.

Closures that queue up while a commit is being synced share the next one, so a thousand small files cost far fewer than a
thousand fsyncs.

Failures handled: a crash at any point and a closure that fails (each is whole or absent), a disk that fails (all who wait
are told), a write that failed and that nobody waited for (the next one of the same row fails alike, so that no row goes on
from a step that it never made), a lock or a disk that holds up a write (`trouble` says so meanwhile), whatever else goes
wrong (nobody waits for ever).
"""

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
from axomsync.ledger.database import DAMAGE, LedgerFault, Trouble, ledger_fault, open_for_writing, sqlite_fault

T = TypeVar("T")

GROUP_COMMIT_MOST = 256
LOCKED_SECONDS = 3.0  # that somebody else may hold the lock before it is told; people wait five for the news
SLOW_SECONDS = 10.0  # a disk under load may take a while

# What SQLite says of a wrong statement or value, rather than of the disk.
_BUGS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)


@dataclass(frozen=True)
class _Failed:
    why: BaseException


class Write(Future[T]):
    """A write that was handed in. `heard` says that somebody waits for its outcome."""

    heard = False

    def result(self, timeout: float | None = None) -> T:
        """What the work returned; raises what it raised, or why it is not on disk."""
        self.heard = True
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
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._unheard: dict[Hashable, Write[Any]] = {}  # the last failed write of a row; of the committing thread
        self._fault: LedgerFault | None = None  # why the last commit failed
        self._changes = 0
        self.written_at = time.monotonic()  # when something was last brought to the disk
        self._waits_since: tuple[float, Trouble] | None = None  # monotonic, and for what the commit under way waits
        self._thread = threading.Thread(target=self._write_loop, name="ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the writes that were handed in, then close the connection."""
        self._jobs.put(None)
        self._thread.join()
        self._writer.close()

    def submit(self, work: Callable[[Database], T], row: Hashable | None = None) -> Write[T]:
        """Have `work` done in a transaction; the write is done once it is synced to disk. `row` is what it is about."""
        write: Write[T] = Write()
        self._jobs.put(_Job(work, write, row))
        return write

    def write(self, work: Callable[[Database], T], row: Hashable | None = None) -> T:
        """As `submit`, and wait for it."""
        return self.submit(work, row).result()

    def execute(self, sql: str, *parameters: object, row: Hashable | None = None) -> Write[None]:
        """As `submit`, for a single statement."""

        def work(db: Database) -> None:
            db.conn.execute(sql, parameters)

        return self.submit(work, row)

    def trouble(self) -> Trouble | None:
        """What keeps writes from the disk at this moment, as far as they show it. Never waits."""
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
        except BaseException as failure:  # noqa: BLE001  # whatever it is: nobody must wait for ever
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
        """All of `jobs` in one transaction: what each returned, or `_Failed`. Raises when none is on disk."""
        connection = self._writer.conn
        try:
            self._waits_since = (awake_seconds(), Trouble.LOCKED)
            # IMMEDIATE: a deferred transaction that reads first can fail at once with SQLITE_BUSY_SNAPSHOT.
            connection.execute("BEGIN IMMEDIATE")
            self._waits_since = (awake_seconds(), Trouble.SLOW)
            outcomes = [self._in_savepoint(job) for job in jobs]
            changes = connection.total_changes
            connection.execute("COMMIT")
            if changes != self._changes:
                self._changes, self.written_at = changes, time.monotonic()
        except BaseException as error:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error | OSError):
                raise sqlite_fault(error, self.path) from None
            raise
        return outcomes

    def _in_savepoint(self, job: _Job) -> Any:
        """What its work returned, or why it failed; then it has changed nothing. Raises when the disk is to blame."""
        connection = self._writer.conn
        before = self._unheard.pop(job.row, None)
        if before is not None and not before.heard and (why := before.exception()) is not None:
            return _Failed(why)
        connection.execute("SAVEPOINT job")
        try:
            result = job.work(self._writer)
        except Exception as failure:
            if isinstance(failure, sqlite3.Error | OSError) and not isinstance(failure, _BUGS):
                raise  # the whole group fails and is told why
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return _Failed(self._told(failure))  # it belongs to whoever handed the work in
        connection.execute("RELEASE job")
        return result

    def _told(self, failure: Exception) -> Exception:
        """A damaged row is no bug of the work that met it."""
        return ledger_fault(self.path, Trouble.DAMAGED) if isinstance(failure, DAMAGE) else failure
