"""One poll: the console's list of models, and its consequences in the ledger and in the mirror folder.

Failures handled: a list that is empty or incomplete (no model counts as removed because of it), leftovers of a killed agent
(removed by the first poll), a mirror folder that can't be read now (`LocalFault`), folders in it that can't (returned, they
count as present; the other models go on), a ledger that was lost (`recovery`).
"""

import shutil
from collections.abc import Callable

from axomsync.core.errors import LocalFault
from axomsync.core.filesystems import is_folder
from axomsync.core.records import Model, ModelState
from axomsync.core.states import UNWANTED_MODELS
from axomsync.mirror.catalog import Selection, reconcile
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.labels import Labels
from axomsync.mirror.publish.abandoned import changed_since
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.mirror.publish.space import Space
from axomsync.mirror.recovery import recover
from axomsync.mirror.retention import GONE_SECONDS
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.retry import persist


class Poller:
    """Updates the ledger from the console's list; one poll at a time."""

    def __init__(self, context: MirrorContext, space: Space, labels: Labels) -> None:
        self._context = context
        self._space = space
        self._labels = labels
        self._swept = False
        self._recovered = False  # True once the models in the mirror folder are known

    def take_stock(self) -> list[LocalFault]:
        """Make the models in the mirror folder known; returns what can't be read now. Raises `LocalFault`."""
        if not self._swept:
            self._context.mirror_folder.staging.sweep(self._context.now())
            self._swept = True
        unread = [] if self._recovered else recover(self._context)
        self._recovered = not unread
        return unread

    def poll(self, under_way: Callable[[], set[str]], tries: int, beat: Beat) -> list[LocalFault]:
        """Fetch the list and act on it; models under way are left alone. Returns what can't be read now.

        `beat` is called before each wait for an answer. Raises the errors of the console and of the mirror folder itself.
        """
        console = self._context.console
        listed = persist(lambda: console.models(beat), self._context.stop, self._context.random, beat, tries)
        if left_out := console.models_left_out:
            self._context.problems.report("list of models", left_out)
        else:
            self._context.problems.clear("list of models")
        unread = self.take_stock()
        busy = under_way()  # only now: the console may have taken long
        known = self._context.ledger.read.models()
        self._context.mirror_folder.check([row for row in known if row.state is ModelState.PUBLISHED])
        settings = self._context.settings
        selection = Selection(settings.include, settings.exclude, settings.keep, settings.max_size, settings.files)
        changes = reconcile(listed, known, selection, lambda row: is_there(row, self._context.mirror_folder, unread), busy)
        if changes:
            self._context.ledger.record_catalog((change.model, change.state, change.reason) for change in changes)
            for change in changes:
                if change.state is ModelState.IGNORED:
                    self._let_go(change.model.id)
        there = {model.id for model in listed}
        self._note_presence(there, known)
        self._tidy_up([row for row in known if row.id not in busy], busy, there)
        self._context.ledger.set_facts(last_poll=str(self._context.now()))
        try:
            self._space.retain()
        finally:
            self._labels.follow(busy)
        return unread

    def _let_go(self, model_id: str) -> None:
        """Discard the received bytes of a model that is not wanted any more: they would only fill the disk."""
        if self._context.mirror_folder.staging.discard(model_id):
            for file in self._context.ledger.read.files(model_id):
                self._context.ledger.discard_file(model_id, file.rel)

    def _tidy_up(self, at_rest: list[Model], busy: set[str], listed: set[str]) -> None:
        """Discard what was received of models that are not wanted, or have been missing in the list for a day.

        The folders tell: a ledger that was damaged, or came back from a backup, may not know of their bytes; and when power
        fails, a folder that was discarded may come back.
        """
        staging, then = self._context.mirror_folder.staging, self._context.now() - GONE_SECONDS
        rows = {staging.path(row.id).name: row for row in at_rest}
        others = {staging.path(model_id).name for model_id in busy | listed} - rows.keys()
        for folder in staging.collected():
            row = rows.get(folder.name)
            if row is None:
                if listed and folder.name not in others and not changed_since(folder, then):
                    shutil.rmtree(folder, ignore_errors=True)
            elif row.state is ModelState.PUBLISHED:  # its extension makes it queued
                staging.discard(row.id)
            elif row.state in UNWANTED_MODELS:
                self._let_go(row.id)
            elif row.state is ModelState.GONE and row.updated_at < then and listed and row.id not in listed:
                self._let_go(row.id)  # an empty list proves nothing

    def _note_presence(self, listed: set[str], known: list[Model]) -> None:
        """Count absences; an empty or incomplete list does not show that a model was removed."""
        if self._context.settings.keep_gone or not listed or self._context.console.models_left_out:
            return
        # A model that is listed again is no longer absent, also if it was removed meanwhile: else it would be removed again.
        is_back = any(row.absent_since is not None for row in known if row.id in listed)
        if is_back or any(row.state is ModelState.PUBLISHED for row in known if row.id not in listed):
            self._context.ledger.note_presence(listed)


def is_there(row: Model, mirror_folder: MirrorFolder, unread: list[LocalFault]) -> bool:
    """Check that a model's folder exists in the mirror folder. An unreadable one counts as present: it is not fetched again.

    The reason why it can't be read is added to `unread`.
    """
    try:
        return mirror_folder.holds(row) and is_folder(row.path)
    except LocalFault as fault:
        unread.append(fault)
        return True
