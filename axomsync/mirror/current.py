"""`current` and `.pinned`: which version of a name servers see.

`current` leads to the version that was created last, or to the pinned one, and moves by one rename. A pin is a symlink
beside it: it lies on disk, so it outlives the ledger and holds for all agents. Failures handled: a `current` that somebody
else made (left alone, told), a pin that is set or taken away at the same moment (looked at again), a pinned version that
is not there (the newest counts).
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from axomsync.errors import Rejected, local_fault
from axomsync.filesystems import sync_folder
from axomsync.mirror.layout import CURRENT, age, folder_names
from axomsync.mirror.record import read_record
from axomsync.records import RemoteModel

log = logging.getLogger(__name__)

PIN = ".pinned"


def versions(parent: Path) -> dict[str, RemoteModel]:
    """What is published below the folder of a name, by folder, newest first. Raises `LocalFault`.

    What is on disk counts, not a ledger: that one may be new, or that of another agent.
    """
    try:
        folders = [entry for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise local_fault(error, str(parent)) from None
    records = {entry.name: read_record(Path(entry.path)) for entry in folders}
    ours = {name: record.model for name, record in records.items() if record and _belongs(record.model, parent, name)}
    newest_first = sorted(ours, key=lambda name: age(ours[name].created_at, ours[name].id), reverse=True)
    return {name: ours[name] for name in newest_first}


def leads_to(parent: Path) -> str | None:
    """The folder that `current` leads to."""
    return _target(parent / CURRENT)


def pinned(parent: Path) -> str | None:
    """The folder that is pinned."""
    return _target(parent / PIN)


def point(parent: Path, scratch: Path) -> None:
    """Make `current` lead where it should. `scratch` is a folder on the same filesystem. Raises `LocalFault`."""
    link = parent / CURRENT
    while True:
        there = versions(parent)
        pin = pinned(parent)
        wanted = pin if pin in there else next(iter(there), None)
        if wanted is None or leads_to(parent) == wanted:
            return
        if os.path.lexists(link) and not link.is_symlink():
            log.warning("%s is not a symlink of ours; it is left alone and does not lead to %s", link, wanted)
            return
        _place_link(link, wanted, scratch)  # and once more: it may have been pinned elsewhere meanwhile


def pin(parent: Path, version: str, scratch: Path) -> None:
    """Hold `current` at `version`, which retention leaves alone from now on. Raises `LocalFault`."""
    _place_link(parent / PIN, version, scratch)
    point(parent, scratch)


def unpin(parent: Path, scratch: Path) -> bool:
    """Let `current` follow the newest version again; whether there was a pin. Raises `LocalFault`."""
    had = pinned(parent) is not None
    try:
        (parent / PIN).unlink(missing_ok=True)
        sync_folder(parent)
    except OSError as error:
        raise local_fault(error, str(parent / PIN)) from None
    point(parent, scratch)
    return had


def _place_link(link: Path, version: str, scratch: Path) -> None:
    fresh = scratch / f".new-link-{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        os.symlink(version, fresh)
        os.rename(fresh, link)
        sync_folder(link.parent)
    except OSError as error:
        raise local_fault(error, str(link)) from None


def _target(link: Path) -> str | None:
    with suppress(OSError):
        return os.readlink(link)
    return None


def _belongs(model: RemoteModel, parent: Path, name: str) -> bool:
    """Whether that is where this model is published; a copy that somebody made of the folder is not."""
    with suppress(Rejected):
        return (parent.name, name) in (folder_names(model, clash=False), folder_names(model, clash=True))
    return False
