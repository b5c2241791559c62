"""One view: a folder of links beside the mirror, made to look as `appearance` says.

The folder is the agent's when its `CACHEDIR.TAG` says so: an empty folder gets that file, one that holds anything else is
refused. Nothing is ever made or removed but links, that file, and in a `hf` view folders and `refs/main`. A link has its own
name from the start: Triton takes each folder that it sees for a model, also one behind a link with a temporary name.

Failures handled: a folder that is missing (made, if its parent lets us) or of something else (`Rejected`), a link that was
deleted or leads elsewhere (made anew), a file or a filled folder in the place of a link, and strangers (told, left alone),
links of models that are gone (removed), a crash between two steps, and a change by another process at the same moment (the
next reconciliation mends both), links and devices of other users (never followed).
"""

import errno
import logging
import os
import shlex
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from axomsync.config import View
from axomsync.core.errors import AxomsyncError, LocalFault, Rejected
from axomsync.core.folders import Folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import UNFINISHED, VIEW_TAG
from axomsync.core.rights import denial_in
from axomsync.core.text import printable
from axomsync.mirror.appearance import Published, Repository, link_of, repository_folder, repository_of
from axomsync.mirror.layout import escape

log = logging.getLogger(__name__)

MODE = 0o755  # engines run as other users
NAMED_MOST = 3
ABANDONED_SECONDS = 3600.0  # age at which a temporary name counts as abandoned; in use it exists only moments
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"  # of every such tag: https://bford.info/cachedir/
_REPOSITORY, _SNAPSHOTS, _REFS, _MAIN = b"models--", b"snapshots", b"refs", b"main"


