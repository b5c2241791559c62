"""Opening of the SQLite file with the newest schema, its rows, and remedies for SQLite's errors.

Failures handled: a full, failing or read-only disk, a limit on file sizes, a locked file, a file that is damaged anywhere, a
link or pipe in its place (`LocalFault`), a newer schema (`NewerLedger`).
"""

import os
import resource
import sqlite3
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path

from sqlite_utils import Database

from axomsync.core.errors import Denied, LocalFault
from axomsync.core.oserrors import NO_INODES, full_disk, local_fault
from axomsync.core.paths import LOCK_FILE
from axomsync.core.rights import denial_of
from axomsync.core.text import printable
from axomsync.ledger.lock import check_plain, open_or_make
from axomsync.ledger.rows import Misfit, Row
from axomsync.ledger.schema import migrations, refuse_newer

BUSY_TIMEOUT_SECONDS = 10.0
LARGEST_WRITE_BYTES = 1024 * 1024  # approximately
WAL_LIMIT_BYTES = 16 * 1024 * 1024  # this much stays allocated after a burst of writes


_umask_lock = threading.Lock()  # the umask is the process's: two openings at once would leave the tighter one behind


def open_for_writing(path: Path, patience: float) -> Database:
    """Open the writing connection, with the newest schema. It waits `patience` seconds for another program's lock.

    Raises `LocalFault`, or `NewerLedger` for a schema that is newer than this program.
    """
    with _umask_lock:
        return _open_for_writing(path, patience)


def _open_for_writing(path: Path, patience: float) -> Database:
    mask = os.umask(0o027)  # transfers are private: other users get no access
    try:
        if not os.path.lexists(path):
            os.close(open_or_make(path))
        check_ledger(path)
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=patience)
        with closed_on_failure(connection):
            db = Database(connection)
            refuse_newer(db, path)
            if db.journal_mode != "wal":
                db.enable_wal()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
            connection.execute("PRAGMA foreign_keys = ON")
            migrations.apply(db)
    except (sqlite3.Error, *DAMAGE) as error:
        fault = sqlite_fault(error, path)
        raise _denial(fault, path) or fault from None
    except OSError as error:
        raise local_fault(error, str(path)) from None
    finally:
        os.umask(mask)
    return db


@contextmanager
def closed_on_failure(connection: sqlite3.Connection) -> Iterator[None]:
    """Close the connection if the block raises."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def fetched(db: Database, sql: str, parameters: Sequence[object] = ()) -> Generator[Row]:
    """Yield the rows of a query as dicts. Not `Database.query`: its savepoint for each query doubles the cost.

    While it is neither at its end nor closed, later queries of this connection see the state that it sees.
    """
    with closing(db.conn.execute(sql, parameters)) as cursor:
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))


class Trouble(StrEnum):
    """Reasons why a ledger can't be written or read, in words for people. New ones are added at the end."""

    FULL = "the disk is full; free some space"
    FAILING = "the disk is full or failing; free some space, and look at the kernel log"
    READ_ONLY = "it can't be written; give the service's user access to it and its folder, on a disk that is not read-only"
    UNOPENED = "it can't be opened; give the service's user access to it and its folder"
    LOCKED = "another program keeps it locked, a backup or an SQLite shell perhaps; end that"
    FOREIGN = "it is not a ledger; move it away, a new one loses no data"
    DAMAGED = "it is damaged; move it away, a new one loses no data"
    SLOW = "the disk takes more than 10 s for a write; look at the kernel log"
    HELD = "its WAL grows, since another program never ends its reading, a backup or an SQLite shell perhaps; end that"
    INODES = NO_INODES
    REMOVED = "it was removed, moved or replaced while the agent ran; the next start makes a new one, which loses no data"
    LIMITED = "this process may not write files that large; raise LimitFSIZE= of the unit (ulimit -f)"


