"""One thread that owns the writing connection; others hand it closures and wait.

Closures that queue up while a commit is being synced share the next one, so a thousand small files cost far fewer than a
thousand fsyncs.

Failures handled: a crash at any point and a closure that fails (each is whole or absent), a disk that fails (all who wait
are told), whatever else goes wrong (nobody waits for ever).
"""

import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from axomsync.ledger.connection import open_for_writing, sqlite_fault

T = TypeVar("T")

GROUP_COMMIT_MOST = 256

# What SQLite says of a wrong statement or value, rather than of the disk.
_BUGS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)


@dataclass(frozen=True)
class _Failed:
    why: BaseException


class Committer:
    """The writing connection to the file at `path`, until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = open_for_writing(path)
        self._jobs: queue.SimpleQueue[tuple[Callable[[Database], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_loop, name="ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the writes that were handed in, then close the connection."""
        self._jobs.put(None)
        self._thread.join()
        self._writer.close()

    def submit(self, work: Callable[[Database], T]) -> Future[T]:
        """Have `work` done in a transaction; the future is done once it is synced to disk."""
        future: Future[T] = Future()
        self._jobs.put((work, future))
        return future

    def write(self, work: Callable[[Database], T]) -> T:
        """As `submit`, and wait for it."""
        return self.submit(work).result()

    def execute(self, sql: str, *parameters: object) -> Future[None]:
        """As `submit`, for a single statement."""

        def work(db: Database) -> None:
            db.conn.execute(sql, parameters)

        return self.submit(work)

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
            jobs = [job for job in group if job is not None]
            try:
                outcomes = self._commit([work for work, _ in jobs])
            except BaseException as failure:  # noqa: BLE001  # whatever it is: nobody must wait for ever
                outcomes = [_Failed(failure)] * len(jobs)
            for (_, future), outcome in zip(jobs, outcomes, strict=True):
                if isinstance(outcome, _Failed):
                    future.set_exception(outcome.why)
                else:
                    future.set_result(outcome)

    def _commit(self, works: Sequence[Callable[[Database], Any]]) -> list[Any]:
        """All of `works` in one transaction: what each returned, or `_Failed`. Raises when none is on disk."""
        connection = self._writer.conn
        try:
            # IMMEDIATE: a deferred transaction that reads first can fail at once with SQLITE_BUSY_SNAPSHOT.
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._in_savepoint(work) for work in works]
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error | OSError):
                raise sqlite_fault(error, self.path) from None
            raise
        return outcomes

    def _in_savepoint(self, work: Callable[[Database], T]) -> "T | _Failed":
        """What `work` returned, or why it failed; then it has changed nothing. Raises when the disk is to blame."""
        connection = self._writer.conn
        connection.execute("SAVEPOINT job")
        try:
            result = work(self._writer)
        except Exception as failure:
            if isinstance(failure, sqlite3.Error | OSError) and not isinstance(failure, _BUGS):
                raise  # the whole group fails and is told why
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return _Failed(failure)  # it belongs to whoever handed the work in
        connection.execute("RELEASE job")
        return result
