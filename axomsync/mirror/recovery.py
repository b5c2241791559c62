"""Recovery at the start: bring ledger and mirror folder in agreement after the loss of a ledger or a record.

Failures handled: leftovers of a killed agent (removed), a published folder without its record (written again), a folder
whose publication no ledger knows (adopted when complete), folders that can't be read now (returned, to be tried again).
"""

import logging

from axomsync.core.errors import LocalFault
from axomsync.core.records import Model, ModelState
from axomsync.core.text import printable
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.publish import current

log = logging.getLogger(__name__)

_TURNED_AWAY = frozenset({ModelState.WAITING, ModelState.IGNORED, ModelState.GONE})
_TO_BE_TRIED = frozenset({ModelState.QUEUED, ModelState.BLOCKED, ModelState.FAILED})


def recover(context: MirrorContext) -> list[LocalFault]:
    """Bring ledger and folder in agreement. Returns the folders' faults, to be tried again."""
    context.mirror_folder.staging.sweep(context.now())
    unread: list[LocalFault] = []
    known = {row.id: row for row in context.ledger.read.models()}
    for row in known.values():
        if row.state is ModelState.PUBLISHED:
            try:
                context.mirror_folder.restore_record(row, context.ledger.read.files(row.id))
            except LocalFault as fault:
                unread.append(fault)
    for folder, record in context.mirror_folder.published():
        try:
            if isinstance(record, LocalFault):
                raise record
            whole = _is_overlooked(known.get(record.model.id)) and context.mirror_folder.lacks(folder, record) is None
        except LocalFault as fault:
            unread.append(fault)
            continue
        if whole:
            found = (str(folder), record.files, record.left_out)
            if record.model.id in known:
                context.ledger.record_published(record.model.id, *found, None, record.remarks, record.proofs.values())
            else:
                context.ledger.record_found(record.model, *found, record.remarks, record.proofs.values())
            if current.is_led_to(str(folder)):  # that is no move
                context.ledger.record_current(str(folder.parent), record.model.id, told=False, trial=False, guarded=False)
            log.info("%s: found at %s", printable(f"{record.model.name}/{record.model.version}"), folder)
    return unread


def _is_overlooked(row: Model | None) -> bool:
    """True for a model whose folder no pass would find: it may have been published right before the agent was killed."""
    return row is None or row.state in _TURNED_AWAY or (row.state in _TO_BE_TRIED and row.path is None)