# Errors from a damaged file in which SQLite finds no fault: states and columns unknown to this program, and messages that
# quote the file (a schema, a row) in invalid UTF-8.
DAMAGE = (Misfit, KeyError, UnicodeDecodeError)

_BY_CODE = {
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_IOERR: Trouble.FAILING,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_PERM: Trouble.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Trouble.UNOPENED,
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
    sqlite3.SQLITE_LOCKED: Trouble.LOCKED,
    sqlite3.SQLITE_PROTOCOL: Trouble.LOCKED,
    sqlite3.SQLITE_NOTADB: Trouble.FOREIGN,
}


class LedgerFault(LocalFault):
    """The ledger can't be written or read now. `trouble` is None if its file is not the cause."""

    def __init__(self, message: str, trouble: Trouble | None) -> None:
        super().__init__(message)
        self.trouble = trouble


def ledger_fault(path: Path, trouble: Trouble) -> LedgerFault:
    """Make the error with its one line for people."""
    return LedgerFault(f"{printable(str(path))}: {trouble}", trouble)


def sqlite_fault(error: Exception, path: Path) -> LocalFault:
    """Make a `LocalFault` from an error of SQLite, or of the system below it.

    The program's statements are tested, so a statement that SQLite rejects means a damaged file.
    """
    if isinstance(error, sqlite3.ProgrammingError):
        return LedgerFault(f"{printable(str(path))}: {error}", None)  # the connection was closed meanwhile
    if isinstance(error, OSError):
        return local_fault(error, str(path))
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # absent for text in invalid UTF-8
    trouble = _BY_CODE.get(code & 0xFF, Trouble.DAMAGED)
    if code & 0xFF == sqlite3.SQLITE_CORRUPT and _is_sound(path):
        trouble = Trouble.FAILING  # SQLite calls a read that failed (EIO) damage, too
    no_file_made = trouble in (
        Trouble.FULL,
        Trouble.FAILING,
        Trouble.UNOPENED,
    )  # SQLite's message on a disk without free inodes
    if no_file_made and full_disk(str(path)) == NO_INODES:
        trouble = Trouble.INODES
    elif trouble in (Trouble.FULL, Trouble.FAILING) and _is_limited(path):
        trouble = Trouble.LIMITED
    return ledger_fault(path, trouble)


def _is_sound(path: Path) -> bool:
    """Check the whole structure of a file that SQLite has just called damaged; that ends at the first fault."""
    try:
        with closing(sqlite3.connect(read_only_uri(path), uri=True, timeout=0.0)) as connection:
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except (sqlite3.Error, *DAMAGE):
        return False


def _denial(fault: LocalFault, path: Path) -> Denied | None:
    """Find the file or folder whose rights are the cause; its error names the owner and the command that helps."""
    if getattr(fault, "trouble", None) in (Trouble.READ_ONLY, Trouble.UNOPENED):
        for file in _files(path):
            if (denial := denial_of(str(file))) is not None:
                return Denied(printable(f"{file}: {denial.words(str(file))}"))
    return None


def _files(path: Path) -> list[Path]:
    """List the ledger's file and those that SQLite keeps beside it."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]


def _is_limited(path: Path) -> bool:
    """Check whether the ledger's files have reached this process's limit on file sizes (RLIMIT_FSIZE)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    files = (path, path.with_name(f"{path.name}-wal"))
    largest = max((os.path.getsize(file) for file in files if os.path.isfile(file)), default=0)
    return limit != resource.RLIM_INFINITY and limit < largest + LARGEST_WRITE_BYTES


def read_only_uri(path: Path) -> str:
    """The address by which SQLite opens a file for reading only."""
    return f"file:{str(path).replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro"


def check_ledger(path: Path) -> None:
    """Refuse links, pipes and the like in the place of the ledger, SQLite's files and the lock. Raises `LocalFault`."""
    for file in (path.with_name(LOCK_FILE), *_files(path)):
        check_plain(file)
