"""Where a file goes when its way is over: into `uploaded/` with its receipt, into `rejected/` with the reason, or nowhere.

A name that is taken is never overwritten, and a file that is not the one that was read is never moved for good nor
deleted: files are moved first, by one atomic call, and looked at afterwards.

Failures handled: folders that can't be made or written and full disks (`LocalFault`), names that leave no room for
`.receipt.json`, a file that changed, vanished or was replaced at the last moment (`SourceChanged`, it is left where it
is), one that a program is still writing to (`Transient`, likewise), another agent that puts the same file away, a crash
between any two steps (the same call again finishes it).
"""

import ctypes
import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from axomsync.drop.jsonl import InvalidDataset
from axomsync.drop.watch import ARCHIVE, REJECTS, stamp_at, stamp_of
from axomsync.drop.writers import being_written
from axomsync.errors import LocalFault, SourceChanged, Transient, local_fault, printable
from axomsync.records import Shard, Upload
from axomsync.report import repeated_document, shard_document

RECEIPT = b".receipt.json"
NAMES_TO_TRY = 10_000
LONGEST_EXTENSION = 32  # what is longer is no extension but a name with a dot in it

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def archive(root: Path, upload: Upload, confirmed: Upload, shards: Iterable[Shard]) -> None:
    """Move an uploaded file to the archive and write its receipt; `confirmed` is the upload that storage has."""
    receipt = {
        "path": printable(os.fsdecode(upload.path)),
        "filename": confirmed.filename,
        "upload_id": confirmed.upload_id,
        "key": confirmed.key,
        "sha256": confirmed.sha256,
        "md5": confirmed.md5,
        "etag": confirmed.etag,
        "bytes": upload.stamp.size,
        "lines": confirmed.lines,
        "repeated_lines": repeated_document(upload.repeated),
        "time": datetime.fromtimestamp(confirmed.updated_at, UTC).isoformat(timespec="seconds"),
        "duplicate": upload.id != confirmed.id,
        "shards": [shard_document(shard) for shard in shards],
    }
    text = json.dumps(receipt, indent=2, ensure_ascii=False) + "\n"
    _move_away(root, upload, ARCHIVE, RECEIPT, text)


def set_aside(root: Path, upload: Upload, invalid: InvalidDataset) -> None:
    """Move a file that is no dataset to the rejects and write down what is wrong with it and what to do."""
    name = printable(os.fsdecode(upload.path))
    lines = [f"{name} was not uploaded: {invalid.total} problem{'s' if invalid.total > 1 else ''} found.", ""]
    lines += [f"- {fault}" for fault in invalid.faults]
    if invalid.total > len(invalid.faults):
        lines.append(f"- … and {invalid.total - len(invalid.faults)} more")
    if invalid.total > 1:
        lines += ["", "In all:", *(f"{count:8} x {kind}" for kind, count in invalid.counts.most_common())]
    lines += ["", f"To try again, correct the file and move it back to {printable(str(root))}/{name}", ""]
    _move_away(root, upload, REJECTS, b".reason.txt", "\n".join(lines))


def remove_marker(root: Path, upload: Upload, suffix: str) -> None:
    """Take away what said that the file is done, which is put away by now; the next file of that name has its own."""
    if suffix:
        with suppress(OSError):
            os.unlink(os.path.join(os.fsencode(root), upload.path) + os.fsencode(suffix))


def delete(root: Path, upload: Upload) -> None:
    """Remove a file whose content storage has confirmed, unless it has changed since."""
    source = os.path.join(os.fsencode(root), upload.path)
    doomed = os.path.join(os.fsencode(root), b".axomsync-deleting-%d" % upload.id)
    _demand_unchanged(root, upload)
    try:
        with suppress(FileNotFoundError):
            os.unlink(doomed)  # what a crash left
        _move(root, upload, source, doomed)
        os.unlink(doomed)
    except OSError as error:
        raise local_fault(error, source) from None


