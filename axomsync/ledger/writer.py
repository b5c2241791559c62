"""The ledger as the agent that holds it writes it: uploads, models, and what it says of itself.

Failures handled: another agent on the same state folder (`AlreadyRunning`), an opening that fails half-way (what was opened
is closed again), a crash of the last agent (`recover`), a ledger that can't be written (`trouble`, `probe`), a reader that
never ends and so keeps the WAL growing (`held_by_reader`), a state folder that is taken away (`is_removed`).
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

from sqlite_utils import Database

from axomsync.core.paths import LEDGER_FILE, LOCK_FILE
from axomsync.core.records import Problem, Transfer
from axomsync.core.states import MODEL_INTERRUPTED, UPLOAD_INTERRUPTED
from axomsync.ledger.committer import Write
from axomsync.ledger.database import Trouble, sqlite_fault
from axomsync.ledger.lock import hold, raise_flag, raised_flag
from axomsync.ledger.models import ModelWrites
from axomsync.ledger.reader import Reader
from axomsync.ledger.uploads import UploadWrites

LARGE_WAL_BYTES = 64 * 1024 * 1024
SILENT_SECONDS = 60.0
LITTLE_ROOM_BYTES = 1024 * 1024
_TROUBLES = tuple(Trouble)


def trouble_of(folder: Path) -> Trouble | None:
    """What the agent that holds this state folder has with its ledger; the ledger need not be readable for that."""
    flag = raised_flag(folder)
    return _TROUBLES[flag] if flag is not None and flag < len(_TROUBLES) else None


class Ledger(UploadWrites, ModelWrites):
    """The writing side, for the one agent that holds the state folder. `close` it, or use it in a `with`."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        with ExitStack() as undo:
            self._lock_file = hold(folder)
            undo.callback(os.close, self._lock_file)
            super().__init__(folder / LEDGER_FILE, now)
            undo.callback(super().close)
            self._read = Reader(self.path)
            self._opened = self._on_disk()
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the writes that were handed in, then let go of the state folder."""
        self._read.close()  # the writing connection must be the last: only that one brings the WAL into the file
        super().close()
        os.close(self._lock_file)

    @property
    def read(self) -> Reader:
        """The reading side."""
        return self._read

    # Its own health

    def show_trouble(self, trouble: Trouble | None) -> None:
        """Write the trouble where other processes read it (`trouble_of`)."""
        raise_flag(self._lock_file, None if trouble is None else _TROUBLES.index(trouble))

    def probe(self) -> Write[None]:
        """See whether a write would come through; nothing is written unless there is a reason for doubt.

        A disk that fails shows it at a write alone, so a long silence is one.
        """
        silent = time.monotonic() - self.written_at > SILENT_SECONDS
        doubtful = silent or self.trouble() is not None or _is_short_of_room(self.path)

        def work(db: Database) -> None:
            if doubtful:  # as much as a step of real work writes
                db.conn.execute("INSERT OR REPLACE INTO facts VALUES ('probe', hex(zeroblob(8192)))")

        if not doubtful:
            return self.submit(work)
        self.submit(work)
        return self.execute("DELETE FROM facts WHERE name = 'probe'")

    def is_removed(self) -> bool:
        """Whether what others find under the ledger's name, or the lock's, is not what is written here.

        SQLite goes on writing into a file that has no name any more. An error that is no absence says nothing.
        """
        try:
            return self._on_disk() != self._opened
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _on_disk(self) -> tuple[tuple[int, int], ...]:
        found = [os.stat(path) for path in (self.path, self.path.with_name(LOCK_FILE))]
        return tuple((status.st_dev, status.st_ino) for status in found)

    def held_by_reader(self) -> bool:
        """Whether the WAL is large, and can't be brought into the file since somebody reads it without an end."""
        try:
            if os.stat(f"{self.path}-wal").st_size < LARGE_WAL_BYTES:
                return False
            with closing(sqlite3.connect(self.path, isolation_level=None, timeout=0.0)) as connection:
                _, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except FileNotFoundError:
            return False
        except (OSError, sqlite3.Error) as error:
            raise sqlite_fault(error, self.path) from None
        return bool(moved < frames)

    def recover(self) -> None:
        """At the start of an agent: what was under way when the last one ended goes back to where it can be taken up."""

        def work(db: Database) -> None:
            for upload_state, goes_back in UPLOAD_INTERRUPTED.items():
                self._move_all(db, "uploads", upload_state, goes_back)
            for model_state, back in MODEL_INTERRUPTED.items():
                self._move_all(db, "models", model_state, back)
            db.conn.execute("DELETE FROM transfers")
            db.conn.execute("DELETE FROM problems")

        self.write(work)

    # Events for hooks

    def record_hook(self, event: int, output: str, next_attempt: float | None) -> None:
        """A hook was run for an event, and said `output`; it is done with it unless there is a `next_attempt`."""
        sql = "UPDATE events SET attempts = attempts + 1, output = ?, next_attempt = ?, done = ? WHERE id = ?"
        self.execute(sql, output, next_attempt, int(next_attempt is None), event).result()

    def drop_events(self, kinds: Iterable[str], done_before: float) -> None:
        """Nobody wants to hear of these kinds; and of what was done with before that time, only failures that last."""
        unwanted = list(kinds)

        def work(db: Database) -> None:
            for kind in unwanted:
                db.conn.execute("UPDATE events SET done = 1 WHERE kind = ? AND NOT done", (kind,))
            db.conn.execute(
                "DELETE FROM events WHERE done AND at < ? AND NOT (kind = 'failed' AND \"table\" = 'models')", (done_before,)
            )

        self.write(work)

    # What others ask for

    def begin_request(self, request: int) -> None:
        """The agent sets about it."""
        self.execute("UPDATE requests SET begun_at = ? WHERE id = ?", self._now(), request).result()

    def end_request(self, request: int, outcome: str) -> None:
        """It ended; whoever waits reads the outcome."""
        sql = "UPDATE requests SET outcome = ?, ended_at = ? WHERE id = ?"
        self.execute(sql, outcome, self._now(), request).result()

    def set_request_back(self, request: int) -> None:
        """The agent stops before it ended: the next one begins it anew."""
        self.execute("UPDATE requests SET begun_at = NULL WHERE id = ?", request).result()

    def recover_requests(self, outcome: str, kept: float) -> None:
        """At the start of an agent: `outcome` for what a crash cut off; what ended `kept` seconds ago is forgotten."""

        def work(db: Database) -> None:
            now = self._now()
            ended = "UPDATE requests SET outcome = ?, ended_at = ? WHERE begun_at IS NOT NULL AND ended_at IS NULL"
            db.conn.execute(ended, (outcome, now))
            db.conn.execute("DELETE FROM requests WHERE ended_at < ?", (now - kept,))

        self.write(work)

    # The agent about itself

    def show_transfers(self, transfers: Iterable[Transfer]) -> None:
        """Replace what other processes see of the transfers in flight."""
        rows = list(transfers)

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM transfers")
            for t in rows:
                db.conn.execute(
                    "INSERT OR REPLACE INTO transfers VALUES (?,?,?,?,?,?,?)",
                    (t.direction, t.name, t.bytes_done, t.bytes_received, t.bytes_total, t.rate, t.eta),
                )

        self.write(work)

    def set_facts(self, **facts: str | None) -> None:
        """Small facts about the agent that `status` shows, such as the last poll."""

        def work(db: Database) -> None:
            for name, value in facts.items():
                db.conn.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

        self.write(work)

    def show_problems(self, problems: Iterable[Problem], over: Problem) -> Write[None]:
        """Replace what other processes see of the problems; the one that is `over` goes into the history."""
        rows = list(problems)

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM problems")
            for p in rows:
                db.conn.execute("INSERT INTO problems VALUES (?,?,?,?)", (p.subject, p.reason, p.since, p.next_attempt))
            self._add_history(db, "problem", over.subject, "began", over.reason)
            self._add_history(db, "problem", over.subject, "over", None)

        return self.submit(work)

    def show_problem(self, subject: str, reason: str, next_attempt: float | None) -> None:
        """Add a problem or change its reason; it keeps the time when it began."""

        def work(db: Database) -> None:
            known = db.conn.execute("SELECT 1 FROM problems WHERE subject = ?", (subject,)).fetchone()
            db.conn.execute(
                "INSERT INTO problems VALUES (?, ?, ?, ?) ON CONFLICT (subject) DO UPDATE"
                " SET reason = excluded.reason, next_attempt = excluded.next_attempt",
                (subject, reason, self._now(), next_attempt),
            )
            if known is None:
                self._add_history(db, "problem", subject, "began", reason)

        self.write(work)

    def clear_problem(self, subject: str) -> None:
        """The problem is over."""

        def work(db: Database) -> None:
            if db.conn.execute("DELETE FROM problems WHERE subject = ?", (subject,)).rowcount:
                self._add_history(db, "problem", subject, "over", None)

        self.write(work)

    def add_history(self, kind: str, subject: str, state: str, reason: str | None = None) -> None:
        """Add a line to the history."""
        self.write(lambda db: self._add_history(db, kind, subject, state, reason))


def _is_short_of_room(path: Path) -> bool:
    try:
        status = os.statvfs(path)
    except OSError:
        return True
    return bool(status.f_flag & os.ST_RDONLY) or status.f_bavail * status.f_frsize < LITTLE_ROOM_BYTES
