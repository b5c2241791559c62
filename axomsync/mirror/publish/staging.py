"""The inner part of the mirror folder, `.axomsync/<agent>`: files are collected, removed and repaired there, out of sight.

Failures handled: a missing mirror folder (`LocalFault`; it is not made), links and files in the place of our folders
(`Rejected`, nothing is followed), a link or a FIFO among collected files (removed, never followed), files that a crash left
linked to published ones (unlinked before a write), leftovers of a crash and of agents that are gone (`sweep`).
"""

import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from axomsync.core.errors import Rejected
from axomsync.core.filesystems import walk_all
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import IMPORTED, INTERNAL, NEW_LINK, REMOVED, REPAIRED, UNFINISHED
from axomsync.mirror.layout import staging_name
from axomsync.mirror.publish.abandoned import changed_since, remove_abandoned
from axomsync.mirror.publish.access import FOLDER_FOR_OWNER, FOR_EVERYBODY, Access, opened

ABANDONED_SECONDS = 3600.0  # age at which a temporary name counts as abandoned; in use it exists only moments


class Staging:
    """The inner part of the mirror folder `root` that belongs to `agent`."""

    def __init__(self, root: Path, agent: str, access: Access = FOR_EVERYBODY) -> None:
        self._root, self._access = root, access
        self._internal = root / INTERNAL / agent

    @property
    def inner(self) -> Path:
        """The whole of it."""
        return self._internal

    def path(self, model_id: str) -> Path:
        """The folder for a model's collected files; on the filesystem where they will stay."""
        return self._internal / staging_name(model_id)

    def imported(self, model_id: str) -> Path:
        """The folder for the files of a model that is imported: beside a download of the same model."""
        return self._internal / f"{IMPORTED}{self.path(model_id).name}"

    def prepare(self, model_id: str, rels: Iterable[str], staging: Path | None = None) -> Path:
        """Make the staging folder with the sub-folders of `rels`. Raises `LocalFault`, or `Rejected` for a symlink."""
        free_bytes(self._root)
        staging = staging or self.path(model_id)
        try:
            for folder in {staging / os.path.dirname(rel) for rel in rels} | {staging}:
                make_folders(folder, self._root, self._access)
            _let_go_of_links(staging)
        except OSError as error:
            raise local_fault(error) from None
        return staging

    def collected(self) -> list[Path]:
        """The folders with collected files, one for each model."""
        try:
            entries = [entry for entry in os.scandir(self._internal) if not entry.name.startswith(".")]
        except OSError:
            return []  # none yet; a fault is met when one is made
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]

    def discard(self, model_id: str) -> bool:
        """Delete the collected files of a model; True if there were any."""
        staging = self.path(model_id)
        collected = os.path.isdir(staging)
        shutil.rmtree(staging, ignore_errors=True)
        return collected

    def scratch(self) -> Path:
        """Make a folder for this agent alone on the filesystem of the mirror. Raises `LocalFault`."""
        try:
            make_folders(self._internal, self._root, self._access)
        except OSError as error:
            raise local_fault(error) from None
        return self._internal

    def grave(self, model_id: str) -> Path:
        """Path for a published folder that is to be deleted; leftovers of a crash are removed. Raises `LocalFault`."""
        grave = self.scratch() / f"{REMOVED}{self.path(model_id).name}"
        shutil.rmtree(grave, ignore_errors=True)
        return grave

    def workshop(self, model_id: str) -> Path:
        """Make an empty folder for the new copies of damaged files. Raises `LocalFault`."""
        folder = self.scratch() / f"{REPAIRED}{self.path(model_id).name}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(FOLDER_FOR_OWNER)
        except OSError as error:
            raise local_fault(error) from None
        return folder

    def sweep_imports(self, now: float, busy: Iterable[str]) -> None:
        """Delete what imports left that were ended in their middle and not begun again since, except of `busy` models.

        An import may change nothing for long: a gate looks at it, or what an earlier try has copied is read again.
        """
        at_work = {self.imported(model_id) for model_id in busy}
        for left in set(self._internal.glob(f"{IMPORTED}*")) - at_work:
            if not changed_since(left, now - ABANDONED_SECONDS):
                shutil.rmtree(left, ignore_errors=True)

    def sweep(self, now: float) -> None:
        """Delete leftovers: of removals and repairs that a crash interrupted, and of agents that are gone.

        For the start of a life: later ones may be at work.
        """
        remove_abandoned(self._internal, now)
        for kind in (REMOVED, REPAIRED):
            for left in self._internal.glob(f"{kind}*"):
                shutil.rmtree(left, ignore_errors=True)
        unfinished, inner = os.fsdecode(UNFINISHED), self._root / INTERNAL
        links = _named(NEW_LINK, inner, 2)  # of this agent, and of commands that have ended
        for path in [*links, *_named(unfinished, self._root, 3), *_named(unfinished, inner, 3)]:
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


