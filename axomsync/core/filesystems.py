"""Filesystems: their types, since on some locks, WAL and file events can't be trusted; and all that is in a folder.

Failures handled: no table of mounts ("" for the type), a path that can't be examined (`LocalFault`), a folder that can't be
listed (`OSError`).
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from axomsync.core.errors import LocalFault
from axomsync.core.oserrors import local_fault

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # what stat(2) says where nothing is, or a link that leads nowhere

# Several machines may write there at once; locks and inotify cover this machine alone, if they work at all.
REMOTE_FILESYSTEMS = frozenset({
    "nfs", "nfs4", "lustre", "cifs", "smb3", "smbfs", "ceph", "9p", "beegfs", "afs", "gpfs", "ocfs2", "gfs2", "orangefs",
    "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys", "fuse.geesefs", "fuse.juicefs", "fuse.mount-s3",
    "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.blobfuse", "fuse.blobfuse2",
})  # fmt: skip


def walk_all(folder: str | Path, *, topdown: bool = True) -> Iterator[tuple[str, list[str], list[str]]]:
    """Do what `os.walk` does, and raise `OSError` for a folder that can't be listed, which `os.walk` leaves out."""

    def fail(error: OSError) -> None:
        raise error

    yield from os.walk(folder, topdown=topdown, onerror=fail)


def filesystem_type(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Filesystem type of the mount that `path` lies on; "" when unknown.

    Source: proc(5), "/proc/pid/mountinfo"; blanks and backslashes in mount points are octal escapes.
    """
    target = os.fsencode(os.path.realpath(path))
    best, kind = b"", ""
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, tail = line.partition(b" - ")
        point = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8) & 0xFF]), fields.split()[4])
        # Of several mounts on one point, the last one is visible.
        if (target == point or target.startswith(point.rstrip(b"/") + b"/")) and len(point) >= len(best):
            best, kind = point, tail.split()[0].decode("ascii", "replace")
    return kind


def is_folder(path: Path | str | None) -> bool:
    """Check whether `path` is a folder; a link to one is not. Raises `LocalFault` when that can't be known now."""
    if not path:
        return False
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise local_fault(error, str(path)) from None


def leads_to_folder(path: Path | str) -> bool:
    """Check whether `path` is a folder, or a link to one. Raises `LocalFault` when that can't be known now."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in ABSENT:
            return False
        raise local_fault(error, str(path)) from None


def is_absent(path: Path | str) -> bool:
    """Check that nothing is at `path`, or a link that leads nowhere; False when that can't be known now."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in ABSENT
    return False


def may_be_folder(path: Path | str | None) -> bool:
    """Check whether `path` is a folder, where one that can't be looked at now counts as one."""
    try:
        return is_folder(path)
    except LocalFault:
        return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
