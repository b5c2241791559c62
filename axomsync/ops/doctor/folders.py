"""Checks of the folders: are they there and writable, on which filesystem, with how much room.

Failures handled: a folder that is missing, is no folder, can't be reached or can't be written (told with the kernel's
reason, and the other folders are looked at), or whose filesystem does not answer.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from axomsync.core.disks import disk_of, free_bytes
from axomsync.core.errors import LocalFault
from axomsync.core.filesystems import REMOTE_FILESYSTEMS, filesystem_type, leads_to_folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import ARCHIVE, CLAIMS, LEDGER_FILE, REJECTS
from axomsync.drop.names import names_packed
from axomsync.ledger import Reader
from axomsync.ledger.facts import PUT_AWAY
from axomsync.ops.doctor.findings import Finding, Verdict, of_fault, standing_alone
from axomsync.ops.doctor.installation import Installation
from axomsync.status.report import put_away

FEW_INODES = 10_000
FEW_BYTES = 100_000_000
PLENTY = 10  # times the reserve


def folders_in_use(installation: Installation) -> Iterator[Finding]:
    """Check the folders of state, drop and mirror."""
    reserve = installation.settings.mirror.reserve
    drop = installation.settings.drop
    least = {"mirror": reserve}
    if drop.enabled and names_packed(drop.include):
        least["state"] = max(FEW_BYTES, reserve)  # files are unpacked there, into what is free beyond the reserve
    for name, folder in installation.folders.items():
        found = _folder(name, folder, least.get(name, FEW_BYTES), write=installation.write)
        yield from standing_alone(f"{name} folder", found)


def growing_archive(installation: Installation) -> Iterator[Finding]:
    """Check how much the folders hold that the agent fills in the drop folder."""
    drop, ledger = installation.settings.drop, installation.settings.state.folder / LEDGER_FILE
    try:
        with closing(Reader(ledger)) as reader:
            held = put_away(reader.facts().get(PUT_AWAY))
        free = free_bytes(str(drop.folder / os.fsdecode(ARCHIVE))) or free_bytes(str(drop.folder))
    except LocalFault:
        return  # other checks tell why
    total = sum(amount["bytes"] for amount in held.values())
    if drop.enabled and total and free is not None:
        yield archive(total, free, installation.settings.mirror.reserve)


def _can_be_made(folder: Path) -> bool:
    """Check whether this user may create a missing folder and its missing parent folders."""
    there = next(above for above in folder.absolute().parents if os.path.lexists(above))
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK, effective_ids=True)


def _folder(name: str, folder: Path, least: int, *, write: bool) -> Iterator[Finding]:
    subject = f"{name} folder"
    disk_of(folder).demand_answer()
    is_folder = leads_to_folder(folder)
    if not is_folder and os.path.lexists(folder):
        what = "a link that leads to no folder" if os.path.islink(folder) else "no folder"
        yield Finding(subject, Verdict.FAIL, f"{folder} is {what}", f"move it away, or correct [{name}] folder")
    elif not is_folder and name == "state" and _can_be_made(folder):
        yield Finding(subject, Verdict.OK, f"{folder} is made by the first start")
    elif not is_folder:
        yield Finding(subject, Verdict.FAIL, f"{folder} is not there", f"create it, or correct [{name}] folder")
    elif (obstacle := _not_writable(subject, folder, write=write)) is not None:
        yield obstacle
    else:
        if name == "drop":
            for area in (ARCHIVE, REJECTS, CLAIMS):
                yield from standing_alone(subject, _own_folder(folder / os.fsdecode(area)))
            for area in (ARCHIVE, REJECTS):
                place = folder / os.fsdecode(area)
                yield from standing_alone(f"drop {place.name}/", _put_away(folder, place, write=write))
        yield from standing_alone(f"{name} space", _disk(name, folder, least))


def _own_folder(place: Path) -> Iterator[Finding]:
    """Check that a sub-folder that the agent fills is a folder, or is not there yet."""
    if os.path.islink(place) or (not leads_to_folder(place) and os.path.lexists(place)):
        found = f"{place} is a symlink or a file, which the agent does not follow"
        yield Finding("drop folder", Verdict.FAIL, found, "move it away; the agent makes a folder there")


def _put_away(drop: Path, place: Path, *, write: bool) -> Iterator[Finding]:
    """Check `uploaded` or `rejected`, which may have a filesystem and rights of its own."""
    if os.path.islink(place) or not os.path.isdir(place):
        return
    if (obstacle := _not_writable(f"drop {place.name}/", place, write=write)) is not None:
        yield obstacle
    elif place.stat().st_dev != drop.stat().st_dev:
        yield from _disk(f"drop {place.name}/", place, FEW_BYTES)


def _not_writable(subject: str, folder: Path, *, write: bool) -> Finding | None:
    try:
        if write:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
        elif os.statvfs(folder).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, "")
        elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it may not be written")
    except OSError as error:
        return of_fault(subject, local_fault(error, str(folder)))
    return None


def _disk(name: str, folder: Path, least: int) -> Iterator[Finding]:
    """Check the filesystem of a folder, where `least` bytes must be free."""
    status = os.statvfs(folder)
    yield filesystem(name, folder, filesystem_type(folder))
    yield space(name, folder, status.f_bavail * status.f_frsize, least)
    if status.f_files:
        yield inodes(name, folder, status.f_favail)


def filesystem(name: str, folder: Path, kind: str) -> Finding:
    """Check the type of a filesystem: SQLite's locks and file events can't be trusted where several machines write."""
    subject = f"{name} filesystem"
    if kind not in REMOTE_FILESYSTEMS:
        return Finding(subject, Verdict.OK, f"{folder} is on {kind or 'an unknown filesystem'}")
    if name == "state":
        return Finding(subject, Verdict.FAIL, f"{folder} is on {kind}", "name a folder on a local disk as [state] folder")
    limit = "new files are found by polling" if name == "drop" else "fsync and renames are as good as its server makes them"
    return Finding(subject, Verdict.WARN, f"{folder} is on {kind}: {limit}", "a local disk is better, where you have one")


def space(name: str, folder: Path, free: int, least: int) -> Finding:
    """Check how many bytes can still be written."""
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if free >= least:
        return Finding(f"{name} space", Verdict.OK, found)
    fix = "free some space; for models also [mirror] keep, max_size and reserve"
    return Finding(f"{name} space", Verdict.FAIL, f"{found}, and {least / 1e9:.1f} GB must be", fix)


def archive(held: int, free: int, reserve: int) -> Finding:
    """Check the bytes that `uploaded/` and `rejected/` hold: warn when they are more than is free, and little is free."""
    found = f"uploaded/ and rejected/ hold {held / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free beside them"
    if free > held or free > PLENTY * reserve:
        return Finding("drop archive", Verdict.OK, found)
    fix = 'set [drop] archive_for = "30d" to have archived files removed at that age, or move them elsewhere'
    return Finding("drop archive", Verdict.WARN, found, fix)


def inodes(name: str, folder: Path, free: int) -> Finding:
    """Check that enough inodes are free: small files can use up all of them while bytes are still free."""
    if free >= FEW_INODES:
        return Finding(f"{name} inodes", Verdict.OK, f"{free:,} free")
    return Finding(f"{name} inodes", Verdict.WARN, f"{free:,} left in {folder}", "remove small files, or use a larger disk")
