"""The way of one file: check, presign, PUT, confirm, put away. Every step is in the ledger before the next begins.

Failures handled: a file that changes on the way (it starts over; what storage may have under its old key is not handed out),
one that reads differently each time though nothing else tells (a try that failed), files too large for one PUT (`held`),
another file or another agent on the same folder that carries the same content, a disk that can't take the archive, a crash
between any two steps. Those of the PUT itself are in `put`.
"""

import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

from axomsync.config import DropSettings
from axomsync.core.errors import AxomsyncError, Fatal, LocalFault, Rejected, SourceChanged, Stopping, Transient, UrlExpired
from axomsync.core.oserrors import local_fault
from axomsync.core.policy import backoff, without_request
from axomsync.core.records import Segment, Shard, Stamp, Stored, Upload, UploadState
from axomsync.core.text import printable
from axomsync.drop import archive, jsonl, shards
from axomsync.drop.claims import TOUCH_SECONDS, Claims
from axomsync.drop.digests import digest_of
from axomsync.drop.documents import repeated_document
from axomsync.drop.forgetting import content_of
from axomsync.drop.put import Body, ObjectPut, Part, Whole
from axomsync.drop.recovery import Recovery
from axomsync.drop.repeats import repeated_words
from axomsync.drop.settle import same_file
from axomsync.drop.watch import folder_of, stamp_at, stamp_of
from axomsync.ledger import LedgerFault
from axomsync.runtime.habits import Habits
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.meter import Gauge
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)

SHARDS_AT_ONCE = 8
NOT_DELETED = (
    "archived and not deleted: storage's ETag looks like an MD5 and is another, so only its word says that it has the bytes"
)


