"""The composition root: builds the parts, starts and stops them, and lives with signals and the service manager.

Failures handled: a worker that trips a bug (told, and begun again after a pause), a worker that hangs (the watchdog is no
longer fed), a new configuration that is bad (the old one stays), a stop while storage hangs (the
process ends in time all the same), a state folder that can't be written for a while (told, and tried again).
"""

import logging
import math
import os
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axomsync import __version__, config
from axomsync.agent.requests import Request, Steering, Verb
from axomsync.config import Loaded, MirrorSettings, Reload, Settings
from axomsync.console.client import Console
from axomsync.core.errors import (
    AxomsyncError,
    BadConfig,
    Fatal,
    Interrupted,
    KeyRefused,
    LocalFault,
    Rejected,
    Transient,
    interrupted_by,
)
from axomsync.core.policy import BACKOFF_BASE, BACKOFF_CAP
from axomsync.core.records import ModelState, UploadState
from axomsync.core.text import iso
from axomsync.drop import forgetting
from axomsync.drop.intake import Intake
from axomsync.drop.put import Surroundings
from axomsync.ledger import Ledger, Reader, Trouble, ledger_fault
from axomsync.ledger.facts import PAUSE_ENDS, PAUSE_SECONDS, number_in
from axomsync.ledger.identity import identity_of
from axomsync.mirror.check.scrub import Upkeep
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.fetch.lanes import Lanes
from axomsync.mirror.loop import Mirror
from axomsync.mirror.publish.folder import Place
from axomsync.ops import logs, systemd
from axomsync.ops.hooks import Hooks, shield_memory
from axomsync.runtime.heartbeat import Beat, Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.problems import LedgerWatch, Problems
from axomsync.runtime.throttle import Throttle
from axomsync.runtime.throughput import Throughput
from axomsync.status.report import STUCK_MODELS, STUCK_UPLOADS, pause_left
from axomsync.status.targets import Targets, find, is_under_way, may_be_retried, name_of
from axomsync.storage.client import ANSWER_SECONDS, Storage
from axomsync.transport import authorities
from axomsync.transport.proxies import Proxies

if TYPE_CHECKING:
    from axomsync.runtime.schedule import Schedule

if TYPE_CHECKING:
    from axomsync.web.page import Page
    from axomsync.web.server import Server

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
CLOCK_STEP_SECONDS = 5.0  # a clock that goes on by itself is never off by so much between two looks
STOP_SECONDS = 7.0  # of the 10 that a stop may take
RUN_PATIENCE_SECONDS = 600.0
SYNC_PATIENCE_SECONDS = 60.0
SILENCE_SECONDS = 10.0  # calls of the console are more patient; whoever asks for the status need not be
SILENT = f"no answer for more than {SILENCE_SECONDS:.0f} s; what is due waits for it"
WORKERS = {"drop": "drop folder", "mirror": "mirror folder", "upkeep": "upkeep", "hooks": "hooks"}  # and their problems
HIDING = frozenset({"drop folder", "mirror folder"})  # in whose unreadable parts work may lie that nobody sees
NO_MIRROR = MirrorSettings(enabled=False)


