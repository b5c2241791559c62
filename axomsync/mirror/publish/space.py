"""Room in the mirror: promised to models before their first byte, and made by retention.

All of a model must fit, beside the rest of those under way. Failures handled: a disk or `max_size` without room (what
retention may remove goes; else `LocalFault` with how much is missing), a version that somebody reads (spared, told once),
a crash between the removal and its note (the next list finds the folder gone).
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from axomsync.config import MirrorSettings
from axomsync.core.errors import LocalFault
from axomsync.core.filesystems import is_folder
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
        """Bytes that are still to be taken from the disk; blocks that are allocated already count as taken."""
        missing = 0
        for file in self.files:
            try:
                missing += max(0, file.size - (self.staging / file.rel).stat().st_blocks * 512)
            except OSError:
                missing += file.size
        return missing


class Space:
    """The room that one mirror folder has. Used by all threads that carry models."""

    def __init__(
        self, settings: MirrorSettings, mirror_folder: MirrorFolder, ledger: Ledger, now: Callable[[], float]
    ) -> None:
        self._settings, self._mirror_folder, self._ledger, self._now = settings, mirror_folder, ledger, now
        self._lock = threading.RLock()
        self._booked: dict[str, Booking] = {}  # models under way
        self._lacking: dict[str, Booking] = {}  # models that did not fit when they were last tried
        self._spared: set[str] = set()

    def book(self, booking: Booking) -> None:
        """Promise a model its room, and make it if need be and allowed. Raises `LocalFault`."""
        with self._lock:
            reason = self._why_not(booking)
            if reason is not None and self.retain(_coming(booking)):
                reason = self._why_not(booking)
            if reason is None:
                self._booked[booking.model.id] = booking
                self._lacking.pop(booking.model.id, None)
                return
            self._lacking[booking.model.id] = booking
        raise LocalFault(f"{self._mirror_folder.root}: {reason}; the agent goes on by itself when there is room")

    def book_again(self, model_id: str) -> None:
        """As `book`, for a model that did not fit; for one that was not refused yet there is nothing to do."""
        if booking := self._lacking.get(model_id):
            self.book(booking)

    def release(self, model_id: str) -> None:
        """The model is published, or set back."""
        with self._lock:
            self._booked.pop(model_id, None)

    def plan(self, coming: Version | None = None) -> Plan:
        """What retention would do now."""
        settings = self._settings
        policy = Policy(settings.keep, settings.max_size, settings.keep_gone)
        published = {row.id: row for row in self._ledger.read.models(ModelState.PUBLISHED) if _is_there(row)}
        versions = map(_version, published.values())
        return plan(versions, policy, self._now(), lambda v: _reader(published[v.id]) is not None, coming)

    def retain(self, coming: Version | None = None) -> list[str]:
        """Remove what may go; returns a line for each. Raises `LocalFault`."""
        removed = []
        with self._lock:
            planned = self.plan(coming)
            published = {row.id: row for row in self._ledger.read.models(ModelState.PUBLISHED)}
            for removal in planned.removals:
                model = published[removal.version.id]
                if self._mirror_folder.remove(Path(model.path or ""), model.id) is None:
                    self._ledger.record_pruned(model.id, removal.reason)
                    removed.append(f"{shown(model)}: removed, {removal.reason}")
                    log.info("%s", removed[-1])
            for removal in planned.spared:
                model = published[removal.version.id]
                if model.id not in self._spared:
                    log.info("%s: to be removed, %s, but %s has it open", shown(model), removal.reason, _reader(model))
            self._spared = {removal.version.id for removal in planned.spared}
        return removed

    def _why_not(self, booking: Booking) -> str | None:
        wanted = {**self._booked, booking.model.id: booking}.values()
        lacking = sum(booked.unallocated() for booked in wanted) - self._mirror_folder.room(self._settings.reserve)
        if lacking > 0:
            return f"{lacking} more bytes must be free for this model and the [mirror] reserve"
        limit = self._settings.max_size
        others = sum(row.bytes_total or 0 for row in self._ledger.read.models(ModelState.PUBLISHED) if _is_there(row))
        size = sum(booked.size for booked in wanted)
        if limit is None or is_within(size, others, limit):
            return None
        return f"{size + others - limit} bytes too many for [mirror] max_size with this model"


def _is_there(row: Model) -> bool:
    return is_folder(row.path)


def _reader(row: Model) -> str | None:
    return reader_of(Path(row.path or ""))


def _version(row: Model) -> Version:
    folder = Path(row.path or "")
    return Version(
        row.id,
        row.name,
        age(row.created_at, row.id),
        row.bytes_total or 0,
        pinned=current.pinned(folder.parent) == folder.name,
        current=current.leads_to(folder.parent) == folder.name,
        pulled=row.pulled,
        absent_polls=row.absent_polls,
        absent_since=row.absent_since,
    )


def _coming(booking: Booking) -> Version:
    model = booking.model
    return Version(model.id, model.name, age(model.created_at, model.id), booking.size)
