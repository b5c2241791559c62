"""Problems: obstacles to the agent's work. Logged when they begin, change and end, never at a repeat; shown by `status`.

They are kept in memory and copied into the ledger for other processes. `LedgerWatch` finds the ledger's own problems; it
never waits for the ledger, and shows them to other processes by a flag that needs no disk (see `Ledger.show_trouble`).

Failures handled: a ledger that can't be written for a while (reported once, within five seconds; problems reported
meanwhile are copied afterwards), a bug in a worker (reported like any problem, its traceback logged once).
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from axomsync.core.awake import awake_seconds
from axomsync.core.errors import Bug, LocalFault
from axomsync.core.oserrors import unforeseen
from axomsync.core.policy import without_request
from axomsync.core.records import Problem
from axomsync.ledger import Ledger, Trouble, ledger_fault

log = logging.getLogger(__name__)

# Possible subjects besides single files and models; also the label of a metric.
SUBJECTS = (
    "agent",
    "configuration",
    "console",
    "drop archive",
    "drop folder",
    "drop folder's filesystem",
    "gateways",
    "hooks",
    "ledger",
    "list of models",
    "mirror folder",
    "mirror folder's filesystem",
    "promotion",
    "reload",
    "rights of models",
    "state folder's filesystem",
    "status page",
    "steering",
    "upkeep",
    "views",
    "watching the drop folder",
)
LEDGER = "ledger"
# These are of the agent itself, or of what outlives its workers, and are told at a change only.
OF_AGENT = frozenset({"agent", "configuration", "gateways", LEDGER, "reload", "status page", "steering"})
LOOK_SECONDS = 1.0
CALM_SECONDS = 5.0  # time without failure before the ledger's problem ends: a full disk still takes some writes
OTHER_TURNS = 10  # looks in a row with another cause before that cause is shown instead
LASTING = frozenset({Trouble.DAMAGED, Trouble.FOREIGN})  # these last until the agent starts on another file


class Problems:
    """The current problems, by subject."""

    def __init__(self, ledger: Ledger, now: Callable[[], float] = time.time) -> None:
        self._ledger, self._now = ledger, now
        self._known: dict[str, Problem] = {}
        self._unlogged: dict[str, Problem] = {}  # shown while there is none that is known; the log tells nothing of them
        self._former: dict[str, Problem] = {}  # of workers that are no more: not shown, yet the log has not told their end
        self._lock = threading.RLock()
        self._ledgers = {str(ledger_fault(ledger.path, trouble)): trouble for trouble in Trouble}
        self.met: tuple[Trouble, float] | None = None  # last trouble met by the ledger's users, by `awake_seconds`

    def all(self) -> list[Problem]:
        """All problems, the oldest first."""
        with self._lock:
            return sorted((self._unlogged | self._known).values(), key=lambda problem: problem.since)

    def report(self, subject: str, reason: str, next_attempt: float | None = None) -> None:
        """Report a problem of `subject`; logged again when the reason changes. A ledger fault is the ledger's problem."""
        if (trouble := self._ledgers.get(reason)) is not None:
            self.met = (trouble, awake_seconds())
            return
        with self._lock:
            self._keep(subject, reason, next_attempt)
            copy = self._copy(subject)
        _wait_for(copy)

    def report_bug(self, subject: str, bug: Exception, next_attempt: float | None = None) -> None:
        """Report an unforeseen exception like `report`; the traceback of a bug is logged once."""
        failure = unforeseen(bug)
        with self._lock:
            known = self._told(subject)
        if isinstance(failure, Bug) and (known is None or known.reason != str(failure)):
            log.error("%s: a bug was met", subject, exc_info=bug)
        self.report(subject, str(failure), next_attempt)

    def keep(self, subject: str, reason: str, *, holds: bool) -> None:
        """Show this problem or not, as `holds` says, unless `subject` has another problem.

        The log tells nothing of it: it may come and go at each turn. What fails because of it is reported.
        """
        with self._lock:
            begins = holds and subject not in self._known and subject not in self._unlogged
            if begins:
                self._unlogged[subject] = Problem(subject, reason, self._now(), None)
            ends = not holds and self._unlogged.pop(subject, None) is not None
            copy = self._copy(subject) if begins or ends else None
        _wait_for(copy)

    def clear(self, subject: str) -> None:
        """End the problem of `subject`, if any. Only `LedgerWatch` ends the ledger's."""
        with self._lock:
            copy = self._copy(subject) if subject != LEDGER and self._end(subject) is not None else None
        _wait_for(copy)

    def forget_workers(self) -> None:
        """Show no more what workers have told that are no more, and can't end it.

        Those that begin show it again if it lasts, or end it; the log tells neither a second time.
        """
        with self._lock:
            self._unlogged.clear()
            for subject in self._known.keys() - OF_AGENT:
                self._former[subject] = self._known.pop(subject)

    def keep_ledger(self, trouble: Trouble | None) -> None:
        """Set or end the ledger's trouble; when it ends, all problems are copied into the ledger."""
        with self._lock:
            if trouble is not None:
                self._keep(LEDGER, str(ledger_fault(self._ledger.path, trouble)), None)
            elif (over := self._end(LEDGER)) is not None:
                self._ledger.show_problems(self.all(), over)

    def _copy(self, subject: str) -> Future[None] | None:
        """Submit to the ledger what is known of `subject`, unless that is in trouble.

        The lock is held, so that the ledger gets all changes in their order. Wait for the write without it: who reads the
        problems must not wait for the ledger.
        """
        if self._ledger.trouble() is not None:
            return None
        if (problem := self._known.get(subject) or self._unlogged.get(subject)) is None:
            return self._ledger.clear_problem(subject)
        return self._ledger.show_problem(subject, problem.reason, problem.next_attempt)

    def _keep(self, subject: str, reason: str, next_attempt: float | None) -> None:
        with self._lock:
            known, shown = self._told(subject), self._unlogged.pop(subject, None)
            before = known or shown
            self._former.pop(subject, None)
            self._known[subject] = Problem(subject, reason, before.since if before else self._now(), next_attempt)
        if known is None or without_request(known.reason) != without_request(reason):
            log.warning("%s: %s", subject, reason)

    def _told(self, subject: str) -> Problem | None:
        """The problem of which the log has told the begin and not the end."""
        return self._known.get(subject) or self._former.get(subject)

    def _end(self, subject: str) -> Problem | None:
        with self._lock:
            had, shown = self._told(subject), self._unlogged.pop(subject, None)
            self._known.pop(subject, None)
            self._former.pop(subject, None)
        if had is not None:
            log.info("%s: works again", subject)
        return had or shown


