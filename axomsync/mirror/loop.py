"""The mirror's loop: ask the console what is ready, and carry each model from its manifest to its published folder.

Failures handled: a console that is down (told once, tried again), a refused key (likewise; what is signed goes on), a
model that vanishes or changes half-way (listed again), a manifest that can't be trusted (`blocked`), a disk without room
(`blocked` with how much is missing, goes on by itself), bytes that differ from those in storage (fetched again), models
that bring nothing while others wait (they leave their places and go behind), a crash anywhere (taken up from what is
durable; a folder that was published before the ledger knew is adopted).
"""

import logging
import math
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from pathlib import Path

from axomsync.console.client import NotThere
from axomsync.core.errors import (
    AxomsyncError,
    KeyRefused,
    LocalFault,
    Rejected,
    SourceChanged,
    Stopping,
    Transient,
    UrlExpired,
)
from axomsync.core.filesystems import is_folder
from axomsync.core.policy import backoff, same_but_for_numbers
from axomsync.core.records import Manifest, ManifestFile, Model, ModelFile, ModelState, Proof
from axomsync.core.text import printable
from axomsync.ledger import LedgerFault
from axomsync.mirror import layout, reuse
from axomsync.mirror.catalog import Selection, reconcile
from axomsync.mirror.check import structure
from axomsync.mirror.check.integrity import Corrupt
from axomsync.mirror.check.proving import Proving
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.fetch.partial import Job, PartialFile
from axomsync.mirror.fetch.urls import Links
from axomsync.mirror.publish.folder import record_of, shown
from axomsync.mirror.publish.record import Record, read_record
from axomsync.mirror.publish.space import Booking, Space
from axomsync.mirror.retention import GONE_SECONDS
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.meter import Gauge
from axomsync.runtime.retry import persist
from axomsync.runtime.waits import Waits

log = logging.getLogger(__name__)

MODELS_AT_ONCE = 4
FETCHES_OF_A_FILE = 3
LONGEST_NAP_SECONDS = 5.0
KEY_PAUSE_SECONDS = 30.0
SHORTEST_PAUSE_SECONDS = 1.0  # between two polls, however often they are wanted
REFUSED_PAUSE_SECONDS = 3600.0  # a refusal is final for the same question; upstream may mend it within the hour
DISK_PAUSE_SECONDS = 10.0  # looking again costs a statvfs, and the console nothing
WORKED_ON = frozenset({ModelState.DOWNLOADING, ModelState.VERIFYING})
DUE = frozenset({ModelState.QUEUED, ModelState.BLOCKED, ModelState.FAILED})
UNWANTED = frozenset({ModelState.IGNORED, ModelState.PRUNED})


