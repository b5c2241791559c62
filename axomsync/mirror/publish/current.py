"""`current` and `.pinned`: which version of a name servers see.

`current` leads to the version that was created last, or to the pinned one, and moves by one rename. A pin is a symlink
beside it: it lies on disk, so it outlives the ledger and holds for all agents. Failures handled: a `current` that somebody
else made (left alone, and why is for the caller to tell), a pin that is set or taken away at the same moment (looked at
again), a pinned version that is not there (the newest counts), a record or a link that can't be read now (`LocalFault`,
nothing is moved).
"""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from axomsync.core.errors import LocalFault, Rejected
from axomsync.core.filesystems import sync_folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import CURRENT, NEW_LINK, RECORD
from axomsync.core.records import RemoteModel
from axomsync.core.text import printable
from axomsync.mirror.layout import age, folder_names
from axomsync.mirror.publish.record import Record, read_record

PIN = ".pinned"


def records(parent: Path) -> dict[str, Record | LocalFault]:
    """What is published below the folder of a name, by folder, or why that can't be known now. Raises `LocalFault`.

    What is on disk counts, not a ledger: that one may be new, or that of another agent.
    """
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise local_fault(error, str(parent)) from None
    found: dict[str, Record | LocalFault] = {}
    for name in names:
        try:
            record = read_record(parent / name)
        except LocalFault as fault:
            found[name] = fault
        else:
            if record is not None and _belongs(record.model, parent, name):
                found[name] = record
    return found


def versions(parent: Path) -> dict[str, RemoteModel]:
    """What is published below the folder of a name, by folder, newest first. Raises `LocalFault`."""
    ours = {}
    for name, record in records(parent).items():
        if isinstance(record, LocalFault):
            raise record
        ours[name] = record.model
    newest_first = sorted(ours, key=lambda name: age(ours[name].created_at, ours[name].id), reverse=True)
    return {name: ours[name] for name in newest_first}


def leads_to(parent: Path) -> str | None:
    """The folder that `current` leads to."""
    return _target(parent / CURRENT)


def pinned(parent: Path) -> str | None:
    """The folder that is pinned."""
    return _target(parent / PIN)


def point(parent: Path, scratch: Path) -> None:
    """Make `current` lead where it should, unless it is somebody else's. Raises `LocalFault`.

    `scratch` is a folder on the same filesystem.
    """
    link = parent / CURRENT
    while True:
        there = versions(parent)
        pin = pinned(parent)
        wanted = pin if pin in there else next(iter(there), None)
        if wanted is None or leads_to(parent) == wanted or foreign(parent) is not None:
            return
        _place_link(link, wanted, scratch)  # and once more: it may have been pinned elsewhere meanwhile


def foreign(parent: Path) -> str | None:
    """What `current` is instead of a link of ours, and what to do about it; None when it is ours or not there.

    Ours leads to a version, or to what was one before it was removed. Raises `LocalFault`.
    """
    link, target = parent / CURRENT, leads_to(parent)
    remedy = "move it away, and the agent makes its own"
    if target is None:
        return f"it is no symlink, so it does not lead to the newest version; {remedy}" if _exists(link) else None
    if "/" in target or target in (".", ".."):
        return f"it is a symlink to {printable(target)}, which somebody else made; {remedy}"
    if _exists(parent / target) and not _exists(parent / target / RECORD):
        return f"it leads to {printable(target)}, which is no version of a model; {remedy}"
    return None


def pin(parent: Path, version: str, scratch: Path) -> None:
    """Hold `current` at `version`, which retention leaves alone from now on. Raises `LocalFault`."""
    _place_link(parent / PIN, version, scratch)
    point(parent, scratch)


def unpin(parent: Path, scratch: Path) -> bool:
    """Let `current` follow the newest version again; whether there was a pin. Raises `LocalFault`."""
    had = pinned(parent) is not None
    _remove(parent / PIN)
    point(parent, scratch)
    return had


def prepare_move(old: Path, new: Path, scratch: Path) -> None:
    """Have the pin follow, before the version at `old` moves to `new`. Raises `LocalFault`."""
    follows = new.parent == old.parent or pinned(new.parent) is None
    if pinned(old.parent) == old.name and follows:
        _place_link(new.parent / PIN, new.name, scratch)


def take_back_move(old: Path, new: Path, scratch: Path) -> None:
    """The version stays at `old`, and so does the pin. Raises `LocalFault`."""
    if pinned(new.parent) != new.name:
        return
    if new.parent == old.parent:
        _place_link(old.parent / PIN, old.name, scratch)
    else:
        _remove(new.parent / PIN)


def finish_move(old: Path, new: Path, scratch: Path) -> None:
    """Lead `current` of both names where it should now. Raises `LocalFault`."""
    if new.parent == old.parent and leads_to(old.parent) == old.name:
        _place_link(new.parent / CURRENT, new.name, scratch)  # at once: it leads nowhere until then
    point(new.parent, scratch)
    if new.parent == old.parent:
        return
    if pinned(old.parent) == old.name:
        _remove(old.parent / PIN)
    if versions(old.parent):
        point(old.parent, scratch)
    elif leads_to(old.parent) == old.name:
        _remove(old.parent / CURRENT)
        with suppress(OSError):  # somebody else may have put something there
            old.parent.rmdir()


def _place_link(link: Path, version: str, scratch: Path) -> None:
    fresh = scratch / f"{NEW_LINK}{secrets.token_hex(8)}"
    try:
        os.symlink(version, fresh)
        try:
            os.rename(fresh, link)
        except OSError:
            fresh.unlink()
            raise
        sync_folder(link.parent)
    except OSError as error:
        raise local_fault(error, str(link)) from None


def _remove(link: Path) -> None:
    try:
        link.unlink(missing_ok=True)
        sync_folder(link.parent)
    except OSError as error:
        raise local_fault(error, str(link)) from None


def _target(link: Path) -> str | None:
    """Where a link leads; None when it is none or not there. Raises `LocalFault`."""
    try:
        return os.readlink(link)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):
            return None
        raise local_fault(error, str(link)) from None


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise local_fault(error, str(path)) from None
    return True


def _belongs(model: RemoteModel, parent: Path, name: str) -> bool:
    """Whether that is where this model is published; a copy that somebody made of the folder is not."""
    with suppress(Rejected):
        return (parent.name, name) in (folder_names(model, clash=False), folder_names(model, clash=True))
    return False
