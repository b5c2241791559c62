"""A transaction in the ledger by another process than the agent; commands steer the agent with it.

Failures handled: a user without the right to write (`LocalFault` with the remedy), no ledger or one of an older version
(`UnreadyLedger`), a disk or file that can't be used (`LocalFault`).
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from axomsync.core.errors import LocalFault
from axomsync.ledger.database import BUSY_TIMEOUT_SECONDS, check_ledger, sqlite_fault
from axomsync.ledger.reader import Reader


@contextmanager
def request_transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Run one transaction from another process than the agent. Raises `LocalFault`."""
    if _is_barred(path):
        raise LocalFault(f"{path}: this user may not steer the agent; use sudo")
    Reader(path).close()  # checks that it exists and has this version
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)
        with closing(connection):
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise sqlite_fault(error, path) from None


def _is_barred(path: Path) -> bool:
    """Return True if this process may not write the file, or can't see it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    check_ledger(path)
    return not os.access(path, os.W_OK)
