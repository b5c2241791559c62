"""The spool: unpacked files in the state folder, while they are checked and uploaded.

A file of the spool has no name, so it is gone when it is closed, also after a kill. All files share one room: what is free
on the disk beyond the reserve. A file is promised as much room as it is expected to need, and a write that would go beyond
the room is not made.

Failures handled: no more room (`NoRoom`), a full disk, a quota, a limit of file sizes, a link or file in the place of the
spool (`LocalFault`), names that a crash left in it (removed by `sweep`).
"""

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from axomsync.core.errors import AxomsyncError, LocalFault
from axomsync.core.folders import Folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import SPOOL
from axomsync.core.text import printable

RIGHTS = 0o700


class NoRoom(AxomsyncError):
    """A file needs more room than there is: `needed` bytes at least. `shared`: other files have a part of the room now."""

    def __init__(self, message: str, needed: int, *, shared: bool) -> None:
        super().__init__(message)
        self.needed, self.shared = needed, shared


class SpoolFile:
    """A file of the spool: `descriptor` reads it."""

    def __init__(self, spool: "Spool", descriptor: int, expected: int) -> None:
        self._spool, self.descriptor, self.expected = spool, descriptor, expected
        self.size = 0
        self._is_open = True

    def write(self, piece: bytes) -> None:
        """Add bytes at the end. Raises `NoRoom` and `LocalFault`."""
        self._spool.write(self, piece)

    def close(self) -> None:
        """Give the room back; once is enough."""
        if self._is_open:
            self._is_open = False
            self._spool.release(self)


class Spool:
    """All unpacked files of one agent; from any thread. `reserve` bytes of the disk stay free."""

    def __init__(self, state: Path, reserve: int) -> None:
        self._state, self._reserve = state, reserve
        self._path = os.path.join(os.fsencode(state), SPOOL)
        self._lock = threading.Lock()
        self._files: set[SpoolFile] = set()

    def sweep(self) -> None:
        """Remove what a crash left; only before the first file. Best effort: leftovers only take room."""
        with suppress(OSError), Folder.open(self._state) as state, state.descend(SPOOL) as folder:
            for name in folder.names():
                status = folder.status(name)
                if status is not None and not stat.S_ISDIR(status.st_mode):
                    folder.unlink(name)

    def room(self) -> int:
        """Bytes that a new file could have now; 0 where that is unknown."""
        try:
            with Folder.open(self._state) as state:  # no lock: a disk that hangs must not stop the caller
                return max(0, self._room(state.descriptor, None))
        except OSError:
            return 0

    def open(self, expected: int) -> SpoolFile:
        """Make a file that will have about `expected` bytes. Raises `NoRoom` and `LocalFault`."""
        with self._faults(), self._lock:
            with Folder.open(self._state) as state, state.descend(SPOOL, make=RIGHTS) as folder:
                os.fchmod(folder.descriptor, RIGHTS)
                descriptor = folder.open_nameless()
            try:
                self._demand_room(descriptor, None, expected, expected)
            except BaseException:
                os.close(descriptor)
                raise
            file = SpoolFile(self, descriptor, expected)
            self._files.add(file)
            return file

    def write(self, file: SpoolFile, piece: bytes) -> None:
        """Add bytes to one of the files."""
        with self._faults(), self._lock:  # with the write itself: what it takes is free until then
            self._demand_room(file.descriptor, file, len(piece), file.size + len(piece))
            rest = memoryview(piece)
            while rest:
                written = os.write(file.descriptor, rest)
                file.size += written
                rest = rest[written:]

    def release(self, file: SpoolFile) -> None:
        """Close one of the files, which removes it."""
        with self._lock:
            self._files.discard(file)
            os.close(file.descriptor)

    def _demand_room(self, descriptor: int, file: SpoolFile | None, wanted: int, needed: int) -> None:
        room = self._room(descriptor, file)
        if wanted <= room:
            return
        others = len(self._files) - (file in self._files)
        shared = f", and {others} other unpacked files have their part" if others else ""
        raise NoRoom(
            f"unpacked, it has {needed} bytes or more, and {printable(os.fsdecode(self._path))} has no room for them beside "
            f"[mirror] reserve = {self._reserve} bytes{shared}; free some space there, or drop it unpacked",
            needed,
            shared=bool(others),
        )

    def _room(self, descriptor: int, file: SpoolFile | None) -> int:
        """Bytes that `file`, or a new one, may still have: what is free, less the reserve and what others were promised."""
        status = os.fstatvfs(descriptor)
        if not status.f_blocks:
            return sys.maxsize  # this filesystem does not tell
        promised = sum(max(0, other.expected - other.size) for other in tuple(self._files) if other is not file)
        return status.f_bavail * status.f_frsize - self._reserve - promised

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._fault(error) from None

    def _fault(self, error: OSError) -> LocalFault:
        return local_fault(error, self._path)
