"""Recovery of the drop folder when an agent starts: the work of earlier lives, and of ledgers that were restored.

At every start, the receipts are compared with those in the ledger: a restored ledger has fewer, and the missing ones are
added. If no other agent has worked here, temporary files count as leftovers of a crash at once, else after `STALE_SECONDS`.

Failures handled: a ledger that was lost or restored, a crash or a power loss while a file was put away, receipts and reasons
that are empty or invalid, a part of the folder that can't be read now (reported; the rest goes on, and it is tried again).
"""

import logging
import os
import stat
from collections.abc import Callable, Mapping

from axomsync.config import DropSettings
from axomsync.core.documents import is_ours
from axomsync.core.errors import LocalFault
from axomsync.core.folders import Folder
from axomsync.core.paths import ARCHIVE, CLAIMS, REASON, RECEIPT, REJECTS, UNFINISHED
from axomsync.core.records import Stored, Upload, UploadState
from axomsync.core.text import printable
from axomsync.drop import archive
from axomsync.drop.claims import STALE_SECONDS, Claims
from axomsync.drop.receipts import Survey, folders_below, survey
from axomsync.drop.settle import FINISHED
from axomsync.drop.watch import folder_fault, folder_of, stamp_at, stamp_of
from axomsync.ledger import Ledger
from axomsync.runtime.heartbeat import Beat

log = logging.getLogger(__name__)

LARGEST_REASON = 65536  # bytes; a larger one is not checked for missing content
NAMED = 10  # invalid receipts that the log names

Faults = dict[bytes, LocalFault]  # by path below the drop folder

_DONE = frozenset({UploadState.UPLOADED, UploadState.DUPLICATE})
_CLAIMED = frozenset({UploadState.QUEUED, UploadState.UPLOADING}) | _DONE


class Recovery:
    """Recovery in steps, each done once; `go_on` is called again for the steps that failed."""

    def __init__(
        self,
        settings: DropSettings,
        ledger: Ledger,
        claims: Claims,
        content_of: Callable[[Upload], str],
        now: Callable[[], float],
    ) -> None:
        self._root, self._deletes, self._keeps = settings.folder, settings.after == "delete", settings.after == "keep"
        self._done_marker = settings.done_marker
        self._ledger, self._claims, self._content_of, self._now = ledger, claims, content_of, now
        self._steps: dict[bytes, Callable[[Beat], Faults]] = {
            CLAIMS: self._register,
            REJECTS: self._sweep,
            ARCHIVE: self._take_stock,
            b".": self._finish_deletions,
        }

    def go_on(self, beat: Beat) -> Mapping[bytes, LocalFault]:
        """Do the remaining steps; returns the obstacles."""
        faults: Faults = {}
        for place, step in list(self._steps.items()):
            try:
                found = step(beat)
            except LocalFault as fault:
                found = {place: fault}
            except FileNotFoundError:
                continue  # folders are being removed now; the next call tries again, or reports them
            except OSError as error:
                found = {place: folder_fault(error)}
            if found:
                faults |= found
            else:
                del self._steps[place]
        return faults

    @property
    def is_done(self) -> bool:
        """True if no step is left."""
        return not self._steps

    def _register(self, beat: Beat) -> Faults:
        rows = self._ledger.read.uploads_in_drop()
        claimed = {self._content_of(row): row for row in rows if row.sha256 and row.state in _CLAIMED}
        for content in self._claims.register(claimed):
            beat()
            if self._keeps and claimed[content].state in _DONE:
                self._settle(content, claimed[content])
        return {}

    def _settle(self, content: str, upload: Upload) -> None:
        """Finish with a content that stays: no carrier takes it up again, and the others wait for the claim."""
        if self._claims.record(content) is None:
            shards = tuple(self._ledger.read.shards(upload.id))
            self._claims.settle(content, Stored(upload.upload_id, upload.key, upload.etag, shards))
        self._claims.release(content)

    def _sweep(self, beat: Beat) -> Faults:
        faults: Faults = {}
        with Folder.open(self._root) as top:
            for area in (REJECTS, CLAIMS):
                for rel, folder, names in folders_below(top, area, faults, beat):
                    for name in names:
                        beat()
                        if name.startswith(UNFINISHED):
                            self._remove_leftover(os.path.join(rel, name))
                        elif area == REJECTS and name.endswith(REASON):
                            self._write_reason_again(folder, rel, name)
        return faults

    def _write_reason_again(self, folder: Folder, rel: bytes, name: bytes) -> None:
        """Write a reason again if it belongs to this user and has no content: a power loss leaves such files."""
        status, file = folder.status(name), folder.status(name.removesuffix(REASON))
        if status is None or not stat.S_ISREG(status.st_mode) or not is_ours(status) or file is None:
            return
        if status.st_size > LARGEST_REASON or folder.read(name, LARGEST_REASON).strip(b"\0"):
            return
        upload = self._ledger.read.put_away_as(stamp_of(file), {UploadState.REJECTED})
        if upload is not None:
            archive.write_reason_again(self._root, os.path.join(rel, name), upload, self._done_marker)
            log.info(
                "%s: it had no usable content; the agent wrote it again", printable(os.fsdecode(os.path.join(rel, name)))
            )

    def _remove_leftover(self, path: bytes) -> None:
        """Remove a temporary file that an agent of this user began, or a link with its name."""
        with folder_of(self._root, path) as (folder, name):
            status = folder.status(name)
            if status is None or status.st_uid != os.geteuid() or stat.S_ISDIR(status.st_mode):
                return
            if self._claims.alone or self._now() - status.st_mtime > STALE_SECONDS:
                folder.unlink(name)

    def _take_stock(self, beat: Beat) -> Faults:
        known = self._ledger.read.receipts()
        found = survey(self._root, known, beat)
        for path in found.unfinished:
            self._remove_leftover(path)
        for path in [path for path in found.none if self._write_again(path, found)]:
            del found.none[path]
        for path, why in list(found.none.items())[:NAMED]:
            log.warning("%s: no receipt: %s; it is left out of the ledger", printable(os.fsdecode(path)), why)
        if len(found.none) > NAMED:
            log.warning("%d more files are no receipts", len(found.none) - NAMED)
        fresh = {path: mark for path, mark in found.marks.items() if known.get(path) != mark}
        gone = [] if found.faults else [path for path in known if path not in found.marks]
        if fresh or gone:
            self._ledger.adopt_uploads(found.new, fresh, gone)
        return found.faults

    def _write_again(self, path: bytes, found: Survey) -> bool:
        """Write a receipt again from the ledger; False if the ledger does not know its upload."""
        try:
            stamp = stamp_at(self._root, path.removesuffix(RECEIPT))
            upload = None if stamp is None else self._ledger.read.put_away_as(stamp, _DONE)
            if upload is None:
                return False
            confirmed = upload if upload.duplicate_of is None else self._ledger.read.upload(upload.duplicate_of)
            shards = self._ledger.read.shards(confirmed.id)
            found.marks[path] = archive.write_receipt_again(self._root, path, upload, confirmed, shards)
        except LocalFault as fault:
            log.warning("%s", fault)
            return False
        log.info("%s: it had no usable content; the agent wrote it again", printable(os.fsdecode(path)))
        return True

    def _finish_deletions(self, beat: Beat) -> Faults:
        done = (row for row in self._ledger.read.uploads_in_drop() if row.state in FINISHED)
        archive.finish_deletions(self._root, done, self._ledger.read.once_failed(), beat, deletes=self._deletes)
        return {}
