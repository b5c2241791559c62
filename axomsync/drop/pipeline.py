"""The steps of one file: check, deliver, put away. Each step is in the ledger before the next one begins.

Each step is a module: `checking`, `delivery` (with `put` for one object), `put_away`; `setbacks` records failures.

Failures handled: files too large for one PUT (`held`), compressed files for whose content there is no room (`held`, or they
wait for others to be done), a file that a gate does not let pass (`rejected`), a file whose content changed though its size
and time did not, a bug that one file triggers (the others go on), a crash between any two steps (the next life continues
from the ledger's row).
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from enum import Enum
from typing import Any

from axomsync.config import DropSettings
from axomsync.core.errors import Bug, Fatal, Forgotten, LocalFault, Rejected, SourceChanged, Stopping, Transient, UrlExpired
from axomsync.core.oserrors import unforeseen
from axomsync.core.records import Upload, UploadState
from axomsync.drop import source
from axomsync.drop.checking import Checker, correction
from axomsync.drop.claims import Claims
from axomsync.drop.content import Content, Contents, TooLarge
from axomsync.drop.delivery import Delivery
from axomsync.drop.digests import digest_of
from axomsync.drop.jsonl import Fault, InvalidDataset, nobody_listens
from axomsync.drop.put_away import PutAway
from axomsync.drop.recovery import Recovery
from axomsync.drop.setbacks import Setbacks
from axomsync.drop.settle import same_file
from axomsync.drop.spool import NoRoom, Spool
from axomsync.drop.watch import stamp_at
from axomsync.ledger import LedgerFault
from axomsync.runtime.gates import NotPassed
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)


class Outcome(Enum):
    """What became of a file that was carried."""

    LATER = "later"  # nothing was done: the same content is on its way
    SET_BACK = "set back"  # the file is the obstacle, which its row has
    HINDERED = "hindered"  # console, storage or this machine are, and the row has that
    DONE = "done"  # it went as far as it can: uploaded, a duplicate, rejected or held


class Uploader:
    """Carries files to storage, one for each call, from any number of threads.

    `reserve`: bytes of the state folder's disk that unpacked files leave free.
    """

    def __init__(self, settings: DropSettings, context: WorkerContext, reserve: int = 0) -> None:
        self._settings = settings
        self._stop = context.stop
        self._ledger = context.ledger
        self._spool = Spool(context.ledger.path.parent, reserve)
        self._contents = Contents(settings.folder, self._spool, math.inf if settings.shard else settings.max_put)
        claims = Claims(settings.folder, context.identity, keeps=settings.after == "keep")
        self._checker = Checker(settings, context.ledger)
        self._delivery = Delivery(settings, context, claims)
        self._put_away = PutAway(settings, context.ledger)
        self._setbacks = Setbacks(settings.folder, context)
        self.waits = self._setbacks.waits
        self._recovery = Recovery(settings, context.ledger, claims, self._delivery.content, context.now)

    def recover(self, beat: Beat) -> Mapping[bytes, LocalFault]:
        """Recover earlier lives' work in the drop folder; returns the obstacles, which need another call."""
        self._spool.sweep()
        return self._recovery.go_on(beat)

    def room(self) -> int:
        """Bytes that the content of a compressed file may have now."""
        return self._spool.room()

    @property
    def failed_tries(self) -> int:
        """Tries that failed so far and were followed by one that did not: they are in no row."""
        return self._delivery.failed_tries

    @property
    def is_recovered(self) -> bool:
        """True if no work of earlier lives is left to recover."""
        return self._recovery.is_done

    def carry(self, upload_row: int, beat: Beat) -> Outcome:
        """Carry one file as far as possible now. The ledger has the obstacle afterwards, if there is one.

        Raises `KeyRefused`, `Stopping`, `Forgotten`, and `LocalFault` if the ledger can't be written; all other failures
        concern only this file.
        """
        upload = self._ledger.read.upload(upload_row)
        try:
            went_on = self._carry(upload, beat)
            self._setbacks.end(upload)
            return Outcome.DONE if went_on else Outcome.LATER
        except SourceChanged as changed:
            self._setbacks.start_over(upload, changed)
        except LedgerFault:
            raise  # these concern all files
        except (Transient, UrlExpired, LocalFault) as failure:
            self._setbacks.wait(upload, failure)
            return Outcome.HINDERED
        except Rejected as refusal:
            self._setbacks.park(upload, UploadState.FAILED, f"{refusal}; when that is mended: `axomsync retry`")
        except (Stopping, Forgotten, Fatal):
            raise
        except Exception as bug:  # a bug that one file triggers must not stop the others
            met = unforeseen(bug)
            if isinstance(met, Bug) and self._setbacks.is_news(upload, met):
                log.exception("%s: unexpected failure", source.shown(upload.path))
            self._setbacks.wait(upload, met)
        return Outcome.SET_BACK

    def close(self) -> None:
        """End what was begun for carrying files, when none is carried any more."""
        self._checker.close()

    def _carry(self, upload: Upload, beat: Beat) -> bool:
        with closing(self._contents.of(upload)) as content:
            return self._carry_content(upload, content, beat)

    def _carry_content(self, upload: Upload, content: Content, beat: Beat) -> bool:
        invalid = None
        with self._delivery.head_start(upload) as head_start:
            if upload.state in (UploadState.SETTLING, UploadState.CHECKING, UploadState.REJECTED):
                good = nobody_listens if head_start is None else head_start.passed
                try:
                    upload, invalid = self._checker.check(upload, content, self._step(beat), good)
                except TooLarge as large:
                    self._hold(upload, str(large), unpacked=large.needed, sha256=None)
                    return True
                except NoRoom as full:
                    if full.shared:
                        raise LocalFault(str(full)) from None
                    self._setbacks.park(upload, UploadState.HELD, str(full), unpacked=full.needed, sha256=None)
                    return True
            if invalid is None and upload.state in (UploadState.QUEUED, UploadState.UPLOADING):
                if upload.size > self._settings.max_put and not self._ledger.read.shards(upload.id):
                    self._hold(upload, f"{upload.size} bytes")
                    return True
                try:
                    delivered = self._delivery.deliver(upload, content, beat, head_start)
                except NotPassed as no:
                    self._reject(upload, no, beat)
                    return True
                if delivered is None:
                    return False
                upload = delivered
        content.close()
        if invalid is not None:
            self._put_away.rejected(upload, invalid, self._step(beat))
        elif upload.state in (UploadState.UPLOADED, UploadState.DUPLICATE):
            upload = self._demand_same_bytes(upload, beat)
            self._put_away.uploaded(upload, self._step(beat))
            self._delivery.release(upload)
        return True

    def _reject(self, upload: Upload, no: NotPassed, beat: Beat) -> None:
        upload = self._ledger.record_rejected(upload.id, f"{no}; {correction(upload, self._settings.done_marker)}")
        self._put_away.rejected(upload, InvalidDataset([Fault(str(no))], Counter({str(no): 1})), self._step(beat))

    def _hold(self, upload: Upload, size: str, **changes: Any) -> None:
        reason = (
            f"{size} are more than storage takes in one PUT ([drop] max_put = {self._settings.max_put} bytes); "
            'set [drop] shard = "4GiB" to have it uploaded in parts that end at line ends'
        )
        self._setbacks.park(upload, UploadState.HELD, reason, **changes)

    def _demand_same_bytes(self, upload: Upload, beat: Beat) -> Upload:
        """Read an uploaded file again after a change of its ctime alone, and record its stamp. Raises `SourceChanged`."""
        root, path = self._settings.folder, upload.path
        stamp = None if source.is_pushed(path) else stamp_at(root, path)
        if stamp is None or stamp.ctime_ns == upload.stamp.ctime_ns or not same_file(stamp, upload.stamp):
            return upload
        with source.opened(root, path) as (file, stamp):
            if digest_of(file, stamp.size, self._step(beat)) != upload.file_sha256:
                raise SourceChanged("its content changed, though its size and time of modification did not")
        [upload] = self._ledger.touch_uploads([(upload.id, stamp)])
        return upload

    def _step(self, beat: Beat) -> Callable[[], None]:
        """Return the callback for long readings: it beats, and raises `Stopping` when the agent stops."""

        def step() -> None:
            beat()
            if self._stop.is_set():
                raise Stopping("the agent is stopping")

        return step