class ViewFolder:
    """The folder of one view of the mirror folder `root`. Used by one thread at a time."""

    def __init__(self, view: View, root: Path) -> None:
        self.view, self._root = view, root
        self._inside = os.fsencode(root).rstrip(b"/") + b"/"
        about = f"axomsync keeps this {view.kind} view of {printable(str(root))}: links, no data."
        self._tag = f"{_SIGNATURE}\n# {about}\n"

    def follow(self, name: Published) -> list[str]:
        """Make the view show one name as it is; returns the faults."""
        with self._opened() as (faults, folder):
            if folder is not None:
                self._show(folder, name, faults)
        return faults

    def reconcile(self, names: Iterable[Published], unread: Collection[str]) -> list[str]:
        """Make the view show these names and nothing else; returns the faults. `unread`: labels that are left alone."""
        with self._opened() as (faults, folder):
            if folder is not None:
                kept = {VIEW_TAG, *map(self._place_of, unread)}
                for name in names:
                    self._show(folder, name, faults)
                    kept.add(self._place_of(name.label))
                for place in sorted(set(folder.names()) - kept):
                    _attempt(faults, self._remove, folder, place)
        return faults

    def claim(self) -> list[str]:
        """Take the folder if it is empty; returns the faults."""
        with self._opened() as (faults, _):
            return faults

    def inspect(self) -> str | None:
        """Find what keeps the folder from being a view; changes nothing. None: it is one, or can become one."""
        try:
            with Folder.open(self.view.folder) as folder:
                self._is_owned(folder)
        except FileNotFoundError as error:
            parent = self.view.folder.parent
            return None if os.access(parent, os.W_OK | os.X_OK, effective_ids=True) else str(self._fault(error))
        except OSError as error:
            return str(self._fault(error))
        except Rejected as fault:
            return str(fault)
        denial = denial_in(str(self.view.folder))
        return None if denial is None else f"{self.view.folder}: {denial.words(str(self.view.folder))}"

    # The folder itself

    @contextmanager
    def _opened(self) -> Iterator[tuple[list[str], Folder | None]]:
        """Open the folder, and take it if it is empty; None after a fault. Yields it with the list of faults."""
        faults: list[str] = []
        try:
            folder = self._open()
        except OSError as error:
            yield [str(self._fault(error))], None
            return
        with folder:
            _attempt(faults, self._take, folder)
            yield faults, None if faults else folder

    def _open(self) -> Folder:
        path = self.view.folder
        try:
            return Folder.open(path)
        except FileNotFoundError:
            with Folder.open(path.parent) as parent:
                parent.make_folder(os.fsencode(path.name), MODE)
            return Folder.open(path)

    def _take(self, folder: Folder) -> None:
        if not self._is_owned(folder):
            folder.write_new(VIEW_TAG, self._tag.encode())

    def _fault(self, error: OSError) -> LocalFault:
        path = self.view.folder
        if error.errno in (errno.ENOENT, errno.EACCES) and not os.path.lexists(path):
            return LocalFault(
                f"{path}: the folder of this view is not there, and its parent is not ours; as root: install -d -o USER "
                f"-g GROUP {shlex.quote(str(path))}, with user and group of the agent"
            )
        return local_fault(error)

    def _is_owned(self, folder: Folder) -> bool:
        """Check that the folder is this view's; False for an empty one. Raises `Rejected`, `OSError`."""
        names = [name for name in folder.names() if not name.startswith(UNFINISHED)]
        if VIEW_TAG in names:
            if folder.read(VIEW_TAG, len(self._tag.encode()) + 1) == self._tag.encode():
                return True
            raise Rejected(
                f"{self.view.folder}: it is the cache of something else, or another view, as its {os.fsdecode(VIEW_TAG)} "
                "says; name an empty folder in [mirror] views, or empty this one"
            )
        if names:
            told = ", ".join(printable(os.fsdecode(name)) for name in sorted(names)[:NAMED_MOST])
            more = " and more" * (len(names) > NAMED_MOST)
            raise Rejected(
                f"{self.view.folder}: it holds {told}{more}, which the agent did not make; name an empty folder in "
                "[mirror] views, or empty this one"
            )
        return False

    # What it shows

    def _place_of(self, label: str) -> bytes:
        """Name in the view that stands for a label; b"" for a label that can have none."""
        name = escape(label) if self.view.kind == "flat" else repository_folder(label)
        return os.fsencode(name or "")

    def _show(self, folder: Folder, name: Published, faults: list[str]) -> None:
        place = self._place_of(name.label)
        if not place:
            _tell_of_label(name.label)
        elif self.view.kind == "hf":
            _attempt(faults, self._show_repository, folder, place, repository_of(name))
        elif (target := link_of(name)) is None:
            _attempt(faults, self._remove, folder, place)
        else:
            _attempt(faults, _lead, folder, place, os.fsencode(target))

    def _show_repository(self, top: Folder, place: bytes, wanted: Repository) -> None:
        if not wanted.snapshots:
            self._remove(top, place)
            return
        with _entered(top, place) as folder, _entered(folder, _SNAPSHOTS) as snapshots, _entered(folder, _REFS) as refs:
            targets = {commit.encode(): os.fsencode(target) for commit, target in wanted.snapshots.items()}
            made = [_lead(snapshots, commit, target) for commit, target in targets.items()]
            if any(made):
                snapshots.sync()  # before the reference to them
            _write_main(folder, refs, wanted.main)
            strangers = _strangers(folder, {_SNAPSHOTS, _REFS}) + _strangers(refs, {_MAIN})
            for commit in set(snapshots.names()) - targets.keys():
                if snapshots.link(commit) is None:
                    strangers.append(_path(snapshots, commit))
                else:
                    _unlink(snapshots, commit)
                    snapshots.sync()  # the version goes next
        if strangers:
            raise _stranger(strangers[0])

    def _remove(self, top: Folder, place: bytes) -> None:
        """Remove what the agent has made under a name. Raises `LocalFault` for anything else, which stays."""
        target, status = top.link(place), top.status(place)
        if status is None or (place.startswith(UNFINISHED) and _sweep(top, place)):
            return
        if target is not None and target.startswith(self._inside):
            _unlink(top, place)
            top.sync()
        elif place.startswith(_REPOSITORY) and self.view.kind == "hf" and stat.S_ISDIR(status.st_mode):
            self._remove_repository(top, place)
        else:
            raise _stranger(_path(top, place))

    def _remove_repository(self, top: Folder, place: bytes) -> None:
        """Remove a folder of a `hf` view, the reference first. It stays as it is if it holds anything else."""
        with top.descend(place) as folder:
            if _strangers(folder, {_SNAPSHOTS, _REFS}):
                raise _stranger(_path(top, place))
            with _entered(folder, _SNAPSHOTS) as snapshots, _entered(folder, _REFS) as refs:  # a crash may have left less
                links = {commit: snapshots.link(commit) for commit in snapshots.names()}
                if _strangers(refs, {_MAIN}) or not all(map(self._is_ours, links.values())):
                    raise _stranger(_path(top, place))
                _write_main(folder, refs, None)
                for commit in links:
                    _unlink(snapshots, commit)
                snapshots.sync()
            for remains in set(folder.names()) - {_SNAPSHOTS, _REFS}:
                _unlink(folder, remains)  # an unfinished `refs/main`, however young
            folder.remove_folder(_REFS)
            folder.remove_folder(_SNAPSHOTS)
        top.remove_folder(place)

    def _is_ours(self, target: bytes | None) -> bool:
        return target is not None and target.startswith(self._inside)


