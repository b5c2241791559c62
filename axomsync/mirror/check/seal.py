"""A seal on a model in staging: what a gate passed is what is published.

It is put on before a gate looks, and looked at afterwards, last of all immediately before the rename. Names, kinds, rights
and stamps must be the same; a file whose stamp changed is read and compared with its digests, since a link to it elsewhere
may have gone.

Failures handled: an entry that was added, removed, replaced, or changed, also with its size and time of modification kept
(`Tampered`; what is wrong is removed, so that it is fetched again), a file that can't be read (`LocalFault`).
"""

import shutil
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from axomsync.core.errors import Rejected
from axomsync.core.filesystems import walk_all
from axomsync.core.oserrors import local_fault
from axomsync.core.records import ModelFile
from axomsync.core.text import printable
from axomsync.mirror.check.verify import examine_file

# The kernel's time of a change moves on every 1 to 10 ms: a change within the same moment as the seal would not show.
MOMENT_SECONDS = 0.02


class Tampered(Rejected):
    """Entries of a sealed folder changed. `rels` are their paths in it; they were removed."""

    def __init__(self, rels: list[str]) -> None:
        self.rels = rels
        more = f" and {len(rels) - 1} more" if len(rels) > 1 else ""
        super().__init__(
            f"[hooks] before_publish: {printable(rels[0])}{more} changed while it looked, and is not what it passed; "
            "a gate must only read"
        )


@dataclass(frozen=True)
class _Entry:
    """One entry: what must never change, and the stamp, after whose change the bytes are compared."""

    mode: int
    owner: tuple[int, int]
    stamp: tuple[int, ...] = ()  # of files; a folder's names are compared instead


class Seal:
    """The seal on `folder`; `files` are its files with their digests, by path."""

    def __init__(self, folder: Path, files: Mapping[str, ModelFile]) -> None:
        time.sleep(MOMENT_SECONDS)
        self._folder, self._files = folder, files
        self._entries = _entries(folder)

    def demand_unbroken(self, step: Callable[[], None]) -> None:
        """Raise `Tampered` unless everything is as it was; `step` is called while files are read."""
        there = _entries(self._folder)
        wrong = [rel for rel, entry in self._entries.items() if not self._is_same(rel, entry, there.get(rel), step)]
        wrong += there.keys() - self._entries.keys()
        if wrong:
            self._remove(wrong)
            raise Tampered(sorted(wrong))
        self._entries = there

    def _is_same(self, rel: str, entry: _Entry, now: _Entry | None, step: Callable[[], None]) -> bool:
        if now == entry:
            return True
        if now is None or (now.mode, now.owner) != (entry.mode, entry.owner) or rel not in self._files:
            return False
        file = self._files[rel]
        is_known = sum(part.end - part.start for part in file.segments) == file.size
        return is_known and examine_file(self._folder / rel, file, step) is None

    def _remove(self, rels: list[str]) -> None:
        """Remove these entries, folders first: what lies below a folder that became a link is not ours."""
        for rel in sorted(rels):
            path = self._folder / rel
            with suppress(FileNotFoundError, NotADirectoryError):
                if stat.S_ISDIR(path.lstat().st_mode):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def _entries(folder: Path) -> dict[str, _Entry]:
    """Everything in a folder, by path below it; the folder itself is `.`. Raises `LocalFault`."""
    found: dict[str, _Entry] = {}
    try:
        found["."] = _entry(folder)
        for parent, folders, names in walk_all(folder):
            for name in folders + names:
                path = Path(parent, name)
                found[str(path.relative_to(folder))] = _entry(path)
    except OSError as error:
        raise local_fault(error, str(folder)) from None
    return found


def _entry(path: Path) -> _Entry:
    status = path.lstat()
    owner = (status.st_uid, status.st_gid)
    if stat.S_ISDIR(status.st_mode):
        return _Entry(status.st_mode, owner)
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _Entry(status.st_mode, owner, stamp)
