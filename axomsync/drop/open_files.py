"""Is a program still writing to this file? A writer that pauses for minutes looks finished, and goes on after the upload.

The kernel knows: it grants a read lease only on a file that nobody has open or mapped for writing (fcntl(2), "Leases").

Failures handled: what is no regular file (never waited for), filesystems without leases, and files of other users where
the agent lacks CAP_LEASE: there it can't be told, and standing still for `settle` has to do.
"""

import errno
import fcntl
import os
import signal
import stat
from contextlib import suppress

_F_SETSIG = 10  # linux/fcntl.h
_UNTOLD = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})  # the machine, and not the file, is in the way


def being_written(path: bytes, *, folder: int | None = None) -> bool:
    """Whether a process has the file open or mapped for writing; False where that can't be told.

    `path` is below the folder with the descriptor `folder`, if there is one. Raises `OSError` when it can't be told now.
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
        # Whoever opens the file while the lease is held has the kernel send its holder a signal, whose default would
        # end this process; this one is ignored.
        fcntl.fcntl(file, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as refusal:
        return refusal.errno == errno.EAGAIN
    finally:
        with suppress(OSError):
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(file)
    return False
