"""The way of one file: check, presign, PUT, confirm, put away. Every step is in the ledger before the next begins.

The last bytes of a PUT are sent only when all of them are known to be those that were checked, so storage never has an
object with anything else.

Failures handled: a file that changes on the way, even through a mapping that leaves its stamp alone (it starts over; what
storage may have under its old key is not handed out), an answer that is lost after storage took the bytes (the same URL
is PUT again: same key, no second object), expired URLs, storage that is busy or resets, a checksum that differs, files
too large for one PUT (`held`), a disk that can't take the archive, a crash between any two steps.
"""

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from axomsync.config import DropSettings
from axomsync.console import Console
from axomsync.drop import archive, jsonl, shards
from axomsync.drop.watch import stamp_at, stamp_of
from axomsync.errors import (
    AxomsyncError,
    Fatal,
    LocalFault,
    Rejected,
    SourceChanged,
    Stopping,
    Transient,
    UrlExpired,
    local_fault,
    printable,
)
from axomsync.ledger import Ledger
from axomsync.liveness import Beat
from axomsync.meter import Gauge, Meter
from axomsync.policy import backoff
from axomsync.records import Presigned, Shard, Stamp, Upload, UploadState
from axomsync.storage import Storage
from axomsync.throttle import Throttle

log = logging.getLogger(__name__)

PUT_PIECE = 1024 * 1024
QUICK_TRIES = 4  # at once, with short pauses; after that the file waits its turn again
EXPIRED_URLS_IN_A_ROW = 5
SHARDS_AT_ONCE = 8


@dataclass(frozen=True)
class Surroundings:
    """What an uploader works with. `random` yields 0 ≤ x < 1, `stop` ends everything soon after it is set."""

    ledger: Ledger
    console: Console
    storage: Storage
    meter: Meter
    throttle: Throttle
    stop: threading.Event
    random: Callable[[], float]
    now: Callable[[], float] = time.time


