"""Opening the SQLite file with the newest schema, and what SQLite's errors ask people to do.

Failures handled: a full, failing or read-only disk, a damaged or locked file (`LocalFault`), a newer schema (`NewerLedger`).
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlite_utils import Database

from axomsync.errors import LocalFault, full_disk, local_fault, printable
from axomsync.ledger.holding import open_or_make
from axomsync.ledger.schema import migrations, refuse_newer

BUSY_TIMEOUT_SECONDS = 10.0


def open_for_writing(path: Path) -> Database:
    """The writing connection, with the newest schema. Raises `LocalFault`, or `NewerLedger` for one that is newer still."""
    mask = os.umask(0o027)  # what goes where is nobody else's business
    try:
        if not path.exists():
            os.close(open_or_make(path))
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)
        with closed_on_failure(connection):
            db = Database(connection)
            refuse_newer(db, path)
            if db.journal_mode != "wal":
                db.enable_wal()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            migrations.apply(db)
    except sqlite3.Error as error:
        raise sqlite_fault(error, path) from None
    except OSError as error:
        raise local_fault(error, str(path)) from None
    finally:
        os.umask(mask)
    return db


@contextmanager
def closed_on_failure(connection: sqlite3.Connection) -> Iterator[None]:
    """Leave no connection open behind an exception."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


_SQLITE_ADVICE = {
    "disk I/O error": "the disk is full or failing; free some space, and look at the kernel log",
    "attempt to write a readonly database": "it can't be written; give the service's user access to it and its folder",
    "unable to open database file": "it can't be opened; give the service's user access to it and its folder",
    "database is locked": "another program keeps it locked, a backup or an SQLite shell perhaps; end that",
    "file is not a database": "it is not a ledger; move it away, a new one loses no data",
    "database disk image is malformed": "it is damaged; move it away, a new one loses no data",
}


def sqlite_fault(error: Exception, path: Path) -> LocalFault:
    """An error of SQLite, or of the system below it, for people."""
    known = full_disk(str(path)) if str(error) == "database or disk is full" else _SQLITE_ADVICE.get(str(error), error)
    return LocalFault(f"{printable(str(path))}: {known}")
