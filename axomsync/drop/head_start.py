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
from concurrent.futures import Future

from blake3 import blake3

from axomsync.config import DropSettings
from axomsync.core.errors import AxomsyncError, SourceChanged, Stopping
from axomsync.core.records import Presigned, Upload
from axomsync.drop.sending import Sending, Sent
from axomsync.drop.settle import same_file
from axomsync.drop.source import OpenSource, opened, shown
from axomsync.runtime.heartbeat import Beat, unwatched
from axomsync.runtime.meter import Gauge
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)

WORTH_A_HEAD_START = 128 * 1024 * 1024  # bytes of a file
CHECKED_FIRST = 8 * 1024 * 1024  # bytes in which nothing wrong was found, before the console is asked
LOOK_SECONDS = 1.0


def is_worth_it(size: int) -> bool:
    """Whether a file has so many bytes that its check takes more than a moment."""
    return size > WORTH_A_HEAD_START


class _GivenUp(AxomsyncError):
    """Nobody wants it any more."""


class HeadStart:
    """One PUT in its own thread, from `begin` to `end`."""

    def __init__(self, settings: DropSettings, context: WorkerContext, upload: Upload, gauge: Gauge) -> None:
        self._settings, self._context, self._upload, self.gauge = settings, context, upload, gauge
        self._beat: Beat = unwatched  # until the carrier waits for it; else it would hide that the carrier hangs
        self._outcome: Future[Sent] = Future()
        self._thread = threading.Thread(target=self._run, name="head start", daemon=True)
        self._changed = threading.Condition()  # guards what follows
        self._checked = 0  # bytes
        self._proof: str | None = None  # BLAKE3 of the checked file, once it is known
        self._is_given_up = False
        self._presigned: Presigned | None = None
        self.began = 0.0  # monotonic time when the URL was there
        self._sending: Sending | None = None

    @property
    def complete(self) -> bool:
        """The last piece was handed over: storage may have all of it."""
        return self._sending is not None and self._sending.complete

    def begin(self) -> None:
        """Begin to wait for what the check finds."""
        try:
            self._thread.start()
        except RuntimeError as none_left:  # the system allows no more threads
            self._outcome.set_exception(none_left)

    def passed(self, checked: int) -> None:
        """Note that the check found nothing wrong in the first `checked` bytes."""
        with self._changed:
            self._checked = max(self._checked, checked)
            self._changed.notify_all()

    def give_up(self) -> None:
        """Break it off, unless it is over. The last piece will not be sent. Returns at once."""
        with self._changed:
            self._is_given_up = True
            self._changed.notify_all()

    def end(self) -> None:
        """Give it up and wait for its end, as it uses connections. A piece is sent to its end, as by a carrier."""
        self.give_up()
        if self._thread.ident is not None:
            self._thread.join()

    def offer(self) -> Presigned | None:
        """Return the signed URL to which the file is on its way; None if it is not. All of it was checked.

        May wait for the console.
        """
        self.passed(self._upload.size)  # whatever the check told: nobody may wait for it any more
        with self._changed:
            self._changed.wait_for(lambda: self._presigned is not None or self._outcome.done())
            return None if self._outcome.done() else self._presigned

    def finish(self, proof: str, beat: Beat) -> Sent:
        """Let the last piece go: the checked bytes have this BLAKE3, and the URL is in the ledger. Raises as a PUT does."""
        with self._changed:
            self._proof, self._beat = proof, beat
            self._changed.notify_all()
        return self._outcome.result()

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._put())
        except BaseException as failure:  # noqa: BLE001  # else who waits for it would wait for ever
            self._tell(failure)
            self._outcome.set_exception(failure)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _tell(self, failure: BaseException) -> None:
        """Log what nobody else will tell."""
        if isinstance(failure, _GivenUp | Stopping) or self._proof is not None:
            return
        told = "%s: the upload that began during the check was broken off (%s); it begins again after that"
        is_foreseen = isinstance(failure, AxomsyncError | OSError)
        log.log(
            logging.INFO if is_foreseen else logging.ERROR, told, shown(self._upload.path), failure, exc_info=not is_foreseen
        )

    def _put(self) -> Sent:
        settings, path, throttle = self._settings, self._upload.path, self._context.throttle
        with opened(settings.folder, path) as (file, stamp):
            if not same_file(stamp, self._upload.stamp):  # it may be empty now: a body without a last piece, that would wait
                raise SourceChanged("the file changed before it was uploaded")
            self._wait(lambda: self._checked >= min(CHECKED_FIRST, stamp.size))
            presigned = self._context.console.presign(self._upload.filename, settings.content_type)
            with self._changed:
                self._presigned, self.began = presigned, time.monotonic()
                self._changed.notify_all()
            source = OpenSource(settings.folder, path, file, stamp, is_proven=True)
            self._sending = Sending(file, 0, stamp.size, blake3(), source, self, throttle, self.gauge)
            return self._sending.put(self._context.storage, presigned.url, settings.content_type)

    # What `Sending` asks

    def may_send(self, end: int) -> None:
        """Wait until the bytes before `end` were checked."""
        self._wait(lambda: self._checked >= end)

    def proof(self) -> str | None:
        """Wait for `finish`."""
        self._wait(lambda: self._proof is not None)
        return self._proof

    def step(self) -> None:
        """Tell that the PUT goes on. Raises `Stopping`."""
        self._beat()
        self._context.demand_no_stop()

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self._changed:
            while not self._is_given_up and not is_so():
                self._context.demand_no_stop()
                self._changed.wait(LOOK_SECONDS)
            if self._is_given_up:
                raise _GivenUp
