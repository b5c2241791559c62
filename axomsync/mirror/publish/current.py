"""`current`, `.pinned` and `.failed`: the version of a name that servers see.

`current` leads to the pinned version, or to the one that promotion chooses, and moves by one rename. A pin is a symlink
beside it: being on disk, it outlives the ledger and holds for all agents. So is the mark of the version that failed its
health check.

Failures handled: a foreign `current` (left alone; the caller reports it), a pin that is set or removed at the same moment
(checked again), a pinned version that is missing (the newest counts), a record or link that can't be read now (`LocalFault`,
nothing is moved).
"""

import errno
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from axomsync.core.errors import LocalFault, Rejected
from axomsync.core.filesystems import sync_folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import CURRENT, FAILED, INTERNAL, LOST_FOUND, NEW_LINK, PIN, RECORD
from axomsync.core.records import RemoteModel
from axomsync.core.text import printable
from axomsync.mirror.layout import age, folder_names
from axomsync.mirror.promotion import Choose, Place, at_once
from axomsync.mirror.publish.record import Record, read_record


def parents(root: Path) -> list[Path]:
    """The folders of names in the mirror folder. Raises `LocalFault`."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        raise local_fault(error, str(root)) from None
    return [root / name for name in names if name not in (INTERNAL, LOST_FOUND)]


def records(parent: Path) -> dict[str, Record | LocalFault]:
    """Published versions below the folder of a name, by folder, or the fault that hides one. Raises `LocalFault`.

    The disk counts, not the ledger, which may be new or another agent's.
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
    """Published versions below the folder of a name, by folder, newest first. Raises `LocalFault`."""
    ours = {}
    for name, record in records(parent).items():
        if isinstance(record, LocalFault):
            raise record
        ours[name] = record.model
    newest_first = sorted(ours, key=lambda name: age(ours[name].created_at, ours[name].id), reverse=True)
    return {name: ours[name] for name in newest_first}


def leads_to(parent: Path) -> str | None:
    """Folder that `current` leads to."""
    return _target(parent / CURRENT)


def leads_somewhere(parent: Path) -> bool:
    """Whether `current` leads to something that is there. Raises `LocalFault`."""
    target = leads_to(parent)
    return target is not None and _exists(parent / target)


def pinned(parent: Path) -> str | None:
    """Folder that is pinned."""
    return _target(parent / PIN)


def failed(parent: Path) -> str | None:
    """Folder that failed its health check, the last one."""
    return _target(parent / FAILED)


def place(parent: Path, there: Iterable[str] | None = None) -> Place:
    """What the folder of a name holds; `there` are its versions, newest first, if they are known. Raises `LocalFault`."""
    return Place(tuple(versions(parent) if there is None else there), leads_to(parent), pinned(parent), failed(parent))


def point(parent: Path, scratch: Path, choose: Choose = at_once) -> None:
    """Make `current` lead to the version that `choose` names, unless it is foreign. Raises `LocalFault`.

    `scratch` is a folder on the same filesystem.
    """
    link = parent / CURRENT
    while True:
        wanted = choose(place(parent))
        if wanted is None or leads_to(parent) == wanted or foreign(parent) is not None:
            return
        _place_link(link, wanted, scratch)  # then check again: the pin may have moved meanwhile


def is_version(folder: Path) -> bool:
    """Whether a version is published in this folder. Raises `LocalFault`."""
    return read_record(folder) is not None


def is_led_to(folder: str | None) -> bool:
    """Whether `current` leads to this version's folder; no if that is not there, or can't be read now."""
    if folder is None:
        return False
    with suppress(LocalFault):
        return leads_to(Path(folder).parent) == os.path.basename(folder) and _exists(Path(folder))
    return False


def foreign(parent: Path) -> str | None:
    """Describe a foreign `current` and the remedy; None when it is the agent's or missing.

    The agent's link leads to a version, or to the place of a removed one. Raises `LocalFault`.
    """
    link, target = parent / CURRENT, leads_to(parent)
    remedy = "move it away, and the agent makes its own"
    if target is None:
        return f"it is no symlink, so it does not lead to the newest version; {remedy}" if _exists(link) else None
    if "/" in target or target in (".", ".."):
        return f"it is a symlink to {printable(target)}, which the agent did not make; {remedy}"
    if _exists(parent / target) and not _exists(parent / target / RECORD):
        return f"it leads to {printable(target)}, which is not a version of a model; {remedy}"
    return None


