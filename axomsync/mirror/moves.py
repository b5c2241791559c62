"""The moves of `current`: promotes what waits when a window opens, tells hooks of each move, takes the way back.

Anybody may move `current`: a publication, a window, `axomsync promote`, `pin`, `unpin`, `rollback`, another agent. So the
link on disk is what counts; this worker compares it with what the ledger last saw. A move is recorded together with its
event and its trial, so that none is forgotten. The checks themselves are run by the hooks; this worker acts upon a failure.

Failures handled: a crash at any step (the next life finds the difference, or the failed trial, and goes on), a version to go
back to that is gone, or none (`current` stays, reported), a person who moves or pins `current` meanwhile (that counts, the
trial is over), a link that can't be read or moved now (reported, tried again), a mirror that is not mounted (left alone).
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from axomsync.core.errors import LocalFault
from axomsync.core.filesystems import is_folder, may_be_folder
from axomsync.core.records import Published, Trial
from axomsync.core.text import printable
from axomsync.core.windows import Promotes, is_open
from axomsync.ledger.facts import CURRENTS_UNKNOWN
from axomsync.mirror.publish import current
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.runtime.worker import WorkerContext

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
LOOK_SHARE = 1000  # a look that took a millisecond of CPU time is followed by a pause of at least a second
LONGEST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True)
class _Rows:
    """The ledger's rows. `parents` are the folders of the names, `known` the models that their `current` led to."""

    parents: tuple[str, ...]
    by_path: Mapping[str, Published]
    by_id: Mapping[str, Published]
    trials: tuple[Trial, ...]
    known: Mapping[str, str | None]