def _named(beginning: str, folder: Path, depth: int) -> Iterator[Path]:
    """Yields the paths `depth` levels below a folder whose names begin so; a folder that can't be listed has none."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if depth > 1 and entry.is_dir(follow_symlinks=False):
                yield from _named(beginning, Path(entry.path), depth - 1)
            elif depth == 1 and entry.name.startswith(beginning):
                yield Path(entry.path)


def free_bytes(root: Path) -> int:
    """Free bytes in the mirror folder. Raises `LocalFault` if it is missing."""
    try:
        status = os.statvfs(root)
    except OSError as error:
        raise local_fault(error, str(root)) from None
    return status.f_bavail * status.f_frsize


def _let_go_of_links(staging: Path) -> None:
    """Unlink files that a crash left linked to published files: a write into them would change those."""
    for folder, _, names in walk_all(staging):
        for path in (os.path.join(folder, name) for name in names):
            if os.lstat(path).st_nlink > 1:
                os.unlink(path)


def remove_strangers(staging: Path, wanted: set[str]) -> None:
    """Remove files of an earlier manifest: they must not be published."""
    for folder, folders, names in walk_all(staging, topdown=False):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            rel = os.path.relpath(os.path.join(folder, name), staging)
            if rel not in wanted:
                os.unlink(os.path.join(folder, name))
        if folder != str(staging) and not os.listdir(folder):
            os.rmdir(folder)


def give_access_and_sync(folder: Path, access: Access) -> None:
    """Give files and folders their rights whatever the umask is, and sync both; the folder itself comes last.

    All rights are given before the first is synced: so a filesystem with a journal commits them together, not one by one.
    """
    for descriptor, is_folder in _opened_below(folder):
        access.give(descriptor, folder=is_folder)
    for descriptor, _ in _opened_below(folder):
        os.fsync(descriptor)


def _opened_below(folder: Path) -> Iterator[tuple[int, bool]]:
    """Yields a descriptor of each file and folder, open until the next, and whether it is a folder. Raises `OSError`."""
    for parent, _, names in walk_all(folder, topdown=False):
        for name in names:
            with opened(os.path.join(parent, name)) as file:
                yield file, False
        with opened(parent, os.O_DIRECTORY) as descriptor:
            yield descriptor, True


def make_folders(folder: Path, root: Path, access: Access) -> None:
    """Make missing folders below `root`, with these rights whatever the umask is; follows no symlink in it.

    `root` itself, the mirror folder, is never made.
    """
    if folder == root:
        return
    make_folders(folder.parent, root, access)
    kind = kind_of(folder)
    if kind is None:
        with suppress(FileExistsError):
            folder.mkdir(FOLDER_FOR_OWNER)
            with opened(folder, os.O_DIRECTORY) as descriptor:
                access.give(descriptor, folder=True)
    elif kind != stat.S_IFDIR:
        raise Rejected(f"{folder} is a symlink or a file where a folder must be; move it away")


def kind_of(path: Path) -> int | None:
    """File type at a path, as in stat(2); a link is not followed; None if nothing exists there."""
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise local_fault(error, str(path)) from None
