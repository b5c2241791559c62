"""Recovery at the start: bring ledger and mirror folder in agreement after the loss of a ledger or a record.

Failures handled: a published folder without its record (written again), a folder whose publication the ledger does not know
(adopted when complete), a mirror folder that was moved or copied (the paths follow), folders that can't be read or listed
now (returned: they are tried again).
"""

import logging
from pathlib import Path

from axomsync.core.errors import LocalFault
from axomsync.core.records import Model, ModelState
from axomsync.core.states import DUE_MODELS
from axomsync.core.text import printable
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.found import record_found
from axomsync.mirror.publish.record import Record

log = logging.getLogger(__name__)


def recover(context: MirrorContext) -> list[LocalFault]:
    """Bring ledger and folder in agreement. Returns the folders' faults, to be tried again."""
    unread: list[LocalFault] = []
    known = {row.id: row for row in context.ledger.read.models()}
    place = context.mirror_folder
    for published in (row for row in known.values() if row.state is ModelState.PUBLISHED and place.holds(row)):
        try:
            place.restore_record(published, context.ledger.read.files(published.id))
        except LocalFault as fault:
            unread.append(fault)
    for folder, record in place.published():
        try:
            if isinstance(record, LocalFault):
                raise record
            row = known.get(record.model.id)
            was_elsewhere = row is not None and row.path is not None and not place.holds(row)
            if not (was_elsewhere or _is_overlooked(row)) or place.lacks(folder, record) is not None:
                continue
            if was_elsewhere:
                context.ledger.record_path(record.model.id, str(folder))
            else:
                _record(context, row, folder, record)
            log.info("%s: found at %s", printable(f"{record.model.name}/{record.model.version}"), folder)
        except LocalFault as fault:
            unread.append(fault)
    return unread


def _is_overlooked(row: Model | None) -> bool:
    """True for a model that the ledger does not call published, and that this poll may turn away.

    It may have been published right before the agent was killed: then its folder would stay for ever.
    """
    return row is None or (row.state in DUE_MODELS and row.path is None)


def _record(context: MirrorContext, row: Model | None, folder: Path, record: Record) -> None:
    if row is None:
        record_found(context, folder, record)
        return
    context.mirror_folder.adopt(folder, record)
    context.ledger.record_published(
        row.id, str(folder), record.files, record.left_out, None, record.remarks, record.proofs.values()
    )