class Promotion:
    """Watches `current` of every name. `run` is its thread, `look` one turn. `checked`: `[hooks] health` has a command."""

    name = subject = "promotion"

    def __init__(self, context: WorkerContext, mirror_folder: MirrorFolder, *, checked: bool) -> None:
        self._ledger, self._problems, self._liveness = context.ledger, context.problems, context.liveness
        self._stop, self._now = context.stop, context.now
        self._mirror_folder, self._checked = mirror_folder, checked
        self._changed = threading.Event()  # the configuration; also new ones at the start
        self._changed.set()
        self._was_open = False
        self._absent: set[str] = set()  # names whose folders were not there
        self._begun = False
        self._told: dict[str, str] = {}  # current problems, by subject
        self._read: tuple[int, _Rows] | None = None  # with the ledger's version

    def change(self, promotes: Promotes) -> None:
        """Promote by another rule from now on."""
        self._mirror_folder.promotes = promotes
        self._changed.set()

    def run(self) -> None:
        """Work until the agent stops."""
        with self._liveness.worker(self.name) as beat:
            while True:
                beat()
                began = time.thread_time()
                try:
                    self.look()
                except LocalFault as fault:
                    self._problems.report(self.subject, str(fault))
                else:
                    self._problems.clear(self.subject)
                took = time.thread_time() - began
                if self._stop.wait(max(LOOK_SECONDS, min(took * LOOK_SHARE, LONGEST_PAUSE_SECONDS))):
                    return

    def look(self) -> None:
        """Look at every name, and do what is due. Raises `LocalFault`; the names that can be read are done first."""
        rows = self._rows()
        opens = is_open(self._mirror_folder.promotes, self._now())
        due = (opens and not self._was_open) or self._changed.is_set()
        self._changed.clear()
        trials, known = {trial.folder: trial for trial in rows.trials}, dict(rows.known)
        quiet = not self._begun and CURRENTS_UNKNOWN in self._ledger.read.facts()
        faults, absent = [], set()
        for parent in rows.parents:
            try:
                if not is_folder(parent):  # it may not be mounted; nothing may be made in its place
                    absent.add(parent)
                    continue
                if due or parent in self._absent:
                    self._mirror_folder.point_current(Path(parent))
                if (trial := trials.get(parent)) is not None:
                    known[parent] = self._tend(trial, rows.by_id, known.get(parent))
                self._notice(Path(parent), rows.by_path, known.get(parent), quiet=quiet)
            except LocalFault as fault:
                faults.append(fault)
        for folder in known.keys() - set(rows.parents):
            if not may_be_folder(folder):  # else its only version waits for more files, and serves meanwhile
                self._ledger.forget_current(folder)
        if faults:
            self._changed.set()  # not all names were pointed
            raise faults[0]
        self._was_open, self._absent = opens, absent
        if not self._begun:
            self._ledger.currents_are_known(guarded=self._checked)
            self._begun = True
        self._tell(self._rows().trials, rows.by_id)

    def _rows(self) -> "_Rows":
        """What the ledger says; read again only after a write, since a mirror may have ten thousand models."""
        version = self._ledger.read.version()
        if self._read is None or self._read[0] != version:
            published = self._ledger.read.published()
            rows = _Rows(
                parents=tuple(sorted({str(Path(row.path).parent) for row in published})),
                by_path={row.path: row for row in published},
                by_id={row.id: row for row in published},
                trials=tuple(self._ledger.read.trials()),
                known={row.folder: row.model for row in self._ledger.read.currents()},
            )
            self._read = (version, rows)
        return self._read[1]

    def _notice(self, parent: Path, by_path: Mapping[str, Published], known: str | None, *, quiet: bool) -> None:
        """Record a move of `current`. A version that is not published in the ledger yet counts later."""
        target = current.leads_to(parent)
        model = by_path.get(str(parent / target)) if target is not None else None
        if target is None or model is None or model.id == known:
            return
        trial = self._checked and not quiet and current.pinned(parent) != target
        self._ledger.record_current(str(parent), model.id, told=not quiet, trial=trial, guarded=self._checked)
        if not quiet:
            log.info("%s: leads to %s%s", printable(str(parent / "current")), printable(target), ", on trial" * trial)

    # Trials

    def _tend(self, trial: Trial, by_id: Mapping[str, Published], known: str | None) -> str | None:
        """Take the way back if the trial failed; returns the id of the model that `current` is now known to lead to."""
        parent, tried = Path(trial.folder), by_id.get(trial.model)
        before = _version_in(parent, by_id.get(trial.previous or ""))
        leads, held = current.leads_to(parent), current.pinned(parent)
        on_trial = tried is not None and leads == Path(tried.path).name
        if trial.verdict is None:
            if not self._checked or (on_trial and held == leads):
                self._ledger.end_trial(trial.folder, trial.model)
        elif trial.verdict == "failed":
            if on_trial and before is None:
                self._ledger.judge_trial(trial.folder, trial.model, "stays", None)
                return known
            back = Path(before.path).name if before is not None else None
            if on_trial and back is not None and held != leads:
                scratch = self._mirror_folder.staging.scratch()
                current.go_back(parent, str(leads), back, scratch, self._mirror_folder.choose)
                self._mirror_folder.views.follow(parent)
                leads, held = current.leads_to(parent), current.pinned(parent)
            if before is not None and leads == held == back:
                self._ledger.record_way_back(trial.folder, trial.model, before.id, guarded=self._checked)
                log.warning("%s: back to %s, pinned", printable(str(parent / "current")), printable(before.version))
                return before.id
            self._ledger.end_trial(trial.folder, trial.model)  # a person has moved or pinned it
        return known

    def _tell(self, trials: Iterable[Trial], by_id: Mapping[str, Published]) -> None:
        """Report the trials that failed, as long as `current` is where that has led it."""
        told: dict[str, str] = {}
        for trial in trials:
            if trial.verdict in ("back", "stays"):
                row, before = by_id.get(trial.model), by_id.get(trial.previous or "")
                if row is not None and self._still_so(trial, row, before):
                    told[subject_of(row)] = _words(trial, row, before)
                else:
                    self._ledger.end_trial(trial.folder, trial.model)
        for subject in self._told.keys() - told.keys():
            self._problems.clear(subject)
        for subject, reason in told.items() - self._told.items():
            self._problems.report(subject, reason)
        self._told = told

    @staticmethod
    def _still_so(trial: Trial, row: Published, before: Published | None) -> bool:
        parent = Path(trial.folder)
        leads = current.leads_to(parent)
        if trial.verdict == "stays":
            return leads == Path(row.path).name
        return before is not None and leads == current.pinned(parent) == Path(before.path).name


def subject_of(row: Published) -> str:
    """The subject of the problem that a version failed its health check."""
    return printable(f"health of {row.name}/{row.version}")


def _words(trial: Trial, row: Published, before: Published | None) -> str:
    if trial.verdict == "stays" or before is None:
        return (
            f"its health check {trial.reason}; there is no version before it to go back to, so current stays; "
            "publish a version that works"
        )
    name, version = printable(row.name), printable(row.version)
    return (
        f"its health check {trial.reason}; current went back to {printable(before.version)}, which is pinned; to let newer "
        f"versions lead again: `axomsync unpin {name}`; to try this one again, then: `axomsync promote {name} {version}`"
    )


def _version_in(parent: Path, row: Published | None) -> Published | None:
    """The version if its folder is there, below the name's."""
    there = row is not None and Path(row.path).parent == parent and current.is_version(Path(row.path))
    return row if there else None
