"""Where a file goes when its way is over: into `uploaded/` with its receipt, into `rejected/` with the reason, or nowhere.

A name that is taken is never overwritten. Failures handled: folders that can't be made or written (`LocalFault`), a file
that changed or vanished at the last moment (`SourceChanged`, it is left where it is).
"""

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from axomsync.drop.jsonl import InvalidDataset
from axomsync.drop.watch import ARCHIVE, REJECTS, stamp_at
from axomsync.errors import SourceChanged, local_fault, printable
from axomsync.records import Upload


def archive(root: Path, upload: Upload, confirmed: Upload, now: float) -> None:
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
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        "duplicate": upload.id != confirmed.id,
    }
    text = json.dumps(receipt, indent=2, ensure_ascii=False) + "\n"
    _move_away(root, upload, ARCHIVE, b".receipt.json", text)


def set_aside(root: Path, upload: Upload, invalid: InvalidDataset) -> None:
    """Move a file that is no dataset to the rejects and write down what is wrong with it and what to do."""
    name = printable(os.fsdecode(upload.path))
    lines = [f"{name} was not uploaded: {invalid.total} problem{'s' if invalid.total > 1 else ''} found.", ""]
    lines += [f"- {fault}" for fault in invalid.faults]
    if invalid.total > len(invalid.faults):
        lines.append(f"- … and {invalid.total - len(invalid.faults)} more")
    lines += ["", f"To try again, correct the file and move it back to {root / os.fsdecode(upload.path)!s}".rstrip(), ""]
    _move_away(root, upload, REJECTS, b".reason.txt", "\n".join(lines))


def delete(root: Path, upload: Upload) -> None:
    """Remove a file whose content storage has confirmed, unless it has changed since."""
    _still_the_same(root, upload)
    try:
        os.unlink(os.path.join(os.fsencode(root), upload.path))
    except OSError as error:
        raise local_fault(error) from None


def _move_away(root: Path, upload: Upload, folder: bytes, suffix: bytes, note: str) -> None:
    top = os.fsencode(root)
    source = os.path.join(top, upload.path)
    wanted = os.path.join(top, folder, upload.path)
    _still_the_same(root, upload)
    try:
        os.makedirs(os.path.dirname(wanted), exist_ok=True)
        target = _free_name(wanted, upload, suffix)
        _write(target + suffix, note)
        _rename_without_replacing(source, target, suffix)
    except OSError as error:
        raise local_fault(error) from None


def _still_the_same(root: Path, upload: Upload) -> None:
    if stamp_at(root, upload.path) != upload.stamp:
        raise SourceChanged("the file changed after it was read; its new content is taken as a new file")


def _free_name(wanted: bytes, upload: Upload, suffix: bytes) -> bytes:
    """`wanted`, or a name next to it that is not taken and that says which content it holds."""
    stem, extension = os.path.splitext(wanted)
    digest = (upload.sha256 or "").encode()[:8]
    names = [wanted] + [
        b"-".join(filter(None, (stem + b"-", digest, b"%d" % n if n else b""))) + extension for n in range(10_000)
    ]
    return next(name for name in names if not os.path.lexists(name) and not os.path.lexists(name + suffix))


def _rename_without_replacing(source: bytes, target: bytes, suffix: bytes) -> None:
    try:
        os.link(source, target, follow_symlinks=False)  # fails when the name is taken, as rename does not
    except FileExistsError:
        os.unlink(target + suffix)
        raise
    except OSError:
        os.rename(source, target)  # a filesystem without hard links
        return
    os.unlink(source)


def _write(path: bytes, text: str) -> None:
    temporary = os.path.join(os.path.dirname(path), b"." + os.path.basename(path)[-200:] + b".part")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
