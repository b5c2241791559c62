"""Keeps the views right: at the start, at each poll, and while the console is down.

Failures handled: all that a view can meet (one problem, told once; the next poll looks again), a view that the configuration
names no more (its links stay as they are, which is told once).
"""

import logging

from axomsync.core.text import printable
from axomsync.ledger.facts import VIEWS
from axomsync.mirror.context import MirrorContext

log = logging.getLogger(__name__)

SUBJECT = "views"


class ViewKeeper:
    """Keeps the views of one mirror folder."""

    def __init__(self, context: MirrorContext) -> None:
        self._context = context
        self._compared = False  # with the views that were kept before

    def tend(self) -> None:
        """Make the views show what is published, and report what keeps them from it. Raises `LedgerFault`."""
        if not self._compared:
            self._tell_of_former()
            self._compared = True
        if faults := self._context.mirror_folder.views.heal():
            more = f" (and {len(faults) - 1} more faults of views)" * (len(faults) > 1)
            self._context.problems.report(SUBJECT, faults[0] + more)
        else:
            self._context.problems.clear(SUBJECT)

    def _tell_of_former(self) -> None:
        kept = [str(view) for view in self._context.settings.views]
        before = (self._context.ledger.read.facts().get(VIEWS) or "").splitlines()
        for view in before:
            if view not in kept:
                log.warning("%s: this view is kept no more; its links stay as they are: remove its folder", printable(view))
        if before != kept:
            self._context.ledger.set_facts(**{VIEWS: "\n".join(kept)})
