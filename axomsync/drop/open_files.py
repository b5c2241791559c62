"""Check whether a program still writes to a file. A writer that pauses for minutes looks finished and goes on later.

The kernel knows: it grants a read lease only on a file that no process has open or mapped for writing (fcntl(2), "Leases").

Failures handled: paths that are no regular file (never waited for), filesystems without leases, and files of other users if
the agent lacks CAP_LEASE: there the answer is unknown, and an unchanged stamp for `settle` must be enough.
"""

import errno
import fcntl
import os
import signal
import stat
from contextlib import suppress

_UNTOLD = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})  # faults of the machine, not of the file


def being_written(path: bytes, *, folder: int | None = None) -> bool:
    """Check whether a process has the file open or mapped for writing; False where that is unknown.

    `path` is below the folder with the descriptor `folder`, if given. Raises `OSError` if the check is not possible now.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno in _UNTOLD:
            raise
        return False
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return False
        # If a process opens the file while the lease is held, the kernel sends a signal. Its default action would end this
        # process; SIGURG is ignored by default, and has a running agent look once more for requests (`ledger/doorbell`).
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as refusal:
        return refusal.errno == errno.EAGAIN
    finally:
        with suppress(OSError):
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(file)
    return False
