"""Names in the mirror: folders follow the labels of their models in the console, and `current` is kept right.

Failures handled: a folder that a process reads (renamed later, reported meanwhile), a name that is taken, a foreign folder
or link in the place of `current`, a folder that can't be read now. Each is a problem with its own subject.
"""

import logging
import threading
from collections.abc import Container
from pathlib import Path

from axomsync.core.errors import LocalFault, Rejected
from axomsync.core.records import Model, ModelState
from axomsync.core.text import printable
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.publish.current import is_led_to
from axomsync.mirror.publish.folder import shown

log = logging.getLogger(__name__)


class Labels:
    """Corrects names at each poll. `publishing` is held while a folder is renamed."""

    def __init__(self, context: MirrorContext, publishing: threading.Lock) -> None:
        self._context, self._publishing = context, publishing
        self._told: set[str] = set()  # subjects of current problems

    def follow(self, busy: Container[str]) -> None:
        """Rename folders whose models have new labels, except those in work, and correct `current`."""
        told: dict[str, str] = {}
        published = [row for row in self._context.ledger.read.models(ModelState.PUBLISHED) if row.path]
        for row in published:
            if row.id not in busy:
                with self._publishing:
                    self._rename(row, Path(row.path or ""), told)
        published = [row for row in self._context.ledger.read.models(ModelState.PUBLISHED) if row.path]
        for parent in {Path(row.path or "").parent for row in published}:
            try:
                fault = self._context.mirror_folder.tend_current(parent)
            except LocalFault as unread:
                fault = str(unread)
            if fault is not None:
                told[printable(f"{parent.name}/current")] = f"{parent / 'current'}: {fault}"
        for subject in self._told - told.keys():
            self._context.problems.clear(subject)
        for subject, reason in told.items():
            self._context.problems.report(subject, reason)
        self._told = set(told)

    def _rename(self, row: Model, folder: Path, told: dict[str, str]) -> None:
        subject = printable(f"{folder.parent.name}/{folder.name}")
        try:
            place, obstacle = self._context.mirror_folder.follow_labels(row)
        except (LocalFault, Rejected) as fault:
            told[subject] = f"{folder} holds {shown(row)} and can't be renamed: {fault}"
            return
        if obstacle is not None:
            told[subject] = f"{folder} holds {shown(row)}; it is renamed once no process reads it: {obstacle}"
        elif place != folder:
            self._context.ledger.record_moved(row.id, folder, place, leads=is_led_to(str(place)))
            log.info("%s: renamed %s to %s", shown(row), folder, place)
