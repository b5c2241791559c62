"""The mirror's loop: ask the console for models, and give each due model a thread and a `ModelTask`.

Failures handled: a console that is down (reported once, tried again), a refused key (the same; downloads with signed URLs go
on), a model that vanishes or changes during its download (listed again), a manifest that can't be trusted (`blocked`), a
disk without room (`blocked` with the missing bytes, continues by itself), models without progress while others wait (they
go to the end of the queue), a model that a person had forgotten meanwhile (its work ends), a crash (the next try resumes at
the durable bytes), a bug that one model triggers (the model is `failed`, the others go on), a stop while somebody waits for
a model (`Stopping`).
"""

import logging
import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from pathlib import Path

from axomsync.console.session import NotThere
from axomsync.core.errors import (
    AxomsyncError,
    Bug,
    Forgotten,
    KeyRefused,
    LocalFault,
    Rejected,
    SourceChanged,
    Stopping,
    Transient,
    UrlExpired,
)
from axomsync.core.locks import held
from axomsync.core.oserrors import unforeseen
from axomsync.core.policy import QUICK_TRIES, backoff, same_but_for_numbers
from axomsync.core.records import Model, ModelState
from axomsync.core.states import DUE_MODELS, UNWANTED_MODELS
from axomsync.core.text import printable
from axomsync.ledger import LedgerFault
from axomsync.mirror import layout
from axomsync.mirror.check.integrity import Corrupt
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.imports import Arrival, Imports
from axomsync.mirror.labels import Labels
from axomsync.mirror.model_task import ModelTask
from axomsync.mirror.poll_times import PollTimes, share_of
from axomsync.mirror.polling import Poller, is_there
from axomsync.mirror.publish.folder import shown
from axomsync.mirror.publish.space import Space
from axomsync.mirror.rights_keeper import RightsKeeper
from axomsync.mirror.view_keeper import ViewKeeper
from axomsync.runtime.heartbeat import Beat, unwatched
from axomsync.runtime.waits import Waits

log = logging.getLogger(__name__)

MODELS_AT_ONCE = 4
LONGEST_NAP_SECONDS = 5.0
KEY_PAUSE_SECONDS = 30.0
SHORTEST_PAUSE_SECONDS = 1.0  # between two polls, even if more are requested
REFUSED_PAUSE_SECONDS = 3600.0  # a refusal is final for the same request; upstream may correct it within the hour
DISK_PAUSE_SECONDS = 10.0  # a check costs one statvfs and no request to the console
WORKED_ON = frozenset({ModelState.DOWNLOADING, ModelState.VERIFYING})


