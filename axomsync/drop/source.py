"""Access to a file of the drop folder or of `push` while it is read: opened, and compared with its stamp.

Failures handled: a file that disappeared, changed or was replaced while it was read (`SourceChanged`), a file that can't be
opened or read, links and files in the place of its folders (`LocalFault`, nothing is followed).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axomsync.core.errors import LocalFault, SourceChanged
from axomsync.core.oserrors import local_fault
from axomsync.core.records import Stamp
from axomsync.core.text import printable
from axomsync.drop.settle import same_file
from axomsync.drop.watch import folder_of, stamp_at, stamp_of


def shown(path: bytes) -> str:
    """A path in printable form, for people."""
    return printable(os.fsdecode(path))


def is_pushed(path: bytes) -> bool:
    """True for a file of `push`: it lies outside the drop folder, and stays there."""
    return path.startswith(b"/")


@contextmanager
def opened(root: Path, path: bytes) -> Iterator[tuple[int, Stamp]]:
    """Open the file; yields descriptor and stamp. Raises `SourceChanged` and `LocalFault`, also for errors in the block."""
    whole = os.path.join(os.fsencode(root), path)
    try:
        with folder_of(root, path) as (folder, name):
            file = folder.open_file(name)
    except FileNotFoundError:
        raise SourceChanged("the file went away") from None
    except OSError as error:
        raise local_fault(error, whole) from None
    try:
        yield file, stamp_of(os.fstat(file))
    except OSError as error:
        raise local_fault(error, whole) from None
    finally:
        os.close(file)


def demand_unchanged(root: Path, path: bytes, file: int, stamp: Stamp) -> None:
    """Raise `SourceChanged` unless both the open file and the file at its path have this `stamp`."""
    now_there = stamp_at(root, path)
    if now_there is None or not (same_file(now_there, stamp) and same_file(stamp_of(os.fstat(file)), stamp)):
        raise SourceChanged("the file changed while it was read")


class OpenSource:
    """The file at `path`, open for a PUT, that must stay what it was at `stamp`.

    `is_proven`: a digest tells in the end whether these are the checked bytes, so new rights, owners or links are no change.
    """

    def __init__(self, root: Path, path: bytes, file: int, stamp: Stamp, *, is_proven: bool) -> None:
        self._root, self._path, self._file, self._stamp, self._is_proven = root, path, file, stamp, is_proven
        self._seen = stamp

    def demand_unchanged(self) -> None:
        """Raise `SourceChanged` if the file has changed, or another file has its name since it has a new stamp. One call."""
        found = stamp_of(os.fstat(self._file))
        if found == self._seen:
            return
        if not self._is_proven or not same_file(found, self._stamp):
            raise SourceChanged("the file changed while it was uploaded")
        self.demand_in_place()
        self._seen = found

    def demand_in_place(self) -> None:
        """Raise `SourceChanged` if the file has changed, or another file has its name."""
        demand_unchanged(self._root, self._path, self._file, self._stamp)


def is_in_reach(root: Path, path: bytes) -> bool:
    """Check that the next scan of the drop folder will find this file."""
    if is_pushed(path):
        return False
    try:
        return stamp_at(root, path) is not None
    except LocalFault:
        return False
