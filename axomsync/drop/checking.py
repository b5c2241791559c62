"""Check of one file: is it a dataset, its shards, its repeated lines, its shape. The result is in the ledger afterwards.

Failures handled: an archive that can't be unpacked, a line that is not valid, or of an unwanted shape (the row says which,
and why), a file that changes while it is read (`SourceChanged`), a file that can't be read (`LocalFault`).
"""

import logging
import os
from collections.abc import Callable

from axomsync.config import DropSettings
from axomsync.core.records import Segment, Upload, UploadState
from axomsync.core.text import printable
from axomsync.drop import jsonl, ranges, shards, source
from axomsync.drop.content import Content
from axomsync.drop.documents import repeated_document, shape_document
from axomsync.drop.line_workers import LineWorkers
from axomsync.drop.names import packing_of
from axomsync.drop.packed_faults import as_invalid
from axomsync.drop.repeats import repeated_words
from axomsync.drop.shapes import Shapes, shape_warning
from axomsync.drop.unpacking import BrokenArchive
from axomsync.ledger import Ledger

log = logging.getLogger(__name__)


class Checker:
    """Checks files, one for each call, from any thread."""

    def __init__(self, settings: DropSettings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._workers = LineWorkers()

    def check(
        self, upload: Upload, content: Content, step: Callable[[], None], good: Callable[[int], None]
    ) -> tuple[Upload, jsonl.InvalidDataset | None]:
        """Read the content once; returns its row, and the fault if it is invalid.

        During the reading, `step` is called, and `good` as `jsonl.check` does.

        Raises `TooLarge` and `NoRoom` for compressed files.
        """
        root = self._settings.folder
        with content.opened() as (file, stamp):
            if stamp != upload.stamp:
                self._ledger.restamp(upload.id, stamp, UploadState.SETTLING, upload.reason)
            self._ledger.move_upload(upload.id, UploadState.CHECKING)
            try:
                body = content.body(file, stamp, step)
                planned = self._shards(body.file, body.size)
                mode, shapes = self._settings.validate_, self._shapes()
                checked = ranges.check(
                    body.file, body.size, mode, step, self._workers, shards=planned, shapes=shapes, good=good
                )
            except (BrokenArchive, jsonl.InvalidDataset) as fault:
                source.demand_unchanged(root, upload.path, file, stamp)
                invalid = as_invalid(fault, packed=packing_of(upload.path) is not None)
                return self._ledger.record_rejected(
                    upload.id, f"{invalid}; {correction(upload, self._settings.done_marker)}"
                ), invalid
            source.demand_unchanged(root, upload.path, file, stamp)
        names = [shards.shard_name(upload.filename, number, len(planned)) for number in range(1, len(planned) + 1)]
        named = zip(names, planned, strict=True)
        upload = self._ledger.record_check(upload.id, stamp, checked, named, body.packed_sha256).result()
        if (warning := repeated_words(repeated_document(upload.repeated), upload.lines)) is not None:
            log.warning("%s: %s; it is uploaded as it is", source.shown(upload.path), warning)
        if shapes is not None and shapes.faults and (odd := shape_warning(shape_document(upload.shape))) is not None:
            log.warning("%s: %s; it is uploaded as it is", source.shown(upload.path), odd)
        return upload, None

    def close(self) -> None:
        """End the processes that check large files. No check may be under way."""
        self._workers.close()

    def _shapes(self) -> Shapes | None:
        """An object that collects the shape of a file; None if nobody wants it, or no line is read."""
        schema = self._settings.schema_
        if schema == "off" or self._settings.validate_ == "off":
            return None
        return Shapes(None if schema == "report" else schema)

    def _shards(self, file: int, size: int) -> list[Segment]:
        """Ranges of the file's shards; none if it is uploaded whole."""
        shard = self._settings.shard
        return [] if shard is None or size <= shard else shards.plan(file, size, shard)


def correction(upload: Upload, done_marker: str) -> str:
    """What to do about a rejected file. Its marker was removed with it, and without a new one it would not be taken."""
    if source.is_pushed(upload.path):
        return "correct it, and push it again"
    if not done_marker:
        return "correct it, and move it from rejected/ back into the drop folder"
    marker = os.path.basename(source.shown(upload.path)) + printable(done_marker)
    return f"correct it, move it from rejected/ back into the drop folder, and then create {marker} beside it"
