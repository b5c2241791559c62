"""Space in the mirror: reserved for models before their first byte, and made by retention.

The whole model must fit, beside the rest of all models in work. Failures handled: a disk or `max_size` without room
(retention removes versions if it may and if the model fits then; else `LocalFault` with the missing bytes), a version that a
process reads (spared, logged once), a crash between a removal and its record (the next list finds the folder gone), a
version that can't be looked at now (it counts, and stays).
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from axomsync.config import MirrorSettings
from axomsync.core.errors import LocalFault
from axomsync.core.filesystems import may_be_folder
from axomsync.core.records import Model, ModelFile, ModelState
from axomsync.ledger import Ledger
from axomsync.mirror.layout import age
from axomsync.mirror.publish import current
from axomsync.mirror.publish.folder import MirrorFolder, shown
from axomsync.mirror.publish.readers import reader_of
from axomsync.mirror.retention import Plan, Policy, Version, is_within, plan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Booking:
    """The disk space that a model needs."""

    model: Model
    staging: Path
    files: tuple[ModelFile, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole model."""
        return sum(file.size for file in self.files)

    def unallocated(self) -> int:
        """Bytes still to allocate on the disk; blocks that are already allocated count as taken."""
        missing = 0
        for file in self.files:
            try:
                missing += max(0, file.size - (self.staging / file.rel).stat().st_blocks * 512)
            except OSError:
                missing += file.size
        return missing


