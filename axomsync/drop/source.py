"""A file of the drop folder, or one that `push` was given, while it is read: opened, and compared with its stamp.

Failures handled: a file that went away, changed or was replaced while it was read (`SourceChanged`), one that can't be
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
    """A path as people read it."""
    return printable(os.fsdecode(path))


def is_pushed(path: bytes) -> bool:
    """Whether `push` was given this file: it lies outside the drop folder, and stays there."""
    return path.startswith(b"/")


@contextmanager
def opened(root: Path, path: bytes) -> Iterator[tuple[int, Stamp]]:
    """The open file and its stamp. Raises `SourceChanged` and `LocalFault`, also for what is read in the block."""
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
    """Raise `SourceChanged` unless the open file and the one at its path are both what `stamp` says."""
    now_there = stamp_at(root, path)
    if now_there is None or not (same_file(now_there, stamp) and same_file(stamp_of(os.fstat(file)), stamp)):
        raise SourceChanged("the file changed while it was read")


def is_in_reach(root: Path, path: bytes) -> bool:
    """Whether the next look at the drop folder will find this file."""
    if is_pushed(path):
        return False
    try:
        return stamp_at(root, path) is not None
    except LocalFault:
        return False
