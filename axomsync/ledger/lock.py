"""Who holds the state folder: one agent at a time, by a lock that goes when its process goes.

The folder belongs to the user whom the service runs as, so nothing in it is trusted to be what its name says: a file is
opened without following a link and without waiting for a pipe, must be a plain one with a single name, and is given to the
folder's owner only when this process has just made it. Root does not work there at all: `act_as_owner` makes the process
that owner before anything is opened. Checks alone would not do, since SQLite opens its files by path, and whoever owns the
folder could plant a link between a check and that; what the owner can reach by a link, the owner can reach without one.

Failures handled: a second agent on the same folder (`AlreadyRunning`), a filesystem on which locks lie (`BadConfig`), a
folder that can't be made or written, links, pipes and second names in the place of its files, a root that may not become
the owner (`LocalFault`).
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
LOCK_PATIENCE_SECONDS = 1.0  # `status` takes the lock for an instant too, to see whether somebody has it
_FLAG_OFFSET, _FLAGS = 1 << 20, 64  # bytes of the lock file, beyond its end, that are flags
_FLOCK = "hhqqi4x"  # struct flock of fcntl(2), on 64-bit Linux
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def act_as_owner(folder: Path) -> bool:
    """Have this process, if it is root's, go on as the owner of the state folder for good; returns whether it has changed.

    Call it before anything below the folder is opened, and after all that only root may read. Raises `LocalFault`.
    """
    try:
        owner = folder.stat()
    except OSError:
        return False  # there is none yet: whoever makes it owns it
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
            f"{printable(str(folder))}: it belongs to {name}, and this root may not act as that user; run it as {name}"
        ) from None
    if not os.access(__file__, os.R_OK):
        raise Denied(
            f"{printable(str(folder))}: it belongs to {name}, who may not read this program ({__file__}); install it where "
            "everybody may"
        )
    return True


def holder(folder: Path) -> int | None:
    """Pid of the agent that holds the state folder, None when nobody does. Raises `LocalFault`."""
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
    """The flag that the agent which holds the folder has raised, None when it has none. Raises `LocalFault`."""
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
    """Show other processes a number below 64, or none any more.

    It is a lock on one byte of the lock file: kept in the kernel's memory, so that a disk which is full or fails can't
    swallow it, and gone when the process goes.
    """
    for kind, start, length in ((fcntl.F_UNLCK, 0, _FLAGS), (fcntl.F_WRLCK, flag, 1)):
        if start is not None:
            lock = struct.pack(_FLOCK, kind, os.SEEK_SET, _FLAG_OFFSET + start, length, 0)
            fcntl.fcntl(lock_file, fcntl.F_OFD_SETLK, lock)


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
            pid = _pid_in(file)
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
    """A descriptor of a plain file in the state folder. Raises `OSError`, and `LocalFault` for what is no plain file.

    What root makes belongs to the folder's owner, as whom the agent runs.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN, 0o640)
    except FileExistsError:
        return _open_plain(path, os.O_RDWR)
    if os.geteuid() == 0:
        home = path.parent.stat()
        with suppress(PermissionError):  # a container may hold root to what it has
            os.fchown(file, home.st_uid, home.st_gid)
    return file


def check_plain(path: Path) -> None:
    """Refuse a link, a pipe, a folder or a file with a second name. Raises `LocalFault`; what is not there is fine."""
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
        check_plain(path)  # it says more than the error
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
    """As its holder wrote it; 0 when something else was written there."""
    text = os.pread(file, PID_WIDTH, 0).strip()
    return int(text) if text.isdigit() else 0


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
