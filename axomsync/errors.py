"""Every failure that axomsync names, sorted by what to do next.

    AxomsyncError                  exit code
    ├── Transient           75     try again after a back-off, or after `retry_after`
    ├── UrlExpired          75     ask the console for a fresh URL, then try again at once
    ├── SourceChanged       75     what was being read is no longer what it was: start that file over
    ├── Rejected             1     the far side or the input has given its final answer: park it with the reason
    │   └── Refused          1     so said storage of one URL: where that was used before, a fresh one is worth a try
    ├── LocalFault           1     this machine is in the way (disk, permission): say path and need, try again later
    ├── Stopping             0     the agent was asked to stop: leave everything so that it can be taken up again
    ├── Interrupted    128 + n     signal n ended what a person had asked for: asked again, it goes on from there
    └── Fatal               any    the process can't go on
        ├── KeyRefused       4
        ├── AlreadyRunning   3
        ├── BadConfig       78
        └── NewerLedger     78

Foreign exceptions are turned into these at one boundary each: `console` and `storage` for the network, `local_fault` for
the operating system. A message is one line, names the thing and what to do, and never holds a key or a signed URL.
"""

import copy
import errno
import os
from typing import Self

from axomsync.confinement import hidden
from axomsync.rights import denial_of


class AxomsyncError(Exception):
    """Base of all expected failures; `exit_code` is what a command ends with when this one ends it."""

    exit_code = 1

    def about(self, subject: str) -> Self:
        """The same failure, with the file or model that it is about in front of its words."""
        failure = copy.copy(self)
        failure.args = (f"{subject}: {self}",)
        return failure


class Transient(AxomsyncError):
    """May well succeed later. `retry_after` is in seconds, as the far side asked, or None."""

    exit_code = 75

    def __init__(self, message: str, retry_after: float | None = None, *, congestion: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.congestion = congestion  # the far side asked for fewer requests (429, 503, SlowDown)


class UrlExpired(AxomsyncError):
    """Storage refused a signed URL (expired, revoked or of another method)."""

    exit_code = 75


class SourceChanged(AxomsyncError):
    """A local file or a remote object changed while it was being read."""

    exit_code = 75


class Rejected(AxomsyncError):
    """A final 'no': retrying the same thing can't help."""


class Refused(Rejected):
    """Storage's final 'no' to one request."""


class LocalFault(AxomsyncError):
    """The local machine can't do it now: full disk, missing folder, no permission, I/O error."""


class Stopping(AxomsyncError):
    """The agent was asked to stop."""

    exit_code = 0


class Interrupted(AxomsyncError):
    """A signal ended what was to come to an end of its own; the exit code is the one that shells use for that."""

    def __init__(self, signal: int) -> None:
        super().__init__("interrupted; asked again, it goes on from there")
        self.exit_code = interrupted_by(signal)


def interrupted_by(signal: int) -> int:
    """The exit code of a command that a signal ended."""
    return 128 + signal


class Fatal(AxomsyncError):
    """The process must end."""


class KeyRefused(Fatal):
    """401: the key is missing, wrong or revoked."""

    exit_code = 4


class AlreadyRunning(Fatal):
    """Another agent holds the state folder."""

    exit_code = 3


class BadConfig(Fatal):
    """The configuration can't be used; the message has one line per error."""

    exit_code = 78


class NewerLedger(Fatal):
    """The ledger is of a newer version: as with `BadConfig`, starting again can't help until a person has acted."""

    exit_code = 78


_ADVICE = {
    errno.EDQUOT: "the disk quota is used up; raise it or free some space",
    errno.EROFS: "the filesystem is read-only; remount it read-write",
    errno.EACCES: "permission denied; give this user access",
    errno.EPERM: "operation not permitted; give this user access",
    errno.ENOENT: "it does not exist; create it or correct the configuration",
    errno.EEXIST: "something else is in its place; move that away or correct the configuration",
    errno.ELOOP: "a symlink is in its place, which is not followed; move it away",
    errno.ENOTDIR: "a part of the path is not a folder; correct the configuration",
    errno.EIO: "the disk reported an I/O error; check the kernel log",
    errno.EMFILE: "too many open files; raise LimitNOFILE",
    errno.ENFILE: "the system has too many open files; raise fs.file-max",
    errno.ENAMETOOLONG: "the name is too long for this filesystem",
}


NO_INODES = "no inodes are left on the disk, though bytes may be; remove small files (the agent goes on by itself)"


def local_fault(error: OSError, path: str | bytes | None = None) -> LocalFault:
    """Map an operating-system error to a `LocalFault` that names the path and what is needed."""
    subject = path if path is not None else error.filename
    name = os.fsdecode(subject) if isinstance(subject, str | bytes) else None
    known = full_disk(subject) if error.errno == errno.ENOSPC else _ADVICE.get(error.errno or 0)
    if name is not None:
        known = _who_forbids(error, name) or known
    return LocalFault(f"{printable(name or 'local file')}: {known or error.strerror or error}")


def _who_forbids(error: OSError, path: str) -> str | None:
    """Where the unit's sandbox or somebody's rights are in the way: which, and the command that mends it."""
    sandboxed = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
    if sandboxed and (told := hidden(path, written=error.errno == errno.EROFS)) is not None:
        return printable(told)
    if error.errno in (errno.EACCES, errno.EPERM) and (denial := denial_of(path)) is not None:
        return printable(denial.words(path))
    return None


def full_disk(path: str | bytes | None) -> str:
    """What is used up where the system says that there is no space: a disk can run out of inodes with bytes to spare."""
    place = os.fsencode(path) if path else b""
    while place and not os.path.isdir(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    try:
        status = os.statvfs(place or b".")
    except OSError:
        status = None
    if status is not None and status.f_files and not status.f_favail:
        return NO_INODES
    return "the disk is full; free some space (the agent goes on by itself)"


def printable(text: str) -> str:
    """`text` on one line: undecodable bytes, line breaks and control characters become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogateescape").decode() for c in _whole(text))


def _whole(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
