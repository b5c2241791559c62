"""The PUT of a large file that begins while the file is being checked, so that the check costs no time.

Only bytes in which the check found nothing wrong are sent. The last piece waits until the whole file is known to be good,
and to be this agent's to upload (`finish`). Storage keeps nothing of a PUT that is broken off, so it never has an object
that was not checked. Until then nothing of it is in the ledger: a crash leaves an unused upload at the console, and no more.

It is an offer, and the ordinary way (`put`) can always do without it.

Failures handled: any before `finish`, of the console, of storage, of the file (it ends, and the ordinary way meets the
failure again if it is still there); a check that finds a fault, or a content that another row or agent carries (`give_up`).
A failure after that is one of the PUT.
"""

import logging
import threading
import time
from collections.abc import Callable

from blake3 import blake3

from axomsync.core.errors import AxomsyncError, SourceChanged, Stopping, Transient
from axomsync.core.records import Presigned, Upload
from axomsync.drop.content import Content
from axomsync.drop.sending import Sending, Sent
from axomsync.drop.settle import same_file
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.meter import Gauge
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)

WORTH_A_HEAD_START = 128 * 1024 * 1024  # bytes of a file; the check of less takes a moment
CHECKED_FIRST = 8 * 1024 * 1024  # bytes in which nothing wrong was found, before the console is asked
LOOK_SECONDS = 1.0


def pays(size: int) -> bool:
    """Whether a file of so many bytes is worth it."""
    return size > WORTH_A_HEAD_START


class _GivenUp(AxomsyncError):
    """Nobody wants it any more."""


class HeadStart:
    """One PUT in its own thread, from `begin` to `finish` or `give_up`."""

    def __init__(
        self, context: WorkerContext, upload: Upload, content: Content, content_type: str, beat: Beat, gauge: Gauge
    ) -> None:
        self._context, self._upload, self._content, self._content_type = context, upload, content, content_type
        self._beat, self.gauge = beat, gauge
        self._changed = threading.Condition()  # guards what follows
        self._checked = 0  # bytes
        self._proof: str | None = None  # BLAKE3 of the checked file, once it is known
        self._is_given_up = self._is_over = False
        self._presigned: Presigned | None = None
        self._sent: Sent | None = None
        self._failure: Exception | None = None
        self.began = 0.0  # monotonic time when the URL was there
        self.complete = False  # the last piece was handed over: storage may have all of it

    def begin(self) -> None:
        """Begin to wait for what the check finds."""
        threading.Thread(target=self._run, name="head start", daemon=True).start()

    def passed(self, checked: int) -> None:
        """Note that the check found nothing wrong in the first `checked` bytes."""
        with self._changed:
            self._checked = max(self._checked, checked)
            self._changed.notify_all()

    def give_up(self) -> None:
        """Break it off, unless it is over. Returns at once; the last piece will not be sent."""
        with self._changed:
            self._is_given_up = True
            self._changed.notify_all()

    def offer(self) -> Presigned | None:
        """Return the signed URL to which the file is on its way; None if it is not. All of it was checked.

        May wait for the console.
        """
        self.passed(self._upload.size)
        with self._changed:
            while self._presigned is None and not self._is_over:
                self._look_again()
            return None if self._is_over else self._presigned

    def finish(self, proof: str, beat: Beat) -> Sent:
        """Let the last piece go: the checked bytes have this BLAKE3, and the URL is in the ledger. Raises as a PUT does."""
        with self._changed:
            self._proof, self._beat = proof, beat
            self._changed.notify_all()
            while not self._is_over:
                self._look_again()
        if self._sent is None:
            raise self._failure or Transient("the upload was broken off")
        return self._sent

    def _look_again(self) -> None:
        self._changed.wait(LOOK_SECONDS)
        if self._context.stop.is_set():
            raise Stopping("the agent is stopping")

    def _run(self) -> None:
        try:
            sent = self._put()
        except Exception as failure:
            if not isinstance(failure, AxomsyncError | OSError) and not self._is_given_up:
                log.exception("an upload that began during the check failed in a way that was not foreseen")
            self._failure = failure
        else:
            self._sent = sent
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _put(self) -> Sent:
        with self._content.opened() as (file, stamp):
            if not same_file(stamp, self._upload.stamp):  # it may be empty now: a body without a last piece, that would wait
                raise SourceChanged("the file changed before it was uploaded")
            self._wait(lambda: self._checked >= min(CHECKED_FIRST, stamp.size))
            presigned = self._context.console.presign(self._upload.filename, self._content_type)
            with self._changed:
                self._presigned, self.began = presigned, time.monotonic()
                self._changed.notify_all()
            source = self._content.open_source(file, stamp)
            sending = Sending(file, 0, stamp.size, blake3(), source, self, self._context.throttle, self.gauge)
            return sending.put(self._context.storage, presigned.url, self._content_type)

    # What `Sending` asks

    def may_send(self, end: int) -> None:
        """Wait until the bytes before `end` were checked."""
        self._wait(lambda: self._checked >= end)

    def may_end(self, digest: str) -> None:
        """Wait for `finish`."""
        self._wait(lambda: self._proof is not None)
        if digest != self._proof:
            raise SourceChanged("the file's content changed after it was checked")
        self.complete = True

    def step(self) -> None:
        """Tell that the PUT goes on. Raises `Stopping`."""
        self._beat()
        if self._context.stop.is_set():
            raise Stopping("the agent is stopping")

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self._changed:
            while not self._is_given_up and not is_so():
                self._look_again()
            if self._is_given_up:
                raise _GivenUp
