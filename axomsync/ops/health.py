"""Health checks of versions on trial: a command of the user, run again and again after `current` moved.

It runs every ten seconds for `[hooks] health_for`, and once at the end; the time begins with the first check, after the
hooks that tell engines of the move had their first turn. The command decides: 0 is healthy, 75 is "not ready yet" and
counts as a failure only at the end, anything else is a failure at once. The verdict goes into the ledger; the mirror acts
upon it.

Failures handled: a check that hangs (ended at `[hooks] timeout`, a failure), a command that can't be run (tried until the
end, then a failure: that is not a yes), a stop or a crash during a check (it runs again), a trial that ended while no agent
ran (one check decides), a ledger that can't be written (no check runs before it has the verdict), a check that trips a bug
(reported, tried again).
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

from axomsync.config import HookSettings
from axomsync.core.errors import LocalFault
from axomsync.core.records import Event, ModelState, Trial
from axomsync.core.text import printable
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.owed_writes import OwedWrites
from axomsync.runtime.waits import Waits
from axomsync.runtime.worker import WorkerContext
from axomsync.status.documents import Document, hook_document

log = logging.getLogger(__name__)

CHECK_SECONDS = 10.0
NOT_YET = 75  # EX_TEMPFAIL


class _Outcome(Protocol):
    @property
    def failure(self) -> str | None: ...
    @property
    def said(self) -> str: ...
    @property
    def early(self) -> bool: ...


Execute = Callable[[tuple[str, ...], Document, Beat], _Outcome]


class Health:
    """Runs the checks that are due, in the thread of the hooks, which catches up on what is `owed` to the ledger."""

    def __init__(self, settings: HookSettings, context: WorkerContext, execute: Execute, owed: OwedWrites) -> None:
        self._settings, self._execute, self._owed = settings, execute, owed
        self._ledger, self._problems, self._stop, self._now = context.ledger, context.problems, context.stop, context.now
        self._waits = Waits(context.now, context.clock)

    def run_due(self, beat: Beat) -> None:
        """Check each version on trial whose time has come. Raises `LocalFault` for the ledger."""
        trials = [trial for trial in self._ledger.read.trials() if trial.verdict is None] if self._settings.health else []
        if not trials:
            return
        new = {event.subject for event in self._ledger.read.events_due(math.inf) if not event.attempts}
        for trial in trials:
            due = self._waits.left((trial.folder, trial.model, "next"), trial.next_check) == 0
            if not due or trial.model in new or self._stop.is_set():
                continue
            try:
                self._check(trial, beat)
            except LocalFault:
                raise
            except Exception as bug:  # noqa: BLE001  # the others go on
                self._problems.report_bug("hooks", bug, self._now() + CHECK_SECONDS)

    def _check(self, trial: Trial, beat: Beat) -> None:
        row = next((row for row in self._ledger.read.models(ModelState.PUBLISHED) if row.id == trial.model), None)
        if row is None:
            return  # the folder went; nothing is served that could be checked
        span = self._settings.health_for
        end = (trial.folder, trial.model, "end")
        ends_at = self._waits.begin(end, span) if trial.ends_at is None else trial.ends_at
        event = Event(0, "health", "models", trial.model, self._now(), trial.checks)
        outcome = self._execute(self._settings.health, hook_document(event, row), beat)
        if self._stop.is_set() and outcome.failure is not None:
            return  # it was ended by our own stop; the next start runs it again
        left = self._waits.left(end, ends_at, longest=span)
        label, reason = printable(f"{row.name}/{row.version}"), _words(outcome)
        if outcome.failure is not None and (left == 0 or not outcome.early):
            log.warning("%s: the health check %s", label, reason)
            self._owed.add(partial(self._ledger.judge_trial, trial.folder, trial.model, "failed", reason))
        elif left == 0:
            log.info("%s: healthy for %g s", label, span)
            self._owed.add(partial(self._ledger.end_trial, trial.folder, trial.model))
        else:
            again = self._waits.begin((trial.folder, trial.model, "next"), min(CHECK_SECONDS, left))
            self._owed.add(partial(self._ledger.plan_check, trial.folder, trial.model, ends_at, again, reason))


def _words(outcome: _Outcome) -> str | None:
    """What a check that failed did, such as `ended with 1; it said: …`; None of one that did not."""
    if outcome.failure is None:
        return None
    return outcome.failure + (f"; it said: {outcome.said}" if outcome.said else "")