class Uploader:
    """Carries files to storage; one call a file, from as many threads as one likes."""

    def __init__(self, settings: DropSettings, around: Surroundings) -> None:
        self._settings = settings
        self._around = around
        self._ledger = around.ledger
        self._claims: set[tuple[str, str]] = set()
        self._claims_lock = threading.Lock()
        self._told: dict[int, str] = {}  # what was last logged about a file, so that no repeat is

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
        except (Transient, UrlExpired, LocalFault) as failure:
            self._wait(upload, failure)
        except Rejected as refusal:
            self._park(upload, UploadState.FAILED, str(refusal))
        except (Stopping, Fatal):
            raise
        except Exception as bug:  # one file that trips a bug must not stop the others
            log.exception("%s: unexpected failure", _shown(upload.path))
            self._park(upload, UploadState.FAILED, f"unexpected {type(bug).__name__}: {bug}; please report it")
        return True

    def _carry(self, upload: Upload, beat: Beat) -> bool:
        if upload.state in (UploadState.SETTLING, UploadState.CHECKING, UploadState.REJECTED):
            upload, invalid = self._check(upload, beat)
            if invalid is not None:
                self._set_aside(upload, invalid)
                return True
        if upload.state in (UploadState.QUEUED, UploadState.UPLOADING):
            if self._largest_put(upload) > self._settings.max_put:
                self._hold(upload)
                return True
            with self._claim(upload) as mine:
                if not mine:
                    return False
                upload = self._deliver(upload, beat)
        if upload.state in (UploadState.UPLOADED, UploadState.DUPLICATE):
            self._put_away(upload)
        return True

    # Checking

    def _check(self, upload: Upload, beat: Beat) -> tuple[Upload, jsonl.InvalidDataset | None]:
        with self._opened(upload.path) as (file, stamp):
            if stamp != upload.stamp:
                self._ledger.restamp(upload.id, stamp, UploadState.SETTLING, upload.reason)
            self._ledger.move_upload(upload.id, UploadState.CHECKING)
            try:
                checked = jsonl.check(file, stamp.size, self._settings.validate_, self._step(beat))
            except jsonl.InvalidDataset as invalid:
                self._still(file, upload.path, stamp)
                self._ledger.move_upload(upload.id, UploadState.REJECTED, reason=str(invalid), next_attempt=None).result()
                return self._ledger.read.upload(upload.id), invalid
            self._still(file, upload.path, stamp)
        self._ledger.record_check(upload.id, stamp, checked).result()
        return self._ledger.read.upload(upload.id), None

    def _hold(self, upload: Upload) -> None:
        size, most = upload.stamp.size, self._settings.max_put
        reason = (
            f"{size} bytes are more than storage takes in one PUT ([drop] max_put = {most} bytes); "
            'set [drop] shard = "4GiB" to have it uploaded in parts that end at line ends'
        )
        self._park(upload, UploadState.HELD, reason)

    def _largest_put(self, upload: Upload) -> int:
        shard = self._settings.shard
        return upload.stamp.size if shard is None else min(upload.stamp.size, shard)

    # Delivering

    def _deliver(self, upload: Upload, beat: Beat) -> Upload:
        twin = self._ledger.read.same_content(upload.sha256 or "", upload.filename)
        if twin is not None:
            reason = _same_as(twin)
            self._ledger.move_upload(
                upload.id,
                UploadState.DUPLICATE,
                duplicate_of=twin.id,
                upload_id=twin.upload_id,
                key=twin.key,
                etag=twin.etag,
                reason=reason,
                next_attempt=None,
            ).result()
            log.info("%s: %s; not uploaded again", _shown(upload.path), reason)
            return self._ledger.read.upload(upload.id)
        with self._opened(upload.path) as (file, stamp):
            if stamp != upload.stamp:
                raise SourceChanged("the file changed before it was uploaded")
            planned = self._shards(upload, file)
            done = sum(shard.end - shard.start for shard in planned if shard.uploaded)
            with self._around.meter.transfer("up", _shown(upload.path), stamp.size, done) as gauge:
                if planned:
                    etag = None
                    self._put_shards(upload, planned, file, gauge, beat)
                else:
                    etag = self._put_until_confirmed(_Whole(self._ledger, upload), file, gauge, beat)
        self._ledger.record_uploaded(upload.id, etag)
        upload = self._ledger.read.upload(upload.id)
        as_what = f"{len(planned)} shards" if planned else f"{printable(upload.key or '')} (upload {upload.upload_id})"
        log.info("%s: uploaded as %s", _shown(upload.path), as_what)
        return upload

    def _shards(self, upload: Upload, file: int) -> list[Shard]:
        """The ranges that the file goes up in; none when it goes up whole. What was begun is gone on with."""
        shard = self._settings.shard
        if upload.upload_id is not None or shard is None or upload.stamp.size <= shard:
            return self._ledger.read.shards(upload.id)
        if not self._ledger.read.shards(upload.id):
            ranges = shards.plan(file, upload.stamp.size, shard)
            names = (shards.shard_name(upload.filename, number, len(ranges)) for number in range(1, len(ranges) + 1))
            self._ledger.plan_shards(upload.id, zip(names, ranges, strict=True))
        return self._ledger.read.shards(upload.id)

    def _put_shards(self, upload: Upload, planned: list[Shard], file: int, gauge: Gauge, beat: Beat) -> None:
        """Several at once; each is tried by itself, and what is confirmed is not sent again."""
        if upload.state is not UploadState.UPLOADING:
            self._ledger.move_upload(upload.id, UploadState.UPLOADING, reason=None, next_attempt=None).result()
        with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard") as pool:
            puts = [
                pool.submit(self._put_until_confirmed, _Part(self._ledger, upload, shard), file, gauge, beat)
                for shard in planned
                if not shard.uploaded
            ]
            failures = [failure for put in puts if (failure := put.exception()) is not None]
        if failures:
            raise min(failures, key=lambda failure: isinstance(failure, Transient))  # what a person must see comes first

    def _put_until_confirmed(self, body: "_Body", file: int, gauge: Gauge, beat: Beat) -> str | None:
        """Try at once a few times: most failures of storage are over in a second."""
        tries = expired = 0
        presigned = body.kept()
        while True:
            try:
                if presigned is None or not self._lives(presigned):
                    presigned = self._around.console.presign(body.filename, self._settings.content_type)
                body.keep(presigned)
                etag = self._put(body, presigned, file, gauge, beat)
                body.confirm(etag)
                return etag
            except UrlExpired:
                expired += 1
                body.forget()
                presigned = None
                if expired >= EXPIRED_URLS_IN_A_ROW:
                    raise
            except Transient as failure:
                tries += 1
                if tries >= QUICK_TRIES:
                    raise
                self._pause(backoff(tries, self._around.random, failure.retry_after), beat)

    def _put(self, body: "_Body", presigned: Presigned, file: int, gauge: Gauge, beat: Beat) -> str | None:
        length, step, throttle = body.end - body.start, self._step(beat), self._around.throttle
        sent, md5 = 0, hashlib.md5(usedforsecurity=False)

        def pieces() -> Iterator[bytes]:
            nonlocal sent
            sha256 = hashlib.sha256()
            while sent < length:
                piece = os.pread(file, min(throttle.piece(PUT_PIECE), length - sent), body.start + sent)
                if not piece or stamp_of(os.fstat(file)) != body.upload.stamp:
                    raise SourceChanged("the file changed while it was uploaded")
                if body.sha256 is None:
                    md5.update(piece)
                else:
                    sha256.update(piece)
                    if sent + len(piece) == length and sha256.hexdigest() != body.sha256:
                        raise SourceChanged("the file's content changed after it was checked, without a sign of it")
                throttle.take(len(piece))
                yield piece
                sent += len(piece)
                gauge.receive(len(piece))
                step()

        try:
            etag = self._around.storage.put(presigned.url, pieces(), length, self._settings.content_type)
            self._still(file, body.upload.path, body.upload.stamp)
            _compare(etag, body.md5 or md5.hexdigest())
        except BaseException:
            gauge.receive(-sent)
            raise
        gauge.secure(length)
        return etag

    def _lives(self, presigned: Presigned) -> bool:
        return presigned.expires_at is None or self._around.now() < presigned.expires_at

    # Putting away

    def _put_away(self, upload: Upload) -> None:
        root, after = self._settings.folder, self._settings.after
        if after == "keep":
            return
        confirmed = upload if upload.duplicate_of is None else self._ledger.read.upload(upload.duplicate_of)
        try:
            if after == "archive":
                archive.archive(root, upload, confirmed, self._ledger.read.shards(confirmed.id))
            else:
                archive.delete(root, upload)
        except LocalFault as fault:
            raise LocalFault(f"uploaded, but it can't be put away: {fault}") from None
        if upload.attempts:
            reason = None if upload is confirmed else _same_as(confirmed)
            self._ledger.move_upload(upload.id, upload.state, reason=reason, next_attempt=None)
        self._ledger.record_moved_away(upload.id)

    def _set_aside(self, upload: Upload, invalid: jsonl.InvalidDataset) -> None:
        try:
            archive.set_aside(self._settings.folder, upload, invalid)
        except LocalFault as fault:
            raise LocalFault(f"rejected: {invalid}; it can't be moved to rejected/: {fault}") from None
        log.warning("%s: rejected: %s", _shown(upload.path), invalid)
        self._ledger.record_moved_away(upload.id)

    # What keeps a file

    def _start_over(self, upload: Upload, changed: SourceChanged) -> None:
        log.info("%s: %s", _shown(upload.path), changed)
        current = self._ledger.read.upload(upload.id)
        stamp = stamp_at(self._settings.folder, upload.path)
        if stamp is None:
            self._ledger.forget_uploads([upload.path])
        elif current.state in (UploadState.UPLOADED, UploadState.DUPLICATE):
            self._ledger.record_moved_away(upload.id)  # what lies there now is another file
        else:
            self._ledger.restamp(upload.id, stamp, UploadState.SETTLING, str(changed)).result()

    def _wait(self, upload: Upload, failure: AxomsyncError) -> None:
        current = self._ledger.read.upload(upload.id)
        attempts = current.attempts + 1
        retry_after = failure.retry_after if isinstance(failure, Transient) else None
        due = self._around.now() + backoff(attempts, self._around.random, retry_after)
        state = {UploadState.UPLOADING: UploadState.QUEUED, UploadState.CHECKING: UploadState.SETTLING}.get(
            current.state, current.state
        )
        if self._told.get(upload.id) != str(failure):
            self._told[upload.id] = str(failure)
            log.warning("%s: %s; tried again later", _shown(upload.path), failure)
        stamp = stamp_at(self._settings.folder, upload.path)
        if state is UploadState.SETTLING and stamp is not None and stamp != current.stamp:
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
            file = os.open(whole, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
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
        if stamp_of(os.fstat(file)) != stamp or stamp_at(self._settings.folder, path) != stamp:
            raise SourceChanged("the file changed while it was read")

    @contextmanager
    def _claim(self, upload: Upload) -> Iterator[bool]:
        content = (upload.sha256 or "", upload.filename)
        with self._claims_lock:
            mine = content not in self._claims
            self._claims.add(content)
        try:
            yield mine
        finally:
            if mine:
                self._claims.discard(content)

    def _step(self, beat: Beat) -> Callable[[], None]:
        def step() -> None:
            beat()
            if self._around.stop.is_set():
                raise Stopping("the agent is stopping")

        return step

    def _pause(self, seconds: float, beat: Beat) -> None:
        beat()
        if self._around.stop.wait(seconds):
            raise Stopping("the agent is stopping")


class _Body(Protocol):
    """What goes up as one object: a range of a file, and where its signed URL is kept until storage confirms."""

    upload: Upload
    filename: str
    start: int
    end: int
    sha256: str | None  # of the range, where it is known beforehand
    md5: str | None

    def kept(self) -> Presigned | None: ...
    def keep(self, presigned: Presigned) -> None: ...
    def forget(self) -> None: ...
    def confirm(self, etag: str | None) -> None: ...


class _Whole:
    """A file that goes up whole. Its caller records the confirmation together with the upload's end."""

    def __init__(self, ledger: Ledger, upload: Upload) -> None:
        self._ledger, self.upload, self.filename = ledger, upload, upload.filename
        self.start, self.end, self.sha256, self.md5 = 0, upload.stamp.size, upload.sha256, upload.md5

    def kept(self) -> Presigned | None:
        return self._ledger.read.presigned(self.upload)

    def keep(self, presigned: Presigned) -> None:
        self._ledger.record_presigned(self.upload.id, presigned)

    def forget(self) -> None:
        self._ledger.forget_presigned(self.upload.id)

    def confirm(self, etag: str | None) -> None:
        return None


class _Part:
    """One shard of a file."""

    def __init__(self, ledger: Ledger, upload: Upload, shard: Shard) -> None:
        self._ledger, self.upload, self._shard, self.filename = ledger, upload, shard, shard.filename
        self.start, self.end = shard.start, shard.end
        self.sha256: str | None = None  # only the whole file's is known; the MD5 is taken on the way
        self.md5: str | None = None

    def kept(self) -> Presigned | None:
        return self._ledger.read.shard_presigned(self.upload.id, self._shard)

    def keep(self, presigned: Presigned) -> None:
        self._ledger.record_shard_presigned(self.upload.id, self._shard.number, presigned)

    def forget(self) -> None:
        self._ledger.forget_shard_presigned(self.upload.id, self._shard.number)

    def confirm(self, etag: str | None) -> None:
        self._ledger.record_shard_uploaded(self.upload.id, self._shard.number, etag)


def _same_as(twin: Upload) -> str:
    return f"the same content was uploaded under this name before (upload {twin.upload_id})"


def _compare(etag: str | None, md5: str | None) -> None:
    """The ETag of an object that came by a single PUT is the MD5 of its bytes; other forms prove nothing."""
    plain = (etag or "").strip('"').lower()
    if md5 is not None and re.fullmatch(r"[0-9a-f]{32}", plain) and plain != md5:
        raise Transient(f"storage has other bytes than were sent (MD5 {plain} instead of {md5})")


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))
