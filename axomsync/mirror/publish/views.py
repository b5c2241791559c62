"""The views of one mirror folder: kept as the mirror is, name by name or all at once. `[mirror] views` names them.

The disk counts: what is published is read from the mirror folder. Records are read again only when one of them has changed.

Failures handled: a name that can't be read now (its links stay as they are), a mirror folder that is not there, as on an
unmounted disk (all links stay), `current` that another process moves at the same moment (looked at again); all that
`view_folder` names. A fault of a view never keeps a model from being published or removed.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from axomsync.config import View
from axomsync.core.errors import LocalFault
from axomsync.core.filesystems import is_folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import INTERNAL, RECORD
from axomsync.mirror.appearance import Published
from axomsync.mirror.layout import unescape
from axomsync.mirror.publish import current
from axomsync.mirror.publish.view_folder import ViewFolder

_Stamps = tuple[tuple[str, int, int], ...]  # version, and inode and time of its record


class Views:
    """The views of the mirror folder `root`."""

    def __init__(self, root: Path, views: Sequence[View]) -> None:
        self._root = root
        self._folders = [ViewFolder(view, root) for view in views]
        self._lock = threading.Lock()
        self._known: dict[str, tuple[_Stamps, dict[str, str]]] = {}  # by name: model id by version

    def follow(self, parent: Path, *, without: str | None = None) -> list[str]:
        """Show the name at `parent` as it is now; returns the faults. `without`: a version that is about to go."""
        if not self._folders:
            return []
        with self._lock:
            try:
                name = self._published(parent).without(without)
                while True:
                    faults = [fault for folder in self._folders for fault in folder.follow(name)]
                    shown, name = name, self._published(parent).without(without)
                    if name == shown:
                        return faults
            except LocalFault as fault:
                return [str(fault)]

    def heal(self) -> list[str]:
        """Show all names as they are, and nothing else; returns the faults."""
        if not self._folders:
            return []
        with self._lock:
            try:
                parents = self._parents()
            except LocalFault as fault:
                return [str(fault)]
            if parents is None:
                return [fault for folder in self._folders for fault in folder.claim()]
            faults = self._reconcile(parents)
            return self._reconcile(parents) if faults else []  # another process may have been at the same place

    def _reconcile(self, parents: Iterable[Path]) -> list[str]:
        names, unread = self._read(parents)
        faults = [fault for folder in self._folders for fault in folder.reconcile(names, unread)]
        return [*faults, *unread.values()]

    def _read(self, parents: Iterable[Path]) -> tuple[list[Published], dict[str, str]]:
        """What is published of each name, and by label the faults of those that can't be read now."""
        names: list[Published] = []
        unread: dict[str, str] = {}
        for parent in parents:
            try:
                names.append(self._published(parent))
            except LocalFault as fault:
                unread[unescape(parent.name)] = str(fault)
        return names, unread

    def _parents(self) -> list[Path] | None:
        """The folders of all names; None when nothing was mirrored yet, or the filesystem is not mounted.

        Raises `LocalFault`.
        """
        return current.parents(self._root) if is_folder(self._root / INTERNAL) else None

    def _published(self, parent: Path) -> Published:
        """What is published at `parent`. Raises `LocalFault` if that can't be known now."""
        versions = self._versions(parent)
        led = current.leads_to(parent)
        ours = led in versions and current.foreign(parent) is None
        return Published(unescape(parent.name), str(parent), versions, led if ours else None)

    def _versions(self, parent: Path) -> dict[str, str]:
        stamps = tuple(sorted(_stamps(parent)))
        known = self._known.get(parent.name)
        if known is None or known[0] != stamps:
            known = stamps, {name: model.id for name, model in current.versions(parent).items()}
            self._known[parent.name] = known
        return known[1]


def _stamps(parent: Path) -> Iterator[tuple[str, int, int]]:
    try:
        for entry in os.scandir(parent):
            if is_folder(entry.path):
                try:
                    status = os.lstat(os.path.join(entry.path, RECORD))
                except FileNotFoundError:
                    continue
                yield entry.name, status.st_ino, status.st_mtime_ns
    except FileNotFoundError:
        return
    except OSError as error:
        raise local_fault(error, str(parent)) from None
