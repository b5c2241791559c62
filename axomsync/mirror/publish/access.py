"""Who may read what the mirror publishes: `[mirror] group` and `mode`.

A file or folder is made for its owner alone; it gets its group before it is opened to that. So nothing is more open than
asked at any moment, whatever the umask is, and however much of a change is done. A default ACL of the mirror folder holds
too: what it grants to others is bounded by the mode, as chmod(2) does it.

Failures handled: a group that is not there, or that this process may not give files to (`LocalFault`, with the remedy).
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from axomsync.core.errors import LocalFault

FOR_OWNER, FOLDER_FOR_OWNER = 0o600, 0o700  # until it is what it will be
_GROUPS_RIGHTS = 0o070


def for_owner(path: str, flags: int) -> int:
    """Open a file as `open` wants its opener, a new one for its owner alone."""
    return os.open(path, flags, FOR_OWNER)


@contextmanager
def opened(path: str | Path, flags: int = 0) -> Iterator[int]:
    """Open a file or folder to give it its rights. No link is followed, and no pipe waited for. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Access:
    """Rights of published files; `group` "" leaves the group as the filesystem gives it."""

    mode: int = 0o644
    group: str = ""

    @property
    def folder_mode(self) -> int:
        """Rights of folders: who may read may also pass."""
        return self.mode | (self.mode & 0o444) >> 2

    @cached_property
    def gid(self) -> int | None:
        """The number of the group; None when none is asked for. Raises `LocalFault`."""
        if not self.group:
            return None
        gid = gid_of(self.group)
        if gid is None:
            raise LocalFault(f"[mirror] group: there is no group {self.group}; run: groupadd {self.group}, or correct it")
        if os.geteuid() and gid not in (os.getegid(), *os.getgroups()):
            name = _own_name()
            raise LocalFault(
                f"[mirror] group: the user {name} is not in the group {self.group}; run: usermod -aG {self.group} {name}, "
                "then restart the agent"
            )
        return gid

    def give(self, descriptor: int, *, folder: bool) -> bool:
        """Give an open file or folder its group and mode; True if they were others. Raises `OSError`, `LocalFault`."""
        status, wanted, gid = os.fstat(descriptor), self.folder_mode if folder else self.mode, self.gid
        if self.is_given(status):
            return False
        if gid is not None and status.st_gid != gid:
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & wanted & ~_GROUPS_RIGHTS)  # closed to both groups
            os.fchown(descriptor, -1, gid)
        os.fchmod(descriptor, wanted)
        return True

    def is_given(self, status: os.stat_result) -> bool:
        """Check that a file or folder has its group and mode. Raises `LocalFault`."""
        wanted = self.folder_mode if stat.S_ISDIR(status.st_mode) else self.mode
        return stat.S_IMODE(status.st_mode) == wanted and self.gid in (None, status.st_gid)

    def tighten(self, descriptor: int, *, folder: bool) -> None:
        """Take away rights that are more than asked for. Raises `OSError`."""
        mode, wanted = stat.S_IMODE(os.fstat(descriptor).st_mode), self.folder_mode if folder else self.mode
        if mode & ~wanted:
            os.fchmod(descriptor, mode & wanted)


FOR_EVERYBODY = Access()


def gid_of(group: str) -> int | None:
    """The number of a group, by its name or as a number; None when there is none."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return int(group) if group.isdecimal() else None


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
