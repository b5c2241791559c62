"""The drop folder's loop: scan, let files settle, hand the finished ones to the `carriers`.

Files of `push` have rows with an absolute path; they lie elsewhere and need not settle.

Failures handled: a folder that is missing or unreadable (reported as a problem, tried again), sub-folders likewise (the
others go on), files that vanish or change between scans, a ledger that can't be written for a while, a key that the console
refuses (no file is begun until it is accepted again), a watcher that died, a mount point whose filesystem is not mounted (no
row is forgotten because of it), a row that a person had forgotten meanwhile, a program that pauses while it writes, a ledger
that was lost, a folder so slow that one look takes longer than a worker may be silent.
"""

import logging
import math
import os
import threading
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from axomsync.config import DropSettings
from axomsync.core.errors import Forgotten, LocalFault, Stopping
from axomsync.core.records import UNDER_WAY, Stamp, Upload, UploadState
from axomsync.core.text import printable
from axomsync.drop.accounts import Accounts
from axomsync.drop.carriers import Carriers
from axomsync.drop.expiry import Expiry
from axomsync.drop.names import console_name
from axomsync.drop.open_files import being_written
from axomsync.drop.pipeline import Uploader
from axomsync.drop.settle import Meaning, Settler, interpret
from axomsync.drop.source import is_pushed
from axomsync.drop.watch import Scan, Watcher, folder_of, scan, stamp_at, unmounted
from axomsync.runtime.heartbeat import Beat, unwatched
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)

LONGEST_NAP_SECONDS = 5.0  # the loop runs at least this often, to show that it is alive
LOOKING_SHARE = 10  # a look at all files that took one second is followed by a pause of ten
LONGEST_PAUSE_SECONDS = 60.0  # after a scan, however long it took
READ_AGAIN_SECONDS = 3600.0
HEAL_SECONDS = 60.0  # shortest pause before an early scan after the watch died; it may die again at once
STILL_WRITTEN = "a program still has it open for writing"


class _Turn(NamedTuple):
    """Result of one scan of the drop folder."""

    found: Container[bytes]
    unreadable: Mapping[bytes, LocalFault]
    is_last: bool  # no carrier was busy before it, it began no file, and none was pushed meanwhile


