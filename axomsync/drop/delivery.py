"""Delivery of one checked file: PUT and confirmation, unless the same content was uploaded before.

Failures handled: another file, or another agent on the same folder, that carries the same content now (this file waits) or
did so before (this file is a duplicate); a twin that was begun before (it goes first, or, if it has failed, hands on its
signed URL: storage may have the content under its key); a file that changed since its check, or while a gate looks at it; a
gate that does not let it pass; a shard that fails (confirmed shards are not sent again). `put` handles the failures of one
PUT.
"""

import logging
import math
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

from axomsync.config import DropSettings
from axomsync.core.errors import Forgotten, LocalFault, Rejected, SourceChanged, Transient
from axomsync.core.records import Shard, Stamp, Stored, Upload, UploadState
from axomsync.core.text import printable
from axomsync.drop import source
from axomsync.drop.claims import TOUCH_SECONDS, Claims
from axomsync.drop.content import Content
from axomsync.drop.forgetting import content_of
from axomsync.drop.head_start import HeadStart, is_worth_it
from axomsync.drop.names import packing_of
from axomsync.drop.put import Body, ObjectPut, Part, Whole
from axomsync.drop.settle import same_file
from axomsync.drop.spool import NoRoom
from axomsync.drop.watch import stamp_of
from axomsync.runtime.habits import Habits
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.meter import Gauge
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)

SHARDS_AT_ONCE = 8


class Files(NamedTuple):
    """What is sent: `opened` gives the descriptor of the bytes once they are needed, `dropped` that of the dropped file."""

    opened: Callable[[], int]
    dropped: int