class Space:
    """Space of one mirror folder. Used by all threads that carry models."""

    def __init__(
        self, settings: MirrorSettings, mirror_folder: MirrorFolder, ledger: Ledger, now: Callable[[], float]
    ) -> None:
        self._settings, self._mirror_folder, self._ledger, self._now = settings, mirror_folder, ledger, now
        self._lock = threading.RLock()
        self._booked: dict[str, Booking] = {}  # models in work
        self._lacking: dict[str, Booking] = {}  # models that did not fit at their last try
        self._spared: set[str] = set()

    def book(self, booking: Booking) -> None:
        """Reserve room for a model, and make it if needed and allowed. Raises `LocalFault`."""
        with self._lock:
            reason = self._why_not(booking)
            if reason is not None and self.retain(booking):
                reason = self._why_not(booking)
            if reason is None:
                self._booked[booking.model.id] = booking
                self._lacking.pop(booking.model.id, None)
                return
            self._lacking[booking.model.id] = booking
        raise LocalFault(f"{self._mirror_folder.root}: {reason}; the agent goes on by itself when there is room")

    def book_again(self, model_id: str) -> None:
        """Reserve again for a model that did not fit before; nothing to do for others. Raises `LocalFault`."""
        if booking := self._lacking.get(model_id):
            self.book(booking)

    def release(self, model_id: str) -> None:
        """Release the reservation: the model is published or set back."""
        with self._lock:
            self._booked.pop(model_id, None)

    def plan(self, booking: Booking | None = None) -> Plan:
        """Plan of retention for now, or for a model that lacks room."""
        settings = self._settings
        policy = Policy(settings.keep, settings.max_size, settings.keep_gone)
        published = {row.id: row for row in self._ledger.read.models(ModelState.PUBLISHED) if self._is_there(row)}
        kept = self._ledger.read.kept_for_trials()
        versions = [_version(row, on_trial=row.id in kept) for row in published.values()]

        def is_open(version: Version) -> bool:
            return _reader(published[version.id]) is not None

        if booking is None:
            return plan(versions, policy, self._now(), is_open)
        lacking = self._lacking_on_disk(booking)

        def has_room(removed: Iterable[Version]) -> bool:
            return lacking <= 0 or lacking <= _freed(Path(published[version.id].path or "") for version in removed)

        return plan(versions, policy, self._now(), is_open, self._coming(booking), has_room)

    def retain(self, booking: Booking | None = None) -> list[str]:
        """Remove versions by the rules of retention; returns a line for each.

        `booking` is of a model that lacks room: versions are removed for it if it fits then. Raises `LocalFault` when one
        can't be removed, after the others.
        """
        removed = []
        faults = []
        with self._lock:
            planned = self.plan(booking)
            published = {row.id: row for row in self._ledger.read.models(ModelState.PUBLISHED)}
            for removal in planned.removals:
                model = published[removal.version.id]
                try:
                    reader = self._mirror_folder.remove(Path(model.path or ""), model.id)
                except LocalFault as fault:
                    faults.append(fault)
                    continue
                if reader is None:
                    self._ledger.record_pruned(model.id, removal.reason)
                    removed.append(f"{shown(model)}: removed, {removal.reason}")
                    log.info("%s", removed[-1])
            for removal in planned.spared:
                model = published[removal.version.id]
                if model.id not in self._spared:
                    log.info("%s: to be removed, %s, but %s has it open", shown(model), removal.reason, _reader(model))
            self._spared = {removal.version.id for removal in planned.spared}
        if faults:
            raise faults[0]
        return removed

    def _is_there(self, row: Model) -> bool:
        """One that can't be looked at now has its bytes all the same. What lies elsewhere is not this folder's."""
        return self._mirror_folder.holds(row) and may_be_folder(row.path)

    def _why_not(self, booking: Booking) -> str | None:
        if (lacking := self._lacking_on_disk(booking)) > 0:
            return f"{lacking} more bytes must be free for this model and the [mirror] reserve"
        limit = self._settings.max_size
        others = sum(row.bytes_total or 0 for row in self._ledger.read.models(ModelState.PUBLISHED) if self._is_there(row))
        size = sum(booked.size for booked in self._with_booked(booking))
        if limit is None or is_within(size, others, limit):
            return None
        return f"{size + others - limit} bytes too many for [mirror] max_size with this model"

    def _with_booked(self, booking: Booking) -> Collection[Booking]:
        return {**self._booked, booking.model.id: booking}.values()

    def _lacking_on_disk(self, booking: Booking) -> int:
        unallocated = sum(booked.unallocated() for booked in self._with_booked(booking))
        return unallocated - self._mirror_folder.room(self._settings.reserve)

    def _coming(self, booking: Booking) -> Version:
        """The version that lacks room; all models in work count with it, since they keep what they have reserved."""
        model, size = booking.model, sum(booked.size for booked in self._with_booked(booking))
        return Version(model.id, model.name, age(model.created_at, model.id), size)


def _reader(row: Model) -> str | None:
    try:
        return reader_of(Path(row.path or ""))
    except LocalFault as fault:
        return f"perhaps a process ({fault})"


def _version(row: Model, *, on_trial: bool) -> Version:
    folder = Path(row.path or "")
    try:
        pinned, leads = current.pinned(folder.parent) == folder.name, current.leads_to(folder.parent) == folder.name
    except LocalFault:
        pinned = leads = True  # nobody knows now
    return Version(
        row.id,
        row.name,
        age(row.created_at, row.id),
        row.bytes_total or 0,
        pinned=pinned,
        current=leads,
        pulled=row.pulled,
        on_trial=on_trial,
        absent_polls=row.absent_polls,
        absent_since=row.absent_since,
    )


def _freed(folders: Iterable[Path]) -> int:
    """Bytes that the disk gets when these folders are removed; a file that is linked elsewhere gives none."""
    links: Counter[tuple[int, int]] = Counter()
    files: dict[tuple[int, int], os.stat_result] = {}
    for path in (os.path.join(parent, name) for folder in folders for parent, _, names in os.walk(folder) for name in names):
        with suppress(OSError):  # another process has removed it
            status = os.lstat(path)
            key = status.st_dev, status.st_ino
            links[key] += 1
            files[key] = status
    return sum(status.st_blocks * 512 for key, status in files.items() if links[key] >= status.st_nlink)
