"""Hooks: commands of the user that run after an event. Argument lists, no shell, one at a time, beside transfers.

The ledger notes an event together with the transition itself, so a hook runs at least once, whatever crashes. It gets
`AXOMSYNC_*` in its environment and the same and more as a JSON document on standard input; it does not get the API key, and
can't read it in the agent's own environment or memory either (`shield_memory`). After them, the health checks that are due
(`health`).

Failures handled: a command that is not there, fails or runs too long (tried again with back-off, then given up, told in
`status`), output without end (its last part is kept), a row that is no longer there (nothing to tell), a ledger that can't
be written (the outcome is kept, and no hook runs before it is written), an event that trips a bug (told, the others go on).
"""

import ctypes
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from axomsync.config import HookSettings
from axomsync.core.errors import LocalFault
from axomsync.core.policy import backoff
from axomsync.core.records import Event, Model, Upload
from axomsync.core.text import printable
from axomsync.ops.health import NOT_YET, Health
from axomsync.runtime.gates import Gate, Gates
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.owed_writes import OwedWrites
from axomsync.runtime.programs import reap_orphans, run, without_secrets
from axomsync.runtime.waits import Waits
from axomsync.runtime.worker import WorkerContext
from axomsync.status.documents import Document, gate_document, hook_document

log = logging.getLogger(__name__)

TRIES = 20  # with the back-off between them: about half an hour
LOOK_SECONDS = 1.0
GRACE_SECONDS = 5.0  # that a hook still has when the agent stops
KEPT_SECONDS = 30 * 86400.0
PR_SET_DUMPABLE = 4  # prctl(2)


def shield_memory() -> None:
    """Keep other processes of the same user, hooks first, from `/proc/PID/environ` and the memory of this one.

    Taking the key out of `os.environ` would leave it where the kernel shows it. Not for root, who may read everything.
    """
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


@dataclass(frozen=True)
class Outcome:
    """What became of a command: `failure` is None when it ended with 0. `early`: it may succeed when it runs again."""

    failure: str | None
    said: str = ""  # the end of its output
    early: bool = False


class Hooks:
    """Runs the hooks for the events in the ledger. `run` is the thread, `run_due` one pass for `sync`."""

    name = subject = "hooks"

    def __init__(self, settings: HookSettings, context: WorkerContext, environ: Mapping[str, str]) -> None:
        self._settings, self._ledger, self._problems = settings, context.ledger, context.problems
        self._liveness, self._stop, self._random, self._now = context.liveness, context.stop, context.random, context.now
        self._waits = Waits(context.now, context.clock)
        self._environ = without_secrets(environ)  # hooks talk to servers of this machine
        self._owed = OwedWrites()
        self._health = Health(settings, context, self._execute, self._owed)

    def run(self) -> None:
        """Work until the agent stops."""
        with self._liveness.worker(self.name) as beat:
            self._ledger.drop_events((), self._now() - KEPT_SECONDS)
            while not self._stop.wait(LOOK_SECONDS):
                beat()
                reap_orphans()
                try:
                    self.run_due(beat)
                except LocalFault as fault:
                    self._problems.report(self.subject, str(fault))
                else:
                    self._problems.clear(self.subject)

    def run_due(self, beat: Beat = lambda: None) -> None:
        """Run the hooks that are due, one after the other. Raises `LocalFault` for the ledger."""
        self._owed.catch_up()  # else what has just run would run again
        undone = self._ledger.read.events_due(math.inf)
        due = [event for event in undone if self._waits.left(event.id, event.next_attempt) == 0]
        if unwanted := {event.kind for event in due if not self._command(event)}:
            self._ledger.drop_events(unwanted, self._now() - KEPT_SECONDS)
        for event in due:
            if event.kind in unwanted or self._stop.is_set():
                continue
            try:
                self._run_for(event, beat)
            except LocalFault:
                raise
            except Exception as bug:  # noqa: BLE001  # the others go on
                again = self._waits.begin(event.id, backoff(event.attempts + 1, self._random))
                self._problems.report_bug(self.subject, bug, again)
                self._record(event, f"unexpected {type(bug).__name__}", again)
        self._health.run_due(beat)

    def _run_for(self, event: Event, beat: Beat) -> None:
        document = self._document(event)
        if document is None:
            self._ledger.record_hook(event.id, "", None)
            return
        outcome = self._execute(self._command(event), document, beat)
        failure, output = outcome.failure, outcome.said
        if self._stop.is_set() and failure is not None:
            return  # it was ended by our own stop; the next start runs it again
        subject = f"hook {event.kind}"
        if failure is None:
            log.info("%s: done%s", subject, f": {output}" if output else "")
            self._problems.clear(subject)
            self._record(event, output, None)
            return
        attempts = event.attempts + 1
        again = self._waits.begin(event.id, backoff(attempts, self._random)) if attempts < TRIES else None
        reason = f"{printable(self._command(event)[0])} {failure}" + (f"; it said: {output}" if output else "")
        self._problems.report(subject, reason if again is not None else f"{reason}; given up after {TRIES} tries", again)
        self._record(event, f"{failure}: {output}", again)

    def _record(self, event: Event, output: str, again: float | None) -> None:
        self._owed.add(partial(self._ledger.record_hook, event.id, output, again))

    def _command(self, event: Event) -> tuple[str, ...]:
        command: tuple[str, ...] = getattr(self._settings, event.kind)
        return command

    def _document(self, event: Event) -> Document | None:
        """Read the row of an event and return the document for the hook; None when the row is gone."""
        read = self._ledger.read
        if event.table == "models":
            model = next((row for row in read.models() if row.id == event.subject), None)
            return hook_document(event, model) if model else None
        upload = next(iter(read.uploads_among([int(event.subject)])), None)
        return hook_document(event, upload, read.shards(upload.stored_by)) if upload else None

    def _execute(self, command: tuple[str, ...], document: Document, beat: Beat) -> Outcome:
        """Run a command."""
        timeout, stop = self._settings.timeout, self._stop
        ending = run(command, self._environ, document, timeout, stop, beat, grace=GRACE_SECONDS, leaves=True)
        text = printable(ending.output.strip().replace("\n", " · "))
        failure = ending.failure or (f"ended with {ending.code}" if ending.code else None)
        return Outcome(failure, text, early=ending.code == NOT_YET or not ending.began)


def gates(settings: HookSettings, environ: Mapping[str, str]) -> Gates:
    """The gates of this configuration, which get what hooks get."""
    given = without_secrets(environ)

    def gate(key: str) -> Gate:
        def describe(row: Model | Upload, path: str) -> Document:
            return gate_document(key, time.time(), row, path)

        return Gate(key, getattr(settings, key), settings.timeout, given, describe)

    return Gates(gate("before_upload"), gate("before_publish"))
