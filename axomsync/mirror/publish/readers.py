"""Processes that have files below a folder open: an open model must not be removed.

/proc names the processes, but shows a service user only its own. So each file is tested too: the kernel grants a write
lease only on a file that no other process has open or mapped, of any user and in any container. A file shared by hard links
counts for the version by whose path it was opened, which only /proc shows. Failures handled: a process that ends or can't
be inspected (skipped), a filesystem without leases (only /proc is used).
"""

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path

from axomsync.core.filesystems import walk_all
from axomsync.core.oserrors import local_fault

PROC = Path("/proc")


def reader_of(folder: Path) -> str | None:
    """A process with an open file below `folder`, as `vllm (pid 17)`; None when there is none. Raises `LocalFault`."""
    try:
        return _reader_of(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise local_fault(error, str(folder)) from None


def _reader_of(folder: Path) -> str | None:
    there = {path: os.lstat(path) for path in _everything(folder)}
    own = {(status.st_dev, status.st_ino) for status in there.values() if not _is_shared(status)}
    shared = {(status.st_dev, status.st_ino) for status in there.values() if _is_shared(status)}
    below = os.path.realpath(folder) + os.sep
    for process in sorted(PROC.glob("[0-9]*"), key=lambda entry: int(entry.name)):
        if process.name == str(os.getpid()):
            continue
        with closing(_links(process)) as links:
            for link in links:
                identity = _identity(link)
                if identity in own or (identity in shared and _leads_below(link, below)):
                    return f"{_name(process)} (pid {process.name})"
    files = (path for path, status in there.items() if stat.S_ISREG(status.st_mode) and not _is_shared(status))
    held = next(filter(_is_held, files), None)
    return None if held is None else f"a process of another user or container, which has {held.name} open"


def _is_shared(status: os.stat_result) -> bool:
    """Check for a file that another version shares: its reader may read that one."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1


def _leads_below(link: Path, folder: str) -> bool:
    """Check that `link`, the link in /proc to an open file, leads to a path below `folder`."""
    with suppress(OSError):
        return os.readlink(link).startswith(folder)
    return False


def _everything(folder: Path) -> Iterator[Path]:
    for parent, _, names in walk_all(folder):
        yield Path(parent)
        yield from (Path(parent, name) for name in names)


def _links(process: Path) -> Generator[Path]:
    """Links to the open and mapped files of a process, its working folder and its root."""
    yield from (process / "cwd", process / "root")
    for kind in ("fd", "map_files"):
        with suppress(OSError), os.scandir(process / kind) as entries:
            yield from (Path(entry.path) for entry in entries)


def _identity(link: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = os.stat(link)
        return status.st_dev, status.st_ino
    return None


def _name(process: Path) -> str:
    with suppress(OSError):
        return (process / "comm").read_text(errors="replace").strip()
    return "a process"


def _is_held(path: Path) -> bool:
    """Check whether the kernel refuses a write lease because a process has the file open. Source: fcntl(2), F_SETLEASE."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # A process that opens it at this instant breaks the lease, and the kernel signals us: with a signal that is ignored.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(file)
    return False
