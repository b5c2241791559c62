"""The way of one model, from its manifest to its published folder.

Each try reads the manifest, shares unchanged files of other versions, fetches the rest into staging, proves the bytes,
checks their structure, and publishes the folder. A later try resumes at the durable bytes.

Failures handled: a manifest that can't be trusted or contradicts the published files (`Rejected`), bytes that differ from
storage's (fetched again, a few times), a broken file without an ETag, so that a correction upstream would stay unseen
(fetched again at the next try), a folder that was published before the ledger knew (adopted), a gate that says no or changes
what it looks at. All other failures are raised
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path

from axomsync.core.errors import AxomsyncError, Rejected, SourceChanged, Stopping
from axomsync.core.policy import same_but_for_numbers
from axomsync.core.records import Manifest, ManifestFile, Model, ModelFile, ModelState, Proof
from axomsync.core.text import printable
from axomsync.mirror import layout, reuse
from axomsync.mirror.check import structure
from axomsync.mirror.check.copies import Unproven
from axomsync.mirror.check.proving import Proving
from axomsync.mirror.check.seal import Seal, Tampered
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.fetch.partial import Job, PartialFile
from axomsync.mirror.fetch.urls import SignedUrls
from axomsync.mirror.publish.folder import shown
from axomsync.mirror.publish.record import Record, read_record, record_of
from axomsync.mirror.publish.space import Booking, Space
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.meter import Gauge
from axomsync.runtime.retry import persist

log = logging.getLogger(__name__)

FETCHES_OF_A_FILE = 3


class ModelTask:
    """One try to mirror `model`. `told` keeps the last log line of each subject between tries.

    `publishing` is held from the choice of a folder until the model is there, since two models may claim one name.
    """

    def __init__(
        self,
        context: MirrorContext,
        model: Model,
        space: Space,
        publishing: threading.Lock,
        told: MutableMapping[str, str],
        others_wait: Callable[[], bool],
        beat: Beat,
    ) -> None:
        self._context, self._model, self._space, self._publishing = context, model, space, publishing
        self._told, self._others_wait, self._beat = told, others_wait, beat
        self.gave_way = False  # it left its place to a waiting model

    def run(self) -> None:
        """Publish the model, or raise the failure."""
        target = self._context.mirror_folder.find(self._model)
        published = read_record(target)
        if published is None:
            self._fetch_and_publish(target, None)
        elif not self._outgrown(published):
            self._adopt(target, published)
        else:
            with self._context.mirror_folder.alone(self._step):
                self._fetch_and_publish(target, read_record(target))

    def _fetch_and_publish(self, target: Path, published: Record | None) -> None:
        """Fetch and publish; `published` is the record of the published part, which the rest joins."""
        model = self._model
        self._space.book_again(model.id)
        try:
            self._context.ledger.move_model(model.id, ModelState.DOWNLOADING, reason=None, next_attempt=None)
            manifest = persist(
                lambda: self._context.console.manifest(model.id), self._context.stop, self._context.random, self._beat
            )
            wanted = self._wanted(manifest, published)
            self._context.ledger.plan_files(model.id, ((file.rel, file.size) for file in wanted))
            staging = self._context.mirror_folder.staging.prepare(model.id, [file.rel for file in wanted])
            if published is not None:
                self._context.mirror_folder.take_back(
                    target, staging, filter(_is_whole, self._context.ledger.read.files(model.id))
                )
            linked = self._link_unchanged(manifest, wanted, staging, target.parent)
            files, proofs, odd = self._fetch_and_prove(manifest, staging, linked)
            remarks = odd + self._check_structure(staging, files, {file.rel for file in manifest.files}, proofs)
            record = self._record(manifest, files, proofs, published, remarks)
            judge = self._pass_gate(record, extends=published is not None)
            self._appear(record, target if published else None, judge)
        finally:
            self._space.release(model.id)

    # Preparation

    def _outgrown(self, record: Record) -> bool:
        """Check whether the selection now takes more files of a published model."""
        return any(layout.matches((rel,), self._context.settings.files) for rel in record.left_out)

    def _wanted(self, manifest: Manifest, published: Record | None) -> list[ManifestFile]:
        layout.check_manifest(manifest.files)
        there = {file.rel: file.size for file in published.files} if published else {}
        for file in manifest.files:
            if there.get(file.rel, file.size) != file.size:
                raise Rejected(
                    f"{printable(file.rel)} has another size in the console than the published one; remove the model's "
                    "folder to fetch it again"
                )
        wanted = [file for file in manifest.files if layout.matches((file.rel,), self._context.settings.files)]
        if not wanted:
            raise Rejected("[mirror] files leaves out all of its files")
        return [file for file in wanted if file.rel not in there]

    def _link_unchanged(self, manifest: Manifest, wanted: list[ManifestFile], staging: Path, parent: Path) -> set[str]:
        """Share unchanged files with other versions of the name; returns those files, which this proves."""
        urls, linked = self._links(manifest), set[str]()
        for file in wanted:
            if os.path.lexists(staging / file.rel):
                continue  # already started
            found = reuse.link(parent, file, staging / file.rel, urls, self._context.lanes.storage, self._step)
            if found is not None:
                source, known = found
                self._context.ledger.discard_file(self._model.id, file.rel)
                self._context.ledger.record_durable((self._model.id, file.rel, known.etag, part) for part in known.segments)
                linked.add(file.rel)
                log.info("%s: %s is unchanged, linked to %s", shown(self._model), printable(file.rel), source)
        return linked

    # The bytes

    def _fetch_and_prove(
        self, manifest: Manifest, staging: Path, linked: Container[str]
    ) -> tuple[dict[str, ModelFile], dict[str, Proof], tuple[str, ...]]:
        """Fetch and prove all files. Returns their ledger data, the proof of each, and remarks on checksums."""
        model, tries = self._model, Counter[str]()
        uses_etags = self._context.settings.verify == "etag"
        lanes = self._context.lanes
        proving = Proving(self._context.ledger, lanes.storage, lanes.habits, lanes.ring, uses_etags=uses_etags)
        listed = {file.rel: file for file in manifest.files}
        job: Job | None = None
        while True:
            known = self._context.ledger.read.files(model.id)
            total, done = sum(file.size for file in known), sum(map(_durable, known))
            self._space.book(Booking(model, staging, tuple(known)))
            if done and self._is_news(f"resuming at {done}", "resuming"):
                log.info("%s: resuming at %d of %d bytes", shown(model), done, total)
            with self._context.meter.transfer("down", shown(model), total, done) as gauge:
                job = self._job(manifest, staging, known, gauge) if job is None else job.again(gauge)
                self._fetch(job)
            self._context.ledger.move_model(model.id, ModelState.VERIFYING)
            wrong: Mapping[str, AxomsyncError] = proving.ask_again(
                job, linked, self._context.stop, self._context.random, self._step
            )
            if not wrong:
                files = {file.rel: file for file in self._context.ledger.read.files(model.id)}
                proofs, wrong = proving.prove(job, files, listed, linked, self._step)
                if not wrong:
                    return files, proofs, tuple(proving.remarks)
            for rel, fault in wrong.items():
                self._count_try(rel, fault, tries)
            self._context.ledger.move_model(model.id, ModelState.DOWNLOADING)

    def _job(self, manifest: Manifest, staging: Path, known: list[ModelFile], gauge: Gauge) -> Job:
        job = Job(
            self._model.id,
            self._links(manifest),
            gauge,
            self._context.patience,
            self._tell_trouble,
            self._context.awake,
            self._others_wait,
        )
        job.files = [PartialFile(job, file, staging / file.rel) for file in known]
        return job

    def _links(self, manifest: Manifest) -> SignedUrls:
        return SignedUrls(manifest, lambda: self._context.console.manifest(self._model.id), self._context.clock)

    def _fetch(self, job: Job) -> None:
        try:
            self._context.lanes.fetch(job, self._step)
        finally:
            self.gave_way = self.gave_way or job.gave_way

    def _count_try(self, rel: str, fault: AxomsyncError, tries: Counter[str]) -> None:
        """Count a failed try of a file; after a few tries its fault is raised."""
        tries[rel] += 1
        if isinstance(fault, SourceChanged):
            fault = fault.about(printable(rel))
        if isinstance(fault, Unproven):
            if self._is_news("unproven", "files are fetched twice"):
                log.info("%s: %s; so for every file that nothing proves", shown(self._model), fault)
        elif tries[rel] == 1 and self._is_news(rel, str(fault)):
            log.warning("%s: %s; fetched again", shown(self._model), fault)
        if tries[rel] < FETCHES_OF_A_FILE:
            return
        if isinstance(fault, SourceChanged):
            raise fault
        raise Rejected(
            f"{fault}, {FETCHES_OF_A_FILE} times in a row; publish the model again in the console; "
            '[mirror] verify = "size" skips this'
        )

    def _check_structure(
        self, staging: Path, files: Mapping[str, ModelFile], listed: set[str], proofs: dict[str, Proof]
    ) -> tuple[str, ...]:
        """Check the formats. Raises `Rejected` for files that no server could load; returns remarks on the others."""
        if self._context.settings.verify == "size":
            return ()
        try:
            findings = structure.check(staging, files, listed, self._step)
        except structure.Broken as fault:
            if files[fault.rel].etag is None:  # the next try could not see a correction upstream
                self._context.ledger.discard_file(self._model.id, fault.rel)
            raise
        for rel in findings.whole:
            if proofs[rel] is Proof.SIZE:
                proofs[rel] = Proof.STRUCTURE
        return findings.remarks

    # Publication

    def _pass_gate(self, record: Record, *, extends: bool) -> Callable[[], None]:
        """Make the folder ready and ask the gate; returns what raises if the folder is not the one that passed.

        Raises `NotPassed`, `Transient`, `Tampered`.
        """
        staging, gate = self._staging, self._context.gates.before_publish
        self._context.mirror_folder.make_ready(record, staging, extends=extends)
        if not gate.is_there:
            return lambda: None
        self._tell_of_gate()
        seal = Seal(staging, {file.rel: file for file in record.files})
        gate.ask(self._model, str(staging), self._context.stop, self._beat)
        try:
            seal.demand_unbroken(self._step)  # here, since it may have to read, and the others wait for the rename
        except Tampered as changed:
            self._forget(changed)
            raise
        return lambda: seal.demand_unbroken(self._step)

    def _appear(self, record: Record, published: Path | None, judge: Callable[[], None]) -> None:
        """Have the folder that is made ready appear, or its files join the `published` ones, and record it."""
        try:
            with self._publishing:
                target = published or self._context.mirror_folder.find(self._model)
                if published is None:
                    self._context.mirror_folder.publish(record, self._staging, target, judge)
                else:
                    self._context.mirror_folder.extend(target, record, judge)
        except Tampered as changed:
            self._forget(changed)
            raise
        self._record_published(target, read_record(target) or record, self._context.now())

    @property
    def _staging(self) -> Path:
        """The folder where the files are collected."""
        return self._context.mirror_folder.staging.path(self._model.id)

    def _tell_of_gate(self) -> None:
        self._context.ledger.move_model(self._model.id, ModelState.VERIFYING, reason="[hooks] before_publish looks at it")

    def _forget(self, changed: Tampered) -> None:
        """Have everything fetched again that was removed, since it is not what was proven."""
        gone = [Path(rel) for rel in changed.rels]
        for file in self._context.ledger.read.files(self._model.id):
            if any(Path(file.rel).is_relative_to(rel) for rel in gone):
                self._context.ledger.discard_file(self._model.id, file.rel)

    def _record(
        self,
        manifest: Manifest,
        files: Mapping[str, ModelFile],
        proofs: Mapping[str, Proof],
        published: Record | None,
        remarks: Iterable[str],
    ) -> Record:
        there = {file.rel: file for file in published.files} if published else {}
        everything = {**there, **files}
        left_out = tuple(file.rel for file in manifest.files if file.rel not in everything)
        known = {**(published.proofs if published else {}), **proofs}
        all_remarks = tuple(dict.fromkeys((*(published.remarks if published else ()), *remarks)))
        return record_of(self._model, tuple(everything.values()), known, left_out, self._context.now(), all_remarks)

    def _adopt(self, target: Path, record: Record) -> None:
        """Adopt a folder that was published before a crash, before the ledger was lost, or by another agent."""
        record = replace(record, model=replace(record.model, name=self._model.name, version=self._model.version))
        with self._publishing:
            self._context.mirror_folder.adopt(target, record)
        self._record_published(target, record, None)

    def _record_published(self, target: Path, record: Record, verified_at: float | None) -> None:
        self._context.ledger.record_published(
            self._model.id,
            str(target),
            record.files,
            record.left_out,
            verified_at,
            record.remarks,
            record.proofs.values(),
        )
        self._told.clear()
        for remark in record.remarks:
            log.warning("%s: %s", shown(self._model), remark)
        log.info("%s: published at %s", shown(self._model), target)

    # Log lines

    def _tell_trouble(self, failure: AxomsyncError | None) -> None:
        reason = failure and f"{failure}; no bytes arrive; still trying"
        if reason and self._is_news("trouble", reason):
            log.warning("%s: %s", shown(self._model), reason)
        elif not reason:
            self._told.pop("trouble", None)
            log.info("%s: bytes arrive again", shown(self._model))
        self._context.ledger.move_model(self._model.id, ModelState.DOWNLOADING, reason=reason)

    def _is_news(self, subject: str, words: str) -> bool:
        """Check whether a log line is new for its subject: repeated tries are logged once."""
        if same_but_for_numbers(self._told.get(subject, ""), words):
            return False
        self._told[subject] = words
        return True

    def _step(self) -> None:
        self._beat()
        if self._context.stop.is_set():
            raise Stopping("the agent is stopping")


def _is_whole(file: ModelFile) -> bool:
    return _durable(file) == file.size


def _durable(file: ModelFile) -> int:
    return min(file.size, sum(segment.end - segment.start for segment in file.segments))