def pin(parent: Path, version: str, scratch: Path, choose: Choose = at_once) -> None:
    """Hold `current` at `version`, which retention then keeps. Raises `LocalFault`."""
    _place_link(parent / PIN, version, scratch)
    point(parent, scratch, choose)


def unpin(parent: Path, scratch: Path, choose: Choose = at_once) -> bool:
    """Let `current` follow new versions again; returns whether there was a pin. Raises `LocalFault`."""
    had = pinned(parent) is not None
    _remove(parent / PIN)
    point(parent, scratch, choose)
    return had


def promote(parent: Path, version: str, scratch: Path) -> None:
    """Lead `current` to `version`, which a person has chosen. Raises `LocalFault`, and `Rejected` if it is foreign."""
    if (fault := foreign(parent)) is not None:
        raise Rejected(f"{parent / CURRENT}: {fault}")
    if failed(parent) == version:
        _remove(parent / FAILED)  # it gets another trial
    if leads_to(parent) != version:
        _place_link(parent / CURRENT, version, scratch)


def go_back(parent: Path, version: str, before: str, scratch: Path, choose: Choose) -> None:
    """Lead `current` from `version`, which failed, back to the one `before`, and pin that. Raises `LocalFault`.

    After a crash it is done again.
    """
    _place_link(parent / FAILED, version, scratch)
    pin(parent, before, scratch, choose)


def prepare_move(old: Path, new: Path, scratch: Path) -> None:
    """Move the pin first, before the version at `old` moves to `new`. Raises `LocalFault`."""
    follows = new.parent == old.parent or pinned(new.parent) is None
    if pinned(old.parent) == old.name and follows:
        _place_link(new.parent / PIN, new.name, scratch)


def take_back_move(old: Path, new: Path, scratch: Path) -> None:
    """Move the pin back, since the version stays at `old`. Raises `LocalFault`."""
    if pinned(new.parent) != new.name:
        return
    if new.parent == old.parent:
        _place_link(old.parent / PIN, old.name, scratch)
    else:
        _remove(new.parent / PIN)


def finish_move(old: Path, new: Path, scratch: Path, choose: Choose = at_once) -> None:
    """Correct `current` of both names after the move. Raises `LocalFault`."""
    if failed(old.parent) == old.name:
        _place_link(new.parent / FAILED, new.name, scratch)
    if leads_to(old.parent) == old.name and (new.parent == old.parent or _leads(new)):
        _place_link(new.parent / CURRENT, new.name, scratch)  # at once: it leads nowhere until then
    if leads_to(new.parent) is not None:  # else the version that leads may still follow; `tend_current` comes after it
        point(new.parent, scratch, choose)
    if new.parent == old.parent:
        return
    if pinned(old.parent) == old.name:
        _remove(old.parent / PIN)
    if failed(old.parent) == old.name:
        _remove(old.parent / FAILED)
    if leads_to(old.parent) == old.name:
        _remove(old.parent / CURRENT)  # what is left may follow to the new name, so it is not promoted here
    if leads_to(old.parent) is None and not versions(old.parent):
        with suppress(OSError):  # it may hold foreign files
            old.parent.rmdir()


def _leads(moved: Path) -> bool:
    """Whether a version that came from another name is newer than what `current` of this one leads to."""
    there = place(moved.parent)
    newest_first = [version for version in there.versions if version in (there.served, moved.name)]
    return there.held is None and foreign(moved.parent) is None and newest_first[:1] == [moved.name]


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
    """Target of a link; None when it is none or missing. Raises `LocalFault`."""
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
    """Check that this is the model's own place, not a copy of the folder."""
    with suppress(Rejected):
        return (parent.name, name) in (folder_names(model, clash=False), folder_names(model, clash=True))
    return False