class Mirror:
    """Mirrors models. `wake` makes it poll at once; `run` is its thread, `run_once` one pass for `sync`."""

    def __init__(self, context: MirrorContext) -> None:
        self._context = context
        self.paused = False  # no model is begun while it is true
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._waits = Waits(context.now, context.clock)
        self._pool = ThreadPoolExecutor(MODELS_AT_ONCE, thread_name_prefix="model")
        self._in_flight: dict[str, Future[None]] = {}
        self._gave_way: set[str] = set()  # models that left their places to others
        self._gives_way = True
        self._told: defaultdict[str, dict[str, str]] = defaultdict(dict)  # what was last logged of a model, by its subject
        self._begin_lock, self._poll_lock = threading.RLock(), threading.Lock()
        self._failed_polls = 0
        self._key_refused: KeyRefused | None = None
        self._publish_lock = threading.Lock()
        self._space = Space(context.settings, context.place, context.ledger, context.now)
        self._looked_around = False
        self._misplaced: set[str] = set()  # subjects of problems with names in the mirror folder

    def wake(self) -> None:
        """See what is due."""
        self._wake.set()

    def hurry(self) -> None:
        """Poll now, without the pause that a console in trouble or a refused key asks for."""
        self._hurry.set()
        self._wake.set()

    def run(self) -> None:
        """Work until the agent stops."""
        next_poll = -math.inf
        with self._context.liveness.worker("mirror") as beat:
            while not self._context.stop.is_set():
                beat()
                self._wake.clear()
                if self._hurry.is_set() or self._context.clock() >= next_poll:
                    self._hurry.clear()
                    began = self._context.clock()
                    next_poll = max(began + self._poll_and_tell(), self._context.clock() + SHORTEST_PAUSE_SECONDS)
                self._begin_due_and_tell()
                self._wake.wait(min(max(0.0, next_poll - self._context.clock()), LONGEST_NAP_SECONDS))
        self._pool.shutdown(cancel_futures=True)

    def run_once(self) -> None:
        """One pass: every ready model is mirrored as far as possible. Raises what the console or its folder refuses."""
        try:
            self.poll()
            self._begin_due(everything=True)
            wait_for(self._in_flight.values())
            if self._gave_way and not self._context.stop.is_set():
                self._begin_again()
                wait_for(self._in_flight.values())
            self._space.retain()
        finally:
            self._pool.shutdown(cancel_futures=True)
        if self._key_refused is not None:
            raise self._key_refused

    def pull(self, target: str, beat: Beat) -> Model:
        """Mirror the newest model that `target` names now, whatever the selection says, and wait for it.

        Raises what the console refuses, and what keeps the model from being published.
        """
        self.poll()
        model = _choose(self._context.ledger.read.models(), target)
        if model.state is not ModelState.PUBLISHED:
            with self._begin_lock:
                future = self._in_flight.get(model.id)
                if future is None or future.done():
                    self._context.ledger.record_wanted(model.id, pulled=model.state in UNWANTED)
                    future = self._in_flight[model.id] = self._pool.submit(self._carry, model.id)
            while wait_for([future], timeout=1.0).not_done:
                beat()
        return _outcome(self._context.ledger.read.model(model.id))

    def prune(self, *, dry_run: bool) -> tuple[list[str], list[str]]:
        """Apply retention now; a line for what is removed, and one for what would be if nobody read it."""
        planned = self._space.plan()
        names = {row.id: shown(row) for row in self._context.ledger.read.models()}
        removed, spared = (
            [f"{names[removal.version.id]}: {removal.reason}" for removal in removals]
            for removals in (planned.removals, planned.spared)
        )
        return removed if dry_run else self._space.retain(), [f"{line}, but it is open" for line in spared]

    def poll(self) -> None:
        """Ask the console for the catalog and bring the ledger in line with it."""
        with self._poll_lock:
            self._poll()

    def _poll(self) -> None:
        listed = persist(self._context.console.models, self._context.stop, self._context.random)
        if left_out := self._context.console.models_left_out:
            self._context.problems.report("list of models", left_out)
        else:
            self._context.problems.clear("list of models")
        unread = [] if self._looked_around else self._look_around()
        busy = {model for model, future in self._in_flight.items() if not future.done()}
        known = self._context.ledger.read.models()
        self._context.place.check([row for row in known if row.state is ModelState.PUBLISHED])
        settings = self._context.settings
        selection = Selection(settings.include, settings.exclude, settings.keep, settings.max_size, settings.files)
        changes = reconcile(listed, known, selection, lambda row: self._is_there(row, unread), busy)
        if changes:
            self._context.ledger.record_catalog((change.model, change.state, change.reason) for change in changes)
            for change in changes:
                if change.state is ModelState.IGNORED:
                    self._let_go(change.model.id)
        there = {model.id for model in listed}
        self._note_presence(there, known)
        for row in known:
            gone = row.state is ModelState.GONE and self._context.now() - row.updated_at > GONE_SECONDS
            if gone and row.bytes_done and there and row.id not in there:
                self._let_go(row.id)
        self._context.ledger.set_facts(last_poll=str(self._context.now()))
        self._space.retain()
        self._follow_labels(busy)
        if unread:
            raise unread[0]

    def _is_there(self, row: Model, unread: list[LocalFault]) -> bool:
        """Whether a model's folder is there. What can't be seen now is: it would be fetched again otherwise."""
        try:
            return is_folder(row.path)
        except LocalFault as fault:
            unread.append(fault)
            return True

    def _follow_labels(self, busy: Container[str]) -> None:
        """Have folders be called as the console calls their models now, and tell of a `current` that is not ours."""
        told: dict[str, str] = {}
        published = [
            row for row in self._context.ledger.read.models(ModelState.PUBLISHED) if row.path and row.id not in busy
        ]
        for row in published:
            with self._publish_lock:
                self._follow(row, Path(row.path or ""), told)
        for parent in {
            Path(row.path or "").parent for row in self._context.ledger.read.models(ModelState.PUBLISHED) if row.path
        }:
            try:
                fault = self._context.place.tend_current(parent)
            except LocalFault as unread:
                fault = str(unread)
            if fault is not None:
                told[printable(f"{parent.name}/current")] = f"{parent / 'current'}: {fault}"
        for subject in self._misplaced - told.keys():
            self._context.problems.clear(subject)
        for subject, reason in told.items():
            self._context.problems.report(subject, reason)
        self._misplaced = set(told)

    def _follow(self, row: Model, folder: Path, told: dict[str, str]) -> None:
        subject = printable(f"{folder.parent.name}/{folder.name}")
        try:
            place, obstacle = self._context.place.follow_labels(row)
        except (LocalFault, Rejected) as fault:
            told[subject] = f"{folder} holds {shown(row)} and can't be renamed: {fault}"
            return
        if obstacle is not None:
            told[subject] = f"{folder} holds {shown(row)}; it is renamed as soon as nobody reads it: {obstacle}"
        elif place != folder:
            self._context.ledger.record_moved(row.id, str(place))
            log.info("%s: renamed, %s is %s now", shown(row), folder, place)

    def _let_go(self, model_id: str) -> None:
        """What was received of a model that is wanted no more would only fill the disk."""
        if self._context.place.discard_staging(model_id):
            for file in self._context.ledger.read.files(model_id):
                self._context.ledger.discard_file(model_id, file.rel)

    def _look_around(self) -> list[LocalFault]:
        """At the start, until nothing is left that can't be read: what lies in the mirror folder is known again, though the
        ledger or a record may be lost.
        """
        self._context.place.sweep(self._context.now())
        unread: list[LocalFault] = []
        known = {row.id: row for row in self._context.ledger.read.models()}
        for row in known.values():
            if row.state is ModelState.PUBLISHED:
                try:
                    self._context.place.restore_record(row, self._context.ledger.read.files(row.id))
                except LocalFault as fault:
                    unread.append(fault)
        for folder, record in self._context.place.published():
            try:
                if isinstance(record, LocalFault):
                    raise record
                whole = record.model.id not in known and self._context.place.lacks(folder, record) is None
            except LocalFault as fault:
                unread.append(fault)
                continue
            if whole:
                self._context.ledger.record_found(
                    record.model, str(folder), record.files, record.left_out, record.remarks, record.proofs.values()
                )
                log.info("%s: found at %s", printable(f"{record.model.name}/{record.model.version}"), folder)
        self._looked_around = not unread
        return unread

    def _note_presence(self, listed: set[str], known: list[Model]) -> None:
        """That somebody removed a model is not concluded from a list that is empty, or that shows less than there is."""
        if self._context.settings.keep_gone or not listed or self._context.console.models_left_out:
            return
        if any(row.absent_since is not None or row.id not in listed for row in known if row.state is ModelState.PUBLISHED):
            self._context.ledger.note_presence(listed)

    def _poll_and_tell(self) -> float:
        """Seconds from the begin of this poll to that of the next one."""
        try:
            self.poll()
        except KeyRefused as refused:
            self._context.problems.report("console", str(refused), self._context.now() + KEY_PAUSE_SECONDS)
            return KEY_PAUSE_SECONDS
        except LocalFault as fault:
            self._context.problems.report("mirror folder", str(fault), self._context.now() + self._context.settings.poll)
            return self._context.settings.poll
        except AxomsyncError as failure:
            self._failed_polls += 1
            wait = backoff(self._failed_polls, self._context.random, getattr(failure, "retry_after", None))
            self._context.problems.report("console", str(failure), self._context.now() + wait)
            return wait
        self._failed_polls = 0
        self._context.problems.clear("console")
        self._context.problems.clear("mirror folder")
        return self._context.settings.poll

    def _begin_due_and_tell(self) -> None:
        try:
            self._begin_due()
        except LocalFault as fault:
            self._context.problems.report("ledger", str(fault))
        else:
            self._context.problems.clear("ledger")

    def _begin_due(self, *, everything: bool = False) -> None:
        if self.paused:
            return
        with self._begin_lock:
            self._begin(everything=everything)

    def _begin(self, *, everything: bool) -> None:
        self._in_flight = {model: future for model, future in self._in_flight.items() if not future.done()}
        for model in self._context.ledger.read.models_due(WORKED_ON, math.inf):
            if model.id not in self._in_flight:  # its end could not be recorded, on a full disk for instance
                self._context.ledger.move_model(model.id, ModelState.QUEUED)
        for model in self._context.ledger.read.models_due(DUE, math.inf):
            if model.id in self._in_flight:
                continue
            if everything or self._waits.left(model.id, model.next_attempt) == 0:
                self._in_flight[model.id] = self._pool.submit(self._carry, model.id)

    def _begin_again(self) -> None:
        """For `run_once`: who left its place to others has a second turn after them, with all the patience there is."""
        self._gives_way = False
        with self._begin_lock:
            for model in self._context.ledger.read.models_due(DUE, math.inf):
                if model.id in self._gave_way:
                    self._in_flight[model.id] = self._pool.submit(self._carry, model.id)

    def _others_wait(self) -> bool:
        """Whether a model is to leave its place in the pool, as soon as nothing comes, to one that waits for it."""
        waiting = (future for future in list(self._in_flight.values()) if not (future.running() or future.done()))
        return self._gives_way and any(True for _ in waiting)

    # One model

    def _carry(self, model_id: str) -> None:
        """In a thread of the pool: one model, as far as it can go. What keeps it is in the ledger afterwards."""
        model = self._context.ledger.read.model(model_id)
        try:
            with self._context.liveness.worker("model") as beat:
                self._mirror(model, beat)
        except (Stopping, LedgerFault):  # of the latter, who watches the ledger tells; the model is taken up again
            return
        except NotThere:
            if self._is_there(model, []):
                self._set_back(
                    model, ModelState.BLOCKED, "it vanished from the console; its copy stays", REFUSED_PAUSE_SECONDS
                )
            else:
                self._context.ledger.move_model(
                    model_id, ModelState.GONE, reason="it vanished from the console", next_attempt=None
                )
        except KeyRefused as refused:
            self._key_refused = refused
            self._context.problems.report("console", str(refused), self._context.now() + KEY_PAUSE_SECONDS)
            self._set_back(model, ModelState.QUEUED, str(refused), KEY_PAUSE_SECONDS)
        except (Transient, UrlExpired, SourceChanged, Corrupt) as failure:
            retry_after = getattr(failure, "retry_after", None)
            self._set_back(
                model, ModelState.QUEUED, str(failure), backoff(model.attempts + 1, self._context.random, retry_after)
            )
        except LocalFault as fault:
            self._set_back(model, ModelState.BLOCKED, str(fault), DISK_PAUSE_SECONDS)
        except Rejected as refusal:
            self._set_back(model, ModelState.BLOCKED, str(refusal), REFUSED_PAUSE_SECONDS)
        except Exception as bug:  # one model that trips a bug must not stop the others
            log.exception("%s: unexpected failure", shown(model))
            reason = f"unexpected {type(bug).__name__}: {bug}; please report it"
            self._set_back(model, ModelState.FAILED, reason, REFUSED_PAUSE_SECONDS)

    def _set_back(self, model: Model, state: ModelState, reason: str, pause: float) -> None:
        if not same_but_for_numbers(model.reason or "", reason):
            log.warning("%s: %s: %s", shown(model), state, reason)
        attempts, due = model.attempts + 1, self._waits.begin(model.id, pause)
        self._context.ledger.move_model(model.id, state, reason=reason, attempts=attempts, next_attempt=due)

    def _mirror(self, model: Model, beat: Beat) -> None:
        target = self._context.place.find(model)
        published = read_record(target)
        if published is None:
            self._fetch_and_publish(model, target, None, beat)
        elif not self._outgrown(published):
            self._adopt(model, target, published)
        else:
            with self._context.place.alone(self._step(beat)):
                self._fetch_and_publish(model, target, read_record(target), beat)

    def _fetch_and_publish(self, model: Model, target: Path, published: Record | None, beat: Beat) -> None:
        """`published` is the record of what is there already: the rest joins it."""
        self._space.book_again(model.id)
        try:
            self._context.ledger.move_model(model.id, ModelState.DOWNLOADING, reason=None, next_attempt=None)
            beat()
            manifest = persist(lambda: self._context.console.manifest(model.id), self._context.stop, self._context.random)
            wanted = self._wanted(manifest, published)
            self._context.ledger.plan_files(model.id, ((file.rel, file.size) for file in wanted))
            staging = self._context.place.prepare(model.id, {file.rel: file.size for file in wanted})
            linked = self._link_unchanged(model, manifest, wanted, staging, target.parent, beat)
            files, proofs = self._fetch_and_prove(model, manifest, staging, linked, beat)
            remarks = self._check_structure(model, staging, files, {file.rel for file in manifest.files}, proofs, beat)
            record = self._record(model, manifest, files, proofs, published, remarks)
            with self._publish_lock:  # two models may claim one name
                if published is None:
                    target = self._context.place.find(model)
                    self._context.place.publish(record, target)
                else:
                    self._context.place.extend(target, record)
            self._record_published(model, target, read_record(target) or record, self._context.now())
        finally:
            self._space.release(model.id)

    def _record(
        self,
        model: Model,
        manifest: Manifest,
        files: Mapping[str, ModelFile],
        proofs: Mapping[str, Proof],
        published: Record | None,
        remarks: tuple[str, ...],
    ) -> Record:
        there = {file.rel: file for file in published.files} if published else {}
        everything = {**there, **files}
        left_out = tuple(file.rel for file in manifest.files if file.rel not in everything)
        known = {**(published.proofs if published else {}), **proofs}
        remarks = tuple(dict.fromkeys((*(published.remarks if published else ()), *remarks)))
        return record_of(model, tuple(everything.values()), known, left_out, self._context.now(), remarks)

    def _adopt(self, model: Model, target: Path, record: Record) -> None:
        """It was published before a crash, or before the ledger was lost, or by another agent."""
        record = replace(record, model=replace(record.model, name=model.name, version=model.version))
        with self._publish_lock:
            self._context.place.adopt(target, record)
        self._record_published(model, target, record, None)

    def _record_published(self, model: Model, target: Path, record: Record, verified_at: float | None) -> None:
        self._context.ledger.record_published(
            model.id, str(target), record.files, record.left_out, verified_at, record.remarks, record.proofs.values()
        )
        self._told.pop(model.id, None)
        for remark in record.remarks:
            log.warning("%s: %s", shown(model), remark)
        log.info("%s: published at %s", shown(model), target)

    def _outgrown(self, record: Record) -> bool:
        """Whether the selection takes more of a published model now."""
        return any(layout.matches((rel,), self._context.settings.files) for rel in record.left_out)

    def _wanted(self, manifest: Manifest, published: Record | None) -> list[ManifestFile]:
        layout.check_manifest(manifest.files)
        there = {file.rel: file.size for file in published.files} if published else {}
        for file in manifest.files:
            if there.get(file.rel, file.size) != file.size:
                raise Rejected(
                    f"{printable(file.rel)} has another size in the console than what is published; remove the model's "
                    "folder to have it fetched anew"
                )
        wanted = [file for file in manifest.files if layout.matches((file.rel,), self._context.settings.files)]
        if not wanted:
            raise Rejected("[mirror] files leaves out all of its files")
        return [file for file in wanted if file.rel not in there]

    def _link_unchanged(
        self, model: Model, manifest: Manifest, wanted: list[ManifestFile], staging: Path, parent: Path, beat: Beat
    ) -> set[str]:
        """Take from other versions of the name what has not changed; returns those files, which are proven by that."""
        links, linked = Links(manifest, lambda: self._context.console.manifest(model.id), self._context.clock), set()
        for file in wanted:
            if os.path.lexists(staging / file.rel):
                continue  # begun already
            found = reuse.link(parent, file, staging / file.rel, links, self._context.lanes.storage, self._step(beat))
            if found is not None:
                source, known = found
                self._context.ledger.discard_file(model.id, file.rel)
                self._context.ledger.record_durable((model.id, file.rel, known.etag, part) for part in known.segments)
                linked.add(file.rel)
                log.info("%s: %s is unchanged, linked to %s", shown(model), printable(file.rel), source)
        return linked

    def _fetch_and_prove(
        self, model: Model, manifest: Manifest, staging: Path, linked: Container[str], beat: Beat
    ) -> tuple[dict[str, ModelFile], dict[str, Proof]]:
        tries: Counter[str] = Counter()
        step, uses_etags = self._step(beat), self._context.settings.verify == "etag"
        proving = Proving(
            self._context.ledger, self._context.lanes.storage, self._context.lanes.habits, uses_etags=uses_etags
        )
        listed = {file.rel: file for file in manifest.files}
        job: Job | None = None
        while True:
            known = self._context.ledger.read.files(model.id)
            total, done = sum(file.size for file in known), sum(map(_durable, known))
            self._space.book(Booking(model, staging, tuple(known)))
            if done and self._is_news(model, f"goes on after {done}", "goes on"):
                log.info("%s: goes on after %d of %d bytes that are here already", shown(model), done, total)
            with self._context.meter.transfer("down", shown(model), total, done) as gauge:
                job = self._job(model, manifest, staging, known, gauge) if job is None else job.again(gauge)
                self._fetch(job, step)
            self._context.ledger.move_model(model.id, ModelState.VERIFYING)
            wrong: Mapping[str, AxomsyncError] = proving.ask_again(
                job, linked, self._context.stop, self._context.random, step
            )
            if not wrong:
                files = {file.rel: file for file in self._context.ledger.read.files(model.id)}
                proofs, wrong = proving.prove(job, files, listed, linked, step)
                if not wrong:
                    return files, proofs
            for rel, fault in wrong.items():
                self._count_try(model, rel, fault, tries)
            self._context.ledger.move_model(model.id, ModelState.DOWNLOADING)

    def _fetch(self, job: Job, step: Callable[[], None]) -> None:
        try:
            self._context.lanes.fetch(job, step)
        finally:
            if job.gave_way:
                self._gave_way.add(job.model_id)

    def _count_try(self, model: Model, rel: str, fault: AxomsyncError, tries: Counter[str]) -> None:
        """A file is fetched again a few times; then what is wrong with it is raised."""
        tries[rel] += 1
        if isinstance(fault, SourceChanged):
            fault = fault.about(printable(rel))
        if tries[rel] == 1 and self._is_news(model, rel, str(fault)):
            log.warning("%s: %s; fetched again", shown(model), fault)
        if tries[rel] < FETCHES_OF_A_FILE:
            return
        if isinstance(fault, SourceChanged):
            raise fault
        raise Rejected(
            f"{fault}, {FETCHES_OF_A_FILE} times in a row; publish the model again in the console; "
            '[mirror] verify = "size" skips this'
        )

    def _job(self, model: Model, manifest: Manifest, staging: Path, known: list[ModelFile], gauge: Gauge) -> Job:
        links = Links(manifest, lambda: self._context.console.manifest(model.id), self._context.clock)
        job = Job(
            model.id,
            links,
            gauge,
            self._context.patience,
            lambda failure: self._tell_trouble(model, failure),
            self._context.clock,
            self._others_wait,
        )
        job.files = [PartialFile(job, file, staging / file.rel) for file in known]
        return job

    def _tell_trouble(self, model: Model, failure: AxomsyncError | None) -> None:
        reason = failure and f"{failure}; no byte comes, tried again and again"
        if reason and self._is_news(model, "trouble", reason):
            log.warning("%s: %s", shown(model), reason)
        elif not reason:
            self._told[model.id].pop("trouble", None)
            log.info("%s: goes on", shown(model))
        self._context.ledger.move_model(model.id, ModelState.DOWNLOADING, reason=reason)

    def _is_news(self, model: Model, subject: str, words: str) -> bool:
        """Whether something else was last logged of it: what is tried again and again is told once."""
        told = self._told[model.id]
        if same_but_for_numbers(told.get(subject, ""), words):
            return False
        told[subject] = words
        return True

    def _check_structure(
        self,
        model: Model,
        staging: Path,
        files: Mapping[str, ModelFile],
        listed: set[str],
        proofs: dict[str, Proof],
        beat: Beat,
    ) -> tuple[str, ...]:
        """Raise `Rejected` for what no server could load; returns what is odd and loads all the same.

        It may be mended at its source. Where no ETag would tell the next try, that one fetches the file again.
        """
        if self._context.settings.verify == "size":
            return ()
        try:
            findings = structure.check(staging, files, listed, self._step(beat))
        except structure.Broken as fault:
            if files[fault.rel].etag is None:
                self._context.ledger.discard_file(model.id, fault.rel)
            raise
        for rel in findings.whole:
            if proofs[rel] is Proof.SIZE:
                proofs[rel] = Proof.STRUCTURE
        return findings.remarks

    def _step(self, beat: Beat) -> Callable[[], None]:
        def step() -> None:
            beat()
            if self._context.stop.is_set():
                raise Stopping("the agent is stopping")

        return step


def _choose(models: Iterable[Model], target: str) -> Model:
    """The newest model that `target` names and that can be had. Raises `Rejected`."""
    named = [model for model in models if layout.is_named(model, target)]
    if not named:
        raise Rejected(f"{printable(target)}: the console lists no model of that name, name/version or id")
    there = [model for model in named if model.state not in (ModelState.WAITING, ModelState.GONE)]
    if not there:
        raise Rejected(f"{shown(named[0])}: it can't be had: {named[0].reason}")
    return there[0]


def _outcome(model: Model) -> Model:
    """The model, if it is published. Raises what its state says."""
    if model.state is ModelState.PUBLISHED:
        return model
    if model.state in WORKED_ON or model.state is ModelState.QUEUED:
        raise Transient(f"{shown(model)}: {model.reason or 'interrupted'}")
    raise Rejected(f"{shown(model)}: {model.state}: {model.reason}")


def _durable(file: ModelFile) -> int:
    return min(file.size, sum(segment.end - segment.start for segment in file.segments))