def _wait_for(copy: Future[None] | None) -> None:
    if copy is not None:
        with suppress(LocalFault):
            copy.result()


class LedgerWatch:
    """Checks the ledger each second and reports changes; calls `changed` after each. `clock` gives `awake_seconds`."""

    def __init__(
        self,
        ledger: Ledger,
        problems: Problems,
        changed: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = awake_seconds,
    ) -> None:
        self._ledger, self._problems, self._changed, self._clock = ledger, problems, changed, clock
        self.told: Trouble | None = None
        self._calm_since = clock()
        self._other_turns = 0
        self._probe: Future[None] = ledger.probe()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, if it was started, and wait for its end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def turn(self) -> None:
        """Look once, without waiting."""
        found = self._found()
        if found is not None:
            self._calm_since = self._clock()
        elif self.told is not None and self._clock() - self._calm_since < CALM_SECONDS:
            found = self.told
        if found is not None and self.told is not None and found is not self.told:
            self._other_turns += 1  # failures with changing causes are one problem
            if self._other_turns < OTHER_TURNS:
                found = self.told
        else:
            self._other_turns = 0
        if found is not self.told:
            self.told = found
            self._ledger.show_trouble(found)
            self._problems.keep_ledger(found)
            self._changed()
        if self._probe.done():
            self._probe = self._ledger.probe()

    def _found(self) -> Trouble | None:
        if self._ledger.is_removed():
            return Trouble.REMOVED
        if (trouble := self._ledger.trouble()) is not None:
            return trouble
        if (met := self._problems.met) is not None:
            trouble, at = met
            if trouble in LASTING or self._clock() - at < LOOK_SECONDS * 2:
                return trouble
        try:
            return Trouble.HELD if self._ledger.held_by_reader() else None
        except LocalFault:
            return None  # such as a lock, which the next write reports

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._clock()  # it has to be looked at often
            self.turn()
