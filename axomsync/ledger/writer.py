"""The ledger for the agent that holds it, and the health of its file.

Failures handled: another agent on the same state folder (`AlreadyRunning`), an opening that fails half-way (the opened files
are closed again), a crash of the last agent (`recover`), a ledger that can't be written (`trouble`, `probe`), a reader that
never ends and so makes the WAL grow (`held_by_reader`), a state folder that is removed (`is_removed`).
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

from sqlite_utils import Database

from axomsync.core.paths import LEDGER_FILE, LOCK_FILE
from axomsync.core.states import MODEL_INTERRUPTED, UPLOAD_INTERRUPTED
from axomsync.ledger.agent import AgentWrites
from axomsync.ledger.committer import Write
from axomsync.ledger.database import BUSY_TIMEOUT_SECONDS, Trouble, sqlite_fault
from axomsync.ledger.lock import hold, raise_flag, raised_flag
from axomsync.ledger.models import ModelWrites
from axomsync.ledger.promotions import PromotionWrites
from axomsync.ledger.reader import Reader
from axomsync.ledger.uploads import UploadWrites

LARGE_WAL_BYTES = 64 * 1024 * 1024
SILENT_SECONDS = 60.0
LITTLE_ROOM_BYTES = 1024 * 1024
_TROUBLES = tuple(Trouble)


def trouble_of(folder: Path) -> Trouble | None:
    """The trouble that the folder's agent has with its ledger; works even if the ledger can't be read."""
    flag = raised_flag(folder)
    return _TROUBLES[flag] if flag is not None and flag < len(_TROUBLES) else None


class Ledger(UploadWrites, ModelWrites, PromotionWrites, AgentWrites):
    """All writes, for the one agent that holds the state folder. `close` it, or use it in a `with`."""

    def __init__(self, folder: Path, now: Callable[[], float], patience: float = BUSY_TIMEOUT_SECONDS) -> None:
        with ExitStack() as undo:
            self._lock_file = hold(folder)
            undo.callback(os.close, self._lock_file)
            super().__init__(folder / LEDGER_FILE, now, patience)
            undo.callback(super().close)
            self._read = Reader(self.path)
            self._opened = self._on_disk()
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the submitted writes, then release the state folder."""
        self._read.close()  # the writing connection must close last: only it moves the WAL into the file
        super().close()
        os.close(self._lock_file)

    @property
    def read(self) -> Reader:
        """The reader of this ledger, in this process."""
        return self._read

    # Health of the ledger's file

    def show_trouble(self, trouble: Trouble | None) -> None:
        """Write the trouble where other processes read it (`trouble_of`)."""
        raise_flag(self._lock_file, None if trouble is None else _TROUBLES.index(trouble))

    def probe(self) -> Write[None]:
        """Test whether a write succeeds; nothing is written without a reason for doubt.

        A failing disk shows only at a write, so a long time without writes is such a reason.
        """
        silent = time.monotonic() - self.written_at > SILENT_SECONDS
        doubtful = silent or self.trouble() is not None or _is_short_of_room(self.path)

        def work(db: Database) -> None:
            if doubtful:  # as many bytes as real work writes
                db.conn.execute("INSERT OR REPLACE INTO facts VALUES ('probe', hex(zeroblob(8192)))")

        if not doubtful:
            return self.submit(work)
        self.submit(work)
        return self.execute("DELETE FROM facts WHERE name = 'probe'")

    def is_removed(self) -> bool:
        """True if the path of the ledger or of its lock no longer leads to the open file.

        SQLite goes on writing into a file without a name. Errors other than a missing file count as False.
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
        """True if the WAL is large and can't be moved into the file, because a reader never ends. Raises `LocalFault`."""
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

    def recover(self, kept: Iterable[str] = (), *, uploads: bool = True, models: bool = True) -> None:
        """Move interrupted work of the last workers back to states from which it can continue; called before the next begin.

        Their problems go; those of the subjects `kept` stay. Rows that `uploads` or `models` leaves out are for `take_back`.
        """
        subjects = json.dumps(sorted(kept))

        def work(db: Database) -> None:
            self._take_back(db, uploads=uploads, models=models)
            db.conn.execute("DELETE FROM transfers")
            db.conn.execute("DELETE FROM problems WHERE subject NOT IN (SELECT value FROM json_each(?))", (subjects,))

        self.write(work)

    def take_back(self, *, uploads: bool, models: bool) -> None:
        """Do for these rows alone what `recover` has left, as workers of theirs had not ended."""
        self.write(lambda db: self._take_back(db, uploads=uploads, models=models))

    def _take_back(self, db: Database, *, uploads: bool, models: bool) -> None:
        for upload_state, goes_back in UPLOAD_INTERRUPTED.items() if uploads else ():
            self._move_all(db, "uploads", upload_state, goes_back)
        for model_state, back in MODEL_INTERRUPTED.items() if models else ():
            self._move_all(db, "models", model_state, back)


def _is_short_of_room(path: Path) -> bool:
    try:
        status = os.statvfs(path)
    except OSError:
        return True
    return bool(status.f_flag & os.ST_RDONLY) or status.f_bavail * status.f_frsize < LITTLE_ROOM_BYTES
