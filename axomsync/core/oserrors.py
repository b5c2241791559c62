"""Errors of the operating system in words: the path, the fault and the remedy.

Failures handled: a missing right (whose, and the command that grants it), a path that the unit's sandbox hides, a full disk
(and its mount point), a disk without free inodes, no memory or no more threads.
"""

import errno
import os

from axomsync.core.confinement import hidden
from axomsync.core.errors import AxomsyncError, Bug, Denied, LocalFault
from axomsync.core.rights import denial_of
from axomsync.core.text import printable

_ADVICE = {
    errno.EDQUOT: "the disk quota is used up; raise it or free some space",
    errno.EROFS: "the filesystem is read-only; remount it read-write",
    errno.EACCES: "permission denied; give this user access",
    errno.EPERM: "operation not permitted; give this user access",
    errno.ENOENT: "it does not exist; create it or correct the configuration",
    errno.EEXIST: "something else is in its place; move that away or correct the configuration",
    errno.ELOOP: "a symlink is in its place, which is not followed; move it away",
    errno.ENOTDIR: "a part of the path is not a folder; correct the configuration",
    errno.EISDIR: "it is a folder; name a file",
    errno.EFBIG: "a file may not become so large here; raise LimitFSIZE= of the unit (ulimit -f)",
    errno.EIO: "the disk reported an I/O error; check the kernel log",
    errno.ENOTCONN: "the program that serves this filesystem has ended; mount it anew",
    errno.ESTALE: "the file server has replaced what was there; mount it anew",
    errno.EMFILE: "too many open files; raise LimitNOFILE",
    errno.ENFILE: "the system has too many open files; raise fs.file-max",
    errno.ENAMETOOLONG: "the name is too long for this filesystem",
}


NO_MEMORY = "there is no memory left for the agent; free some, or raise its limit (MemoryMax= of the unit, ulimit -v)"
NO_THREADS = "the system starts no more threads for the agent; raise its limit (TasksMax= of the unit, ulimit -u)"
GOES_ON = " (the agent goes on by itself)"
NO_INODES = f"no inodes are left on the disk, though bytes may be; remove small files{GOES_ON}"


class InWords(OSError):
    """An error of our own: its `strerror` is for people, and says what to do."""


def local_fault(error: OSError, path: str | bytes | None = None) -> LocalFault:
    """Map an operating-system error to a `LocalFault` that names the path and what is needed."""
    subject = path if path is not None else error.filename
    name = os.fsdecode(subject) if isinstance(subject, str | bytes) else None
    known = None if isinstance(error, InWords) else _ADVICE.get(error.errno or 0)
    known = full_disk(subject) if error.errno == errno.ENOSPC else known
    if name is not None and (denial := _who_forbids(error, name)) is not None:
        return Denied(f"{printable(name)}: {denial}")
    return LocalFault(f"{printable(name or 'local file')}: {known or error.strerror or error}")


def foreseen(error: BaseException) -> AxomsyncError | None:
    """Map an exception that is no bug: an expected failure, or one of the system with a path; None for all others."""
    if isinstance(error, AxomsyncError):
        return error
    if isinstance(error, MemoryError):
        return LocalFault(NO_MEMORY)
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return LocalFault(NO_THREADS)
    if isinstance(error, OSError) and error.filename is not None:
        return local_fault(error)
    return None


def unforeseen(error: Exception) -> AxomsyncError:
    """The failure that an exception means which no other handler took; `Bug` if it is one."""
    return foreseen(error) or Bug(f"unexpected {type(error).__name__}: {error}; please report it")


def _who_forbids(error: OSError, path: str) -> str | None:
    """Name the unit's sandbox or the missing right as the cause, with the command that mends it."""
    sandboxed = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
    if sandboxed and (told := hidden(path, written=error.errno == errno.EROFS)) is not None:
        return printable(told)
    if error.errno in (errno.EACCES, errno.EPERM) and (denial := denial_of(path)) is not None:
        return printable(denial.words(path))
    return None


def full_disk(path: str | bytes | None) -> str:
    """Tell whether space or inodes are used up: the system reports both as "no space"."""
    place = os.fsencode(path) if path else b""
    while place and not os.path.isdir(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    try:
        status = os.statvfs(place or b".")
    except OSError:
        status = None
    if status is not None and status.f_files and not status.f_favail:
        return NO_INODES
    mount = place
    while mount and not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    where = f" on {printable(os.fsdecode(mount))}" * (len(mount) > 1)
    return f"the disk is full; free some space{where}{GOES_ON}"