class Uploader:
    """Carries files to storage; one call a file, from as many threads as one likes."""

    def __init__(self, settings: DropSettings, context: WorkerContext) -> None:
        self._settings = settings
        self._context = context
        self._ledger = context.ledger
        self._habits = Habits(context.ledger)
        self.claims = Claims(settings.folder, context.identity, keeps=settings.after == "keep")
        self._recovery = Recovery(settings, context.ledger, self.claims, self._content, context.now)
        self._busy: set[str] = set()  # contents that this process carries
        self._busy_lock = threading.Lock()
        self._told: dict[int, str] = {}  # what was last logged about a file, so that no repeat is

    def recover(self) -> Mapping[bytes, LocalFault]:
        """Take up what earlier lives left in the drop folder; returns what is in the way, to be called again then."""
        return self._recovery.go_on()

    @property
    def is_recovered(self) -> bool:
        """Whether nothing of earlier lives is left to take up."""
        return self._recovery.is_done

    def carry(self, upload_row: int, beat: Beat) -> bool:
        """Take one file as far as it can go now. What keeps it is in the ledger afterwards.

        Returns False when nothing was done because the same content is on its way under the same name: this one is to
        be looked at again after that. Raises `KeyRefused` and `Stopping`, and `LocalFault` when the ledger can't be
        written; everything else is the file's own affair.
        """
        upload = self._ledger.read.upload(upload_row)
        try:
            went_on = self._carry(upload, beat)
            self._told.pop(upload.id, None)
            return went_on
        except SourceChanged as changed:
            self._start_over(upload, changed)
        except LedgerFault:
            raise  # no affair of the file's
        except (Transient, UrlExpired, LocalFault) as failure:
            self._wait(upload, failure)
        except Rejected as refusal:
            self._park(upload, UploadState.FAILED, f"{refusal}; when that is mended: `axomsync retry`")
        except (Stopping, Fatal):
            raise
        except Exception as bug:  # one file that trips a bug must not stop the others
            unexpected = Transient(f"unexpected {type(bug).__name__}: {bug}; please report it")
            if self._told.get(upload.id) != str(unexpected):
                log.exception("%s: unexpected failure", _shown(upload.path))
            self._wait(upload, unexpected)
        return True

    def _carry(self, upload: Upload, beat: Beat) -> bool:
        if upload.state in (UploadState.SETTLING, UploadState.CHECKING, UploadState.REJECTED):
            upload, invalid = self._check(upload, beat)
            if invalid is not None:
                self._set_aside(upload, invalid, self._step(beat))
                return True
        if upload.state in (UploadState.QUEUED, UploadState.UPLOADING):
            if upload.stamp.size > self._settings.max_put and not self._ledger.read.shards(upload.id):
                self._hold(upload)
                return True
            if self._yields(upload):  # before it holds the content: the other one would find it busy
                return False
            with self._alone(upload) as mine:
                if not mine:
                    return False
                upload = self._deliver(upload, beat)
        if upload.state in (UploadState.UPLOADED, UploadState.DUPLICATE):
            upload = self._demand_same_bytes(upload, beat)
            self._put_away(upload, self._step(beat))
            self.claims.release(self._content(upload))
        return True

    def _demand_same_bytes(self, upload: Upload, beat: Beat) -> Upload:
        """Of an uploaded file whose ctime alone is another now: read it again, note its stamp. Raises `SourceChanged`."""
        stamp = None if upload.path.startswith(b"/") else stamp_at(self._settings.folder, upload.path)
        if stamp is None or stamp.ctime_ns == upload.stamp.ctime_ns or not same_file(stamp, upload.stamp):
            return upload
        with self._opened(upload.path) as (file, stamp):
            if digest_of(file, stamp.size, self._step(beat)) != upload.sha256:
                raise SourceChanged("its content changed, though its size and time of modification did not")
        [upload] = self._ledger.touch_uploads([(upload.id, stamp)])
        return upload

    # Checking

    def _check(self, upload: Upload, beat: Beat) -> tuple[Upload, jsonl.InvalidDataset | None]:
        with self._opened(upload.path) as (file, stamp):
            if stamp != upload.stamp:
                self._ledger.restamp(upload.id, stamp, UploadState.SETTLING, upload.reason)
            self._ledger.move_upload(upload.id, UploadState.CHECKING)
            try:
                ranges = self._ranges(file, stamp.size)
                checked = jsonl.check(file, stamp.size, self._settings.validate_, self._step(beat), shards=ranges)
            except jsonl.InvalidDataset as invalid:
                self._still(file, upload.path, stamp)
                reason = f"{invalid}; {_correction(upload)}"
                changes = {"reason": reason, "next_attempt": None}
                return self._ledger.move_upload(upload.id, UploadState.REJECTED, **changes).result(), invalid
            self._still(file, upload.path, stamp)
        names = [shards.shard_name(upload.filename, number, len(ranges)) for number in range(1, len(ranges) + 1)]
        upload = self._ledger.record_check(upload.id, stamp, checked, zip(names, ranges, strict=True)).result()
        if (warning := repeated_words(repeated_document(upload.repeated), upload.lines)) is not None:
            log.warning("%s: %s; it is uploaded as it is", _shown(upload.path), warning)
        return upload, None

    def _ranges(self, file: int, size: int) -> list[Segment]:
        """The ranges that a file goes up in; none when it goes up whole."""
        shard = self._settings.shard
        return [] if shard is None or size <= shard else shards.plan(file, size, shard)

    def _hold(self, upload: Upload) -> None:
        size, most = upload.stamp.size, self._settings.max_put
        reason = (
            f"{size} bytes are more than storage takes in one PUT ([drop] max_put = {most} bytes); "
            'set [drop] shard = "4GiB" to have it uploaded in parts that end at line ends'
        )
        self._park(upload, UploadState.HELD, reason)

    # Delivering

    def _deliver(self, upload: Upload, beat: Beat) -> Upload:
        content = self._content(upload)
        # What is deleted must have been sent by this agent itself: others say of the rest that it was uploaded.
        deletes = self._settings.after == "delete"
        name = upload.filename if self._named else None
        twin = self._ledger.read.same_content(upload.sha256 or "", name, sent=deletes)
        if twin is not None:
            return self._record_duplicate(upload, Stored(twin.upload_id, twin.key, twin.etag), twin.id)
        other = self.claims.take(content)
        if other is not None:
            raise Transient(f"another agent ({printable(other)}) has this content under way")
        if not deletes and (record := self.claims.record(content)) is not None:
            return self._record_duplicate(upload, record, None)
        try:
            upload = self._send(upload, self._touching(content, beat))
        except (Rejected, SourceChanged):
            self.claims.release(content)
            raise
        shards_of_it = tuple(self._ledger.read.shards(upload.id))
        self.claims.settle(content, Stored(upload.upload_id, upload.key, upload.etag, shards_of_it))
        return upload

    def _record_duplicate(self, upload: Upload, stored: Stored, twin: int | None) -> Upload:
        reason = _same_as(stored.upload_id, upload)
        upload = self._ledger.record_duplicate(upload.id, stored, twin, reason)
        log.info("%s: %s; not uploaded again", _shown(upload.path), reason)
        return upload

    def _send(self, upload: Upload, beat: Beat) -> Upload:
        with self._opened(upload.path) as (file, stamp):
            if not same_file(stamp, upload.stamp):
                raise SourceChanged("the file changed before it was uploaded")
            planned = self._ledger.read.shards(upload.id)
            done = sum(shard.end - shard.start for shard in planned if shard.uploaded)
            with self._context.meter.transfer("up", _shown(upload.path), stamp.size, done) as gauge:
                if planned:
                    self._put_shards(upload, planned, file, gauge, beat)
                    upload = self._ledger.record_uploaded(upload.id, None, None)
                else:
                    whole = Whole(self._ledger, upload)
                    self._put(whole, file, gauge, beat)
                    upload = whole.upload
        as_what = f"{len(planned)} shards" if planned else f"{printable(upload.key or '')} (upload {upload.upload_id})"
        log.info("%s: uploaded as %s", _shown(upload.path), as_what)
        return upload

    def _put_shards(self, upload: Upload, planned: list[Shard], file: int, gauge: Gauge, beat: Beat) -> None:
        """Several at once; each is tried by itself, and what is confirmed is not sent again."""
        if upload.state is not UploadState.UPLOADING:
            self._ledger.move_upload(upload.id, UploadState.UPLOADING, reason=None, next_attempt=None).result()
        with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard") as pool:
            puts = [
                pool.submit(self._put, Part(self._ledger, upload, shard), file, gauge, beat)
                for shard in planned
                if not shard.uploaded
            ]
            failures = [failure for put in puts if (failure := put.exception()) is not None]
        if failures:
            raise min(failures, key=lambda failure: isinstance(failure, Transient))  # what a person must see comes first

    def _put(self, body: Body, file: int, gauge: Gauge, beat: Beat) -> None:
        upload = body.upload
        content_type, still = self._settings.content_type, partial(self._still, file, upload.path, upload.stamp)
        ObjectPut(self._context, self._habits, content_type, body, file, gauge, beat, still).run()

    # Putting away

    def _put_away(self, upload: Upload, step: Callable[[], None]) -> None:
        root, after = self._settings.folder, self._settings.after
        if upload.path.startswith(b"/"):
            self._ledger.record_moved_away(upload.id)  # `push` was given it, and it stays where it is
            return
        if after == "keep":
            return
        confirmed = upload if upload.duplicate_of is None else self._ledger.read.upload(upload.duplicate_of)
        receipt = None
        try:
            # Without proof from this agent itself a file is not deleted, as when `after` was another one until now.
            seen = after == "delete" and confirmed.state is UploadState.UPLOADED and confirmed.was_seen
            if seen and confirmed.doubtful:
                log.warning("%s: %s", printable(os.fsdecode(upload.path)), NOT_DELETED)
            if seen and not confirmed.doubtful:
                archive.delete(root, upload, step)
            else:
                receipt = archive.archive(root, upload, confirmed, self._ledger.read.shards(confirmed.id), step)
            archive.remove_marker(root, upload, self._settings.done_marker)
        except (LocalFault, Transient) as fault:
            raise type(fault)(f"uploaded, but it can't be put away: {fault}") from None
        if upload.attempts:
            reason = None if upload is confirmed else _same_as(confirmed.upload_id, upload)
            self._ledger.move_upload(upload.id, upload.state, reason=reason, next_attempt=None)
        self._ledger.record_moved_away(upload.id, receipt)

    def _set_aside(self, upload: Upload, invalid: jsonl.InvalidDataset, step: Callable[[], None]) -> None:
        if upload.path.startswith(b"/"):
            self._ledger.record_moved_away(upload.id)
            return
        try:
            archive.set_aside(self._settings.folder, upload, invalid, step)
            archive.remove_marker(self._settings.folder, upload, self._settings.done_marker)
        except LocalFault as fault:
            raise LocalFault(f"rejected: {invalid}; it can't be moved to rejected/: {fault}") from None
        log.warning("%s: rejected: %s", _shown(upload.path), upload.reason)
        self._ledger.record_moved_away(upload.id)

    # What keeps a file

    def _start_over(self, upload: Upload, changed: SourceChanged) -> None:
        current = self._ledger.read.upload(upload.id)
        try:
            stamp = stamp_at(self._settings.folder, upload.path)
        except LocalFault as fault:
            self._wait(upload, fault)
            return
        is_done = current.state in (UploadState.UPLOADED, UploadState.DUPLICATE)
        if stamp is not None and same_file(stamp, upload.stamp) and not is_done:
            # It reads differently each time: that is no new file, and would go on for ever without a pause.
            self._wait(upload, Transient(f"{changed}, though its time stamps are the same"), anew=True)
            return
        log.info("%s: %s", _shown(upload.path), changed)
        if stamp is None:
            self._ledger.forget_uploads([upload.path])
        elif is_done:
            self._ledger.record_moved_away(upload.id).result()  # what lies there now is another file
        else:
            self._ledger.restamp(upload.id, stamp, UploadState.SETTLING, str(changed)).result()

    def _wait(self, upload: Upload, failure: AxomsyncError, *, anew: bool = False) -> None:
        """Back off. `anew` has the next try check the file again."""
        current = self._ledger.read.upload(upload.id)
        attempts = current.attempts + 1
        retry_after = failure.retry_after if isinstance(failure, Transient) else None
        due = self._context.now() + backoff(attempts, self._context.random, retry_after)
        state = {UploadState.UPLOADING: UploadState.QUEUED, UploadState.CHECKING: UploadState.SETTLING}.get(
            current.state, current.state
        )
        if self._told.get(upload.id) != (said := without_request(str(failure))):
            self._told[upload.id] = said
            log.warning("%s: %s; tried again later", _shown(upload.path), failure)
        stamp = None
        with suppress(LocalFault):  # that it can't be told is told as what keeps it
            stamp = stamp_at(self._settings.folder, upload.path)
        if anew:
            state, stamp = UploadState.SETTLING, current.stamp
        if stamp is not None and state is UploadState.SETTLING and (anew or stamp != current.stamp):
            self._ledger.restamp(upload.id, stamp, state)  # so that another change ends the waiting
        self._ledger.move_upload(upload.id, state, attempts=attempts, next_attempt=due, reason=str(failure)).result()

    def _park(self, upload: Upload, state: UploadState, reason: str) -> None:
        log.warning("%s: %s: %s", _shown(upload.path), state, reason)
        self._ledger.move_upload(upload.id, state, reason=reason, next_attempt=None).result()

    # Small parts

    @contextmanager
    def _opened(self, path: bytes) -> Iterator[tuple[int, Stamp]]:
        whole = os.path.join(os.fsencode(self._settings.folder), path)
        try:
            with folder_of(self._settings.folder, path) as (folder, name):
                file = folder.open_file(name)
        except FileNotFoundError:
            raise SourceChanged("the file went away") from None
        except OSError as error:
            raise local_fault(error, whole) from None
        try:
            yield file, stamp_of(os.fstat(file))
        except OSError as error:
            raise local_fault(error, whole) from None
        finally:
            os.close(file)

    def _still(self, file: int, path: bytes, stamp: Stamp) -> None:
        now_there = stamp_at(self._settings.folder, path)
        if now_there is None or not (same_file(now_there, stamp) and same_file(stamp_of(os.fstat(file)), stamp)):
            raise SourceChanged("the file changed while it was read")

    @property
    def _named(self) -> bool:
        """Whether the same content under another name is another upload."""
        return self._settings.dedupe == "name"

    def _content(self, upload: Upload) -> str:
        """What decides whether two files are one upload."""
        return content_of(upload.sha256, upload.filename, named=self._named)

    @contextmanager
    def _alone(self, upload: Upload) -> Iterator[bool]:
        """Yields whether nobody else in this process carries the same content; nobody does until the block ends."""
        content = self._content(upload)
        with self._busy_lock:
            mine = content not in self._busy
            self._busy.add(content)
        try:
            yield mine
        finally:
            if mine:
                self._busy.discard(content)

    def _yields(self, upload: Upload) -> bool:
        """Whether another row of the same content was begun in an earlier life: storage may have it under its key already.

        Until that one is done, or has failed; one that is out of reach now is not waited for.
        """
        if upload.path.startswith(b"/"):
            return False
        name = upload.filename if self._named else None
        return any(map(self._is_in_reach, self._ledger.read.begun_before(upload, name)))

    def _is_in_reach(self, upload: Upload) -> bool:
        """Whether the next look at the drop folder will find its file."""
        if upload.path.startswith(b"/"):
            return False
        try:
            return stamp_at(self._settings.folder, upload.path) is not None
        except LocalFault:
            return False

    def _touching(self, content: str, beat: Beat) -> Beat:
        """A `beat` that also shows the other agents now and then that this one is at work."""
        touched = time.monotonic()

        def beat_and_touch() -> None:
            nonlocal touched
            beat()
            if time.monotonic() - touched > TOUCH_SECONDS:
                touched = time.monotonic()
                self.claims.touch(content)

        return beat_and_touch

    def _step(self, beat: Beat) -> Callable[[], None]:
        def step() -> None:
            beat()
            if self._context.stop.is_set():
                raise Stopping("the agent is stopping")

        return step


def _same_as(upload_id: str | None, upload: Upload) -> str:
    known = f"the same content was uploaded before ({f'upload {upload_id}' if upload_id else 'in shards'})"
    again = "push it again" if upload.path.startswith(b"/") else "drop it again"
    return f"{known}; to have it sent anew: `axomsync forget {shlex.quote(_shown(upload.path))}`, then {again}"


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))


def _correction(upload: Upload) -> str:
    if upload.path.startswith(b"/"):
        return "correct it, and push it again"
    return "correct it, and move it from rejected/ back into the drop folder"