class Parts:
    """What one configuration needs in order to work. A reload replaces them as a whole; ledger and transfers' bytes stay."""

    def __init__(self, settings: Settings, agent: "Agent", patience: float) -> None:
        self.settings = settings
        self.stop = threading.Event()
        self._agent = agent
        ca_file = str(settings.console.ca_file) if settings.console.ca_file else None
        self.console = Console(settings.console.url, lambda: config.load_key(settings, agent.environ), ca_file=ca_file)
        self.storage = Storage.of(settings)
        self.intake = self._build_intake() if settings.drop.enabled else None
        self.mirror: Mirror | None = None
        self.upkeep: Upkeep | None = None
        if settings.mirror.enabled:
            self.mirror, self.upkeep = self._build_mirror(patience)
        self.hooks = Hooks(
            settings.hooks, agent.ledger, agent.problems, agent.liveness, self.stop, agent.random, agent.environ
        )
        self.paused = False
        self._threads: list[threading.Thread] = []
        self._schedule: Schedule | None = None

    def _build_intake(self) -> Intake:
        a = self._agent
        around = Surroundings(a.ledger, self.console, self.storage, a.meter, a.throttle, self.stop, a.random, a.identity)
        return Intake(self.settings.drop, around, a.problems, a.liveness)

    def _build_mirror(self, patience: float) -> tuple[Mirror, Upkeep]:
        a, settings = self._agent, self.settings
        lanes = Lanes(
            settings.transfer.connections,
            self.storage,
            a.ledger,
            a.throttle,
            a.liveness,
            self.stop,
            a.random,
            hashes=settings.mirror.verify == "etag",
        )
        place = Place(settings.mirror.folder, a.identity)
        context = MirrorContext(
            settings.mirror, place, a.ledger, self.console, lanes, a.meter, a.problems, a.liveness, self.stop, a.random,
            patience,
        )  # fmt: skip
        return Mirror(context), Upkeep(context)

    def start(self) -> None:
        """Begin to work, each part in a thread of its own; while the agent is paused, no transfer is begun."""
        from axomsync.runtime.schedule import Schedule  # here, since a single pass needs none and its import takes a while

        self._schedule = Schedule()
        self.paused = self._agent.paused
        if self.intake is not None:
            self.intake.paused = self.paused
            self._schedule.every(self.settings.drop.rescan, self.intake.wake)
            self._spawn("drop", self.intake.run, self.stop)
        if self.mirror is not None:
            self.mirror.paused = self.paused
            self._schedule.every(self.settings.mirror.poll, self.mirror.wake)
            self._spawn("mirror", self.mirror.run, self.stop)
        if self.upkeep is not None:
            self._spawn("upkeep", self.upkeep.run, self.stop)
        self._spawn("hooks", self.hooks.run, self.stop)

    @property
    def working(self) -> bool:
        """Whether a part has not come to its end yet."""
        return any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        """Have all parts come to their end; one that waits for storage needs until its stall time is over."""
        if self.stop.is_set():
            return
        self.stop.set()
        if self._schedule is not None:
            self._schedule.end()
        self.hurry()

    def wait(self, deadline: float) -> None:
        """Wait for the end of all parts, until `deadline` (monotonic seconds) at the latest."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Let go of the connections."""
        self.console.close()
        self.storage.close()

    def hurry(self) -> None:
        """Look at everything now, and end the pauses that a refused key or a console in trouble asked for."""
        for part in (self.intake, self.mirror):
            if part is not None:
                part.hurry()

    def run_once(self) -> dict[str, AxomsyncError]:
        """One pass of both directions at the same time; what ended either of them, by the folder it works on."""
        failures: dict[str, AxomsyncError] = {}
        if self.intake is not None:
            self._spawn("drop", partial(_collect, "drop folder", self.intake.run_once, failures))
        if self.mirror is not None:
            self._spawn("mirror", partial(_collect, "mirror folder", self.mirror.run_once, failures))
        while self.working and not self._agent.ended:
            self._agent.tick()
            self._agent.steer()
            if self._agent.paused:
                self.end()
        _collect("hooks", self.hooks.run_due, failures)
        return failures

    def carry_out(self, work: Callable[[], None]) -> None:
        """One piece of work, and the hooks that come of it; returns early when the agent is to stop."""
        self._spawn("errand", work)
        while self.working and not self._agent.ended:
            self._agent.tick()
        _collect("hooks", self.hooks.run_due, {})

    def push(self, rows: Sequence[int]) -> dict[str, AxomsyncError]:
        """Upload what was pushed and nothing else; as `run_once`."""
        failures: dict[str, AxomsyncError] = {}
        if self.intake is not None:
            self._spawn("drop", partial(_collect, "console", partial(self.intake.run_pushed, rows), failures))
        while self.working and not self._agent.ended:
            self._agent.tick()
        return failures

    def _spawn(self, name: str, work: Callable[[], None], again: threading.Event | None = None) -> None:
        thread = threading.Thread(target=self._agent.guard, args=(name, work, again), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


@dataclass
class Agent:
    """One agent on one state folder."""

    loaded: Loaded
    environ: Mapping[str, str]
    random: Callable[[], float] = random.random
    ended: bool = False
    ended_by: int | None = None  # the signal that asked for it first
    page: "Page | None" = None
    _exit_code: int = 0
    _reload_asked: bool = False
    _shown_transfers: bool = False
    _next_feed: float = -math.inf
    _pause_ends: float = -math.inf  # by the monotonic clock
    _pause_told: float = -math.inf  # what others are told: seconds since the epoch
    _shown: Callable[[], object] = lambda: None
    # Not an Event: a signal handler that sets one can meet its lock held by the very thread that it interrupted.
    _wakes: "queue.SimpleQueue[None]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        settings = self.loaded.settings
        self.ledger = Ledger(settings.state.folder, time.time)
        self.ledger.recover()
        self.identity = identity_of(settings.state.folder, self.ledger.read.facts().get("identity"))
        self.ledger.set_facts(
            identity=self.identity, started_at=iso(time.time()), version=__version__, observer=None, page=None
        )
        self.meter = Meter(time.monotonic)
        self.throughput = Throughput(time.monotonic())
        self.throttle = Throttle(settings.transfer.bandwidth)
        self.liveness = Liveness(_silence_allowed(settings), time.monotonic)
        self.problems = Problems(self.ledger)
        self.watch = LedgerWatch(self.ledger, self.problems, lambda: systemd.status(self._summary()))
        facts = self.ledger.read.facts()
        self._polled_before = facts.get("last_poll")
        self._pause_ends = time.monotonic() + pause_left(facts, time.time())
        self._pause_told = number_in(facts.get(PAUSE_ENDS)) or -math.inf
        self.steering = Steering(self.ledger, self._verbs(), self.liveness)

    def _verbs(self) -> Mapping[str, Verb]:
        """What may be asked of a running agent, see `requests`."""
        return {
            "pause": Verb(self._pause),
            "resume": Verb(self._resume),
            "poll": Verb(self._poll),
            "retry": Verb(self._retry),
            "forget": Verb(self._forget),
            "pull": Verb(self._pull, long=True),
            "prune": Verb(self._prune, long=True),
            "repair": Verb(self._repair, long=True),
            "push": Verb(self._push),
        }

    def run(self) -> int:
        """Work until a signal ends it; returns the exit code."""
        self._begin()
        self.parts = Parts(self.loaded.settings, self, RUN_PATIENCE_SECONDS)
        self.steer()
        self.parts.start()
        self._open_page()
        self._tell("started")
        log.info("axomsync %s works with %s", __version__, self.loaded.path)
        systemd.ready("working")
        self.guard("agent", self._work, threading.Event())
        systemd.stopping()
        self._close_page()
        self._end_parts()
        self._tell("stopped")
        self._close()
        log.info("stopped")
        return self._exit_code

    def sync(self) -> int:
        """One pass; returns the exit code."""
        self._begin()
        rejected = self.ledger.read.rejections()
        self.parts = Parts(self.loaded.settings, self, SYNC_PATIENCE_SECONDS)
        self.steer()
        failures = {} if self.paused else self.parts.run_once()
        interrupted = self.ended
        self._end_parts()
        code = 0 if interrupted else self._outcome(failures, rejected)
        if self.ended_by is not None:
            code = interrupted_by(self.ended_by)
        elif self.paused:
            log.warning("paused; `axomsync resume` ends that")
            code = Transient.exit_code
        self._close()
        return code or self._exit_code

    def errand(self, verb: str, argument: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a running agent would be asked for, and no more; returns the answer. Raises what it raises."""
        self._begin()
        self.parts = Parts(self.loaded.settings, self, SYNC_PATIENCE_SECONDS)
        answers: dict[str, dict[str, Any]] = {}
        failures: dict[str, AxomsyncError] = {}

        def do() -> None:
            answers[verb] = self._verbs()[verb].do(Request(0, verb, argument, parameters), lambda: None)

        self.parts.carry_out(partial(_collect, verb, do, failures))
        self._end_parts()
        self._close()
        if verb not in answers:
            if self.ended_by is not None:
                raise Interrupted(self.ended_by)
            raise failures.get(verb) or Transient("it did not come to its end; asked again, it goes on from there")
        return answers[verb]

    def push(self, files: Iterable[Path], show: Callable[[Sequence[int]], object]) -> list[int]:
        """Upload these files and return their rows; `show` is called with them every half second and in the end.

        Raises what stops it.
        """
        self._begin()
        drop_only = {"drop": self.loaded.settings.drop.model_copy(update={"enabled": True}), "mirror": NO_MIRROR}
        self.parts = Parts(self.loaded.settings.model_copy(update=drop_only), self, SYNC_PATIENCE_SECONDS)
        assert self.parts.intake is not None  # noqa: S101  # for mypy: it was enabled above
        rows = self.parts.intake.push(files)
        self._shown = partial(show, rows)
        failures = self.parts.push(rows)
        self._end_parts()
        show(rows)  # how it ended
        self._close()
        for failure in failures.values():
            raise failure
        return rows

    def tick(self) -> None:
        """A turn of the main thread: show the transfers and a silent console to other processes."""
        self._shown()
        with suppress(queue.Empty):
            self._wakes.get(timeout=TICK_SECONDS)
        self._watch_console()
        self._watch_ledger()
        self.throughput.observe(self.meter.totals(), time.monotonic())
        transfers = self.meter.read()
        if transfers or self._shown_transfers:
            with suppress(LocalFault):  # told by the watch
                self.ledger.show_transfers(transfers)
        self._shown_transfers = bool(transfers)

    def guard(self, name: str, work: Callable[[], None], stop: threading.Event | None = None) -> None:
        """Run a worker. One that trips a bug is told and begun again after a pause, until `stop` is set.

        Without a `stop` its end is the end of the process: it was to work once.
        """
        try:
            pause = BACKOFF_BASE
            while not self._works(name, work, stop, pause):
                if stop is not None and stop.wait(pause):
                    return
                pause = min(2 * pause, BACKOFF_CAP)
        except BaseException as death:
            if self.ended:  # what it works with is being closed
                log.debug("the %s worker ended with: %s", name, death)
                return
            log.critical("the %s worker died: %s", name, death, exc_info=not isinstance(death, AxomsyncError))
            self._exit_code = death.exit_code if isinstance(death, Fatal) else 1
            self._end()
        finally:
            self._wakes.put(None)  # a pass may be over

    def _works(self, name: str, work: Callable[[], None], stop: threading.Event | None, pause: float) -> bool:
        """Whether it came to its end; if not, it is begun again after `pause` seconds."""
        try:
            work()
        except Exception as bug:
            if stop is None or stop.is_set() or self.ended:
                raise
            self.problems.report_bug(WORKERS.get(name, "agent"), bug, time.time() + pause)
            return False
        return True

    def _tell(self, state: str) -> None:
        if self.watch.told is None:  # a ledger that can't be written must not hold up the end
            with suppress(LocalFault):
                self.ledger.tell("agent", f"axomsync {__version__}", state)

    def _begin(self) -> None:
        self._listen_to_signals()
        shield_memory()
        self.watch.start()
        if warning := config.key_file_warning(self.loaded.settings):
            log.warning("%s", warning)
        for line in (
            *Proxies.of(os.environ).warnings,
            *authorities.complaints(os.environ),
            *config.misspelt(os.environ),
        ):
            log.warning("%s", line)

    def _work(self) -> None:
        while not self.ended:
            self._turn()
            self.steer()
            self._keep_pause()
            if self._reload_asked:
                self._reload()

    def _turn(self) -> None:
        self.tick()
        if time.monotonic() >= self._next_feed:
            self._next_feed = time.monotonic() + min(systemd.watchdog_interval() or math.inf, 10.0)
            self._feed_watchdog()

    def _end_parts(self) -> None:
        self.parts.end()
        self.parts.wait(time.monotonic() + STOP_SECONDS)
        self._watch_console()  # the answer may have been the last thing to happen

    def _watch_console(self) -> None:
        self.problems.keep("console", SILENT, holds=self.parts.console.silence() > SILENCE_SECONDS)

    def _watch_ledger(self) -> None:
        """An agent whose ledger nobody can find any more ends: the service manager's next start makes a new one."""
        if self.watch.told is Trouble.REMOVED and not self.ended:
            self._exit_code = Transient.exit_code
            self._end()

    def _outcome(self, failures: Mapping[str, AxomsyncError], before: Set[tuple[int, float]]) -> int:
        for folder, failure in failures.items():
            self.problems.report(folder if isinstance(failure, LocalFault) else "console", str(failure))
        self.watch.turn()  # so that the ledger's are told before the end
        try:
            codes = {failure.exit_code for failure in failures.values()} | self._codes_of_what_is_left(before)
        except LocalFault as fault:
            log.error("%s", fault)
            return fault.exit_code
        for code in (KeyRefused.exit_code, 1, Transient.exit_code):
            if code in codes:
                return code
        return max(codes, default=0)

    def _codes_of_what_is_left(self, before: Set[tuple[int, float]]) -> set[int]:
        codes = {Transient.exit_code for problem in self.problems.all() if problem.subject in HIDING}
        if self.ledger.read.rejections() - before:
            codes.add(1)  # what was rejected in an earlier pass has been set aside and told then
        for upload in self.ledger.read.uploads_in_drop():
            if upload.next_attempt is not None:
                codes.add(Transient.exit_code)
            elif upload.state in STUCK_UPLOADS:
                codes.add(1)
            elif upload.state in (UploadState.CHECKING, UploadState.QUEUED, UploadState.UPLOADING):
                codes.add(Transient.exit_code)
        for model in self.ledger.read.models():
            if model.state in STUCK_MODELS:
                codes.add(1)
            elif model.state is ModelState.QUEUED:
                codes.add(Transient.exit_code)
        return codes

    def _feed_watchdog(self) -> None:
        hanging = self.liveness.hanging()
        if hanging:
            self.problems.report("agent", f"no progress of: {', '.join(hanging)}; waiting for the watchdog to restart it")
            return
        self.problems.clear("agent")
        systemd.watchdog()
        systemd.status(self._summary())
        if self.parts.intake is not None:
            self._show_observer(self.parts.intake.observer)

    def _show_observer(self, observer: str) -> None:
        with suppress(LocalFault):  # told by whoever can't do its work because of it
            if self.ledger.read.facts().get("observer") != observer:
                self.ledger.set_facts(observer=observer)

    def _summary(self) -> str:
        if self.watch.told is not None:
            return f"in trouble: {ledger_fault(self.ledger.path, self.watch.told)}"
        transfers = self.meter.read()
        if not transfers:
            return "paused" if self.paused else "nothing to do"
        rate = sum(transfer.rate for transfer in transfers)
        return f"{len(transfers)} transfers, {rate / 1e6:.1f} MB/s: {', '.join(t.name for t in transfers[:3])}"

    # Steering, see `_verbs`

    @property
    def paused(self) -> bool:
        """No transfer is begun, and those under way end; all else goes on."""
        return time.monotonic() < self._pause_ends

    def steer(self) -> None:
        """Do what was asked by other processes."""
        try:
            self.steering.look()
        except LocalFault as fault:
            self.problems.report("steering", str(fault))
        except Exception as bug:  # noqa: BLE001  # whatever was asked, the agent goes on
            self.problems.report_bug("steering", bug)
        else:
            self.problems.clear("steering")

    def _keep_pause(self) -> None:
        """A pause that begins or ends exchanges the parts, without waiting: what is asked meanwhile must be heard."""
        if self.paused != self.parts.paused or self.parts.stop.is_set():
            self.parts.end()
            if not self.parts.working:
                self._take_over(Parts(self.loaded.settings, self, RUN_PATIENCE_SECONDS))
        left = self._pause_ends - time.monotonic()
        if left > 0 and math.isfinite(left) and abs(self._pause_told - (time.time() + left)) > CLOCK_STEP_SECONDS:
            with suppress(LocalFault):  # the clock was set: others are told the end by what it says now
                self._pause_told = time.time() + left
                self.ledger.set_facts(**{PAUSE_ENDS: str(self._pause_told)})

    def _pause(self, request: Request, beat: Beat) -> dict[str, Any]:
        seconds = request.parameters.get("seconds")
        self._set_pause(math.inf if seconds is None else float(seconds))
        return {"paused_until": None if seconds is None else iso(self._pause_told)}

    def _resume(self, request: Request, beat: Beat) -> dict[str, Any]:
        self._set_pause(-math.inf)
        return {}

    def _set_pause(self, seconds: float) -> None:
        told = time.time() + seconds
        self.ledger.set_facts(**{PAUSE_ENDS: str(told), PAUSE_SECONDS: str(seconds)})
        self._pause_ends, self._pause_told = time.monotonic() + seconds, told

    def _poll(self, request: Request, beat: Beat) -> dict[str, Any]:
        self.parts.hurry()
        return {}

    def _retry(self, request: Request, beat: Beat) -> dict[str, Any]:
        targets = self._targets(request.argument)
        tried = targets.only(may_be_retried)
        if request.argument is not None and not tried.rows:
            raise Rejected("; ".join(f"{name_of(row)} is {row.state}" for row in targets.rows))
        self.ledger.retry((row.id for row in tried.uploads), (row.id for row in tried.models))
        self.parts.hurry()
        return {"retried": [name_of(row) for row in tried.rows]}

    def _forget(self, request: Request, beat: Beat) -> dict[str, Any]:
        targets, drop = self._targets(request.argument), self.loaded.settings.drop
        targets = Targets(tuple(forgetting.all_of(targets.uploads, self.ledger.read, drop)), targets.models)
        if busy := [name_of(row) for row in targets.only(is_under_way).rows]:
            raise Rejected(f"{', '.join(busy)}: under way; `axomsync pause` first")
        forgetting.forget_on_disk(targets.uploads, drop, self.identity, time.time(), beat)
        self.ledger.strike((row.id for row in targets.uploads), (row.id for row in targets.models))
        self.parts.hurry()
        return {"forgotten": [name_of(row) for row in targets.rows]}

    def _push(self, request: Request, beat: Beat) -> list[int]:
        if self.parts.intake is None:
            raise Rejected("this agent does not upload ([drop] enabled = false)")
        return self.parts.intake.push(map(Path, request.parameters["paths"]))

    def _targets(self, target: str | None) -> Targets:
        settings, read = self.loaded.settings, self.ledger.read
        if target is None:
            return Targets(tuple(read.uploads_in_drop()), tuple(read.models()))
        return find(read, target, settings.drop.folder, settings.mirror.folder)

    def _pull(self, request: Request, beat: Beat) -> dict[str, Any]:
        model = self._mirror_parts()[0].pull(request.argument or "", beat)
        return {"id": model.id, "path": model.path}

    def _prune(self, request: Request, beat: Beat) -> dict[str, Any]:
        removed, spared = self._mirror_parts()[0].prune(dry_run=bool(request.parameters.get("dry_run")))
        return {"removed": removed, "spared": spared}

    def _repair(self, request: Request, beat: Beat) -> dict[str, Any]:
        self._mirror_parts()[1].repair(request.argument or "", beat)
        return {}

    def _mirror_parts(self) -> tuple[Mirror, Upkeep]:
        if self.parts.mirror is None or self.parts.upkeep is None:
            raise Rejected("[mirror] enabled is false; there is nothing to do here")
        return self.parts.mirror, self.parts.upkeep

    # Signals

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end_by)
        signal.signal(signal.SIGHUP, lambda *_: self._ask_reload())

    def _end_by(self, number: int, _: object) -> None:
        self.ended_by = self.ended_by or number
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._wakes.put(None)

    def _ask_reload(self) -> None:
        self._reload_asked = True
        self._wakes.put(None)

    def _reload(self) -> None:
        self._reload_asked = False
        systemd.reloading()
        try:
            loaded = config.load(self.loaded.path, self.environ)
            changed = config.reloads(self.loaded.settings, loaded.settings)
            if Reload.RESTART in changed:
                raise BadConfig("[state] folder can't change while the agent runs; restart it")
            parts = Parts(loaded.settings, self, RUN_PATIENCE_SECONDS) if Reload.TRANSFERS in changed else None
        except (BadConfig, LocalFault) as bad:
            log.error("the new configuration is bad, the old one stays:\n%s", bad)
            self.problems.report("configuration", f"the new one is bad, the old one stays: {bad}".replace("\n", " · "))
            systemd.ready("working with the old configuration, the new one is bad")
            return
        self.problems.clear("configuration")
        self.loaded = loaded
        logs.set_up(loaded.settings.log.format, loaded.settings.log.level, self.environ)
        self.throttle.change(loaded.settings.transfer.bandwidth)
        self.parts.console.forget_key()  # it may have been rotated
        if parts is None:
            self.parts.hurry()
        else:
            self._replace_parts(parts)
        if self.ended:
            return
        self._close_page()  # whoever watches comes back by itself
        self._open_page()
        log.info("reloaded %s", loaded.path)
        systemd.ready("working")

    def _replace_parts(self, parts: Parts) -> None:
        """Let the old parts come to their end first: two that carry the same file would undo each other's work."""
        self.parts.end()
        while self.parts.working and not self.ended:
            self._turn()
            self.steer()
        if not self.ended:
            self._take_over(parts)

    def _take_over(self, parts: Parts) -> None:
        self.parts.close()
        self.ledger.recover()
        self.liveness.limit = _silence_allowed(parts.settings)
        self.parts = parts
        self.parts.start()

    # The status page

    def _open_page(self) -> None:
        settings = self.loaded.settings
        if not settings.web.listen:
            self.problems.clear("status page")
            self._announce(None)
            return
        from axomsync.web.page import Page

        self.page = Page(settings.web, self._build_server, self.problems, self._announce)
        self.page.start()

    def _announce(self, url: str | None) -> None:
        with suppress(LocalFault):  # the page is served all the same
            self.ledger.set_facts(page=url)

    def _build_server(self, token: str | None) -> "Server":
        from axomsync.ops.metrics import AgentCollector, registry
        from axomsync.web.facts import Facts
        from axomsync.web.server import Server

        facts = Facts(
            self.loaded.settings,
            Reader(self.ledger.path),
            self.liveness,
            self.throughput,
            self.problems,
            self._polled_before,
        )
        told = AgentCollector(
            facts.status, facts.hanging, self.meter.totals, self.ledger.transitions, facts.free_bytes, self.problems.all
        )
        return Server(facts, registry(told), token)

    def _close_page(self) -> None:
        if self.page is not None:
            self.page.stop()
            self.page = None

    def _close(self) -> None:
        self.steering.close()
        self.watch.stop()
        if self.watch.told is None:
            with suppress(LocalFault):
                self.ledger.show_transfers([])
        self.ledger.close()


def _silence_allowed(settings: Settings) -> float:
    """Seconds that a worker may be silent: storage may be, for as long, and the worker then needs a while."""
    return settings.transfer.stall + ANSWER_SECONDS + 60.0


def _collect(folder: str, work: Callable[[], None], failures: dict[str, AxomsyncError]) -> None:
    try:
        work()
    except AxomsyncError as failure:
        failures[folder] = failure
    except Exception as bug:
        log.error("%s: a bug was met", folder, exc_info=bug)
        failures[folder] = LocalFault(f"unexpected {type(bug).__name__}: {bug}; please report it")


def exit_now(code: int) -> None:
    """End the process even if a thread is stuck in a system call: all that matters is on disk by now."""
    logging.shutdown()
    os._exit(code)