class Mirror:
    """Mirrors models. `wake` checks for due work; `run` is its thread, `run_once` one pass for `sync`."""

    name = "mirror"
    subject = "mirror folder"

    def __init__(self, context: MirrorContext) -> None:
        self._context = context
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._waits = Waits(context.now, context.clock)
        self._pool = ThreadPoolExecutor(MODELS_AT_ONCE, thread_name_prefix="model")
        self._in_flight: dict[str, Future[None]] = {}
        self._gave_way: set[str] = set()  # models that left their places to others
        self._gives_way = True
        self._told: defaultdict[str, dict[str, str]] = defaultdict(dict)  # by model: the last log line of each subject
        self._begin_lock, self._poll_lock = threading.RLock(), threading.Lock()
        self._times = PollTimes(share_of(context.identity), context.settings.poll)
        self._key_refused: KeyRefused | None = None
        self._publishing = threading.Lock()  # held while a folder gets its name
        self._space = Space(context.settings, context.mirror_folder, context.ledger, context.now)
        self._rights_keeper, self._view_keeper = RightsKeeper(context), ViewKeeper(context)
        self._labels = Labels(context, self._publishing)
        self._poller = Poller(context, self._space, self._labels)

    def wake(self) -> None:
        """Check for due work now."""
        self._wake.set()

    def hurry(self) -> None:
        """Poll now, without the pause after console trouble or a refused key."""
        self._hurry.set()
        self._wake.set()

    def run(self) -> None:
        """Work until the agent stops."""
        with self._context.liveness.worker(self.name) as beat:
            self._rights_keeper.tend()  # the first poll may be a minute away, and what is to be closed must not wait for it
            next_poll = self._begin_polls(beat)
            while not self._context.stop.is_set():
                beat()
                self._wake.clear()
                if self._hurry.is_set() or self._context.clock() >= next_poll:
                    self._hurry.clear()
                    self._poll_and_tell(self._context.clock(), beat)
                    next_poll = max(self._times.due, self._context.clock() + SHORTEST_PAUSE_SECONDS)
                self._begin_due_and_tell()
                self._wake.wait(min(max(0.0, next_poll - self._context.clock()), LONGEST_NAP_SECONDS))
        with self._begin_lock:  # a `pull` has begun before it, or sees the stop
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown()

    def run_once(self) -> None:
        """Run one pass: mirror every ready model as far as possible. Raises refusals of the console and folder faults.

        A `pull` may still come after it, as long as the other direction works.
        """
        try:
            unread = self.poll(unwatched)
            self._begin_due(everything=True)
            wait_for(self._in_flight.values())
            if self._gave_way and not self._context.stop.is_set():
                self._begin_again()
                wait_for(self._in_flight.values())
            self._space.retain()
            self._look_again()
        finally:
            wait_for(self._in_flight.values())
        if self._key_refused is not None:
            raise self._key_refused
        if unread:
            raise unread[0]

    def _look_again(self) -> None:
        """Report what keeps versions of this pass from being served; `run` leaves that to its next poll."""
        with self._poll_lock:
            self._labels.follow(self.busy())
            self._view_keeper.tend()

    def pull(self, target: str, beat: Beat) -> Model:
        """Mirror the newest model that `target` names, whatever the selection says, and wait for it.

        Raises refusals of the console, the reason why it is not published, `Transient` during a pause, and `Stopping`.
        """
        self.poll(beat)
        model = _choose(self._context.ledger.read.models(), target)
        if model.state is not ModelState.PUBLISHED:
            future = self._begin_wanted(model)
            while not future.done():
                beat()
                with suppress(TimeoutError, CancelledError):  # `wait_for` would never count a cancelled one as done
                    future.exception(timeout=1.0)
            model = self._context.ledger.read.model(model.id)
            if model.state is not ModelState.PUBLISHED:
                self._raise_if_stopping()
        return _outcome(model)

    def _begin_wanted(self, model: Model) -> Future[None]:
        """Begin to carry a model that somebody waits for, unless that was begun already."""
        with self._begin_lock:
            self._raise_if_stopping()
            future = self._in_flight.get(model.id)
            if future is None or future.done():
                self._context.demand_no_pause()
                self._context.ledger.record_wanted(model.id, pulled=model.state in UNWANTED_MODELS)
                future = self._in_flight[model.id] = self._pool.submit(self._carry, model.id)
        return future

    def _raise_if_stopping(self) -> None:
        if self._context.stop.is_set():
            raise Stopping("the agent is stopping")

    def take_in(self, places: Iterable[Path], beat: Beat) -> list[Arrival]:
        """Import the models in these folders; returns what became of each. Raises `Rejected` when there is none."""
        return Imports(self._context, self._space, self._publishing, self._alone_with).take(places, beat)

    @contextmanager
    def _alone_with(self, model_id: str, beat: Beat) -> Iterator[None]:
        """Let nobody else carry this model; waits for the thread that does, and for a poll that does not know of us."""
        mine: Future[None] = Future()
        mine.set_running_or_notify_cancel()
        while not self._begin_mine(model_id, mine):
            beat()
            self._raise_if_stopping()
        try:
            yield
        finally:
            mine.set_result(None)

    def _begin_mine(self, model_id: str, mine: Future[None]) -> bool:
        """Note that a model is carried outside of the pool; False while it can't be yet."""
        if not self._poll_lock.acquire(timeout=1.0):
            return False
        try:
            with self._begin_lock:
                other = self._in_flight.get(model_id)
                if other is None or other.done():
                    self._in_flight[model_id] = mine
                    return True
        finally:
            self._poll_lock.release()
        wait_for([other], timeout=1.0)
        return False

    def prune(self, *, dry_run: bool) -> tuple[list[str], list[str]]:
        """Apply retention now; returns a line for each removed version, and for each one spared because it is open."""
        planned = self._space.plan()
        names = {row.id: shown(row) for row in self._context.ledger.read.models()}
        removed, spared = (
            [f"{names[removal.version.id]}: {removal.reason}" for removal in removals]
            for removals in (planned.removals, planned.spared)
        )
        return removed if dry_run else self._space.retain(), [f"{line}, but it is open" for line in spared]

    def poll(self, beat: Beat, tries: int = QUICK_TRIES) -> list[LocalFault]:
        """Ask the console for the catalog, `tries` times at most, and bring the ledger in agreement.

        Returns the faults of folders that can't be read now.
        """
        with held(self._poll_lock, beat):
            try:
                return self._poller.poll(self.busy, tries, beat)
            finally:  # also while the console is down
                self._context.mirror_folder.staging.sweep_imports(self._context.now(), self.busy())
                self._rights_keeper.tend()
                self._view_keeper.tend()

    def busy(self) -> set[str]:
        """The models that wait for a thread or are carried now, or that are imported."""
        return {model for model, future in list(self._in_flight.items()) if not future.done()}

    def _begin_polls(self, beat: Beat) -> float:
        """Return the time of the first poll; if it is later, find out now what is in the mirror folder."""
        try:
            polled_before = self._context.ledger.read.facts().get("last_poll") is not None
            self._times.begin(self._context.clock(), polled_before=polled_before)
            if polled_before:
                with held(self._poll_lock, beat):
                    self._poller.take_stock()
        except LocalFault:
            self._times.begin(self._context.clock(), polled_before=False)  # the poll meets the fault, and reports it
        return self._times.due

    def _poll_and_tell(self, began: float, beat: Beat) -> None:
        """Poll and report problems."""
        try:
            unread = self.poll(beat, self._times.tries)
        except Stopping:
            return
        except KeyRefused as refused:
            self._times.postponed(began, KEY_PAUSE_SECONDS)
            self._context.problems.report("console", str(refused), self._context.now() + KEY_PAUSE_SECONDS)
        except LocalFault as fault:
            self._times.postponed(began, self._context.settings.poll)
            self._context.problems.report(self.subject, str(fault), self._context.now() + self._context.settings.poll)
        except AxomsyncError as failure:
            wait = self._times.failed(began, self._context.random, getattr(failure, "retry_after", None))
            self._context.problems.report("console", str(failure), self._context.now() + wait)
        else:
            self._times.answered(began)
            self._context.problems.clear("console")
            if unread:
                self._context.problems.report(
                    self.subject, str(unread[0]), self._context.now() + self._context.settings.poll
                )
            else:
                self._context.problems.clear(self.subject)

    def _begin_due_and_tell(self) -> None:
        try:
            self._begin_due()
        except LocalFault as fault:
            self._context.problems.report("ledger", str(fault))
        else:
            self._context.problems.clear("ledger")

    def _begin_due(self, *, everything: bool = False) -> None:
        if self._context.paused():
            return
        with self._begin_lock:
            self._begin(everything=everything)

    def _begin(self, *, everything: bool) -> None:
        self._in_flight = {model: future for model, future in self._in_flight.items() if not future.done()}
        for model in self._context.ledger.read.models_due(WORKED_ON, math.inf):
            if model.id not in self._in_flight:  # its end could not be recorded, such as on a full disk
                self._context.ledger.move_model(model.id, ModelState.QUEUED)
        for model in self._context.ledger.read.models_due(DUE_MODELS, math.inf):
            if model.id in self._in_flight:
                continue
            if everything or self._waits.left(model.id, model.next_attempt) == 0:
                self._in_flight[model.id] = self._pool.submit(self._carry, model.id)

    def _begin_again(self) -> None:
        """Start again the models that made way for others; this time they make way for none. For `run_once`."""
        self._gives_way = False
        with self._begin_lock:
            for model in self._context.ledger.read.models_due(DUE_MODELS, math.inf):
                if model.id in self._gave_way:
                    self._in_flight[model.id] = self._pool.submit(self._carry, model.id)

    def _others_wait(self) -> bool:
        """True when a model without progress should leave its place in the pool to a waiting one."""
        waiting = (future for future in list(self._in_flight.values()) if not (future.running() or future.done()))
        return self._gives_way and any(True for _ in waiting)

    # One model

    def _carry(self, model_id: str) -> None:
        """Carry one model as far as possible, in a thread of the pool. Failures go into the ledger."""
        try:
            self._carry_known(self._context.ledger.read.model(model_id))
        except Forgotten:
            return
        except LocalFault as fault:  # of the ledger; the model is tried again
            if not self._context.stop.is_set():  # else the ledger may have been closed meanwhile
                self._context.problems.report("ledger", str(fault))

    def _carry_known(self, model: Model) -> None:
        try:
            with self._context.liveness.worker("model") as beat:
                self._try(model, beat)
        except Stopping:
            return
        except (LedgerFault, Forgotten):
            raise
        except NotThere:
            if is_there(model, self._context.mirror_folder, []):
                self._set_back(
                    model, ModelState.BLOCKED, "it vanished from the console; its copy stays", REFUSED_PAUSE_SECONDS
                )
            else:
                self._set_back(  # the next list tells whether it is gone
                    model,
                    ModelState.QUEUED,
                    "the console lists it as ready, and does not know it when asked for its files (404)",
                    backoff(model.attempts + 1, self._context.random),
                )
        except KeyRefused as refused:
            self._key_refused = refused
            self._context.problems.report("console", str(refused), self._context.now() + KEY_PAUSE_SECONDS)
            self._set_back(model, ModelState.QUEUED, str(refused), KEY_PAUSE_SECONDS)
        except (Transient, UrlExpired, SourceChanged, Corrupt) as failure:
            retry_after = getattr(failure, "retry_after", None)
            self._set_back(
                model, ModelState.QUEUED, str(failure), backoff(model.attempts + 1, self._context.random, retry_after)
            )
        except LocalFault as fault:
            self._set_back(model, ModelState.BLOCKED, str(fault), DISK_PAUSE_SECONDS)
        except Rejected as refusal:
            self._set_back(model, ModelState.BLOCKED, str(refusal), REFUSED_PAUSE_SECONDS)
        except Exception as bug:  # a bug that one model triggers must not stop the others
            met = unforeseen(bug)
            if isinstance(met, Bug):
                log.exception("%s: unexpected failure", shown(model))
                self._set_back(model, ModelState.FAILED, str(met), REFUSED_PAUSE_SECONDS)
            else:
                self._set_back(model, ModelState.BLOCKED, str(met), DISK_PAUSE_SECONDS)

    def _try(self, model: Model, beat: Beat) -> None:
        told = self._told[model.id]
        task = ModelTask(self._context, model, self._space, self._publishing, told, self._others_wait, beat)
        try:
            task.run()
        finally:
            if task.gave_way:
                self._gave_way.add(model.id)

    def _set_back(self, model: Model, state: ModelState, reason: str, pause: float) -> None:
        if not same_but_for_numbers(model.reason or "", reason):
            log.warning("%s: %s: %s", shown(model), state, reason)
        attempts, due = model.attempts + 1, self._waits.begin(model.id, pause)
        self._context.ledger.move_model(model.id, state, reason=reason, attempts=attempts, next_attempt=due)


def _choose(models: Iterable[Model], target: str) -> Model:
    """Choose the newest available model that `target` names. Raises `Rejected`."""
    named = [model for model in models if layout.is_named(model, target)]
    if not named:
        raise Rejected(
            f"{printable(target)}: the console lists no model with this name, name/version or id; see `axomsync models`"
        )
    there = [model for model in named if model.state not in (ModelState.WAITING, ModelState.GONE)]
    if not there:
        raise Rejected(f"{shown(named[0])}: it can't be mirrored: {named[0].reason}")
    return there[0]


def _outcome(model: Model) -> Model:
    """Return the model if it is published; else raise the failure that its state means."""
    if model.state is ModelState.PUBLISHED:
        return model
    if model.state in WORKED_ON or model.state is ModelState.QUEUED:
        raise Transient(f"{shown(model)}: {model.reason or 'interrupted'}")
    raise Rejected(f"{shown(model)}: {model.state}: {model.reason}")
