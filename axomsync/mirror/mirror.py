"""The mirror's loop: ask the console what is ready, and carry each model from its manifest to its published folder.

Failures handled: a console that is down (told once, tried again), a refused key (likewise; what is signed goes on), a
model that vanishes or changes half-way (listed again), a manifest that can't be trusted (`blocked`), a disk without room
(`blocked` with how much is missing, goes on by itself), bytes that differ from those in storage (fetched again), a crash
anywhere (taken up from what is durable; a folder that was published before the ledger knew is adopted).
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path

from axomsync.config import MirrorSettings
from axomsync.console import Console, NotThere
from axomsync.errors import AxomsyncError, KeyRefused, LocalFault, Rejected, SourceChanged, Stopping, Transient, UrlExpired
from axomsync.ledger import Ledger
from axomsync.liveness import Beat, Liveness
from axomsync.meter import Gauge, Meter
from axomsync.mirror import integrity, layout
from axomsync.mirror.catalog import Selection, reconcile
from axomsync.mirror.download import Job, Lanes, Links, PartialFile
from axomsync.mirror.integrity import Corrupt, Proof
from axomsync.mirror.publish import Place, newest, shown
from axomsync.policy import backoff
from axomsync.problems import Problems
from axomsync.records import Manifest, ManifestFile, Model, ModelFile, ModelState
from axomsync.retry import persist

log = logging.getLogger(__name__)

MODELS_AT_ONCE = 4
CORRUPT_TRIES = 3
LONGEST_NAP_SECONDS = 5.0
KEY_PAUSE_SECONDS = 30.0
REFUSED_PAUSE_SECONDS = 3600.0  # a refusal is final for the same question; upstream may mend it within the hour
DISK_PAUSE_SECONDS = 60.0
DUE = frozenset({ModelState.QUEUED, ModelState.BLOCKED, ModelState.FAILED})


class Mirror:
    """Mirrors models. `wake` makes it poll at once; `run` is its thread, `run_once` one pass for `sync`."""

    def __init__(
        self,
        settings: MirrorSettings,
        place: Place,
        ledger: Ledger,
        console: Console,
        lanes: Lanes,
        meter: Meter,
        problems: Problems,
        liveness: Liveness,
        stop: threading.Event,
        random: Callable[[], float],
        *,
        patience: float,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._place = settings, place
        self._ledger, self._console, self._lanes, self._meter = ledger, console, lanes, meter
        self._problems, self._liveness, self._stop, self._random = problems, liveness, stop, random
        self._patience, self._now, self._clock = patience, now, clock
        self._wake = threading.Event()
        self._wake.set()
        self._pool = ThreadPoolExecutor(MODELS_AT_ONCE, thread_name_prefix="model")
        self._in_flight: dict[str, Future[None]] = {}
        self._failed_polls = 0
        self._key_refused: KeyRefused | None = None
        self._publish_lock = threading.Lock()

    def wake(self) -> None:
        """Poll now."""
        self._wake.set()

    def run(self) -> None:
        """Work until the agent stops."""
        next_poll = -math.inf
        with self._liveness.worker("mirror") as beat:
            while not self._stop.is_set():
                beat()
                if self._wake.is_set() and self._clock() >= next_poll:
                    self._wake.clear()
                    next_poll = self._clock() + self._poll_and_tell()
                self._begin_due(self._now())
                if (left := next_poll - self._clock()) > 0:
                    self._stop.wait(min(left, LONGEST_NAP_SECONDS))
                else:
                    self._wake.wait(LONGEST_NAP_SECONDS)
        self._pool.shutdown(cancel_futures=True)

    def run_once(self) -> None:
        """One pass: every ready model is mirrored as far as possible. Raises what the console or its folder refuses."""
        try:
            self.poll()
            self._begin_due(math.inf)
            wait_for(self._in_flight.values())
        finally:
            self._pool.shutdown(cancel_futures=True)
        if self._key_refused is not None:
            raise self._key_refused

    def poll(self) -> None:
        """Ask the console for the catalog and bring the ledger in line with it."""
        listed = persist(self._console.models, self._stop, self._random)
        self._place.room(0)  # a missing folder must not look like removed models
        known = self._ledger.read.models()
        selection = Selection(self._settings.include, self._settings.exclude)
        changes = reconcile(listed, known, selection, lambda row: row.path is not None and os.path.isdir(row.path))
        if changes:
            self._ledger.record_catalog((change.model, change.state, change.reason) for change in changes)
        self._ledger.set_facts(last_poll=str(self._now()))

    def _poll_and_tell(self) -> float:
        """Seconds to keep away from the console: it is never asked in a tight loop, however often one is woken."""
        try:
            self.poll()
        except KeyRefused as refused:
            self._problems.report("console", str(refused), self._now() + KEY_PAUSE_SECONDS)
            return self._again_in(KEY_PAUSE_SECONDS)
        except LocalFault as fault:
            self._problems.report("mirror folder", str(fault), self._now() + self._settings.poll)
            return 1.0
        except AxomsyncError as failure:
            self._failed_polls += 1
            wait = backoff(self._failed_polls, self._random, getattr(failure, "retry_after", None))
            self._problems.report("console", str(failure), self._now() + wait)
            return self._again_in(max(1.0, wait))
        self._failed_polls = 0
        self._problems.clear("console")
        self._problems.clear("mirror folder")
        return 1.0

    def _again_in(self, seconds: float) -> float:
        self._wake.set()
        return seconds

    def _begin_due(self, now: float) -> None:
        self._in_flight = {model: future for model, future in self._in_flight.items() if not future.done()}
        for model in self._ledger.read.models_due(DUE, now):
            if model.id not in self._in_flight:
                self._in_flight[model.id] = self._pool.submit(self._carry, model.id)

    # One model

    def _carry(self, model_id: str) -> None:
        """In a thread of the pool: one model, as far as it can go. What keeps it is in the ledger afterwards."""
        model = self._ledger.read.model(model_id)
        try:
            with self._liveness.worker("model") as beat:
                self._mirror(model, beat)
        except Stopping:
            return
        except NotThere:
            self._ledger.move_model(model_id, ModelState.GONE, reason="it vanished from the console", next_attempt=None)
        except KeyRefused as refused:
            self._key_refused = refused
            self._problems.report("console", str(refused), self._now() + KEY_PAUSE_SECONDS)
            self._set_back(model, ModelState.QUEUED, str(refused), KEY_PAUSE_SECONDS)
        except (Transient, UrlExpired, SourceChanged, Corrupt) as failure:
            retry_after = getattr(failure, "retry_after", None)
            self._set_back(model, ModelState.QUEUED, str(failure), backoff(model.attempts + 1, self._random, retry_after))
        except LocalFault as fault:
            self._set_back(model, ModelState.BLOCKED, str(fault), DISK_PAUSE_SECONDS)
        except Rejected as refusal:
            self._set_back(model, ModelState.BLOCKED, str(refusal), REFUSED_PAUSE_SECONDS)
        except Exception as bug:  # one model that trips a bug must not stop the others
            log.exception("%s: unexpected failure", shown(model))
            reason = f"unexpected {type(bug).__name__}: {bug}; please report it"
            self._set_back(model, ModelState.FAILED, reason, REFUSED_PAUSE_SECONDS)

    def _set_back(self, model: Model, state: ModelState, reason: str, pause: float) -> None:
        if model.reason != reason:
            log.warning("%s: %s: %s", shown(model), state, reason)
        attempts, due = model.attempts + 1, self._now() + pause
        self._ledger.move_model(model.id, state, reason=reason, attempts=attempts, next_attempt=due)

    def _mirror(self, model: Model, beat: Beat) -> None:
        target = self._place.find(model)
        if self._place.owner(target) == model.id:
            with self._publish_lock:
                self._record_published(model, target)  # published before a crash, or by another agent
            return
        self._ledger.move_model(model.id, ModelState.DOWNLOADING, next_attempt=None)
        beat()
        manifest = persist(lambda: self._console.manifest(model.id), self._stop, self._random)
        wanted = self._wanted(manifest)
        self._ledger.plan_files(model.id, ((file.rel, file.size) for file in wanted))
        staging = self._place.prepare(model.id, {file.rel: file.size for file in wanted})
        files, proofs = self._fetch_and_prove(model, manifest, staging, beat)
        with self._publish_lock:  # two models may claim one name
            target = self._place.publish(model, files, proofs, self._now())
            self._record_published(model, target)

    def _wanted(self, manifest: Manifest) -> list[ManifestFile]:
        layout.check_paths(manifest.files)
        wanted = [file for file in manifest.files if layout.matches((file.rel,), self._settings.files)]
        if not manifest.files:
            raise Rejected("its manifest lists no files")
        if not wanted:
            raise Rejected("[mirror] files leaves out all of its files")
        return wanted

    def _fetch_and_prove(
        self, model: Model, manifest: Manifest, staging: Path, beat: Beat
    ) -> tuple[dict[str, ModelFile], dict[str, Proof]]:
        for attempt in range(1, CORRUPT_TRIES + 1):
            known = self._ledger.read.files(model.id)
            total, done = sum(file.size for file in known), sum(_durable(file) for file in known)
            self._check_room(staging, known, total)
            if done:
                log.info("%s: goes on after %d of %d bytes that are here already", shown(model), done, total)
            with self._meter.transfer("down", shown(model), total, done) as gauge:
                job = self._job(model, manifest, staging, known, gauge)
                self._lanes.fetch(job, self._step(beat))
            self._ledger.move_model(model.id, ModelState.VERIFYING)
            files = {file.rel: file for file in self._ledger.read.files(model.id)}
            try:
                return files, self._prove(staging, files, {file.rel for file in manifest.files}, job, beat)
            except Corrupt as corrupt:
                if attempt == CORRUPT_TRIES:
                    raise Rejected(
                        f'{corrupt}, {CORRUPT_TRIES} times in a row; [mirror] verify = "size" skips this'
                    ) from None
                log.warning("%s: %s; fetched again", shown(model), corrupt)
                self._ledger.move_model(model.id, ModelState.DOWNLOADING)
        raise AssertionError("unreachable")

    def _check_room(self, staging: Path, known: list[ModelFile], total: int) -> None:
        """All of the model must fit before its first byte is fetched; blocks that are allocated already count as there."""
        allocated = 0
        for file in known:
            try:
                allocated += min(file.size, (staging / file.rel).stat().st_blocks * 512)
            except OSError:
                continue
        lacking = total - allocated - self._place.room(self._settings.reserve)
        if lacking > 0:
            raise LocalFault(
                f"{self._place.root}: {lacking} more bytes must be free for this model and the [mirror] reserve; "
                "the agent goes on by itself when there is room"
            )

    def _job(self, model: Model, manifest: Manifest, staging: Path, known: list[ModelFile], gauge: Gauge) -> Job:
        links = Links(manifest, lambda: self._console.manifest(model.id), self._clock)
        job = Job(model.id, links, gauge, self._patience)
        job.files = [PartialFile(job, file, staging / file.rel) for file in known]
        return job

    def _prove(self, staging: Path, files: dict[str, ModelFile], listed: set[str], job: Job, beat: Beat) -> dict[str, Proof]:
        step = self._step(beat)
        proofs = dict.fromkeys(files, Proof.SIZE)
        if self._settings.verify == "etag":
            for partial in job.files:
                if not partial.etag_is_md5:
                    continue
                try:
                    if integrity.prove(partial.path, files[partial.rel].etag, partial.evidence, step):
                        proofs[partial.rel] = Proof.PROVEN
                except Corrupt:
                    self._ledger.discard_file(job.model_id, partial.rel)
                    partial.start_over()
                    raise
        for rel in integrity.structure(staging, files, listed, step):
            if proofs[rel] is Proof.SIZE:
                proofs[rel] = Proof.STRUCTURE
        return proofs

    def _step(self, beat: Beat) -> Callable[[], None]:
        def step() -> None:
            beat()
            if self._stop.is_set():
                raise Stopping("the agent is stopping")

        return step

    def _record_published(self, model: Model, target: Path) -> None:
        changes = {"path": str(target), "reason": None, "attempts": 0, "next_attempt": None}
        self._ledger.move_model(model.id, ModelState.PUBLISHED, **changes)
        log.info("%s: published at %s", shown(model), target)
        latest = newest(self._ledger.read.published_below(target.parent))
        self._place.point_current(Path(latest.path or target))


def _durable(file: ModelFile) -> int:
    return sum(segment.end - segment.start for segment in file.segments)
