"""One transaction in the ledger from another process than the agent, with which people steer it.

Failures handled: a user who may not write (`LocalFault` that says who may), no ledger or one of an older version
(`UnreadyLedger`), a disk or file that is in the way (`LocalFault`).
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
    """One transaction from another process than the agent. Raises `LocalFault`."""
    if _is_barred(path):
        raise LocalFault(f"{path}: this user may not steer the agent; use sudo")
    Reader(path).close()  # of this version, and there
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)
        with closing(connection):
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise sqlite_fault(error, path) from None


def _is_barred(path: Path) -> bool:
    """Whether there is, or may be, a file that this process may not write."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    check_ledger(path)
    return not os.access(path, os.W_OK)
