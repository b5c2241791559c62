"""Lock of the state folder: one agent at a time; the lock ends with its process.

The folder belongs to the service's user, so no name in it is trusted: a file is opened without following a link and without
waiting for a pipe, must be a regular file with a single name, and is given to the folder's owner only if this process has
just made it. Root never works there: `act_as_owner` changes the process to that owner before it opens anything. Checks alone
are not enough, since SQLite opens its files by path: the folder's owner could plant a link between a check and the opening.
As the owner, the process reaches by a link only files that the owner can reach without one.

Failures handled: a second agent on the same folder (`AlreadyRunning`), a filesystem with unreliable locks (`BadConfig`), a
folder that can't be made or written, symlinks, pipes and hard links in the place of its files, a root process that can't
become the owner (`LocalFault`).
"""

import fcntl
import os
import pwd
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path

from axomsync.core.errors import AlreadyRunning, BadConfig, Denied, LocalFault
from axomsync.core.filesystems import REMOTE_FILESYSTEMS, filesystem_type
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import LOCK_FILE
from axomsync.core.text import printable

PID_WIDTH = 10
LOCK_PATIENCE_SECONDS = 1.0  # `status` takes the lock for an instant too, to see whether it is free
_FLAG_OFFSET, _FLAGS = 1 << 20, 64  # bytes of the lock file, beyond its end, that serve as flags
_FLOCK = "hhqqi4x"  # struct flock of fcntl(2), on 64-bit Linux
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def act_as_owner(folder: Path) -> bool:
    """Change this process, if it is root's, to the owner of the state folder for good; True if it changed.

    Call it before anything below the folder is opened, and after all reading that needs root. Raises `LocalFault`.
    """
    try:
        owner = folder.stat()
    except OSError:
        return False  # no folder yet: its maker will own it
    if os.geteuid() != 0 or owner.st_uid == 0:
        return False
    try:
        user = pwd.getpwuid(owner.st_uid)
        name, group = user.pw_name, user.pw_gid
        groups = os.getgrouplist(name, group)
    except KeyError:
        name, group, groups = f"the user {owner.st_uid}", owner.st_gid, [owner.st_gid]
    try:
        os.setgroups(groups)
        os.setresgid(group, group, group)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    except OSError:
        raise Denied(
            f"{printable(str(folder))}: it belongs to {name}, and root can't become that user here; run it as {name}"
        ) from None
    if not os.access(__file__, os.R_OK):
        raise Denied(
            f"{printable(str(folder))}: it belongs to {name}, who may not read this program ({__file__}); install it where "
            "everybody may"
        )
    return True


def holder(folder: Path) -> int | None:
    """Pid of the agent that holds the state folder; None if no agent does. Raises `LocalFault`."""
    file = _open_lock(folder)
    if file is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(file)
    finally:
        os.close(file)
    return None


def raised_flag(folder: Path) -> int | None:
    """Read the number that this folder's agent shows by `raise_flag`; None when it shows none. Raises `LocalFault`."""
    file = _open_lock(folder)
    if file is None:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _FLAG_OFFSET, _FLAGS, 0)
        kind, _, start, _, _ = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else start - _FLAG_OFFSET


def raise_flag(lock_file: int, flag: int | None) -> None:
    """Show other processes a number below 64; None shows none.

    It is a lock on one byte of the lock file: it is kept in the kernel's memory, so a full or failing disk can't lose it,
    and it ends with the process.
    """
    for kind, start, length in ((fcntl.F_UNLCK, 0, _FLAGS), (fcntl.F_WRLCK, flag, 1)):
        if start is not None:
            lock = struct.pack(_FLOCK, kind, os.SEEK_SET, _FLAG_OFFSET + start, length, 0)
            fcntl.fcntl(lock_file, fcntl.F_OFD_SETLK, lock)


def hold(folder: Path) -> int:
    """Lock the state folder for this process; the lock ends with the process, in every case."""
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
            pid = _pid_in(file)
            os.close(file)
            raise AlreadyRunning(
                f"another agent (pid {pid}) holds {folder}; stop it, or give this one its own [state] folder"
            )
        time.sleep(0.02)
    try:
        os.pwrite(file, f"{os.getpid():<{PID_WIDTH}}\n".encode(), 0)  # in one write: another process may be reading it
    except OSError as error:
        os.close(file)
        raise local_fault(error, str(folder / LOCK_FILE)) from None
    return file


def open_or_make(path: Path) -> int:
    """Open a regular file in the state folder, or make it; returns a descriptor. Raises `OSError`, `LocalFault`.

    A file that root makes is given to the folder's owner, who is the agent's user.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN, 0o640)
    except FileExistsError:
        return _open_plain(path, os.O_RDWR)
    if os.geteuid() == 0:
        home = path.parent.stat()
        with suppress(PermissionError):  # root in a container may lack this right
            os.fchown(file, home.st_uid, home.st_gid)
    return file


def check_plain(path: Path) -> None:
    """Refuse a symlink, a pipe, a folder or a file with two hard links. Raises `LocalFault`; a missing file is accepted."""
    try:
        _refuse_other(path, path.lstat())
    except FileNotFoundError:
        return
    except OSError as error:
        raise local_fault(error, str(path)) from None


def _open_plain(path: Path, how: int) -> int:
    try:
        file = os.open(path, how | _PLAIN)
    except OSError:
        check_plain(path)  # its reason is clearer than the error
        raise
    try:
        _refuse_other(path, os.fstat(file))
    except LocalFault:
        os.close(file)
        raise
    return file


def _refuse_other(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = "a symlink is in its place" if stat.S_ISLNK(status.st_mode) else "it is no regular file"
    elif status.st_nlink > 1:
        what = "it has a second name, a hard link somewhere"
    else:
        return
    raise LocalFault(f"{printable(str(path))}: {what}, and may be somebody else's file; move it away")


def _open_lock(folder: Path) -> int | None:
    try:
        return _open_plain(folder / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise local_fault(error, str(folder / LOCK_FILE)) from None


def _pid_in(file: int) -> int:
    """Read the pid in the lock file; 0 if the file holds no number."""
    text = os.pread(file, PID_WIDTH, 0).strip()
    return int(text) if text.isdigit() else 0


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
