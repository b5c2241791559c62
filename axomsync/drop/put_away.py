"""Last step of a file: archived with a receipt, deleted or left (`[drop] after`), or moved to `rejected/` with the reason.

A file is deleted only if this agent itself saw storage confirm it; without that proof it is archived.

Failures handled: a folder or disk that can't take the file (`LocalFault`, which also tells that the file was uploaded), a
file that a program still writes to (`Transient`, likewise), a file that changed at the last moment (`SourceChanged`).
"""

import logging
from collections.abc import Callable

from axomsync.config import DropSettings
from axomsync.core.errors import LocalFault, Transient
from axomsync.core.records import Upload, UploadState
from axomsync.drop import archive, jsonl, source
from axomsync.drop.delivery import same_as
from axomsync.ledger import Ledger

log = logging.getLogger(__name__)

NOT_DELETED = (
    "archived and not deleted: storage's ETag looks like an MD5 and is another, so only its word says that it has the bytes"
)


class PutAway:
    """Puts files away, one for each call, from any thread."""

    def __init__(self, settings: DropSettings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger

    def uploaded(self, upload: Upload, step: Callable[[], None]) -> None:
        """Put away a file that storage has."""
        root, after = self._settings.folder, self._settings.after
        if source.is_pushed(upload.path):
            self._ledger.record_moved_away(upload.id)  # it is a file of `push`, and stays in its place
            return
        if after == "keep":
            return
        confirmed = upload if upload.duplicate_of is None else self._ledger.read.upload(upload.duplicate_of)
        # A file without proof from this agent itself is not deleted, for example if `after` had another value before.
        seen = after == "delete" and confirmed.state is UploadState.UPLOADED and confirmed.was_seen
        if seen and confirmed.doubtful:
            log.warning("%s: %s", source.shown(upload.path), NOT_DELETED)
        deletes = seen and not confirmed.doubtful
        shards = [] if deletes else self._ledger.read.shards(confirmed.id)
        receipt = None
        try:
            if deletes:
                archive.delete(root, upload, step)
            else:
                receipt = archive.archive(root, upload, confirmed, shards, step)
            archive.remove_marker(root, upload, self._settings.done_marker)
        except (LocalFault, Transient) as fault:
            raise type(fault)(f"uploaded, but it can't be put away: {fault}") from None
        if upload.attempts:
            reason = None if upload is confirmed else same_as(confirmed.upload_id, upload)
            self._ledger.move_upload(upload.id, upload.state, reason=reason, next_attempt=None)
        self._ledger.record_moved_away(upload.id, receipt)

    def rejected(self, upload: Upload, invalid: jsonl.InvalidDataset, step: Callable[[], None]) -> None:
        """Put away a file that is no dataset."""
        root = self._settings.folder
        if source.is_pushed(upload.path):
            self._ledger.record_moved_away(upload.id)
            return
        try:
            archive.set_aside(root, upload, invalid, self._settings.done_marker, step)
            archive.remove_marker(root, upload, self._settings.done_marker)
        except LocalFault as fault:
            raise LocalFault(f"rejected: {invalid}; it can't be moved to rejected/: {fault}") from None
        log.warning("%s: rejected: %s", source.shown(upload.path), upload.reason)
        self._ledger.record_moved_away(upload.id)
