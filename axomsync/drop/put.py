"""Upload of one object: presign, PUT, confirm; a few quick tries, then the file waits for a later one.

The last bytes of a PUT are sent only when all bytes are known to be the checked ones, so storage never has an object with
other content. A signed URL is in the ledger before its PUT begins, or, of a PUT that began during the check (`head_start`),
before its last bytes: if an answer is lost, the PUT is repeated with the same URL while it is valid, so that the object
keeps its key.

Failures handled: an answer that is lost after storage took the bytes, URLs that expire, are refused or lead nowhere (a new
one is requested; a possible object under the old key is recorded as an orphan), a URL that ends while the body is sent,
storage that is busy or resets, an ETag that is no MD5 (shown by the same ETag twice, or by the host's history), content that
changes during the upload though size and times of the file do not.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Protocol

from blake3 import blake3

from axomsync.core.errors import AxomsyncError, Refused, SourceChanged, Stopping, Transient, UrlExpired
from axomsync.core.policy import backoff
from axomsync.core.records import Presigned, Shard, Upload
from axomsync.drop.head_start import HeadStart
from axomsync.drop.sending import Sending, Sent
from axomsync.drop.source import OpenSource
from axomsync.ledger import Ledger
from axomsync.runtime.habits import Habits
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.meter import Gauge
from axomsync.runtime.worker import WorkerContext
from axomsync.storage.s3 import Confirmation, plain_md5, still_refused
from axomsync.transport.http import host_of

QUICK_TRIES = 4  # at once, with short pauses; then the file waits for its next try
LONGEST_QUICK_PAUSE_SECONDS = 10.0
REFUSED_URLS_IN_A_ROW = 3
NOTHING_AT_ALL = hashlib.md5(b"", usedforsecurity=False).hexdigest()
LONG_PUT_SECONDS = 30.0  # a URL without an expiry time that is refused twice after so long does expire


class Body(Protocol):
    """Content of one object: a range of a file, with the place of its signed URL until storage confirms."""

    upload: Upload  # its row; after the confirmation of a whole file, the row with the confirmation
    filename: str
    start: int
    end: int
    proof: str | None  # the digest of the checked bytes; `kind_of_proof` names its kind
    kind_of_proof: str
    complete: bool  # True if the last try handed over the last byte: storage may have all of it

    def kept(self) -> Presigned | None: ...
    def keep(self, presigned: Presigned) -> None: ...
    def forget(self) -> None: ...
    def confirm(self, etag: str | None, md5: str, *, doubtful: bool) -> None: ...


class Whole:
    """A file that is uploaded whole."""

    def __init__(self, ledger: Ledger, upload: Upload) -> None:
        self._ledger, self.upload, self.filename = ledger, upload, upload.filename
        self.start, self.end, self.complete = 0, upload.size, False
        self.proof, self.kind_of_proof = (upload.blake3, "blake3") if upload.blake3 else (upload.sha256, "sha256")

    def kept(self) -> Presigned | None:
        return self._ledger.read.presigned(self.upload)

    def keep(self, presigned: Presigned) -> None:
        self._ledger.record_presigned(self.upload.id, presigned)

    def forget(self) -> None:
        self._ledger.forget_presigned(self.upload.id)

    def confirm(self, etag: str | None, md5: str, *, doubtful: bool) -> None:
        self.upload = self._ledger.record_uploaded(self.upload.id, etag, md5, doubtful=doubtful)


class Part:
    """One shard of a file."""

    def __init__(self, ledger: Ledger, upload: Upload, shard: Shard) -> None:
        self._ledger, self.upload, self._shard, self.filename = ledger, upload, shard, shard.filename
        self.start, self.end, self.complete = shard.start, shard.end, False
        self.proof, self.kind_of_proof = shard.blake3, "blake3"

    def kept(self) -> Presigned | None:
        return self._ledger.read.shard_presigned(self.upload.id, self._shard)

    def keep(self, presigned: Presigned) -> None:
        self._ledger.record_shard_presigned(self.upload.id, self._shard.number, presigned)

    def forget(self) -> None:
        self._ledger.forget_shard_presigned(self.upload.id, self._shard.number)

    def confirm(self, etag: str | None, md5: str, *, doubtful: bool) -> None:
        self._ledger.record_shard_uploaded(self.upload.id, self._shard.number, etag, doubtful=doubtful)


class ObjectPut:
    """PUT of one body, tried until storage confirms it or the quick tries are used up.

    `file` opens the file with the body: that of a compressed one is unpacked for it, once there is a URL. `source` is the
    open file of which it is the content. `head_start` is a PUT of the body that has begun.
    """

    def __init__(
        self,
        context: WorkerContext,
        habits: Habits,
        content_type: str,
        body: Body,
        file: Callable[[], int],
        source: OpenSource,
        gauge: Gauge,
        beat: Beat,
        head_start: HeadStart | None = None,
    ) -> None:
        self._context, self._habits, self._content_type = context, habits, content_type
        self._body, self._file, self._source, self._gauge, self._beat = body, file, source, gauge, beat
        self._head_start = head_start
        self._presigned = body.kept()
        self._fresh = False  # the URL was requested for this try
        self._perhaps_stored = self._presigned is not None  # by an earlier life of the agent
        self._was_complete = False  # in any of these tries
        self._doubtful_etag: str | None = None  # it looked like an MD5 and differed from the bytes'
        self._refusals = 0
        self._began = 0.0

    def run(self) -> int:
        """Try a few times at once: most failures of storage end within a second. Raises the failure of the last try.

        Returns how many tries failed for a passing reason, before the one that did not.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                self._try()
                return attempt - 1 - self._refusals
            except (UrlExpired, Refused) as refusal:
                self._take_another_url(refusal)
            except SourceChanged:
                self._let_go(perhaps=self._perhaps_stored or self._body.complete)
                raise
            except Transient as failure:
                if failure.unsent:
                    self._body.complete = False
                self._was_complete = self._was_complete or self._body.complete
                self._perhaps_stored = self._perhaps_stored or self._body.complete
                pause = backoff(attempt, self._context.random, failure.retry_after)
                if attempt - self._refusals >= QUICK_TRIES or pause > LONGEST_QUICK_PAUSE_SECONDS:
                    self._give_up_url_that_leads_nowhere()
                    raise  # the file waits; its row shows the reason
                self._pause(pause)

    def _try(self) -> None:
        presigned, body = self._presigned, self._body
        body.complete = False
        head_start, self._head_start = self._head_start, None
        if head_start is not None:
            if self._went_on(head_start):
                return
            self.step()
        if presigned is not None and not self._lives(presigned):
            self._let_go(perhaps=self._perhaps_stored)
            presigned = None
        self._fresh = presigned is None
        if presigned is None:
            presigned = self._context.console.presign(body.filename, self._content_type)
            self._presigned, self._perhaps_stored = presigned, False
        body.keep(presigned)
        self._put(presigned)

    def _take_another_url(self, refusal: AxomsyncError) -> None:
        """Handle a refused URL: the next try requests another one, unless that can't help."""
        began, sent_all = self._began, self._body.complete
        presigned, fresh = self._presigned, self._fresh
        self._refusals += 1
        self._let_go(perhaps=self._perhaps_stored)
        if isinstance(refusal, Refused) and fresh:
            raise refusal
        seconds = time.monotonic() - began
        ended = presigned is not None and (
            not self._lives(presigned)
            or (presigned.expires_at is None and seconds > LONG_PUT_SECONDS and self._was_complete)
        )
        if isinstance(refusal, UrlExpired) and sent_all and ended:
            raise Transient(
                f"the signed URL ended while its {self._length} bytes were sent ({seconds:.0f} s), and storage judges it "
                f"after the last of them; set [drop] shard to less, so that each part is sent in time ({refusal})"
            )
        self._was_complete = self._was_complete or sent_all
        if self._refusals >= REFUSED_URLS_IN_A_ROW:
            raise still_refused(refusal)
        if self._refusals > 1:
            self._pause(backoff(self._refusals, self._context.random))

    def _give_up_url_that_leads_nowhere(self) -> None:
        """Forget a URL without an expiry time if no body was sent whole with it in all tries; it would be tried for ever."""
        if self._presigned is not None and self._presigned.expires_at is None and not self._was_complete:
            self._let_go(perhaps=self._perhaps_stored)

    def _let_go(self, *, perhaps: bool) -> None:
        """Forget the URL. If storage may have an object under its key, the object is recorded as an orphan."""
        if self._presigned is not None and perhaps:
            self._context.ledger.record_orphan(self._body.upload.id, self._presigned)
        self._body.forget()
        self._presigned, self._perhaps_stored = None, False

    def _went_on(self, head_start: HeadStart) -> bool:
        """Let the PUT end that has begun; False if there is none, or it can't."""
        body, presigned = self._body, None
        if self._presigned is None and body.proof is not None and body.kind_of_proof == "blake3":
            presigned = head_start.offer()
        if presigned is None or body.proof is None or not self._lives(presigned):
            head_start.end()
            return False
        self._presigned, self._perhaps_stored, self._fresh = presigned, False, True
        self._began = head_start.began
        self._body.keep(presigned)
        try:
            sent = head_start.finish(body.proof, self._beat)
        finally:
            body.complete = head_start.complete
        self._confirm(presigned, sent)
        return True

    def _put(self, presigned: Presigned) -> None:
        body, digest = self._body, blake3() if self._body.kind_of_proof == "blake3" else hashlib.sha256()
        file = self._file()
        self._began = time.monotonic()
        sending = Sending(file, body.start, self._length, digest, self._source, self, self._context.throttle, self._gauge)
        try:
            sent = sending.put(self._context.storage, presigned.url, self._content_type)
        finally:
            body.complete = sending.complete
        self._confirm(presigned, sent)

    def _confirm(self, presigned: Presigned, sent: Sent) -> None:
        try:
            self._source.demand_in_place()
            doubtful = self._is_doubtful(host_of(presigned.url), sent.confirmed, sent.md5)
            self._body.confirm(sent.confirmed.etag, sent.md5, doubtful=doubtful)
        except BaseException:
            self._gauge.receive(-self._length)
            raise
        self._gauge.secure(self._length)

    # What `Sending` asks

    def may_send(self, end: int) -> None:
        """Let all bytes go: they were checked."""

    def proof(self) -> str | None:
        """Let the last piece go if the bytes are the checked ones."""
        return self._body.proof

    def step(self) -> None:
        """Tell that the PUT goes on. Raises `Stopping`."""
        self._beat()
        self._context.demand_no_stop()

    def _is_doubtful(self, host: str, confirmed: Confirmation, md5: str) -> bool:
        """Check for an ETag that looks like an MD5 but differs from the bytes' MD5, on a host whose ETags may not be MD5s.

        Raises `Transient` if the ETag means that storage has other bytes or stores nothing: it is the MD5 of no bytes, the
        host's ETags are known MD5s, other bytes got the same ETag, or the host is unknown and this is its first such ETag.
        The next try decides then: damage during the transfer hardly gives the same ETag twice.
        """
        plain = plain_md5(confirmed.etag)
        if plain == md5:
            self._habits.saw_md5(host, self._length)
            return False
        if confirmed.has_body:
            raise Transient(f"storage {host} answered with a body, as no PUT is answered: the upload is not confirmed")
        if plain is None or not confirmed.etag_is_md5:
            return False
        told = f"storage {host} has other bytes than were sent (MD5 {plain} instead of {md5})"
        known, body = self._habits.of(host).etag_is_md5(self._length), self._body
        if plain == NOTHING_AT_ALL or known is True:
            raise Transient(told)
        digest = body.proof if body.kind_of_proof == "blake3" else None
        if self._context.ledger.read.others_with_etag(confirmed.etag, md5, digest):
            raise Transient(
                f"storage {host} gives the ETag {plain} to different bytes: the upload is not confirmed; does a proxy "
                "answer in its place?"
            )
        if plain == self._doubtful_etag or known is False:
            self._habits.saw_no_md5(host, self._length)
            return True
        self._doubtful_etag = plain
        raise Transient(told)

    @property
    def _length(self) -> int:
        return self._body.end - self._body.start

    def _lives(self, presigned: Presigned) -> bool:
        return presigned.expires_at is None or self._context.now() < presigned.expires_at

    def _pause(self, seconds: float) -> None:
        self._beat()
        if self._context.stop.wait(seconds):
            raise Stopping("the agent is stopping")