def _attempt(faults: list[str], work: Callable[..., object], *arguments: object) -> None:
    """Do one thing; its fault must not keep the others from being done."""
    try:
        work(*arguments)
    except AxomsyncError as fault:
        faults.append(str(fault))
    except OSError as error:
        faults.append(str(local_fault(error)))


def _lead(folder: Folder, name: bytes, target: bytes) -> bool:
    """Make a link lead to `target`; returns whether it did not yet. A wrong link goes first: it led to nothing of ours."""
    if folder.link(name) == target:
        return False
    _make_room(folder, name)
    try:
        folder.make_link(name, target)
    except FileExistsError:
        if folder.link(name) != target:
            raise
    return True


def _entered(folder: Folder, name: bytes) -> Folder:
    """Open a folder of the view; it is made if it is missing, or a link has its place."""
    status = folder.status(name)
    if status is None or stat.S_ISLNK(status.st_mode):
        _make_room(folder, name)
        with suppress(FileExistsError):
            folder.make_folder(name, MODE)
    return folder.descend(name)


def _make_room(folder: Folder, name: bytes) -> None:
    """Remove a link or an empty folder. Raises `LocalFault` for anything else: it may be somebody's only copy."""
    status = folder.status(name)
    if status is None:
        return
    if stat.S_ISLNK(status.st_mode):
        _unlink(folder, name)
        return
    try:
        folder.remove_folder(name)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise _stranger(_path(folder, name)) from None


def _unlink(folder: Folder, name: bytes) -> None:
    """Remove a name that another process may have removed."""
    with suppress(FileNotFoundError):
        folder.unlink(name)


def _write_main(folder: Folder, refs: Folder, commit: str | None) -> None:
    """Write, correct or remove `refs/main`."""
    status = refs.status(_MAIN)
    if status is not None and not stat.S_ISREG(status.st_mode):
        _make_room(refs, _MAIN)
        status = None
    if commit is None:
        if status is not None:
            _unlink(refs, _MAIN)
            refs.sync()
    elif status is None or refs.read(_MAIN, len(commit) + 1) != commit.encode():
        # Not made in `refs`: huggingface_hub takes each file there for a reference.
        folder.replace(_MAIN, commit.encode(), into=refs)


def _strangers(folder: Folder, ours: Collection[bytes]) -> list[str]:
    """Paths of what the agent has not made in a folder. Remains of a crash are removed."""
    return [_path(folder, name) for name in sorted(set(folder.names()) - set(ours)) if not _sweep(folder, name)]


def _sweep(folder: Folder, name: bytes) -> bool:
    """Check for an unfinished file, and remove an abandoned one."""
    if not name.startswith(UNFINISHED):
        return False
    status = folder.status(name)
    if status is not None and stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > ABANDONED_SECONDS:
        _unlink(folder, name)
    return status is None or stat.S_ISREG(status.st_mode)


def _path(folder: Folder, name: bytes) -> str:
    return os.fsdecode(os.path.join(folder.path, name))


def _stranger(path: str) -> LocalFault:
    return LocalFault(f"{printable(path)}: it lies in a view and is not the agent's; move it away")


@lru_cache(maxsize=1000)
def _tell_of_label(label: str) -> None:
    """Log a label that has no place in a `hf` view, once in the life of a process."""
    log.warning("%s: huggingface_hub takes no such name of a model, so the hf view does not show it", printable(label))
