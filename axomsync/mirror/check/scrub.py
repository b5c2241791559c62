"""Upkeep of published models: read again on schedule or on request, and repaired when bytes have changed.

Failures handled: damage (shown in `status`, recorded, repaired from storage), a model that can't be read or repaired now or
that meets a bug (reported, tried again after an hour; the others go on), an unreadable record (written again from the
ledger), a model that is removed meanwhile, a pause (models are read; the repair comes later).
"""

import logging
import math
from dataclasses import replace
from pathlib import Path

from axomsync.core.errors import AxomsyncError, LocalFault, Rejected, SourceChanged, Stopping
from axomsync.core.filesystems import is_folder, may_be_folder
from axomsync.core.records import Model, ModelState
from axomsync.core.states import DUE_MODELS
from axomsync.core.text import printable
from axomsync.ledger import LedgerFault
from axomsync.mirror.check.repair import check_manifest, check_room, repair
from axomsync.mirror.check.verify import Damage, HalfSpeed, Step, examine
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.fetch.partial import Job
from axomsync.mirror.fetch.urls import SignedUrls
from axomsync.mirror.found import record_found
from axomsync.mirror.publish.folder import shown
from axomsync.mirror.publish.record import Record, read_record
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.retry import persist
from axomsync.runtime.waits import Waits

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
LONGEST_NAP_SECONDS = 5.0
AGAIN_SECONDS = 3600.0  # between two tries to repair a model


