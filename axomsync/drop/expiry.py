"""Removal of old archived files (`[drop] archive_for`), and the amount that `uploaded/` and `rejected/` hold.

A file is removed when its receipt is old enough and names the file's bytes: they are read again to check that. The receipt
stays. Only receipts that this agent's user or root has made count. Files in `rejected/` are for people, and stay.

Failures handled: files without a receipt or with other bytes than it names (left alone), links, pipes and folders (never
followed, left alone), a clock ahead of the console's (the console's is used), a console that nobody has asked anything yet
(it is asked, so that it tells its time), or that does not answer (nothing is removed until it has told its time), a folder
or file that can't be read or removed (logged once; the others go on), a ledger that can't be written (the agent reports
that).
"""

import json
import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from axomsync.config import DropSettings
from axomsync.core.documents import NotADocument
from axomsync.core.errors import KeyRefused, LocalFault, Rejected, Stopping, Transient
from axomsync.core.folders import Folder
from axomsync.core.paths import ARCHIVE, REASON, RECEIPT, REJECTS, UNFINISHED
from axomsync.core.records import Receipt
from axomsync.core.text import printable
from axomsync.drop.digests import digest_of
from axomsync.drop.receipts import folders_below, read_receipt
from axomsync.drop.watch import folder_fault, stamp_of
from axomsync.ledger.facts import PUT_AWAY
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)

LOOK_SECONDS = 3600.0
NAP_SECONDS = 5.0
NOTES = (RECEIPT, REASON)  # suffixes of the agent's files beside the dropped ones


class Amount:
    """A number of files, and the sum of their bytes."""

    def __init__(self) -> None:
        self.files = self.bytes = 0

    def add(self, size: int) -> None:
        """Count one more file."""
        self.files += 1
        self.bytes += size

    def document(self) -> dict[str, int]:
        """The JSON for `status`."""
        return {"files": self.files, "bytes": self.bytes}


class Expiry:
    """Scans both folders. `run` is its thread, since reading a large archive takes long; `look` is one scan, for `sync`."""

    name = "archive"
    subject = "drop archive"

    def __init__(self, settings: DropSettings, context: WorkerContext) -> None:
        self._root, self._keep = settings.folder, settings.archive_for
        self._context = context
        self._looked_at: float | None = None  # monotonic time
        self._has_removed = False  # that look knew which files are old
        self._told: set[str] = set()  # faults that were logged

    def run(self) -> None:
        """Work until the agent stops."""
        with self._context.liveness.worker(self.name) as beat:
            while not self._context.stop.wait(NAP_SECONDS):
                beat()
                with suppress(Stopping, LocalFault):  # the drop folder's own worker reports its faults
                    self.look(beat)

    def look(self, beat: Callable[[], None]) -> None:
        """Remove old files and record the amount that is left, once an hour; earlier when the console has told its time.

        `beat` is called repeatedly. Raises `LocalFault`, and `Stopping` when the agent stops.
        """
        clock, oldest = self._context.clock(), self._oldest()
        is_recent = self._looked_at is not None and clock - self._looked_at < LOOK_SECONDS
        if is_recent and (self._has_removed or oldest is None):
            return
        if self._keep is not None and oldest is None:
            self._ask_for_time(beat)
            oldest = self._oldest()

        def step() -> None:
            beat()
            if self._context.stop.is_set():
                raise Stopping("the agent is stopping")

        faults: dict[bytes, LocalFault] = {}
        removed, archived, rejected = Amount(), Amount(), Amount()
        try:
            with Folder.open(self._root) as top:
                for area, held, before in ((ARCHIVE, archived, oldest), (REJECTS, rejected, None)):
                    for rel, folder, names in folders_below(top, area, faults, step):
                        for name in names:
                            step()
                            if not (name.endswith(NOTES) or name.startswith(UNFINISHED)):
                                self._take(_Archived(folder, rel, name), before, held, removed, step)
        except OSError as error:
            raise folder_fault(error) from None
        for fault in faults.values():
            self._tell(fault)
        if removed.files:
            files = f"{removed.files} archived file{'s' * (removed.files > 1)} of {removed.bytes} bytes"
            log.info("%s removed, as [drop] archive_for says; the receipts stay", files)
        with suppress(LocalFault):
            held_now = {os.fsdecode(ARCHIVE): archived.document(), os.fsdecode(REJECTS): rejected.document()}
            self._context.ledger.set_facts(**{PUT_AWAY: json.dumps(held_now)})
        self._looked_at, self._has_removed = clock, oldest is not None

    def _ask_for_time(self, beat: Callable[[], None]) -> None:
        """Have the console answer, with its time: who uploads nothing and mirrors nothing asks it nothing else."""
        with suppress(Transient, Rejected, KeyRefused, LocalFault):  # a refusal has the time, too
            self._context.console.base_models(beat)

    def _oldest(self) -> float | None:
        """The time before which a receipt is old enough; None while no file may be removed."""
        ahead = self._context.console.clock_ahead
        if self._keep is None or ahead is None:
            return None
        return self._context.now() + min(0.0, ahead) - self._keep

    def _take(
        self, file: "_Archived", oldest: float | None, held: Amount, removed: Amount, step: Callable[[], None]
    ) -> None:
        try:
            status = file.folder.status(file.name)
            if status is None or not stat.S_ISREG(status.st_mode):
                return
            if oldest is not None and file.is_proven(status.st_size, oldest, step):
                file.folder.unlink(file.name)
                removed.add(status.st_size)
            else:
                held.add(status.st_size)
        except OSError as error:
            self._tell(folder_fault(error))

    def _tell(self, fault: LocalFault) -> None:
        if str(fault) not in self._told:
            self._told.add(str(fault))
            log.warning("%s", fault)


class _Archived:
    """The file `name` in the open `folder`, which lies at `rel` below the drop folder."""

    def __init__(self, folder: Folder, rel: bytes, name: bytes) -> None:
        self.folder, self._rel, self.name = folder, rel, name

    def is_proven(self, size: int, oldest: float, step: Callable[[], None]) -> bool:
        """Check that a receipt from before `oldest` names exactly the file's bytes. Raises `OSError`."""
        written = self.folder.status(self.name + RECEIPT)
        if written is None or written.st_mtime >= oldest:  # a duplicate's receipt names the time of the first upload
            return False
        receipt = self._receipt()
        if receipt is None or receipt.file_bytes != size or receipt.at >= oldest:
            return False
        file = self.folder.open_file(self.name)
        try:
            before = stamp_of(os.fstat(file))
            same = digest_of(file, size, step) == receipt.file_sha256
            there = self.folder.status(self.name)  # the file may have been changed or replaced
            return same and there is not None and stamp_of(there) == before
        finally:
            os.close(file)

    def _receipt(self) -> Receipt | None:
        place = os.path.join(self._rel, self.name + RECEIPT)
        try:
            return read_receipt(self.folder, self.name + RECEIPT, place.removeprefix(ARCHIVE + b"/"))
        except NotADocument as why:
            log.debug("%s: no receipt: %s", printable(os.fsdecode(place)), why)
            return None
