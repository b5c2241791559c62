"""The drop folder's loop: scan, let files settle, hand the finished ones to the uploader, oldest first.

Failures handled: a folder that is missing or unreadable (a problem that is shown, tried again), files that vanish or
change between scans, a key that the console refuses (no file is begun until it is accepted again), a watcher that died,
a mount point whose filesystem is not mounted (nothing is forgotten because of it).
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Container
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from urllib.parse import quote

from axomsync.config import DropSettings
from axomsync.drop.settle import Settler, interpret
from axomsync.drop.upload import Surroundings, Uploader
from axomsync.drop.watch import Watcher, scan
from axomsync.errors import KeyRefused, LocalFault, Stopping
from axomsync.liveness import Beat, Liveness
from axomsync.problems import Problems
from axomsync.records import Stamp, Upload, UploadState

log = logging.getLogger(__name__)

UPLOADS_AT_ONCE = 8
KEY_PAUSE_SECONDS = 30.0
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
        self._in_flight: dict[int, Future[None]] = {}
        self._key_refused: KeyRefused | None = None
        self._key_pause_ends = -math.inf

    @property
    def observer(self) -> str:
        """How the folder is watched, for `status`."""
        return self._watcher.kind

    def wake(self) -> None:
        """Look at the folder now."""
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
                    self._turn(self._around.now())
                    self._problems.clear("drop folder")
                except LocalFault as fault:
                    self._problems.report("drop folder", str(fault), self._around.now() + self._settings.rescan)
                self._nap(began, self._clock() - began, beat)
        self._watcher.stop()
        self._pool.shutdown(cancel_futures=True)

    def run_once(self) -> None:
        """One pass, for `sync`: every file that stands still for `settle` goes as far as it can. Raises `KeyRefused`,
        and `LocalFault` when the folder can't be read."""
        try:
            first = self._turn(math.inf)
            if (due := self._settler.due_in(self._clock())) is not None:
                self._around.stop.wait(due)
            self._turn(math.inf, only=first)
            while self._in_flight and self._key_refused is None:
                wait_for(self._in_flight.values())
                self._turn(0.0, only=first)
        finally:
            self._pool.shutdown(cancel_futures=True)
        if self._key_refused is not None:
            raise self._key_refused

    def _nap(self, began: float, took: float, beat: Beat) -> None:
        """Until the next scan: when one is due, a file may have settled, or something happened; but not at once again."""
        earliest = began + took * (1 + SCAN_SHARE)
        latest = began + self._settings.rescan
        while not self._around.stop.is_set():
            beat()
            now = self._clock()
            due = self._settler.due_in(now)
            until = max(earliest, min(latest, math.inf if due is None else now + due))
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

    def _turn(self, now: float, only: Container[bytes] | None = None) -> set[bytes]:
        """One scan and what follows from it; returns the paths found. Raises `LocalFault`.

        What is due by `now` is begun, if it is in `only`.
        """
        found = dict(scan(self._settings.folder, self._settings.include, self._settings.exclude))
        root_device = os.stat(self._settings.folder).st_dev
        self._in_flight = {row: future for row, future in self._in_flight.items() if not future.done()}
        rows = self._ledger.read.uploads_in_drop()
        meaning = interpret(found, rows, self._in_flight, now, keeps=self._settings.after == "keep")
        self._forget(meaning.vanished, rows, root_device)
        self._start_over(meaning.replaced, meaning.changed, found)
        self._meet([*meaning.new, *(row.path for row in meaning.replaced)], found)
        fresh = {path: found[path] for path in meaning.new}
        changed = {row.path: found[row.path] for row in (*meaning.replaced, *meaning.changed)}
        settled = self._settler.observe({**meaning.settling, **fresh, **changed}, self._clock())
        by_path = {row.path: row for row in rows}
        for path in settled:
            if path in meaning.settling:
                self._begin(by_path[path], only)
        for row in sorted(meaning.unfinished, key=lambda row: row.stamp.mtime_ns):
            self._begin(row, only)
        return set(found)

    def _forget(self, vanished: list[bytes], rows: list[Upload], root_device: int) -> None:
        devices = {row.path: row.stamp.dev for row in rows}
        # A file of another filesystem is not gone, its filesystem is not mounted.
        gone = [path for path in vanished if devices[path] == root_device]
        if gone:
            self._ledger.forget_uploads(gone)

    def _start_over(self, replaced: list[Upload], changed: list[Upload], found: dict[bytes, Stamp]) -> None:
        for row in replaced:
            self._ledger.record_moved_away(row.id).result()
        for row in changed:
            self._ledger.restamp(row.id, found[row.path], UploadState.SETTLING).result()

    def _meet(self, paths: list[bytes], found: dict[bytes, Stamp]) -> None:
        if paths:
            self._ledger.see_uploads((path, console_name(path), found[path]) for path in paths)

    def _begin(self, row: Upload, only: Container[bytes] | None) -> None:
        if row.id in self._in_flight or (only is not None and row.path not in only):
            return
        if self._clock() < self._key_pause_ends or self._around.stop.is_set():
            return
        self._in_flight[row.id] = self._pool.submit(self._carry, row.id)

    def _carry(self, row: int) -> None:
        """In a thread of the pool: one file. A failure that was not foreseen is told, and leaves the others alone."""
        try:
            with self._liveness.worker("upload") as beat:
                self._uploader.carry(row, beat)
            if self._key_refused is not None and self._ledger.read.upload(row).state is UploadState.UPLOADED:
                self._key_refused = None
                self._problems.clear("console")
        except Stopping:
            return
        except KeyRefused as refused:
            self._key_refused = refused
            self._key_pause_ends = self._clock() + KEY_PAUSE_SECONDS
            self._problems.report("console", str(refused), self._around.now() + KEY_PAUSE_SECONDS)
        except LocalFault as fault:  # the ledger's; those of the file itself are in its row
            self._problems.report("ledger", str(fault))
        finally:
            self._wake.set()


def console_name(path: bytes) -> str:
    """The file name that the console is told: the last component, with what is not printable UTF-8 percent-encoded."""
    name = os.path.basename(path)
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return quote(name)
    return "".join(c if c.isprintable() else quote(c) for c in text)