def _move_away(root: Path, upload: Upload, folder: bytes, suffix: bytes, note: str) -> None:
    top = os.fsencode(root)
    source = os.path.join(top, upload.path)
    wanted = os.path.join(top, folder, upload.path)
    _demand_unchanged(root, upload)
    try:
        os.makedirs(os.path.dirname(wanted), exist_ok=True)
        for target in _names(wanted, upload, len(suffix)):
            written = None if os.path.lexists(target) else _write_new(target + suffix, note)
            if written is None:
                continue
            try:
                _move(root, upload, source, target)
            except BaseException as error:
                if written and not os.path.lexists(target):  # else it is the note of another agent, that was faster
                    os.unlink(target + suffix)
                if isinstance(error, FileExistsError):
                    continue
                raise
            return
    except OSError as error:
        raise local_fault(error) from None
    raise LocalFault(f"{printable(os.fsdecode(wanted))}: this name and {NAMES_TO_TRY} like it are taken; tidy up the folder")


def _demand_unchanged(root: Path, upload: Upload) -> None:
    if stamp_at(root, upload.path) != upload.stamp:
        raise SourceChanged("the file changed after it was read; its new content is taken as a new file")


def _move(root: Path, upload: Upload, source: bytes, target: bytes) -> None:
    """Rename, then see whether the file that was moved is the one that was meant; another one is put back."""
    writing = Transient("a program still has it open for writing; it stays until that has ended")
    if being_written(source):
        raise writing
    try:
        _rename_to_new(source, target)
    except FileNotFoundError:
        raise SourceChanged("the file went away while it was put away") from None
    moved, stamp = stamp_of(os.lstat(target)), upload.stamp
    changed = (moved.ino, moved.size, moved.mtime_ns) != (stamp.ino, stamp.size, stamp.mtime_ns)  # renaming sets ctime
    if changed or being_written(target):
        with suppress(FileExistsError):  # something lies there again: both are kept
            _rename_to_new(target, source)
        if not changed:
            raise writing
        raise SourceChanged("the file changed while it was put away; its new content is taken as a new file")


def _names(wanted: bytes, upload: Upload, suffix: int) -> Iterator[bytes]:
    """`wanted`, then names next to it that say which content they stand for; all leave room for a `suffix`."""
    folder, name = os.path.split(wanted)
    stem, extension = os.path.splitext(name)
    if len(extension) > LONGEST_EXTENSION:
        stem, extension = name, b""
    room = os.pathconf(folder, "PC_NAME_MAX") - suffix
    if len(name) <= room:
        yield wanted
    digest = (upload.sha256 or "").encode()[:8]
    for number in range(1, NAMES_TO_TRY):
        mark = b"-".join(filter(None, (digest, b"" if digest and number == 1 else b"%d" % number)))
        tail = b"--" + mark + extension
        yield os.path.join(folder, _cut(stem, room - len(tail)) + tail)


def _cut(text: bytes, length: int) -> bytes:
    """The first `length` bytes, or up to three fewer so that no UTF-8 character is cut in two."""
    end = min(length, len(text))
    while end < len(text) and end > length - 4 and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end]


def _write_new(path: bytes, text: str) -> bool | None:
    """Write a file that was not there, whole or not at all. False when it is there with the same text, None with another."""
    temporary = os.path.join(os.path.dirname(path), b"." + os.path.basename(path)[-200:] + b".part")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        _rename_to_new(temporary, path)
    except FileExistsError:
        os.unlink(temporary)
        with open(path, encoding="utf-8", errors="replace") as file:
            return False if file.read() == text else None
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise local_fault(error, path) from None
    return True


def _rename_to_new(source: bytes, target: bytes) -> None:
    """As rename(2), but a target that exists makes it a `FileExistsError`, in one atomic call (Linux 3.15, glibc 2.28)."""
    if _renameat2 is None:
        code = errno.ENOSYS
    elif _renameat2(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE) == 0:
        return
    else:
        code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code), source, None, target)
    if os.path.lexists(target):  # a filesystem that knows only the plain call, such as NFS
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
    os.rename(source, target)
