"""Last step of a file: move it into `uploaded/` with its receipt or into `rejected/` with the reason, or delete it.

An existing name is never overwritten. A file that differs from the one that was read is never deleted and never stays moved:
a file is moved first, by one atomic call, and compared afterwards. On another filesystem it is copied, compared, and then
removed in the same way. Every call uses the descriptors of the two folders, and its result is on disk when it returns.

Failures handled: folders that can't be made or written, full disks, links and files in the place of our folders
(`LocalFault`, nothing is followed), names that leave no room for `.receipt.json` (shortened), a file that changed, vanished
or was replaced at the last moment (`SourceChanged`, it stays where it is), a file that a program still writes to
(`Transient`, it stays too), another agent that moves the same file, a crash or a power loss between any two steps (the same
call again, or `finish_deletions`, finishes it).
"""

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from axomsync.core.documents import is_ours
from axomsync.core.errors import AxomsyncError, LocalFault, SourceChanged, Transient
from axomsync.core.folders import Folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import ARCHIVE, DELETING, REASON, RECEIPT, REJECTS
from axomsync.core.records import Shard, Upload, UploadState
from axomsync.core.text import printable
from axomsync.drop.digests import digest_of
from axomsync.drop.jsonl import InvalidDataset
from axomsync.drop.open_files import being_written
from axomsync.drop.receipts import mark_of, receipt_text
from axomsync.drop.settle import same_file
from axomsync.drop.watch import folder_fault, folder_of, stamp_at, stamp_of
from axomsync.runtime.heartbeat import unwatched

Step = Callable[[], None]

NAMES_TO_TRY = 10_000
USUAL_LONGEST_NAME = 255
LONGEST_EXTENSION = 32  # a longer one is no extension, but a name with a dot in it

RIGHTS = 0o777  # of a new folder, before umask or default ACL; `_open_to_droppers` corrects the umask
_DOOMED = re.compile(re.escape(DELETING) + rb"([0-9]+)(-[0-9a-f]{32})?")


def archive(
    root: Path, upload: Upload, confirmed: Upload, shards: Iterable[Shard], step: Step = unwatched
) -> tuple[bytes, str]:
    """Move an uploaded file to the archive and write its receipt; `confirmed` is the upload that storage has.

    `step` is called repeatedly while bytes are read. Returns the receipt's path below the drop folder, and its mark.
    """
    return _move_away(root, upload, ARCHIVE, RECEIPT, receipt_text(upload, confirmed, shards), step)


def write_receipt_again(root: Path, path: bytes, upload: Upload, confirmed: Upload, shards: Iterable[Shard]) -> str:
    """Replace a receipt without usable content; returns its mark. Raises `LocalFault`."""
    try:
        with folder_of(root, path) as (folder, name):
            folder.replace(name, receipt_text(upload, confirmed, shards).encode("utf-8", "backslashreplace"))
            return _mark(folder, name)
    except OSError as error:
        raise folder_fault(error) from None


