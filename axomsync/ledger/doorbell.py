"""The bell that a command rings when its request is in the ledger, so that the agent looks at once.

To ring is to touch the lock file. The kernel tells the agent of changed attributes in its state folder by a signal (source:
fcntl(2), "File and directory change notification"): nobody polls for it, and a touch harms no process that does not listen.
Others ring by chance: whoever opens the ledger as root, since SQLite sets the owner of its files then, and the kernel, which
uses this signal when a lease of `drop/open_files` is broken. Then the agent looks in vain.

Failures handled: a kernel or filesystem without these notifications, a user who may not touch the file (nobody hears the
bell, and the agent looks at its next turn, half a second later at most).
"""

import fcntl
import os
import signal
from contextlib import suppress
from pathlib import Path

from axomsync.core.paths import LOCK_FILE

BELL = signal.SIGURG  # ignored by default: one that comes late ends no process


def ring(folder: Path) -> None:
    """Have the agent of this state folder look for requests now."""
    with suppress(OSError):
        os.utime(folder / LOCK_FILE, follow_symlinks=False)


def listen(folder: Path) -> int | None:
    """Have this process get the signal `BELL` at each ring until the returned descriptor is closed. None: it can't."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.fcntl(opened, fcntl.F_SETSIG, BELL)  # first: the usual signal would end a process without a handler
            fcntl.fcntl(opened, fcntl.F_NOTIFY, fcntl.DN_ATTRIB | fcntl.DN_MULTISHOT)
        except OSError:
            os.close(opened)
        else:
            return opened
    return None
