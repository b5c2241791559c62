"""A read-only connection to the ledger; with WAL it reads while another process writes.

Failures handled: no ledger, or one of an older version (`UnreadyLedger`), a newer one (`NewerLedger`), a locked file, a file
that is damaged anywhere: in its structure, in a state, in a name or a number (`LocalFault`), a disk that fails for a moment
(the next query sees everything again).
"""

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, overload

from sqlite_utils import Database

from axomsync.core.errors import LocalFault
from axomsync.core.oserrors import local_fault
from axomsync.core.policy import made_at
from axomsync.ledger.database import (
    BUSY_TIMEOUT_SECONDS,
    DAMAGE,
    Trouble,
    check_ledger,
    closed_on_failure,
    fetched,
    read_only_uri,
    sqlite_fault,
)
from axomsync.ledger.lock import holder
from axomsync.ledger.rows import Row, known_state
from axomsync.ledger.schema import migrations, refuse_newer

T = TypeVar("T")

ROOM_BYTES = 1_000_000  # a new ledger needs about this much


class UnreadyLedger(LocalFault):
    """There is no ledger, or no agent has migrated it since the program was upgraded."""


class Queries:
    """Runs queries, from any thread, and while an agent in another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_ledger(path)
        if not path.exists():
            raise UnreadyLedger(f"{path}: there is no ledger yet; `axomsync run` or `axomsync sync` creates it")
        if not os.access(path, os.R_OK, effective_ids=True):
            raise local_fault(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), str(path))
        self._lock = threading.Lock()
        try:
            connection = sqlite3.connect(
                f"{read_only_uri(path)}{_as_guest(path)}",
                uri=True,
                check_same_thread=False,
                timeout=BUSY_TIMEOUT_SECONDS,
            )
            connection.create_function("made_at", 1, made_at, deterministic=True)
            self._db = Database(connection)
            with closed_on_failure(connection):
                refuse_newer(self._db, path)
                if migrations.pending(self._db):
                    raise UnreadyLedger(f"{path}: {_why_pending(self._db, path)}")
        except (sqlite3.Error, *DAMAGE) as error:
            fault = sqlite_fault(error, path)
            if _is_guest(path) and getattr(fault, "trouble", None) in (Trouble.READ_ONLY, Trouble.UNOPENED):
                raise LocalFault(
                    f"{path}: the agent that wrote it came to a sudden end, and this user may not put it in order; "
                    "use sudo, or start the agent"
                ) from None
            raise fault from None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    @overload
    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]: ...
    @overload
    def _rows(self, sql: str, parameters: Sequence[object] = (), *, make: Callable[[Row], T]) -> list[T]: ...
    def _rows(
        self, sql: str, parameters: Sequence[object] = (), *, make: Callable[[Row], Any] = lambda row: row
    ) -> list[Any]:
        with self._lock:
            try:
                with closing(fetched(self._db, sql, parameters)) as rows:
                    return [make(row) for row in rows]  # fifty thousand dicts are 100 MB
            except (sqlite3.Error, *DAMAGE) as error:
                raise sqlite_fault(error, self.path) from None

    def _counts(self, table: str, states: Iterable[str]) -> dict[str, int]:
        def counted(row: Row) -> tuple[str, int]:
            return str(known_state(table, row["state"])), row["n"]

        sql = f"SELECT state, count(*) AS n FROM {table} GROUP BY state"  # noqa: S608  # own names
        return {str(state): 0 for state in states} | dict(self._rows(sql, make=counted))


def _why_pending(db: Database, path: Path) -> str:
    """Tell why the ledger is not ready: an older version wrote it, an agent makes it, or a failed start left it empty."""
    if "facts" in db.table_names() and db.execute("SELECT EXISTS (SELECT 1 FROM facts)").fetchone()[0]:
        return "of an older version; start the agent anew, which brings it up to date"
    if holder(path.parent) is not None:
        return "the agent has not made it ready; it starts at this moment, or its log says what holds it up; try again"
    disk = os.statvfs(path.parent)
    if disk.f_bavail * disk.f_frsize < ROOM_BYTES or (disk.f_files and not disk.f_favail):
        return "the start that was to make it failed, since the disk is full; free some space, and start the agent again"
    return "the start that was to make it failed, on a full disk perhaps; start the agent again: nothing was lost"


def _as_guest(path: Path) -> str:
    """URI option for a user who may not make SQLite's files beside the ledger, while no agent has made them.

    SQLite then reads the file as if it never changed. Only an agent that starts at that moment would make the result wrong.
    """
    return "&immutable=1" if _is_guest(path) and not path.with_name(path.name + "-shm").exists() else ""


def _is_guest(path: Path) -> bool:
    return not os.access(path.parent, os.W_OK, effective_ids=True)