class Upkeep:
    """Upkeep of one mirror folder. `run` is its thread."""

    name = subject = "upkeep"

    def __init__(self, context: MirrorContext) -> None:
        self._context = context
        self._waits = Waits(context.now, context.clock)
        self._put_off: dict[str, float] = {}  # by model: no try before this monotonic time

    def run(self) -> None:
        """Work until the agent stops."""
        with self._context.liveness.worker(self.name) as beat:
            while not self._sleep(LOOK_SECONDS, beat):
                try:
                    self.scrub(beat)
                except Stopping:
                    return
                except AxomsyncError as failure:
                    self._context.problems.report(self.subject, str(failure))
                except Exception as bug:  # noqa: BLE001  # reported, and the loop goes on
                    self._context.problems.report_bug(self.subject, bug)
                else:
                    self._context.problems.clear(self.subject)

    def scrub(self, beat: Beat) -> None:
        """Read all due models slowly, and repair damage. Raises `Stopping`, `LocalFault`."""
        for model in self._context.ledger.read.models(ModelState.PUBLISHED):
            if self._is_due(model) and self._context.clock() >= self._put_off.get(model.id, -math.inf):
                self._look_after_alone(model, beat)

    def _look_after_alone(self, model: Model, beat: Beat) -> None:
        """Check one model; its failures must not delay the others."""
        again = self._context.now() + AGAIN_SECONDS
        self._put_off[model.id] = self._context.clock() + AGAIN_SECONDS
        try:
            self.look_after(model, HalfSpeed(self._step(beat)), beat)
        except (Stopping, LedgerFault):
            raise
        except AxomsyncError as failure:
            self._context.problems.report(shown(model), f"can't be read again now: {failure}", again)
        except Exception as bug:  # noqa: BLE001  # reported, and the others go on
            self._context.problems.report_bug(shown(model), bug, again)
        else:
            del self._put_off[model.id]

    def repair(self, model_id: str, beat: Beat) -> None:
        """Read one model now and repair it. Raises the failure of the repair."""
        model = self._on_disk(model_id)
        record, damages = self.verify(model, self._step(beat))
        if damages:
            self.mend(model, record, damages, beat)
        is_unknown = self._context.ledger.read.model(model.id).path is None
        if is_unknown and model.state in DUE_MODELS:  # as it was, it could not be adopted
            self._context.ledger.record_wanted(model.id, pulled=model.pulled)

    def _on_disk(self, model_id: str) -> Model:
        """Return a published model with its path, also when the ledger does not know its folder. Raises `Rejected`.

        Such a folder was published before a crash, or before the ledger was lost, and was damaged before it was adopted.
        """
        row = next((row for row in self._context.ledger.read.models() if row.id == model_id), None)
        if row is not None and row.path is not None:
            return row
        for folder, record in self._context.mirror_folder.published():
            if isinstance(record, LocalFault) or record.model.id != model_id:
                continue
            if row is not None:
                return replace(row, path=str(folder))
            record_found(self._context, folder, record)
            return self._context.ledger.read.model(model_id)
        raise Rejected(f"{printable(model_id)}: no published model has this id")

    def look_after(self, model: Model, step: Step, beat: Beat) -> list[Damage]:
        """Read one model and repair it if needed; returns the damage. Failures become problems."""
        damages: list[Damage] = []
        try:
            record, damages = self.verify(model, step)
            if damages:
                self.mend(model, record, damages, beat)
            self._context.problems.clear(shown(model))
        except (Stopping, LedgerFault):
            raise
        except AxomsyncError as failure:
            what = "damaged, and can't be repaired now" if damages else "it can't be read again now"
            self._context.problems.report(shown(model), f"{what}: {failure}", self._context.now() + AGAIN_SECONDS)
        return damages

    def verify(self, model: Model, step: Step) -> tuple[Record, list[Damage]]:
        """Read one model and record the result."""
        self._context.mirror_folder.restore_record(model, self._context.ledger.read.files(model.id))
        record = record_for(model)
        damages = examine(Path(model.path or ""), record.files, step)
        self._context.ledger.note_verified(model.id, "; ".join(map(str, damages)) or None, record.proofs.values())
        for damage in damages:
            log.warning("%s: %s", shown(model), damage)
        return record, damages

    def mend(self, model: Model, record: Record, damages: list[Damage], beat: Beat) -> None:
        """Fetch the damaged segments and replace the damaged files. Raises `Transient` during a pause."""
        self._context.demand_no_pause()
        with self._context.mirror_folder.alone(self._step(beat)):
            if read_record(Path(model.path or "")) != record:
                raise SourceChanged("its files have changed since they were read")
            self._mend(model, record, damages, beat)

    def _mend(self, model: Model, record: Record, damages: list[Damage], beat: Beat) -> None:
        check_room(self._context.mirror_folder.room(self._context.settings.reserve), damages)
        manifest = persist(lambda: self._context.console.manifest(model.id), self._context.stop, self._context.random, beat)
        check_manifest(manifest, damages)
        urls = SignedUrls(manifest, lambda: self._context.console.manifest(model.id), self._context.clock)
        total = sum(damage.file.size for damage in damages)
        bad = sum(damage.bad_bytes for damage in damages)
        with self._context.meter.transfer("down", shown(model), total, total - bad) as gauge:
            job = Job(model.id, urls, gauge, self._context.patience, lambda failure: None)
            repair(
                Path(model.path or ""),
                record,
                damages,
                self._context.mirror_folder.staging.workshop(model.id),
                job,
                self._context.lanes,
                self._context.ledger,
                self._step(beat),
                self._context.mirror_folder.access,
            )
        self._context.ledger.note_verified(model.id, None, record.proofs.values())
        self._context.problems.clear(shown(model))
        log.info("%s: repaired: %d bytes in %d files were downloaded again", shown(model), bad, len(damages))

    def _is_due(self, model: Model) -> bool:
        if self._context.settings.scrub is None or not may_be_folder(model.path):
            return False
        pause = self._context.settings.scrub if model.damage is None else min(self._context.settings.scrub, AGAIN_SECONDS)
        if model.verified_at is None:
            return True
        return self._waits.left(model.id, model.verified_at + pause, pause) == 0

    def _sleep(self, seconds: float, beat: Beat) -> bool:
        """Sleep; True when the agent stops."""
        deadline = self._context.clock() + seconds
        while (left := deadline - self._context.clock()) > 0:
            beat()
            if self._context.stop.wait(min(left, LONGEST_NAP_SECONDS)):
                return True
        return self._context.stop.is_set()

    def _step(self, beat: Beat) -> Step:
        def step() -> None:
            beat()
            if self._context.stop.is_set():
                raise Stopping("the agent is stopping")

        return step


def record_for(model: Model) -> Record:
    """Read the record of a published model. Raises `LocalFault`, `Rejected`."""
    folder = Path(model.path or "")
    if not is_folder(folder):
        raise LocalFault(f"{folder}: the folder of {shown(model)} is gone; the agent fetches it again")
    record = read_record(folder)
    if record is None:
        raise Rejected(f"{folder}: its record can't be read; start the agent, which writes it again from its ledger")
    return record
