"""A published folder that the ledger does not know becomes known: after the loss of a ledger, or when one is repaired."""

from pathlib import Path

from axomsync.mirror.context import MirrorContext
from axomsync.mirror.publish import current
from axomsync.mirror.publish.record import Record


def record_found(context: MirrorContext, folder: Path, record: Record) -> None:
    """Record a model as published at `folder`, with `current` as it is. Raises `LocalFault`."""
    context.ledger.record_found(
        record.model, str(folder), record.files, record.left_out, record.remarks, record.proofs.values()
    )
    if current.is_led_to(str(folder)):  # that is no move
        context.ledger.record_current(str(folder.parent), record.model.id, told=False, trial=False, guarded=False)
