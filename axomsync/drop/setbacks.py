"""Record of failures: each is written into the file's row and logged once, with the time of the next try.

Failures handled: a file that changes during its upload (it starts over; the key of a possible old object is not handed out),
a file that reads differently each time though its stamp stays (a failed try), any failure of a try (the row backs off), a
failure that only a person can fix (the row is parked).
"""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from axomsync.core.errors import AxomsyncError, LocalFault, SourceChanged, Transient
from axomsync.core.policy import backoff, without_request
from axomsync.core.records import Upload, UploadState
from axomsync.drop.settle import same_file
from axomsync.drop.source import shown
from axomsync.drop.watch import stamp_at
from axomsync.runtime.waits import Waits
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)


class Setbacks:
    """Records failures of files; from any thread. `root` is the drop folder."""

    def __init__(self, root: Path, context: WorkerContext) -> None:
        self._root = root
        self._context = context
        self._ledger = context.ledger
        self.waits = Waits(context.now, context.clock)
        self._told: dict[int, str] = {}  # last logged line of each file, so that it is not logged again

    def end(self, upload: Upload) -> None:
        """Forget the last logged failure: the file made progress."""
        self._told.pop(upload.id, None)

    def start_over(self, upload: Upload, changed: SourceChanged) -> None:
        """Let a changed file settle and be checked again; delete its row if the file is gone."""
        current = self._ledger.read.upload(upload.id)
        try:
            stamp = stamp_at(self._root, upload.path)
        except LocalFault as fault:
            self.wait(upload, fault)
            return
        is_done = current.state in (UploadState.UPLOADED, UploadState.DUPLICATE)
        if stamp is not None and same_file(stamp, upload.stamp) and not is_done:
            # The file reads differently each time though its stamp stays: no new file, and endless without a pause.
            self.wait(upload, Transient(f"{changed}, though its time stamps are the same"), anew=True)
            return
        log.info("%s: %s", shown(upload.path), changed)
        if stamp is None:
            self._ledger.forget_uploads([upload.path])
        elif is_done:
            self._ledger.record_moved_away(upload.id).result()  # the file with that name now is another one
        else:
            self._ledger.restamp(upload.id, stamp, UploadState.SETTLING, str(changed)).result()

    def wait(self, upload: Upload, failure: AxomsyncError, *, anew: bool = False) -> None:
        """Back off. With `anew`, the next try checks the file again."""
        current = self._ledger.read.upload(upload.id)
        attempts = current.attempts + 1
        retry_after = failure.retry_after if isinstance(failure, Transient) else None
        due = self.waits.begin(upload.id, backoff(attempts, self._context.random, retry_after))
        state = {UploadState.UPLOADING: UploadState.QUEUED, UploadState.CHECKING: UploadState.SETTLING}.get(
            current.state, current.state
        )
        if self.is_news(upload, failure):
            self._told[upload.id] = without_request(str(failure))
            log.warning("%s: %s; tried again later", shown(upload.path), failure)
        stamp = None
        with suppress(LocalFault):  # an unreadable file is already the recorded failure
            stamp = stamp_at(self._root, upload.path)
        if anew:
            state, stamp = UploadState.SETTLING, current.stamp
        if stamp is not None and state is UploadState.SETTLING and (anew or stamp != current.stamp):
            self._ledger.restamp(upload.id, stamp, state)  # so that another change ends the pause
        self._ledger.move_upload(upload.id, state, attempts=attempts, next_attempt=due, reason=str(failure)).result()

    def is_news(self, upload: Upload, failure: AxomsyncError) -> bool:
        """True if `wait` would log this failure: it differs from the last one logged for the file."""
        return self._told.get(upload.id) != without_request(str(failure))

    def park(self, upload: Upload, state: UploadState, reason: str, **changes: Any) -> None:
        """Leave the file `held` or `failed` until a person acts or there is room, with these `changes` of its row."""
        log.warning("%s: %s: %s", shown(upload.path), state, reason)
        self._ledger.move_upload(upload.id, state, reason=reason, next_attempt=None, **changes).result()
