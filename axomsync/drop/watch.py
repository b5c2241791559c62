"""Scans of the drop folder, and watchdog hints that start them.

Events are only hints: they are lost silently if the queue overflows, the root is a symlink, the filesystem raises no events,
or the root was deleted during the watch. A scan finds everything, whatever events were lost.

Failures handled: a root that is missing or can't be read (`LocalFault`), files that vanish between listing and stat, folders
that become links (not followed), files that can't be read now (`LocalFault`: they do not count as gone), sub-folders without
permission (named in the scan; their files do not count as gone), a filesystem that is not mounted, an observer that can't
start or can't watch every folder (inotify limits, folders nested too deep): reported, and restarted by `heal`; a folder that
answers late or never (the watch begins in a thread of its own, and the scans do not wait for it); a thread of the observer
that dies (noticed by `works`, logged by `ops/logs`).
"""

import ctypes
import errno
import logging
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserverVFS
from watchdog.utils import BaseThread

from axomsync.core.errors import LocalFault
from axomsync.core.filesystems import REMOTE_FILESYSTEMS, filesystem_type
from axomsync.core.folders import Folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import ARCHIVE, CLAIMS, REJECTS
from axomsync.core.records import Stamp
from axomsync.core.text import printable
from axomsync.drop.rules import LeftAlone, Rule, Selection, is_ours, rule_for_any, rule_for_marked
from axomsync.ledger import stored
from axomsync.runtime.heartbeat import Beat

log = logging.getLogger(__name__)

POLLING_SECONDS = 5.0
START_SECONDS = 2.0  # usually a watch has begun by then, and the first scan misses no file
END_SECONDS = 2.0
SLOW = "its folders are still being read, one after the other; if this stays, a folder below it does not answer"
TOO_DEEP = "a folder lies too deep in it to be watched; use fewer folders within folders"

_LIMITS = {
    errno.ENOSPC: "too many folders are watched; raise fs.inotify.max_user_watches",
    errno.EMFILE: "too many inotify instances; raise fs.inotify.max_user_instances",
}
# watchdog warns about its own races, such as a folder made while it looks for folders to watch. The scan misses nothing.
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.")

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # the last two: the path leads to something else now

_libc = ctypes.CDLL(None, use_errno=True)
_IN_CREATE = 0x100  # linux/inotify.h

# mv and hard links raise only "created", temp-then-rename only "moved"; a moved tree only its folder's event.
HINTS: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent]


