"""Who holds the state folder: one agent at a time, by a lock that goes when its process goes.

Failures handled: a second agent on the same folder (`AlreadyRunning`), a filesystem on which locks lie (`BadConfig`), a
folder that can't be made or written (`LocalFault`).
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from axomsync.errors import AlreadyRunning, BadConfig, local_fault
from axomsync.filesystems import REMOTE_FILESYSTEMS, filesystem_type

LOCK_FILE = "agent.lock"
PID_WIDTH = 10
LOCK_PATIENCE_SECONDS = 1.0  # `status` takes the lock for an instant too, to see whether somebody has it


def holder(folder: Path) -> int | None:
    """Pid of the agent that holds the state folder, None when nobody does."""
    try:
        file = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise local_fault(error, str(folder / LOCK_FILE)) from None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(file, 32, 0).strip() or b"0")
    finally:
        os.close(file)
    return None


def hold(folder: Path) -> int:
    """Take the state folder for this process; the lock goes when the process goes, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        kind = filesystem_type(folder)
        if kind in REMOTE_FILESYSTEMS:
            raise BadConfig(
                f"[state] folder {folder} is on {kind}, where locks and WAL can't be trusted; name a folder on a local disk"
            )
        file = open_or_make(folder / LOCK_FILE)
    except OSError as error:
        raise local_fault(error, error.filename or str(folder)) from None
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while not _locked(file):
        if time.monotonic() > deadline:
            pid = os.pread(file, 32, 0).decode().strip()
            os.close(file)
            raise AlreadyRunning(
                f"another agent (pid {pid}) holds {folder}; stop it, or give this one its own [state] folder"
            )
        time.sleep(0.02)
    try:
        os.pwrite(file, f"{os.getpid():<{PID_WIDTH}}\n".encode(), 0)  # at once whole: others may be reading it
    except OSError as error:
        os.close(file)
        raise local_fault(error, str(folder / LOCK_FILE)) from None
    return file


def open_or_make(path: Path) -> int:
    """A descriptor of a file in the state folder. What root makes belongs to the folder's owner, as whom the agent runs."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    if os.geteuid() == 0:
        home = path.parent.stat()
        with suppress(PermissionError):  # a container may hold root to what it has
            os.fchown(file, home.st_uid, home.st_gid)
    return file


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
