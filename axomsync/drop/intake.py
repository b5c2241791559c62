"""The drop folder's loop: scan, let files settle, hand the finished ones to the uploader, oldest first.

Failures handled: a folder that is missing or unreadable (a problem that is shown, tried again), sub-folders likewise (the
others go on), files that vanish or change between scans, a ledger that can't be written for a while, a key that the
console refuses (no file is begun until it is accepted again), a watcher that died, a mount point whose filesystem is not
mounted (nothing is forgotten because of it).
"""

import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Container, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from urllib.parse import quote

from axomsync.config import DropSettings
from axomsync.drop.settle import Meaning, Settler, interpret
from axomsync.drop.upload import Surroundings, Uploader
from axomsync.drop.watch import Scan, Watcher, scan
from axomsync.errors import KeyRefused, LocalFault, Stopping
from axomsync.liveness import Beat, Liveness
from axomsync.problems import Problems
from axomsync.records import Stamp, Upload, UploadState

log = logging.getLogger(__name__)

UPLOADS_AT_ONCE = 8
KEY_PAUSE_SECONDS = 30.0
NAME_LIMIT = 255
LONGEST_NAP_SECONDS = 5.0  # the loop turns over at least so often, to show that it lives
SCAN_SHARE = 10  # a scan that takes a second is not followed by another for ten