def stamp_of(status: os.stat_result) -> Stamp:
    """Make a stamp from the answer of `stat`, with times in the ledger's range: some filesystems have others."""
    return stored(Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@dataclass(slots=True)
class Scan:
    """Result of one scan of the drop folder: paths below the root with their stamps.

    Files at or below an `unreadable` path do not count as gone.
    """

    found: dict[bytes, Stamp] = field(default_factory=dict)
    unreadable: dict[bytes, LocalFault] = field(default_factory=dict)
    left: LeftAlone = field(default_factory=LeftAlone)
    device: int = 0  # of the root

    def hides(self, path: bytes) -> bool:
        """True if `path` may exist although it was not found."""
        return any(path == folder or path.startswith(folder + b"/") for folder in self.unreadable)


def scan(root: Path, include: Sequence[str], exclude: Sequence[str], done_marker: str, beat: Beat) -> Scan:
    """Scan for regular files below `root` to upload, and count the files that each rule leaves alone (see `rules`).

    Raises `LocalFault` if the root can't be read.
    """
    selection = Selection(include, exclude, os.fsencode(done_marker))
    try:
        with Folder.open(root) as top:
            every: list[tuple[Rule, bytes]] | None = [] if log.isEnabledFor(logging.DEBUG) else None
            result = Scan(device=os.fstat(top.descriptor).st_dev, left=LeftAlone(every))
            pending = [b""]
            while pending:
                _look_into(top, pending, result, selection, beat)
    except OSError as error:
        raise local_fault(error, os.fsencode(root)) from None
    return result


def _look_into(top: Folder, pending: list[bytes], result: Scan, selection: Selection, beat: Beat) -> None:
    """Scan the last of the `pending` folders; its sub-folders become pending."""
    rel = pending.pop()
    try:
        folder = top.descend(rel)
    except OSError as error:
        if not rel:
            raise
        _note(result, rel, error, is_folder=True)
        return
    with folder:
        try:
            with os.scandir(folder.descriptor) as listing:
                entries = {}
                for entry in listing:
                    beat()
                    entries[os.fsencode(entry.name)] = entry
        except OSError as error:
            if not rel:
                raise
            error.filename = folder.path
            _note(result, rel, error, is_folder=True)
            return
        for name, entry in entries.items():
            beat()
            path = os.path.join(rel, name)
            try:
                rule = _rule_for(path, name, entry, entries, pending, result, selection)
            except OSError as error:
                error.filename = os.path.join(folder.path, name)  # a descriptor's error has no path
                _note(result, path, error)
            else:
                if rule is not None:
                    result.left.add(rule, path, is_folder=entry.is_dir(follow_symlinks=False))


def _rule_for(
    path: bytes,
    name: bytes,
    entry: os.DirEntry[str],
    entries: Mapping[bytes, os.DirEntry[str]],
    pending: list[bytes],
    result: Scan,
    selection: Selection,
) -> Rule | None:
    """Find the rule that leaves one entry of a folder alone; without one, the entry is added to the result."""
    if (rule := rule_for_any(name)) is not None:
        return None if is_ours(name) else rule
    marker = selection.marker
    if marker and name.endswith(marker):
        return None if name.removesuffix(marker) in entries else Rule.MARKER
    if entry.is_dir(follow_symlinks=False):
        if path not in (ARCHIVE, REJECTS):
            pending.append(path)
        return None
    if not entry.is_file(follow_symlinks=False):
        return Rule.SYMLINK if entry.is_symlink() else Rule.SPECIAL
    if (rule := selection.rule_for_name(path)) is not None:
        return rule
    stamp = stamp_of(entry.stat(follow_symlinks=False))
    if marker:
        mark = entries.get(name + marker)
        rule = rule_for_marked(mark.stat(follow_symlinks=False) if mark is not None else None, stamp.mtime_ns)
        if rule is not None:
            return rule
    result.found[path] = stamp
    return None


def _note(result: Scan, path: bytes, error: OSError, *, is_folder: bool = False) -> None:
    if error.errno not in _GONE:  # else it disappeared after the listing
        result.unreadable[path] = local_fault(error)
        result.left.add(Rule.UNREADABLE, path, is_folder=is_folder)


def unmounted(root: Path, path: bytes, device: int) -> bool:
    """Check for a missing mount: `path` was on the filesystem `device` and is gone now.

    It counts as not mounted if its folder, or the nearest existing one above it, is empty and on another filesystem.
    """
    top = os.fsencode(root)
    folder = os.path.dirname(os.path.join(top, path))
    try:
        while not _is_folder(folder) and len(folder) > max(1, len(top)):
            folder = os.path.dirname(folder)
        return os.stat(folder).st_dev != device and set(os.listdir(folder)) <= {CLAIMS}
    except OSError:
        return True


def _is_folder(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise


@contextmanager
def folder_of(root: Path, path: bytes) -> Iterator[tuple[Folder, bytes]]:
    """Yields the folder of a file, open, and the file's name there. Raises `OSError`.

    No link below `root` is followed; the absolute path of a file of `push` is used as the user gave it.
    """
    head, name = os.path.split(path)
    if os.path.isabs(path):
        with Folder.open(head) as folder:
            yield folder, name
        return
    with Folder.open(root) as top:
        if not head:
            yield top, name
            return
        with top.descend(head) as folder:
            yield folder, name


def stamp_at(root: Path, path: bytes) -> Stamp | None:
    """The file's stamp now; None if it is gone or no longer a regular file.

    Raises `LocalFault` if that can't be read, for example because of too many open files.
    """
    try:
        with folder_of(root, path) as (folder, name):
            status = folder.status(name)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise local_fault(error, os.path.join(os.fsencode(root), path)) from None
    return stamp_of(status) if status is not None and stat.S_ISREG(status.st_mode) else None


def folder_fault(error: OSError) -> LocalFault:
    """`local_fault` for a folder that the agent itself fills."""
    if error.errno == errno.ENOTDIR and error.filename is not None:
        return LocalFault(f"{printable(os.fsdecode(error.filename))}: a file has the name of this folder; move it away")
    return local_fault(error)


class _Hint(FileSystemEventHandler):
    """Calls `wake` for every event outside of the folders that axomsync itself fills."""

    def __init__(self, wake: Callable[[], None], target: Path) -> None:
        self._wake = wake
        self._own = tuple(os.path.join(target, os.fsdecode(name), "") for name in (ARCHIVE, REJECTS, CLAIMS))

    def dispatch(self, event: FileSystemEvent) -> None:
        # Nothing else is done here: an exception would end the observer's thread.
        place = event.dest_path or event.src_path
        if not os.fsdecode(place).startswith(self._own):
            self._wake()


class _Poller:
    """Lists folders for a polling observer: those that the scan enters, and never what a link leads to."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def entries(self, path: str | None) -> Iterator[os.DirEntry[str]]:
        """List one folder; one below `target` that can't be read counts as empty, as the scan reports it."""
        rel = os.path.relpath(os.fsencode(path or self._target), os.fsencode(self._target))
        is_top = rel == b"."
        try:
            with (
                Folder.open(self._target) as top,
                top.descend(b"" if is_top else rel) as folder,
                os.scandir(folder.descriptor) as listing,
            ):
                return iter([entry for entry in listing if not _is_left_out(os.fsencode(entry.name), is_top)])
        except OSError:
            if is_top:
                raise
            return iter(())


def _is_left_out(name: bytes, is_top: bool) -> bool:
    return rule_for_any(name) is not None or (is_top and name in (ARCHIVE, REJECTS))


class _Watch(threading.Thread):
    """One observer. This thread only starts it: that reads all folders, which takes as long as the disk needs.

    `kind` and `fault` are valid when this thread has ended; `wake` is called when the watch has begun.
    """

    def __init__(self, target: Path, wake: Callable[[], None], *, polling: bool) -> None:
        super().__init__(name="start of a watch", daemon=True)
        self.kind = "polling" if polling else "inotify"
        self.fault: str | None = None
        self._target, self._wake = target, wake
        self._observer: BaseObserver | None = None
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        """Start the observer."""
        before = set(threading.enumerate())
        observer: BaseObserver | None = None
        try:
            observer = self._made()
            observer.schedule(_Hint(self._wake, self._target), str(self._target), recursive=True, event_filter=HINTS)
            observer.start()
        except (OSError, RecursionError) as error:
            if observer is not None:
                observer.stop()  # it has an inotify instance, started or not
            self.fault = TOO_DEEP if isinstance(error, RecursionError) else self._words(error)
            return
        self._observer = observer
        # Not only the observer and its emitters: one more reads from inotify behind them, and no attribute leads to it.
        self._threads = [thread for thread in set(threading.enumerate()) - before if isinstance(thread, BaseThread)]
        self._wake()  # a file may have appeared after a scan that did not wait for this

    def works(self) -> bool:
        """True if no thread of the observer has died since its start."""
        return all(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        """Stop the observer, also one that has yet to start."""
        self.join()
        try:
            if self._observer is not None:
                self._observer.stop()
                self._observer.join()
        except Exception as error:  # noqa: BLE001  # failures of a half-dead observer need no action
            log.debug("the end of a watch: %s", error)

    def _made(self) -> BaseObserver:
        if self.kind == "inotify":
            return Observer()
        return PollingObserverVFS(os.lstat, _Poller(self._target).entries, polling_interval=POLLING_SECONDS)

    def _words(self, error: OSError) -> str:
        return _LIMITS.get(error.errno or 0) or str(local_fault(error, str(self._target)))


class Watcher:
    """Calls `wake` when new files may exist below `root`. `kind` is the kind of watch, `fault` the reason if it fails."""

    def __init__(self, root: Path, mode: Literal["auto", "inotify", "polling"], wake: Callable[[], None]) -> None:
        self._root, self._mode, self._wake = root, mode, wake
        self._watch: _Watch | None = None
        self._watched: tuple[int, int] | None = None
        self.kind = "not watching"
        self.fault: str | None = None

    def heal(self) -> None:
        """Start watching; start again if the observer died or the folder was replaced. Does not wait for a slow folder."""
        target = Path(os.path.realpath(self._root))  # a watch on a symlink raises no event
        try:
            status = os.stat(target)
        except OSError as error:
            self.stop()
            self._watched, self.fault = None, str(local_fault(error, str(self._root)))
            return
        identity = (status.st_dev, status.st_ino)
        if self._watch is None or self._watched != identity or not self.works() or self._may_watch_more(target):
            self.stop()
            if self._watched != identity:
                self.fault = None  # it was another folder's
            polling = self._mode == "polling" or (self._mode == "auto" and filesystem_type(target) in REMOTE_FILESYSTEMS)
            self._watch, self._watched = _Watch(target, self._wake, polling=polling), identity
            self._watch.start()
            self._watch.join(START_SECONDS)
        self._judge(self._watch, target)

    def works(self) -> bool:
        """True if no thread of the observer has died since its start; also true without an observer."""
        return self._watch is None or self._watch.works()

    def stop(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            # In another thread: if an observer's thread died, it may have left a lock behind, and this call would hang.
            end = threading.Thread(target=self._watch.end, name="end of a watch", daemon=True)
            end.start()
            end.join(timeout=END_SECONDS)
        self._watch, self.kind = None, "not watching"

    def _judge(self, watch: _Watch, target: Path) -> None:
        """Set `kind` and `fault`; a watch that could not begin is dropped, and the next call of `heal` tries again."""
        if watch.is_alive():
            self.fault = self.fault or SLOW  # the fault of an earlier try says more
        elif watch.fault is not None:
            self.fault, self._watch = watch.fault, None
        else:
            self.kind = watch.kind
            self.fault = _limit_on_watches(target) if self.kind == "inotify" else None

    def _may_watch_more(self, target: Path) -> bool:
        """True if a limit kept the observer from watching every folder, and does so no longer."""
        return self.kind == "inotify" and self.fault is not None and _limit_on_watches(target) is None


def _limit_on_watches(folder: Path) -> str | None:
    """Remedy if the kernel lets this user watch no further folder; None if it does.

    An observer silently skips a sub-folder that it can't watch, so this function tries a watch itself.
    """
    instance = _libc.inotify_init()
    if instance < 0:
        return None  # the observer already has the one instance that it needs
    try:
        refused = _libc.inotify_add_watch(instance, os.fsencode(folder), _IN_CREATE) < 0
        return _LIMITS.get(ctypes.get_errno()) if refused else None
    finally:
        os.close(instance)
