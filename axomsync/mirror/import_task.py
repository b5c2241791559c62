"""The import of one model: its files come from a folder of this machine instead of storage, the rest of its way is the same.

A file is proven by its ETag if the bytes as they are here give it: what a record claims is no proof. What this box has heard
from storage or the console about the model must agree with the record. The files are collected beside a download of the same
model, so that a failed import costs nothing of it.

Failures handled: a record that contradicts itself or what is known here (`Rejected`), one that lists no file that
`[mirror] files` selects (the same), a model that is here already (adopted), a failure for good or of a disk (the copies are
removed), one of the moment and the end of the agent (they stay for the next try, see `Staging.sweep_imports`). All failures
are raised.
"""

import shutil
import threading
from pathlib import Path

from axomsync.core.errors import LocalFault, Rejected
from axomsync.core.records import Model, ModelFile, Proof, RemoteModel
from axomsync.core.text import printable
from axomsync.ledger import LedgerFault
from axomsync.mirror import layout, sources
from axomsync.mirror.check.integrity import compare
from axomsync.mirror.check.seal import Tampered
from axomsync.mirror.check.verify import examine_file
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.fetch.hashing import Evidence
from axomsync.mirror.model_task import ModelTask
from axomsync.mirror.publish.folder import shown
from axomsync.mirror.publish.record import Record, read_record, record_of
from axomsync.mirror.publish.space import Booking, Space
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.meter import Gauge
from axomsync.storage.s3 import plain_md5


class ImportTask(ModelTask):
    """One try to import `source` as `model`. `pulled`: the selection does not apply to it."""

    def __init__(
        self,
        source: sources.Source,
        context: MirrorContext,
        model: Model,
        space: Space,
        publishing: threading.Lock,
        beat: Beat,
        *,
        pulled: bool,
    ) -> None:
        super().__init__(context, model, space, publishing, {}, lambda: False, beat)
        self._source, self._pulled = source, pulled
        self.was_there = False
        self._known: dict[str, ModelFile] = {}  # what this ledger has of it

    def run(self) -> None:
        """Publish the model, or raise the failure."""
        target = self._context.mirror_folder.find(self._model)
        if (published := read_record(target)) is not None:
            self.was_there = True
            self._adopt(target, published)
            return
        wanted = self._wanted_of_source()
        try:
            self._copy_and_publish(wanted)
        except LedgerFault:
            raise
        except (Rejected, LocalFault):  # the copies are wrong, or would keep a disk full
            shutil.rmtree(self._staging, ignore_errors=True)
            raise
        finally:
            self._space.release(self._model.id)
        self._context.mirror_folder.staging.discard(self._model.id)  # a download of it is no longer needed

    def _copy_and_publish(self, wanted: tuple[ModelFile, ...]) -> None:
        listed = self._source.record
        self._context.mirror_folder.staging.prepare(self._model.id, [file.rel for file in wanted], self._staging)
        self._space.book(Booking(self._model, self._staging, wanted))
        with self._context.meter.transfer("down", shown(self._model), sum(file.size for file in wanted)) as gauge:
            proofs = {file.rel: self._copy(file, gauge) for file in wanted}
        files = {file.rel: file for file in wanted}
        rels = {*listed.left_out, *(file.rel for file in listed.files)}
        remarks = self._check_structure(self._staging, files, rels, proofs)
        left_out = tuple(sorted(rels - files.keys()))
        record = record_of(self._model, wanted, proofs, left_out, self._context.now(), remarks)
        self._appear(record, None, self._pass_gate(record, extends=False))

    # What the record and this box say

    def _wanted_of_source(self) -> tuple[ModelFile, ...]:
        listed = self._source.record.files
        self._check_against_ledger({file.rel: file for file in listed})
        wanted = tuple(file for file in listed if layout.matches((file.rel,), self._context.settings.files))
        if not wanted:
            raise Rejected("[mirror] files leaves out all of its files")
        for file in wanted:
            sources.check_digests(file)
        return wanted

    def _check_against_ledger(self, listed: dict[str, ModelFile]) -> None:
        """Compare the record with what console and storage have told this box of the model. Raises `Rejected`."""
        self._known = {file.rel: file for file in self._context.ledger.read.files(self._model.id)}
        for known in self._known.values():
            file, rel = listed.get(known.rel), printable(known.rel)
            if file is None and known.rel not in self._source.record.left_out:
                raise self._another(f"{rel} is a file of it here, and its record does not have it")
            if file is None:
                continue
            if file.size != known.size:
                raise self._another(f"{rel} has {known.size} bytes here, and {file.size} in its record")
            if known.etag is not None and file.etag != known.etag:
                raise self._another(f"storage's ETag of {rel} is {known.etag} here, and {file.etag} in its record")

    def _another(self, fault: str) -> Rejected:
        return Rejected(
            f"{printable(fault)}; it is another state of the model: take a newer copy, or, if this box is behind, first "
            f"`axomsync forget {shown(self._model)}`"
        )

    # The bytes

    def _copy(self, file: ModelFile, gauge: Gauge) -> Proof:
        """Copy one file and compare it; returns what proves it."""
        path, evidence = self._staging / file.rel, Evidence(file.etag, file.size)

        def step(count: int) -> None:
            self._step()
            gauge.secure(count)

        sources.copy(self._source, file, path, evidence, step)
        known = self._known.get(file.rel)
        if known is not None and (damage := examine_file(path, known, self._step)) is not None:
            raise self._another(f"{damage} as storage sent them to this box")
        return self._proof(file, path, evidence)

    def _proof(self, file: ModelFile, path: Path, evidence: Evidence) -> Proof:
        """What the bytes prove, whatever the record says. Raises `Rejected` if it claims a checksum that they don't have."""
        if self._context.settings.verify == "size" or not file.size:
            return Proof.SIZE
        found = compare(path, file.etag, evidence, self._step)
        if found.proven:
            return Proof.PROVEN
        if plain_md5(file.etag) is not None and self._source.record.proofs[file.rel] is Proof.PROVEN:
            raise Rejected(
                f"{printable(str(self._source.folder / file.rel))}: its record says that storage's checksum proves it, and "
                f"its MD5 is {found.md5}, not {plain_md5(file.etag)}; take another copy"
            )
        return Proof.SIZE

    # What differs from a download

    @property
    def _staging(self) -> Path:
        return self._context.mirror_folder.staging.imported(self._model.id)

    def _tell_of_gate(self) -> None:
        """Nothing: the ledger hears of the model when it has appeared."""

    def _forget(self, changed: Tampered) -> None:
        """Nothing: what the seal removed is copied again."""

    def _record_published(self, target: Path, record: Record, verified_at: float | None) -> None:
        model = self._model
        remote = RemoteModel(
            model.id, model.name, model.version, model.params, model.base_model_id, model.remote_status, model.created_at
        )
        self._context.ledger.record_arrival(remote, pulled=self._pulled)
        super()._record_published(target, record, verified_at)
