"""Removal of all knowledge that a content was uploaded, so that dropping it again uploads it again.

The content decides whether a file is uploaded. So all rows of that content are deleted, under every path, and with them the
record for other agents. The receipts stay for people, but are marked as no longer valid.

Failures handled: a receipt or record that can't be changed (`LocalFault`, and no row is deleted), a file that only has a
receipt's name or belongs to another user (left alone), a crash in the middle (the same call again finishes it).
"""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from axomsync.config import DropSettings
from axomsync.core.documents import LARGEST, NotADocument, is_ours
from axomsync.core.errors import LocalFault
from axomsync.core.folders import Folder
from axomsync.core.paths import ARCHIVE, RECEIPT
from axomsync.core.records import Upload
from axomsync.core.text import iso
from axomsync.drop.claims import Claims
from axomsync.drop.receipts import folders_below, read_receipt
from axomsync.drop.watch import folder_fault
from axomsync.ledger import Reader
from axomsync.runtime.heartbeat import Beat


def all_of(uploads: Iterable[Upload], ledger: Reader, settings: DropSettings) -> list[Upload]:
    """List these uploads and all others of the same contents."""
    found: dict[int, Upload] = {}
    for upload in uploads:
        found[upload.id] = upload
        if upload.sha256 is not None:
            named = upload.filename if settings.dedupe == "name" else None
            found.update({twin.id: twin for twin in ledger.all_of_content(upload.sha256, named)})
    return [found[row] for row in sorted(found)]


def forget_on_disk(uploads: Iterable[Upload], settings: DropSettings, identity: str, now: float, beat: Beat) -> None:
    """Remove the records of these uploads and invalidate their receipts. Raises `LocalFault`."""
    contents = {(upload.sha256, upload.filename if settings.dedupe == "name" else "") for upload in uploads if upload.sha256}
    if not contents:
        return
    claims = Claims(settings.folder, identity, keeps=settings.after == "keep")
    for sha256, filename in contents:
        claims.forget(content_of(sha256, filename, named=settings.dedupe == "name"))
    _mark_receipts(settings.folder, contents, named=settings.dedupe == "name", now=now, beat=beat)


def content_of(sha256: str | None, filename: str, *, named: bool) -> str:
    """Identity of a content; `named` makes the file name a part of it."""
    return f"{sha256}/{filename}" if named else f"{sha256}"


def _mark_receipts(root: Path, contents: set[tuple[str, str]], *, named: bool, now: float, beat: Beat) -> None:
    digests = {sha256.encode() for sha256, _ in contents}
    faults: dict[bytes, LocalFault] = {}
    try:
        with Folder.open(root) as top:
            for rel, folder, names in folders_below(top, ARCHIVE, faults, beat):
                for name in names:
                    beat()
                    if name.endswith(RECEIPT):
                        place = os.path.join(rel, name).removeprefix(ARCHIVE + b"/")
                        _mark(folder, name, place, digests, contents, named=named, now=now)
    except FileNotFoundError:
        return
    except OSError as error:
        raise folder_fault(error) from None
    for fault in faults.values():
        raise fault


def _mark(
    folder: Folder, name: bytes, place: bytes, digests: set[bytes], contents: set[tuple[str, str]], *, named: bool,
    now: float,
) -> None:  # fmt: skip
    status = folder.status(name)
    if status is None or not stat.S_ISREG(status.st_mode) or not is_ours(status):
        return  # it proves nothing, and may be a trap
    try:
        text = folder.read(name, LARGEST)
        if not any(digest in text for digest in digests):
            return
        receipt = read_receipt(folder, name, place)
    except (NotADocument, FileNotFoundError):
        return
    if receipt is None or (receipt.sha256, receipt.filename if named else "") not in contents:
        return
    document = {**json.loads(text), "forgotten": iso(now)}
    folder.replace(name, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