def write_reason_again(root: Path, path: bytes, upload: Upload, done_marker: str) -> None:
    """Replace a reason without usable content, from the ledger. Raises `LocalFault`."""
    name = printable(os.fsdecode(upload.path))
    lines = [f"{name} was not uploaded: {upload.reason}", "", _how_to_try_again(root, name, done_marker), ""]
    try:
        with folder_of(root, path) as (folder, own):
            folder.replace(own, "\n".join(lines).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise folder_fault(error) from None


def _how_to_try_again(root: Path, name: str, done_marker: str) -> str:
    place = f"{printable(str(root))}/{name}"
    mark = f"; then create {place}{printable(done_marker)}" if done_marker else ""
    return f"To try again, correct the file and move it back to {place}{mark}"


def set_aside(root: Path, upload: Upload, invalid: InvalidDataset, done_marker: str, step: Step = unwatched) -> None:
    """Move an invalid file to `rejected/` and write a file with the faults and their fixes."""
    name = printable(os.fsdecode(upload.path))
    lines = [f"{name} was not uploaded: {invalid.total} problem{'s' if invalid.total > 1 else ''} found.", ""]
    lines += [f"- {fault}" for fault in invalid.faults]
    if invalid.total > len(invalid.faults):
        lines.append(f"- … and {invalid.total - len(invalid.faults)} more")
    if invalid.total > 1:
        lines += ["", "In all:", *(f"{count:8} x {kind}" for kind, count in invalid.counts.most_common())]
    lines += ["", _how_to_try_again(root, name, done_marker), ""]
    _move_away(root, upload, REJECTS, REASON, "\n".join(lines), step)


def remove_marker(root: Path, upload: Upload, suffix: str) -> None:
    """Remove the marker of a file that was put away; the next file of that name has its own marker."""
    if suffix:
        with suppress(OSError), folder_of(root, upload.path + os.fsencode(suffix)) as (folder, name):
            folder.unlink(name)


def delete(root: Path, upload: Upload, step: Step = unwatched) -> None:
    """Delete a file whose content storage has confirmed, unless it has changed since."""
    with _source(root, upload) as (folder, name):
        _remove(upload, folder, name, step)


def _remove(upload: Upload, folder: Folder, name: bytes, step: Step) -> None:
    """Rename the file to a name that marks it for deletion, then delete it: after a crash it is put back or deleted."""
    doomed = DELETING + b"%d-%s" % (upload.id, secrets.token_hex(16).encode())
    _move(upload, folder, name, folder, doomed, step)
    folder.unlink(doomed)
    folder.sync()


def finish_deletions(root: Path, uploads: Iterable[Upload], failed: Iterable[Upload], step: Step, *, deletes: bool) -> None:
    """Finish deletions that a crash or an error interrupted, for these uploads from the drop folder.

    A file that is not the expected one goes back to its place; so does every file if the agent no longer `deletes`. The
    place of a `failed` one may be another file's by now: it is only deleted. Raises `LocalFault`.
    """
    by_folder: dict[bytes, dict[int, Upload]] = {b"": {}}
    in_place = {upload.id: upload for upload in uploads}
    for upload in (*in_place.values(), *failed):
        by_folder.setdefault(os.path.dirname(upload.path), {})[upload.id] = upload
        by_folder[b""][upload.id] = upload
    for place, there in by_folder.items():
        step()
        try:
            with Folder.open(root) as top, top.descend(place) as folder:
                doomed = [(name, int(match[1])) for name in folder.names() if (match := _DOOMED.fullmatch(name))]
                for name, row in doomed:
                    if row not in there or (deletes and _delete_if_same(folder, name, there[row], step)):
                        continue
                    if row in in_place:
                        _put_back(top, folder, name, there[row])
        except FileNotFoundError:
            continue
        except OSError as error:
            raise local_fault(error) from None


def _put_back(top: Folder, folder: Folder, name: bytes, upload: Upload) -> None:
    with suppress(FileExistsError), top.descend(os.path.dirname(upload.path)) as home:
        folder.move(name, home, os.path.basename(upload.path))


def _delete_if_same(folder: Folder, name: bytes, upload: Upload, step: Step) -> bool:
    """Delete a file if it is the one that was read, and storage has it; True if it was deleted."""
    # A rejected file may be on its way to another filesystem, and storage does not have it.
    status = folder.status(name) if upload.state in (UploadState.UPLOADED, UploadState.DUPLICATE) else None
    if status is None or not _is_the_same(folder, name, status, upload, step):
        return False
    folder.unlink(name)
    return True


def _move_away(root: Path, upload: Upload, area: bytes, suffix: bytes, note: str, step: Step) -> tuple[bytes, str]:
    place = os.path.join(area, os.path.dirname(upload.path))
    text = note.encode("utf-8", "backslashreplace")
    with _source(root, upload) as (source, name), Folder.open(root) as top, _made(top, place) as target:
        for as_name in _names(target, name, upload, len(suffix)):
            is_taken = target.status(as_name) is not None
            if is_taken and not _is_copied(upload, source, name, target, as_name, as_name + suffix, text, step):
                continue
            written = False if is_taken else _write_note(target, as_name + suffix, text, upload)
            if written is None:
                continue
            try:
                if is_taken:
                    _remove(upload, source, name, step)
                else:
                    _move(upload, source, name, target, as_name, step)
            except BaseException as error:
                if written and target.status(as_name) is None:  # else it is the note of another agent, which was faster
                    target.unlink(as_name + suffix)
                if isinstance(error, FileExistsError):
                    continue
                raise
            target.sync()
            source.sync()
            return os.path.join(place, as_name + suffix), _mark(target, as_name + suffix)
    wanted = os.path.join(os.fsencode(root), area, upload.path)
    raise LocalFault(f"{printable(os.fsdecode(wanted))}: this name and {NAMES_TO_TRY} like it are taken; tidy up the folder")


@contextmanager
def _source(root: Path, upload: Upload) -> Iterator[tuple[Folder, bytes]]:
    """Yields folder and name of a file that still equals the one that was read. Turns `OSError` into `LocalFault`."""
    stamp = stamp_at(root, upload.path)
    if stamp is None or not same_file(stamp, upload.stamp):
        raise SourceChanged("the file changed after it was read; its new content is treated as a new file")
    try:
        with folder_of(root, upload.path) as (folder, name):
            yield folder, name
    except OSError as error:
        raise folder_fault(error) from None


@contextmanager
def _made(top: Folder, place: bytes) -> Iterator[Folder]:
    """Yields the folder at `place`. Missing folders on the way are made; each is on disk before the next is made."""
    current, pattern = top.descend(b""), os.fstat(top.descriptor)
    try:
        for part in place.rstrip(b"/").split(b"/"):
            is_new = current.status(part) is None
            below = current.descend(part, make=RIGHTS)
            try:
                _open_to_droppers(below, pattern)
                if is_new:
                    current.sync()
            finally:
                current.close()
                current = below
        yield current
    finally:
        current.close()


def _open_to_droppers(folder: Folder, pattern: os.stat_result) -> None:
    """Give a folder of ours the group and the rights of the drop folder, so that its users can take back rejected files.

    The unit's sandbox forbids setting the set-gid bit; new folders inherit it. Best effort: a failure delays no file.
    """
    found, descriptor = os.fstat(folder.descriptor), folder.descriptor
    if found.st_uid != os.geteuid():
        return
    with suppress(OSError):
        if found.st_gid != pattern.st_gid:
            os.fchown(descriptor, -1, pattern.st_gid)
            found = os.fstat(descriptor)
    if (found.st_mode ^ pattern.st_mode) & 0o777:
        wanted = stat.S_IMODE(pattern.st_mode) & ~stat.S_ISUID
        for mode in (wanted, wanted & 0o777):
            with suppress(OSError):
                os.fchmod(descriptor, mode)
                return


def _move(upload: Upload, source: Folder, name: bytes, target: Folder, as_name: bytes, step: Step) -> None:
    """Rename the file, then check that it is the expected one; another file is put back.

    Onto another filesystem, the file is copied, compared, and then removed.
    """
    writing = Transient("a program still has it open for writing; it stays until that has ended")
    if being_written(name, folder=source.descriptor):
        raise writing
    try:
        source.move(name, target, as_name)
    except FileNotFoundError:
        if source.status(name) is not None:
            raise  # the target disappeared, not the source
        raise SourceChanged("the file was removed before it could be moved") from None
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _carry_over(upload, source, name, target, as_name, step)
        return
    try:
        moved = target.status(as_name)
        if moved is None or not _is_the_same(target, as_name, moved, upload, step):
            raise SourceChanged("the file changed while it was moved; its new content is treated as a new file")
        if being_written(as_name, folder=target.descriptor):
            raise writing
    except (AxomsyncError, OSError):
        with suppress(FileExistsError, FileNotFoundError):  # a new file has that name: both are kept
            target.move(as_name, source, name)
        raise


def _carry_over(upload: Upload, source: Folder, name: bytes, target: Folder, as_name: bytes, step: Step) -> None:
    """Move a file to another filesystem, as `_move` does within one.

    After a crash the file is still in its place, perhaps with a complete copy that `_is_copied` finds.
    """
    changed = SourceChanged("the file changed while it was moved; its new content is treated as a new file")
    file = source.open_file(name)
    try:
        if not same_file(stamp_of(os.fstat(file)), upload.stamp):
            raise changed
        with target.copy_of(file, as_name, step) as (copy, sha256):
            if upload.file_sha256 not in (None, sha256):
                raise changed
            if _digest(target, copy, step) != sha256:
                raise OSError(errno.EIO, os.strerror(errno.EIO), os.path.join(target.path, as_name))
            target.move(copy, target, as_name)
    finally:
        os.close(file)
    target.sync()
    try:
        _remove(upload, source, name, step)
    except (SourceChanged, Transient, OSError):
        if source.status(name) is not None:  # else the copy is the only one left
            target.unlink(as_name)
        raise


def _is_copied(
    upload: Upload, source: Folder, name: bytes, target: Folder, as_name: bytes, note: bytes, text: bytes, step: Step
) -> bool:
    """Check whether an earlier life copied the file to this other filesystem and was then stopped."""
    if source.mount == target.mount:
        return False
    status = target.status(as_name)
    if status is None or not stat.S_ISREG(status.st_mode) or not _says_alike(target, note, text):
        return False
    if (status.st_size, status.st_mtime_ns) != (upload.stamp.size, upload.stamp.mtime_ns):
        return False
    return _digest(target, as_name, step) == (upload.file_sha256 or _digest(source, name, step))


def _says(folder: Folder, name: bytes, text: bytes) -> bool:
    status = folder.status(name)
    is_note = status is not None and stat.S_ISREG(status.st_mode) and is_ours(status)
    return is_note and folder.read(name, len(text) + 1) == text


def _says_alike(folder: Folder, name: bytes, text: bytes) -> bool:
    """`_says` for a receipt, without comparing its time: the ledger's time changes with each try."""
    if _says(folder, name, text):
        return True
    told, wanted = _receipts(folder, name, text)
    return bool(told) and told | {"time": None} == wanted | {"time": None}


def _receipts(folder: Folder, name: bytes, text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The receipt on disk and the one in `text`; two empty ones if either is none."""
    try:
        told, wanted = json.loads(folder.read(name, 2 * len(text))), json.loads(text)
    except (FileNotFoundError, ValueError, RecursionError):
        return {}, {}
    return (told, wanted) if isinstance(told, dict) and isinstance(wanted, dict) else ({}, {})


def _digest(folder: Folder, name: bytes, step: Step) -> str:
    file = folder.open_file(name)
    try:
        return digest_of(file, os.fstat(file).st_size, step)
    finally:
        os.close(file)


def _is_the_same(folder: Folder, name: bytes, status: os.stat_result, upload: Upload, step: Step) -> bool:
    """Check that a renamed file, which has a new ctime, is the one that was read.

    If inode numbers change at each look, the bytes are compared; a rejected file has no digest, so only its stamp is
    compared.
    """
    found, read = stamp_of(status), upload.stamp
    if not stat.S_ISREG(status.st_mode) or (found.size, found.mtime_ns) != (read.size, read.mtime_ns):
        return False
    return found.ino == read.ino or upload.file_sha256 is None or _digest(folder, name, step) == upload.file_sha256


def _write_note(folder: Folder, name: bytes, text: bytes, upload: Upload) -> bool | None:
    """Write a new file. False if it exists with the same text, None if another file has its name."""
    try:
        folder.write_new(name, text)
    except FileExistsError:
        return False if _says(folder, name, text) or _is_of_another_agent(folder, name, text, upload) else None
    return True


def _is_of_another_agent(folder: Folder, name: bytes, text: bytes, upload: Upload) -> bool:
    """Check for the receipt of this very file by an agent that was killed before it moved the file.

    It names the same content and ids, and is younger than the file, so it is of no earlier file of that name.
    """
    status = folder.status(name)
    if status is None or not is_ours(status) or status.st_mtime_ns < upload.stamp.ctime_ns:
        return False
    told, wanted = _receipts(folder, name, text)
    return bool(told) and all(told.get(key) == wanted.get(key) for key in ("path", "sha256", "bytes", "upload_id", "key"))


def _mark(folder: Folder, name: bytes) -> str:
    status = folder.status(name)
    return "" if status is None else mark_of(status)


def _names(folder: Folder, name: bytes, upload: Upload, suffix: int) -> Iterator[bytes]:
    """`name`, then names that add the content's digest and a number; all leave room for a `suffix`."""
    stem, extension = os.path.splitext(name)
    if len(extension) > LONGEST_EXTENSION:
        stem, extension = name, b""
    longest = os.pathconf(folder.descriptor, "PC_NAME_MAX")
    room = (longest if longest > 0 else USUAL_LONGEST_NAME) - suffix  # some filesystems do not tell
    if len(name) <= room:
        yield name
    digest = (upload.sha256 or "").encode()[:8]
    for number in range(1, NAMES_TO_TRY):
        mark = b"-".join(filter(None, (digest, b"" if digest and number == 1 else b"%d" % number)))
        tail = b"--" + mark + extension
        yield _cut(stem, room - len(tail)) + tail


def _cut(text: bytes, length: int) -> bytes:
    """Cut to at most `length` bytes; up to three fewer, so that no UTF-8 character is cut in two."""
    end = min(length, len(text))
    while end < len(text) and end > length - 4 and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end]
