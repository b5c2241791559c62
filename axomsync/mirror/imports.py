"""Imports: which models of a named folder are taken, and what became of each.

Who names the folder of a model wants it, as with `pull`. Of a folder with several models the selection of `[mirror]` takes
its part: what it leaves out would be removed again. The newest comes first, so that `current` moves once.

Failures handled: a folder without any record (`Rejected`), a model that can't be imported (told, the others go on), one
that is here already (nothing to do), a mirror folder that is not mounted (`LocalFault`).
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from axomsync.core.errors import AxomsyncError, Bug, LocalFault, Rejected, Stopping
from axomsync.core.filesystems import is_folder
from axomsync.core.oserrors import unforeseen
from axomsync.core.records import Model, ModelState, RemoteModel
from axomsync.core.text import printable
from axomsync.ledger import LedgerFault
from axomsync.mirror import layout
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.import_task import ImportTask
from axomsync.mirror.publish.space import Space
from axomsync.mirror.sources import Source, find
from axomsync.runtime.heartbeat import Beat

log = logging.getLogger(__name__)

Outcome = Literal["imported", "present", "left out", "refused", "failed"]
Alone = Callable[[str, Beat], AbstractContextManager[None]]


@dataclass(frozen=True)
class Arrival:
    """What became of one model, or of a folder whose record can't be read."""

    source: Path
    model: RemoteModel | None
    outcome: Outcome
    failure: AxomsyncError | None = None
    remark: str | None = None
    path: str | None = None
    size: int = 0  # bytes


class Imports:
    """Imports into one mirror folder. `alone` keeps all others from a model."""

    def __init__(self, context: MirrorContext, space: Space, publishing: threading.Lock, alone: Alone) -> None:
        self._context, self._space, self._publishing, self._alone = context, space, publishing, alone

    def take(self, places: Iterable[Path], beat: Beat) -> list[Arrival]:
        """Import the models in these folders. Raises `Rejected` when there is none, `LocalFault`, `Stopping`."""
        self._context.mirror_folder.check(self._context.ledger.read.models(ModelState.PUBLISHED))
        found: list[Source] = []
        arrivals: list[Arrival] = []
        for place in places:
            before = len(found) + len(arrivals)
            for one in find(place, beat):
                if isinstance(one, Source):
                    found.append(one)
                else:
                    arrivals.append(_unreadable(place, one))
            if len(found) + len(arrivals) == before:
                raise Rejected(
                    f"{printable(str(place))}: no model is there; name a mirror folder, or the folder of a model with its "
                    "record .axomsync.json"
                )
        found.sort(key=lambda source: layout.age(source.record.model.created_at, source.record.model.id), reverse=True)
        here, newest = self._folders({source.record.model.id for source in found}), self._newest(found)
        for source in found:
            arrivals.append(self._take(source, here, newest, beat))
            _log(arrivals[-1])
        return arrivals

    def _folders(self, ids: set[str]) -> dict[str, RemoteModel]:
        """Models of these that lie in the mirror folder, by id, also those that the ledger does not know."""
        there = self._context.mirror_folder.published()
        records = (record.model for _, record in there if not isinstance(record, LocalFault))
        return {model.id: model for model in records if model.id in ids}

    def _newest(self, found: Iterable[Source]) -> set[str]:
        """The models that `[mirror] keep` would keep once all are here."""
        names: dict[str, dict[str, layout.Age]] = defaultdict(dict)
        published: list[Model] = self._context.ledger.read.models(ModelState.PUBLISHED)
        coming = [source.record.model for source in found if self._selects(source.record.model)]
        ages = [(model.name, model.id, layout.age(model.created_at, model.id)) for model in published]
        ages += [(model.name, model.id, layout.age(model.created_at, model.id)) for model in coming]
        for name, key, age in ages:
            names[name][key] = age
        kept = self._context.settings.keep
        return {key for of in names.values() for key in sorted(of, key=of.__getitem__, reverse=True)[: kept or None]}

    def _selects(self, model: RemoteModel) -> bool:
        return layout.selected(model, self._context.settings.include, self._context.settings.exclude)

    def _why_left_out(self, model: RemoteModel, newest: set[str]) -> str | None:
        if not self._selects(model):
            return "left out by [mirror] include and exclude"
        if model.id not in newest:
            return f"not among the newest {self._context.settings.keep} of its name ([mirror] keep)"
        return None

    def _take(self, source: Source, here: dict[str, RemoteModel], newest: set[str], beat: Beat) -> Arrival:
        remote = source.record.model
        try:
            with self._alone(remote.id, beat):
                row = next((row for row in self._context.ledger.read.models() if row.id == remote.id), None)
                if row is not None and is_folder(row.path):
                    return _present(source, row)
                reason = self._why_left_out(remote, newest)
                if reason is not None and source.below and remote.id not in here:
                    told = f"{reason}; name its folder to import it all the same"
                    return Arrival(source.folder, remote, "left out", remark=told)
                model = row or Model.listed(here.get(remote.id, remote), ModelState.QUEUED)
                pulled = reason is not None
                task = ImportTask(source, self._context, model, self._space, self._publishing, beat, pulled=pulled)
                task.run()
                arrived = self._context.ledger.read.model(remote.id)
        except (Stopping, LedgerFault):
            raise
        except Exception as error:  # a bug that one model triggers must not stop the others
            failure = unforeseen(error)
            if isinstance(failure, Bug):
                log.exception("import: %s: unexpected failure", printable(str(source.folder)))
            outcome: Outcome = "refused" if isinstance(failure, Rejected) else "failed"
            return Arrival(source.folder, remote, outcome, failure)
        if task.was_there:
            return _present(source, arrived)
        more = any(layout.matches((rel,), self._context.settings.files) for rel in source.record.left_out)
        remark = "the source lacks files that [mirror] files selects; storage is asked for them" if more else None
        return Arrival(source.folder, remote, "imported", None, remark, arrived.path, arrived.bytes_total or 0)


def _present(source: Source, row: Model) -> Arrival:
    return Arrival(source.folder, source.record.model, "present", None, None, row.path, row.bytes_total or 0)


def _unreadable(place: Path, fault: AxomsyncError) -> Arrival:
    arrival = Arrival(place, None, "refused" if isinstance(fault, Rejected) else "failed", fault)
    _log(arrival)
    return arrival


def _log(arrival: Arrival) -> None:
    if arrival.failure is not None:
        log.warning("import: %s", arrival.failure)
    elif arrival.outcome == "imported":
        log.info("import: %s is here now: %s", printable(str(arrival.source)), arrival.path)