class Delivery:
    """Delivers files, one for each call, from any thread."""

    def __init__(self, settings: DropSettings, context: WorkerContext, claims: Claims) -> None:
        self._settings = settings
        self._context = context
        self._ledger = context.ledger
        self._habits = Habits(context.ledger)
        self._claims = claims
        self._busy_lock = threading.Lock()
        self._busy: set[str] = set()  # contents that this process carries
        self.failed_tries = 0  # of PUTs that storage confirmed in the end; `_busy_lock` guards it
        self._passed: dict[int, str] = {}  # by row: the content for which the gate said yes

    @contextmanager
    def head_start(self, upload: Upload) -> Iterator[HeadStart | None]:
        """Let the PUT of an unchecked file begin, if it may; it ends with the block.

        It may not where the file goes up in shards, or not yet, or is likely to be there already.
        """
        settings, size = self._settings, upload.size
        may = (
            is_worth_it(size)
            and size <= min(settings.max_put, math.inf if settings.shard is None else settings.shard)
            and upload.state in (UploadState.SETTLING, UploadState.CHECKING)
            and not upload.attempts
            and packing_of(upload.path) is None
            and not self._context.gates.before_upload.is_there
            and self._claims.alone
            and not self._ledger.read.others_of_size(upload)
        )
        if not may:
            yield None
            return
        with self._context.meter.transfer("up", source.shown(upload.path), size) as gauge:
            begun = HeadStart(settings, self._context, upload, gauge)
            begun.begin()
            try:
                yield begun
            finally:
                begun.end()

    def deliver(self, upload: Upload, content: Content, beat: Beat, head_start: HeadStart | None) -> Upload | None:
        """Deliver the content, of which a PUT may have begun; returns the row once storage has confirmed it.

        Returns None if this process carries the same content under another row now, or if an earlier life began with that
        row; look again when that row is done.
        """
        begun = self._begun_by_twins(upload)
        if any(self._goes_first(other) for other in begun):  # before the content is held: the other would find it busy
            return None
        with self._alone(upload) as mine:
            return self._deliver(upload, content, beat, begun, head_start) if mine else None

    def release(self, upload: Upload) -> None:
        """Let other agents take this content."""
        self._passed.pop(upload.id, None)
        self._claims.release(self.content(upload))

    def content(self, upload: Upload) -> str:
        """Identity of the content: two files with the same identity are one upload."""
        return content_of(upload.sha256, upload.filename, named=self._named)

    def _deliver(
        self, upload: Upload, opening: Content, beat: Beat, begun: Sequence[Upload], head_start: HeadStart | None
    ) -> Upload:
        content = self.content(upload)
        # A file may be deleted only if this agent itself sent it: of others it only knows another agent's word.
        deletes = self._settings.after == "delete"
        name = upload.filename if self._named else None
        twin = self._ledger.read.same_content(upload.sha256 or "", name, sent=deletes)
        if twin is not None:
            return self._record_duplicate(upload, Stored(twin.upload_id, twin.key, twin.etag), twin.id)
        other = self._claims.take(content)
        if other is not None:
            raise Transient(f"another agent ({printable(other)}) is uploading the same content; this file waits for it")
        if not deletes and (record := self._claims.record(content)) is not None:
            return self._record_duplicate(upload, record, None)
        if (begun_as := next((row for row in begun if row.filename == upload.filename), None)) is not None:
            self._ledger.take_over_presigned(upload.id, begun_as.id)
            upload = self._ledger.read.upload(upload.id)
        try:
            upload = self._send(upload, opening, self._touching(content, beat), head_start)
        except (Rejected, SourceChanged, Forgotten):
            self._claims.release(content)
            raise
        shards_of_it = tuple(self._ledger.read.shards(upload.id))
        self._claims.settle(content, Stored(upload.upload_id, upload.key, upload.etag, shards_of_it))
        return upload

    def _record_duplicate(self, upload: Upload, stored: Stored, twin: int | None) -> Upload:
        reason = same_as(stored.upload_id, upload)
        upload = self._ledger.record_duplicate(upload.id, stored, twin, reason)
        log.info("%s: %s; not uploaded again", source.shown(upload.path), reason)
        return upload

    # Sending

    def _send(self, upload: Upload, content: Content, beat: Beat, head_start: HeadStart | None) -> Upload:
        with content.opened() as (file, stamp):
            if not same_file(stamp, upload.stamp):
                raise SourceChanged("the file changed before it was uploaded")
            files = Files(partial(self._unpacked, content, upload, file, stamp, beat), file)
            self._pass_gate(upload, files, beat)
            planned = self._ledger.read.shards(upload.id)
            done = sum(shard.end - shard.start for shard in planned if shard.uploaded)
            with self._shown(upload, done, head_start) as gauge:
                if planned:
                    self._put_shards(upload, planned, files, gauge, beat)
                    upload = self._ledger.record_uploaded(upload.id, None, None)
                else:
                    whole = Whole(self._ledger, upload)
                    self._put(whole, files, gauge, beat, head_start)
                    upload = whole.upload
        as_what = f"{len(planned)} shards" if planned else f"{printable(upload.key or '')} (upload {upload.upload_id})"
        log.info("%s: uploaded as %s", source.shown(upload.path), as_what)
        return upload

    def _shown(self, upload: Upload, done: int, head_start: HeadStart | None) -> AbstractContextManager[Gauge]:
        """The gauge of the upload; one that has begun is shown already, unless the file has grown since."""
        if head_start is not None and head_start.gauge.total == upload.size:
            return nullcontext(head_start.gauge)
        return self._context.meter.transfer("up", source.shown(upload.path), upload.size, done)

    def _pass_gate(self, upload: Upload, files: Files, beat: Beat) -> None:
        """Ask the gate, once for a content. Raises `NotPassed`, `Transient`, `SourceChanged`.

        It gets the descriptor from which the bytes are sent, not a path, which may lead to another file a moment later. The
        last bytes of a PUT are sent only if all are the checked ones, so what it passed is what is uploaded.
        """
        gate = self._context.gates.before_upload
        if not gate.is_there or (upload.sha256 and self._passed.get(upload.id) == upload.sha256):
            return
        descriptor, before = files.opened(), stamp_of(os.fstat(files.dropped))
        gate.ask(upload, f"/dev/fd/{descriptor}", self._context.stop, beat, (descriptor,))
        if stamp_of(os.fstat(files.dropped)) != before:
            raise SourceChanged("the file changed while [hooks] before_upload looked at it")
        if upload.sha256:
            self._passed[upload.id] = upload.sha256

    def _unpacked(self, content: Content, upload: Upload, file: int, stamp: Stamp, beat: Beat) -> int:
        """Open the bytes to send. Raises `LocalFault` if there is no room for them now."""

        def step() -> None:
            beat()
            self._context.demand_no_stop()

        try:
            return content.body(file, stamp, step, upload).file
        except NoRoom as full:  # there was room before, so it waits
            raise LocalFault(str(full)) from None

    def _put_shards(self, upload: Upload, planned: list[Shard], files: Files, gauge: Gauge, beat: Beat) -> None:
        """Send several shards at once; each is tried by itself, and confirmed ones are not sent again."""
        if upload.state is not UploadState.UPLOADING:
            self._ledger.move_upload(upload.id, UploadState.UPLOADING, reason=None, next_attempt=None).result()
        with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard") as pool:
            puts = [
                pool.submit(self._put, Part(self._ledger, upload, shard), files, gauge, beat)
                for shard in planned
                if not shard.uploaded
            ]
            failures = [failure for put in puts if (failure := put.exception()) is not None]
        if failures:
            raise min(failures, key=lambda failure: isinstance(failure, Transient))  # failures for a person come first

    def _put(self, body: Body, files: Files, gauge: Gauge, beat: Beat, head_start: HeadStart | None = None) -> None:
        folder, content_type, upload = self._settings.folder, self._settings.content_type, body.upload
        is_proven = body.proof is not None
        dropped = source.OpenSource(folder, upload.path, files.dropped, upload.stamp, is_proven=is_proven)
        put = ObjectPut(self._context, self._habits, content_type, body, files.opened, dropped, gauge, beat, head_start)
        if failed := put.run():
            with self._busy_lock:
                self.failed_tries += failed

    def _touching(self, content: str, beat: Beat) -> Beat:
        """Extend `beat`: it also renews the claim from time to time."""
        touched = time.monotonic()

        def beat_and_touch() -> None:
            nonlocal touched
            beat()
            if time.monotonic() - touched > TOUCH_SECONDS:
                touched = time.monotonic()
                self._claims.touch(content)

        return beat_and_touch

    # Other files with the same content

    @property
    def _named(self) -> bool:
        """True if the same content under another name is another upload (`dedupe`)."""
        return self._settings.dedupe == "name"

    @contextmanager
    def _alone(self, upload: Upload) -> Iterator[bool]:
        """Hold this content for the block; yields False if another thread of this process has it."""
        content = self.content(upload)
        with self._busy_lock:
            mine = content not in self._busy
            self._busy.add(content)
        try:
            yield mine
        finally:
            if mine:
                self._busy.discard(content)

    def _begun_by_twins(self, upload: Upload) -> list[Upload]:
        """Other rows of the same content that were begun before: storage may have it under the key of one already."""
        if source.is_pushed(upload.path):
            return []
        return self._ledger.read.begun_before(upload, upload.filename if self._named else None)

    def _goes_first(self, other: Upload) -> bool:
        """True for a begun twin, until it is done or has failed; one whose file is out of reach now is not waited for."""
        return other.next_attempt is None and source.is_in_reach(self._settings.folder, other.path)


def same_as(upload_id: str | None, upload: Upload) -> str:
    """Reason why a duplicate is not sent, with the way to send it anyway."""
    known = f"the same content was uploaded before ({f'upload {upload_id}' if upload_id else 'in shards'})"
    again = "push it again" if source.is_pushed(upload.path) else "drop it again"
    return f"{known}; to have it sent anew: `axomsync forget {shlex.quote(source.shown(upload.path))}`, then {again}"