class Intake:
    """Takes files from the drop folder. `wake` makes it look at once; `run` is its thread, `run_once` one pass."""

    def __init__(
        self,
        settings: DropSettings,
        around: Surroundings,
        problems: Problems,
        liveness: Liveness,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._around = around
        self._ledger = around.ledger
        self._problems = problems
        self._liveness = liveness
        self._clock = clock
        self._uploader = Uploader(settings, around)
        self._settler = Settler(settings.settle)
        self._wake = threading.Event()
        self._watcher = Watcher(settings.folder, settings.observer, self._wake.set)
        self._pool = ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="upload")
        self._in_flight: dict[int, Future[bool]] = {}
        self._key_refused: KeyRefused | None = None
        self._ledger_fault: LocalFault | None = None
        self._key_pause_ends = -math.inf
        self._retry_at: float | None = None  # by the wall clock, as `next_attempt` in the ledger

    @property
    def observer(self) -> str:
        """How the folder is watched, for `status`."""
        return self._watcher.kind

    def wake(self) -> None:
        """Look at the folder now."""
        self._wake.set()

    def hurry(self) -> None:
        """As `wake`, and without the pause that a refused key asks for."""
        self._key_pause_ends = -math.inf
        self._wake.set()

    def run(self) -> None:
        """Work until the agent stops."""
        with self._liveness.worker("drop") as beat:
            while not self._around.stop.is_set():
                beat()
                self._heal_watcher()
                self._wake.clear()
                began = self._clock()
                try:
                    self._turn()
                except LocalFault as fault:
                    self._problems.report("drop folder", str(fault), self._around.now() + self._settings.rescan)
                self._nap(began, self._clock() - began, beat)
        self._watcher.stop()
        self._pool.shutdown(cancel_futures=True)

    def run_once(self) -> None:
        """One pass, for `sync`: every file that stands still for `settle` goes as far as it can. Raises `KeyRefused`,
        and `LocalFault` when the folder can't be read or the ledger not be written."""
        try:
            self._ledger.make_uploads_due()
            first = self._turn()
            settled_at = self._clock() + self._settings.settle
            while (left := settled_at - self._clock()) > 0 and not self._around.stop.is_set():
                self._around.stop.wait(left)
            self._turn(only=first)
            while self._in_flight and self._stopped_by() is None:
                for future in wait_for(self._in_flight.values()).done:
                    future.result()
                self._turn(only=first)
        finally:
            self._pool.shutdown(cancel_futures=True)
        if (failure := self._stopped_by()) is not None:
            raise failure

    def _stopped_by(self) -> KeyRefused | LocalFault | None:
        return self._key_refused or self._ledger_fault

    def _nap(self, began: float, took: float, beat: Beat) -> None:
        """Until the next scan: when one is due, a file may have settled, a try is due, or something happened; but not at
        once again."""
        now = self._clock()
        earliest = began + took * (1 + SCAN_SHARE)
        latest = began + self._settings.rescan
        if (due := self._settler.due_in(now)) is not None:
            latest = min(latest, now + due)
        if self._key_pause_ends > now:
            latest = min(latest, self._key_pause_ends)
        elif self._retry_at is not None:
            latest = min(latest, now + self._retry_at - self._around.now())
        until = max(earliest, latest)
        while not self._around.stop.is_set():
            beat()
            now = self._clock()
            if now >= until or (now >= earliest and self._wake.is_set()):
                return
            if now < earliest:
                self._around.stop.wait(min(earliest - now, LONGEST_NAP_SECONDS))
            else:
                self._wake.wait(min(until - now, LONGEST_NAP_SECONDS))

    def _heal_watcher(self) -> None:
        self._watcher.heal()
        if self._watcher.fault:
            self._problems.report("watching the drop folder", f"{self._watcher.fault}; it is scanned every rescan instead")
        else:
            self._problems.clear("watching the drop folder")

    def _turn(self, only: Container[bytes] | None = None) -> Container[bytes]:
        """One scan and what follows from it; returns the paths found. Raises `LocalFault`.

        What is due is begun, if it is in `only`.
        """
        # Before the scan: a file that is archived after it must not be taken for a new one.
        self._in_flight = {row: future for row, future in self._in_flight.items() if not future.done()}
        seen = scan(self._settings.folder, self._settings.include, self._settings.exclude)
        self._show_unreadable(seen)
        meaning = interpret(
            seen.found,
            self._ledger.read.uploads_in_drop(),
            self._in_flight,
            self._around.now(),
            keeps=self._settings.after == "keep",
            max_put=math.inf if self._settings.shard else self._settings.max_put,
        )
        self._retry_at = meaning.next_due
        self._forget(meaning.vanished, seen)
        settling = meaning.settling | self._meet(meaning, seen.found)
        settled = self._settler.observe(settling, self._clock())
        if settled:
            rows = {row.path: row for row in self._ledger.read.uploads_in_drop()}
            for path in settled:
                self._begin(rows[path], only)
        for row in sorted(meaning.unfinished, key=lambda row: row.stamp.mtime_ns):
            self._begin(row, only)
        return seen.found.keys()

    def _show_unreadable(self, seen: Scan) -> None:
        faults = list(seen.unreadable.values())
        if not faults:
            self._problems.clear("drop folder")
            return
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        self._problems.report("drop folder", f"{faults[0]}{more}", self._around.now() + self._settings.rescan)

    def _forget(self, vanished: list[Upload], seen: Scan) -> None:
        # A file of another filesystem is not gone, its filesystem is not mounted.
        gone = [row.path for row in vanished if row.stamp.dev == seen.device and not seen.hides(row.path)]
        if gone:
            self._ledger.forget_uploads(gone)

    def _meet(self, meaning: Meaning, found: Mapping[bytes, Stamp]) -> dict[bytes, Stamp]:
        """Rows for what is new, and a new beginning for what has changed; returns what is to settle because of it."""
        for row in meaning.replaced:
            self._ledger.record_moved_away(row.id).result()
        for row in meaning.changed:
            self._ledger.restamp(row.id, found[row.path], UploadState.SETTLING).result()
        unknown = [*meaning.new, *(row.path for row in meaning.replaced)]
        if unknown:
            self._ledger.see_uploads((path, console_name(path), found[path]) for path in unknown)
        return {path: found[path] for path in (*unknown, *(row.path for row in meaning.changed))}

    def _begin(self, row: Upload, only: Container[bytes] | None) -> None:
        if row.id in self._in_flight or (only is not None and row.path not in only):
            return
        if self._clock() < self._key_pause_ends or self._around.stop.is_set():
            return
        future = self._in_flight[row.id] = self._pool.submit(self._carry, row.id)
        future.add_done_callback(self._carried)  # not from within: it is done only now, and the loop must find it so

    def _carry(self, row: int) -> bool:
        """In a thread of the pool: one file. Returns whether something came of it, however it ended."""
        if self._clock() < self._key_pause_ends:
            return False  # refused while this one stood in the queue
        try:
            with self._liveness.worker("upload") as beat:
                went_on = self._uploader.carry(row, beat)
            if self._key_refused is not None and self._ledger.read.upload(row).state is UploadState.UPLOADED:
                self._key_refused = None
                self._problems.clear("console")
            if self._ledger_fault is not None and went_on:
                self._ledger_fault = None
                self._problems.clear("ledger")
            return went_on
        except Stopping:
            return False
        except KeyRefused as refused:
            self._key_refused = refused
            self._key_pause_ends = self._clock() + KEY_PAUSE_SECONDS
            self._problems.report("console", str(refused), self._around.now() + KEY_PAUSE_SECONDS)
            return True
        except LocalFault as fault:  # the ledger's; those of the file itself are in its row
            self._ledger_fault = fault
            self._problems.report("ledger", str(fault))
            return False

    def _carried(self, future: "Future[bool]") -> None:
        if future.cancelled():
            return
        if future.exception() is not None:
            log.error("an upload failed in a way that was not foreseen", exc_info=future.exception())
        elif future.result():
            self._wake.set()


def console_name(path: bytes) -> str:
    """The file name that the console is told: the last component, with what is not printable UTF-8 percent-encoded.

    So are backslashes, which some stores take for slashes. The name has at most 255 bytes, as the name of a file has; a
    longer one ends in a mark that keeps it apart from its like.
    """
    name = os.path.basename(path)
    try:
        told = "".join(c if c.isprintable() and c != "\\" else quote(c) for c in name.decode("utf-8"))
    except UnicodeDecodeError:
        told = quote(name)
    if len(told.encode()) <= NAME_LIMIT:
        return told
    stem, extension = os.path.splitext(told)
    mark = f"--{hashlib.sha256(name).hexdigest()[:8]}{extension[-16:]}"
    return stem.encode()[: NAME_LIMIT - len(mark.encode())].decode("utf-8", "ignore") + mark