class Intake:
    """Takes files from the drop folder. `wake` makes it scan at once; `run` is its thread, `run_once` one pass.

    `reserve`: see `Uploader`. `connections`: what `[transfer] connections` says, None for "auto".
    """

    name = "drop"
    subject = "drop folder"

    def __init__(
        self, settings: DropSettings, context: WorkerContext, reserve: int = 0, connections: int | None = None
    ) -> None:
        self._settings = settings
        self._context = context
        self._ledger = context.ledger
        self._problems = context.problems
        self._clock = context.clock
        self._uploader = Uploader(settings, context, reserve)
        self._settler = Settler(settings.settle)
        self._left = Accounts(context.ledger)
        self._read_again: dict[int, float] = {}  # time when files were compared with their digests, by row
        self._wake = threading.Event()
        self._pushed = threading.Event()  # since the last scan
        self._watcher = Watcher(settings.folder, settings.observer, self._wake.set)
        self._carriers = Carriers(self._uploader, context, self._wake.set, connections)
        self._ready = False
        self._looking_seconds = 0.0  # duration of the last scan and its comparison, without waits for a locked ledger
        self._retry_at = math.inf  # monotonic time

    @property
    def observer(self) -> str:
        """The kind of watch on the folder, for `status`."""
        return self._watcher.kind

    def busy(self) -> frozenset[int]:
        """The rows that wait for a carrier or are carried now."""
        return self._carriers.busy()

    def wake(self) -> None:
        """Scan the folder now."""
        self._wake.set()

    def hurry(self) -> None:
        """Scan the folder now, and end the pause after a refused key."""
        self._carriers.end_pause()
        self._wake.set()

    def run(self) -> None:
        """Work until the agent stops."""
        with self._context.liveness.worker(self.name) as beat:
            while not self._context.stop.is_set():
                beat()
                self._heal_watcher()
                self._wake.clear()
                began = self._clock()
                try:
                    self._turn(beat)
                except LocalFault as fault:
                    self._problems.report(self.subject, str(fault), self._context.now() + self._settings.rescan)
                self._nap(began, beat)
        self._watcher.stop()
        self._carriers.end()

    def run_once(self) -> None:
        """Run one pass, for `sync`: every file that is unchanged for `settle`, or was pushed, goes as far as it can.

        Raises `KeyRefused`, and `LocalFault` if the folder can't be read or the ledger can't be written.
        """
        try:
            self._ledger.make_uploads_due()
            turn = self._turn(unwatched, once=True)
            first = turn.found
            settled_at = self._clock() + self._settings.settle
            while (left := settled_at - self._clock()) > 0 and not self._context.stop.is_set():
                self._context.stop.wait(left)
            # Until a scan finds no more work. Files that fail in this pass are tried again in the next pass. What one turn
            # could not read has not settled when the next one can: so it is told at the end, too.
            while not (turn := self._turn(unwatched, first, turn.unreadable, once=True)).is_last and self._goes_on():
                while self._goes_on() and not self._pushed.is_set():
                    if self._carriers.wait_until_idle(LONGEST_NAP_SECONDS):
                        break
            with suppress(Stopping):
                Expiry(self._settings, self._context).look(unwatched)
        finally:
            self._carriers.end()
        if (failure := self._carriers.stopped_by()) is not None:
            raise failure

    def push(self, paths: Iterable[Path]) -> list[int]:
        """Take the given files, wherever they lie, and start on them at once; returns their rows. Raises `LocalFault`."""
        rows = []
        for path in paths:
            whole = os.path.realpath(os.fsencode(path))
            stamp = stamp_at(Path("/"), whole)
            if stamp is None:
                name = printable(os.fsdecode(whole))
                if os.path.lexists(whole):
                    raise LocalFault(f"{name}: it is no regular file; push the file itself")
                raise LocalFault(f"{name}: the agent finds no file there; correct the path, or give it access")
            rows.append(self._ledger.push_upload(whole, console_name(whole), stamp))
        self._pushed.set()
        self._wake.set()
        return rows

    def run_pushed(self, rows: Sequence[int]) -> None:
        """Carry these rows as far as possible, for `push` without an agent. Raises `KeyRefused` and `LocalFault`."""
        try:
            self._get_ready(unwatched)
            while self._carriers.stopped_by() is None and not self._context.stop.is_set():
                left = [row for row in self._ledger.read.uploads_among(rows) if row.state in UNDER_WAY]
                left = [row for row in left if row.next_attempt is None]
                if not left:
                    break
                self._carriers.begin(left, None)
                while self._carriers.stopped_by() is None and not self._carriers.wait_until_idle(LONGEST_NAP_SECONDS):
                    pass
        finally:
            self._carriers.end()
        if (failure := self._carriers.stopped_by()) is not None:
            raise failure

    def _goes_on(self) -> bool:
        return self._carriers.stopped_by() is None and not self._context.stop.is_set()

    def _nap(self, began: float, beat: Beat) -> None:
        """Sleep until the next scan: when one is due, when a file may have settled or a try is due, or on an event.

        Scans never follow each other at once.
        """
        now = self._clock()
        earliest = now + min(self._looking_seconds * LOOKING_SHARE, LONGEST_PAUSE_SECONDS)
        latest = began + self._settings.rescan
        if (due := self._settler.due_in(now)) is not None:
            latest = min(latest, now + due)
        latest = min(latest, self._carriers.pause_ends if self._carriers.pause_ends > now else self._retry_at)
        until = max(earliest, latest)
        while not self._context.stop.is_set():
            beat()
            now = self._clock()
            is_blind = now - began >= HEAL_SECONDS and not self._watcher.works()
            if now >= until or (now >= earliest and (self._wake.is_set() or is_blind)):
                return
            if now < earliest:
                self._context.stop.wait(min(earliest - now, LONGEST_NAP_SECONDS))
            else:
                self._wake.wait(min(until - now, LONGEST_NAP_SECONDS))

    def _heal_watcher(self) -> None:
        self._watcher.heal()
        if self._watcher.fault:
            self._problems.report("watching the drop folder", f"{self._watcher.fault}; it is scanned every rescan instead")
        else:
            self._problems.clear("watching the drop folder")

    def _turn(
        self,
        beat: Beat,
        only: Container[bytes] | None = None,
        unreadable: Mapping[bytes, LocalFault] | None = None,
        *,
        once: bool = False,
    ) -> _Turn:
        """Scan once and act on the result; `unreadable` is told besides what the scan can't read. Raises `LocalFault`.

        Due rows are begun, limited as `Carriers.begin` says; with `once`, failed rows do not become due again.
        """
        self._pushed.clear()
        busy = self._carriers.busy()  # before the scan: a file that is archived after it must not look like a new one
        settings = self._settings
        hidden = self._get_ready(beat)  # this may give files back the name that a crash changed
        began = self._clock()
        seen = scan(settings.folder, settings.include, settings.exclude, settings.done_marker, beat)
        seen.unreadable |= {**hidden, **(unreadable or {})}
        rows = self._ledger.read.uploads_in_drop()
        pushed = {row.path: row for row in rows if is_pushed(row.path)}
        for path in pushed:
            try:
                if (stamp := stamp_at(settings.folder, path)) is not None:
                    seen.found[path] = stamp
            except LocalFault as fault:
                seen.unreadable[path] = fault
        looking = self._clock() - began
        self._show_unreadable(seen)
        self._left.observe(seen.left)
        began = self._clock()
        meaning = interpret(
            seen.found,
            rows,
            busy,
            partial(self._seconds_left, once),
            keeps=settings.after == "keep",
            max_put=math.inf if settings.shard else settings.max_put,
            room=self._uploader.room(),
        )
        del rows
        self._looking_seconds = looking + self._clock() - began
        self._retry_at = math.inf if meaning.next_in is None else self._clock() + meaning.next_in
        self._forget(meaning.vanished, seen)
        settling = meaning.settling | self._meet(meaning, seen.found)
        finished = [path for path in settling if path in pushed]
        finished += self._settler.observe({path: settling[path] for path in settling if path not in pushed}, self._clock())
        begun = False
        if finished:
            known = {row.path: row for row in self._ledger.read.uploads_in_drop() if row.path in settling}
            there = (known[path] for path in finished if path in known)  # the others were forgotten meanwhile
            begun = self._carriers.begin((row for row in there if not self._still_written(row, beat)), only)
        begun = self._carriers.begin(meaning.unfinished, only) or begun
        begun = self._carriers.begin(self._worth_reading_again(meaning.doubtful), only) or begun
        return _Turn(seen.found.keys(), seen.unreadable, is_last=not (busy or begun or self._pushed.is_set()))

    def _seconds_left(self, once: bool, row: Upload) -> float:
        """Seconds until a row is due."""
        return math.inf if once and row.next_attempt is not None else self._uploader.waits.left(row.id, row.next_attempt)

    def _worth_reading_again(self, rows: Iterable[Upload]) -> list[Upload]:
        """Leave out rows that were read in the last hour: people often change a folder's rights repeatedly."""
        now = self._clock()
        due = [row for row in rows if now - self._read_again.get(row.id, -math.inf) >= READ_AGAIN_SECONDS]
        self._read_again.update((row.id, now) for row in due)
        return due

    def _get_ready(self, beat: Beat) -> Mapping[bytes, LocalFault]:
        """Finish recovery before the first file is taken; returns the paths that can't be read."""
        if self._ready:
            return {}
        faults = self._uploader.recover(beat)
        self._ready = self._uploader.is_recovered
        return faults

    def _still_written(self, row: Upload, beat: Beat) -> bool:
        """Check whether a program may still write to a settled file; records that once in its row."""
        beat()
        try:
            with folder_of(self._settings.folder, row.path) as (folder, name):
                if not being_written(name, folder=folder.descriptor):
                    return False
        except OSError:
            return False  # the carrier that opens it next reports the reason
        if row.reason != STILL_WRITTEN:
            self._ledger.move_upload(row.id, row.state, reason=STILL_WRITTEN)
        return True

    def _show_unreadable(self, seen: Scan) -> None:
        faults = list(seen.unreadable.values())
        if not faults:
            self._problems.clear(self.subject)
            return
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        self._problems.report(self.subject, f"{faults[0]}{more}", self._context.now() + self._settings.rescan)

    def _forget(self, vanished: list[Upload], seen: Scan) -> None:
        missing = [row for row in vanished if not seen.hides(row.path)]
        elsewhere = {
            row.path
            for row in missing
            if row.stamp.dev != seen.device and unmounted(self._settings.folder, row.path, row.stamp.dev)
        }
        if elsewhere:
            count = f"{len(elsewhere)} files" if len(elsewhere) > 1 else "1 file"
            told = f"{count} lay on a filesystem that is not mounted now; mount it (nothing is forgotten)"
            self._problems.report("drop folder's filesystem", told)
        else:
            self._problems.clear("drop folder's filesystem")
        gone = [row.path for row in missing if row.path not in elsewhere]
        if gone:
            self._ledger.forget_uploads(gone)

    def _meet(self, meaning: Meaning, found: Mapping[bytes, Stamp]) -> dict[bytes, Stamp]:
        """Make rows for new files and reset those of changed files; returns the files that must settle because of it."""
        for row in meaning.replaced:
            self._ledger.record_moved_away(row.id).result()
        if meaning.touched:
            with suppress(Forgotten):  # the next scan tells of the others again
                self._ledger.touch_uploads((row.id, found[row.path]) for row in meaning.touched)
        for row in meaning.changed:
            with suppress(Forgotten):
                self._ledger.restamp(row.id, found[row.path], UploadState.SETTLING).result()
        unknown = [*meaning.new, *(row.path for row in meaning.replaced)]
        unknown.sort(key=lambda path: (found[path].mtime_ns, path))  # a folder lists its names in any order
        if unknown:
            self._ledger.see_uploads((path, console_name(path), found[path]) for path in unknown)
        return {path: found[path] for path in (*unknown, *(row.path for row in meaning.changed))}
