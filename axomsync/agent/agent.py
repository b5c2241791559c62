"""The composition root: builds the shared objects, starts and stops the workers, reacts to signals and systemd.

Failures handled: a worker that dies (the agent ends), a worker that hangs (the watchdog gets no more feeds), a bad new
configuration (the old one stays), a stop while storage hangs or another program locks the ledger (the process still ends in
time), workers that can't be exchanged now (reported and tried again; requests, signals and the watchdog go on), workers that
do not end, as a dead filesystem holds them (reported; the other parts are exchanged without them), a state folder that can't
be written for a while (reported and tried again) or that was removed (the agent ends with 75).
"""

import logging
import math
import os
import queue
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Self

from axomsync import __version__, config
from axomsync.agent.commands import Commands
from axomsync.agent.guard import Guard
from axomsync.agent.pause import Pause
from axomsync.agent.reload import NewConfiguration, read_again
from axomsync.agent.requests import Request, Steering, Verb
from axomsync.agent.status_page import StatusPage
from axomsync.agent.workers import DROP, MIRROR, Shared, Workers
from axomsync.config import Loaded, Settings
from axomsync.console import session
from axomsync.core.awake import awake_seconds
from axomsync.core.disks import disk_of
from axomsync.core.errors import BadConfig, Fatal, LocalFault, Rejected, Transient
from axomsync.core.records import Transfer
from axomsync.core.text import iso
from axomsync.ledger import Ledger, Trouble, doorbell, ledger_fault
from axomsync.ledger.identity import identity_of
from axomsync.ops import logs, systemd
from axomsync.ops.hooks import shield_memory
from axomsync.runtime.heartbeat import Beat, Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.problems import OF_AGENT, LedgerWatch, Problems
from axomsync.runtime.ring import Ring
from axomsync.runtime.throttle import Throttle
from axomsync.runtime.throughput import Throughput
from axomsync.storage import client
from axomsync.transport import authorities
from axomsync.transport.proxies import Proxies

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
STOP_SECONDS = 7.0  # of the 10 that a stop may take
LOCK_SECONDS = 2.0  # of these: no longer is another program's lock on the ledger waited for
PATIENCE_SECONDS = 600.0
TRY_AGAIN_SECONDS = 5.0  # somebody has asked for the step that failed, and waits
EXCHANGE_SECONDS = 10.0  # so long the new workers wait for all old ones; from then on each part begins by itself
SILENCE_SECONDS = 10.0  # for the status; calls of the console wait longer
SILENT = f"no answer for more than {SILENCE_SECONDS:.0f} s; other calls wait for it"


class Agent:
    """One agent on one state folder. `run` works until a signal; `one_shot` does one thing and ends."""

    def __init__(self, loaded: Loaded, environ: Mapping[str, str], chance: Callable[[], float] = random.random) -> None:
        """`chance` yields 0 ≤ x < 1. Raises `AlreadyRunning`, `LocalFault`."""
        settings = loaded.settings
        self._loaded, self._environ = loaded, environ
        self.ended = False
        self.ended_by: int | None = None  # the first signal that ended it
        self.exit_code = 0  # unless a pass or a signal gives another code
        self._reload_asked = False
        self._may_reload = False  # one pass or one command reads its configuration once
        self._new: NewConfiguration | None = None  # read, and not yet in use
        self._in_use_untold = False  # a configuration is in use, and nobody knows it yet
        self._has_workers = False  # from `begin` to `end_workers`
        self._former: list[Workers] = []  # exchanged ones of which threads are alive
        self._held_up: frozenset[str] = frozenset()  # the parts of which these are, as it was told
        self._failed = False  # the last step of the main thread
        self._next_step = -math.inf
        self._shown_transfers = False
        self._next_show = -math.inf
        self._stop_by = math.inf  # monotonic time
        self._next_feed = -math.inf
        # Not an Event: a signal handler could wait for the Event's lock while the interrupted thread holds it.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._doorbell: int | None = None  # a descriptor, from `begin` on

        self.ledger = Ledger(settings.state.folder, time.time)
        with ExitStack() as undo:
            undo.callback(self.ledger.close)  # it holds the state folder, which the next repair of this process needs
            self.ledger.recover()
            facts = self.ledger.read.facts()
            identity = identity_of(settings.state.folder, facts.get("identity"))
            self.ledger.set_facts(
                identity=identity, started_at=iso(time.time()), version=__version__, observer=None, page=None
            )
            self._meter, self._throughput = Meter(time.monotonic), Throughput(time.monotonic())
            self.problems = Problems(self.ledger)
            self._shared = Shared(
                ledger=self.ledger,
                identity=identity,
                meter=self._meter,
                throttle=Throttle(settings.transfer.bandwidth),
                ring=Ring(settings.transfer.gateways, self.ledger, self.problems),
                liveness=Liveness(_silence_allowed(settings), awake_seconds),
                problems=self.problems,
                random=chance,
                environ=environ,
                guard=Guard(self.problems, lambda: self.ended, self._die, lambda: self._wakes.put(None)),
            )
            self.watch = LedgerWatch(self.ledger, self.problems, lambda: systemd.status(self._summary()))
            self.pause = Pause(self.ledger)
            self.workers: Workers  # from `begin` on
            self.commands = Commands(self._shared, lambda: self.workers, self.pause)
            verbs = {**self.commands.verbs(), "reload": Verb(self._reload_on_request)}
            self._steering = Steering(self.ledger, verbs, self._shared.liveness, self._takes_long_requests)
            self._page = StatusPage(self._shared, self._throughput)
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._has_workers:
            self.end_workers()
        self.close()

    @property
    def settings(self) -> Settings:
        """The current settings."""
        return self._loaded.settings

    def run(self) -> int:
        """Work until a signal; returns the exit code."""
        self._may_reload = True
        self.begin(self.settings, PATIENCE_SECONDS)
        self.steer()
        self.workers.start(paused=self.pause.is_on)
        self._page.open(self.settings)
        self._add_history("started")
        log.info("axomsync %s works with %s", __version__, self._loaded.path)
        systemd.ready("working")
        self._shared.guard.run("agent", "agent", self._work)
        systemd.stopping()
        self.workers.end()  # while the page waits for its clients
        self._page.close()
        self.end_workers()
        self._add_history("stopped")
        self.close()
        log.info("stopped")
        return self.exit_code

    # Start and end

    def begin(self, settings: Settings, patience: float) -> None:
        """Set up signal handlers, check the environment, build the workers. `patience`: see `Workers`."""
        self._listen_to_signals()
        shield_memory()
        self.watch.start()
        if warning := config.key_file_warning(self.settings):
            log.warning("%s", warning)
        for line in (
            *Proxies.of(os.environ).warnings,
            *authorities.complaints(os.environ),
            *config.misspelt(os.environ),
        ):
            log.warning("%s", line)
        self.workers = Workers(settings, self._shared, patience)
        self._has_workers = True

    def tick(self) -> None:
        """One turn of the main thread: publish transfers, and watch the console and the ledger."""
        with suppress(queue.Empty):
            self._wakes.get(timeout=TICK_SECONDS)
            while True:  # what has come meanwhile is for this turn
                self._wakes.get_nowait()
        awake_seconds()  # it has to be looked at often
        self._watch_console()
        self._watch_ledger()
        self._throughput.observe(self._meter.totals(), time.monotonic())
        if time.monotonic() >= self._next_show:
            self._next_show = time.monotonic() + TICK_SECONDS
            self._show_transfers(self._meter.read())

    def _show_transfers(self, transfers: list[Transfer]) -> None:
        if transfers or self._shown_transfers:
            with suppress(LocalFault):  # the ledger watch reports it
                self.ledger.show_transfers(transfers)
                self._shown_transfers = bool(transfers)

    def steer(self) -> None:
        """Do the requests of other processes."""
        try:
            self._steering.look()
        except LocalFault as fault:
            self.problems.report("steering", str(fault))
        except Exception as bug:  # noqa: BLE001  # no request may end the agent
            self.problems.report_bug("steering", bug)
        else:
            self.problems.clear("steering")

    @property
    def is_asked(self) -> bool:
        """True while it does a long request of another process."""
        return self._steering.works

    def _takes_long_requests(self) -> bool:
        """False while the workers that do them end, or wait for old ones. What a disk holds up, the answer tells."""
        if self.workers.stop.is_set():
            return False
        folders = {workers.settings.mirror.folder for workers in self._former}
        return MIRROR not in self.workers.waiting or any(disk_of(folder).look().disk == "silent" for folder in folders)

    def end_workers(self) -> None:
        """Stop the workers and wait for them, at most `STOP_SECONDS`, after a signal from that on."""
        self.workers.end()
        deadline = min(time.monotonic() + STOP_SECONDS, self._stop_by)
        for workers in (*self._former, self.workers):
            workers.wait(deadline)
        self._has_workers = False
        self._watch_console()  # the last answer may have come just now

    def close(self) -> None:
        """Close requests and ledger watch, and let go of the state folder."""
        try:
            if self._doorbell is not None:
                os.close(self._doorbell)
                self._doorbell = None
            self._steering.close()
            self.watch.stop()
            if self.watch.told is None:
                with suppress(LocalFault):
                    self.ledger.show_transfers([])
        finally:
            self.ledger.close()

    # The main thread

    def _work(self) -> None:
        while not self.ended:
            self._done(self._turn)
            self.steer()
            if time.monotonic() >= self._next_step:
                self._failed = not self._done(self._step)
                self._next_step = time.monotonic() + TRY_AGAIN_SECONDS if self._failed else -math.inf

    def _done(self, part: Callable[[], None]) -> bool:
        """Do a part of the main thread's work; a failure is told, and the part is done again at a later turn."""
        try:
            part()
        except Exception as failure:  # noqa: BLE001  # whatever it is, requests, signals and the watchdog go on
            self.problems.report_bug("agent", failure, time.time() + TRY_AGAIN_SECONDS)
            return False
        return True

    def _step(self) -> None:
        if self._reload_asked:
            with suppress(BadConfig, LocalFault):  # it was reported
                self._read_again()
        if self._new is not None:  # first: it may be the remedy
            new, self._new = self._new, None
            self._use(new)
        self._exchange_workers()
        self._end_former()
        self.pause.correct()
        if self._in_use_untold and not self.workers.stop.is_set():
            self._tell_in_use()

    def _turn(self) -> None:
        self.tick()
        if time.monotonic() >= self._next_feed:
            self._next_feed = time.monotonic() + min(systemd.watchdog_interval() or math.inf, 10.0)
            self._feed_watchdog()

    def _watch_console(self) -> None:
        silence = max(workers.console.silence() for workers in (*self._former, self.workers))
        self.problems.keep("console", SILENT, holds=silence > SILENCE_SECONDS)

    def _watch_ledger(self) -> None:
        """End when the ledger was removed: the next start by the service manager makes a new one."""
        if self.watch.told is Trouble.REMOVED and not self.ended:
            self.exit_code = Transient.exit_code
            self._end()

    def _exchange_workers(self) -> None:
        """Exchange the workers when a pause begins or ends, or `_use` has ended them.

        The old ones end first: two workers on one file would undo each other's work. Nobody waits here for that: requests
        must still be answered.
        """
        if not self.ended and (self.pause.is_on != self.workers.paused or self.workers.stop.is_set()):
            self.workers.end()
            if not self.workers.working or time.monotonic() - self.workers.ended_at > EXCHANGE_SECONDS:
                self._take_over(Workers(self.settings, self._shared, PATIENCE_SECONDS))

    def _feed_watchdog(self) -> None:
        hanging = self._shared.liveness.hanging()
        if hanging:
            self.problems.report("agent", f"no progress of: {', '.join(hanging)}; waiting for the watchdog to restart it")
            return
        if not self._failed:
            self.problems.clear("agent")
        systemd.watchdog()
        systemd.status(self._summary())
        if self.workers.intake is not None:
            self._show_observer(self.workers.intake.observer)

    def _show_observer(self, observer: str) -> None:
        with suppress(LocalFault):  # workers report a ledger fault
            if self.ledger.read.facts().get("observer") != observer:
                self.ledger.set_facts(observer=observer)

    def _summary(self) -> str:
        if self.watch.told is not None:
            return f"in trouble: {ledger_fault(self.ledger.path, self.watch.told)}"
        transfers = self._meter.read()
        if not transfers:
            return "paused" if self.pause.is_on else "nothing to do"
        rate = sum(transfer.rate for transfer in transfers)
        return f"{len(transfers)} transfers, {rate / 1e6:.1f} MB/s: {', '.join(t.name for t in transfers[:3])}"

    def _add_history(self, state: str) -> None:
        if self.watch.told is None:  # a broken ledger must not delay the stop
            with suppress(LocalFault):
                self.ledger.add_history("agent", f"axomsync {__version__}", state)

    # Signals

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end_by)
        signal.signal(signal.SIGHUP, lambda *_: self._ask_reload())
        signal.signal(doorbell.BELL, lambda *_: self._wakes.put(None))
        self._doorbell = doorbell.listen(self.settings.state.folder)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as a parent may have left it, it hides exit codes

    def _end_by(self, number: int, _: object) -> None:
        if self.ended_by is None:
            self.ended_by = number
            self._stop_by = time.monotonic() + STOP_SECONDS
            self.ledger.end_waits(time.monotonic() + LOCK_SECONDS)
        self._end()

    def _die(self, death: BaseException) -> None:
        self.exit_code = death.exit_code if isinstance(death, Fatal) else 1
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._wakes.put(None)

    def _ask_reload(self) -> None:
        self._reload_asked = True
        self._wakes.put(None)

    # A new configuration

    def _reload_on_request(self, _request: Request, _beat: Beat) -> dict[str, Any]:
        if not self._may_reload:
            raise Rejected("one pass reads its configuration at its start; the next one reads it again")
        return {"path": str(self._loaded.path), "changed": list(self._read_again().changed)}

    def _read_again(self) -> NewConfiguration:
        """Read the configuration, to be used at the end of this turn. Reports and raises `BadConfig` and `LocalFault`."""
        self._reload_asked = False
        log.info("reloading %s", self._loaded.path)
        systemd.reloading()
        if self._new is not None and self._new.workers is not None:
            self._new.workers.close()  # they were never started
        self._new = None
        try:
            self._new = read_again(
                self._loaded, self._environ, lambda settings: Workers(settings, self._shared, PATIENCE_SECONDS)
            )
        except (BadConfig, LocalFault) as bad:
            told = str(bad).replace("\n", " · ")
            self.problems.report("configuration", f"the new configuration is bad, the old one stays: {told}")
            systemd.ready("working with the old configuration, the new one is bad")
            raise
        self.problems.clear("configuration")
        return self._new

    def _use(self, new: NewConfiguration) -> None:
        self._loaded, self._in_use_untold = new.loaded, True
        if new.workers is not None:
            new.workers.close()  # they have shown that it can be used
            self.workers.end()  # `_exchange_workers` does the rest, whatever fails from here on
        logs.set_up(self.settings.log.format, self.settings.log.level, self._environ)
        self._shared.throttle.change(self.settings.transfer.bandwidth)
        self._shared.ring.change(self.settings.transfer.gateways)
        self.workers.promote_by(self.settings.mirror.promote)
        self.workers.console.forget_key()  # it may have been rotated
        self.workers.hurry()

    def _tell_in_use(self) -> None:
        self._in_use_untold = False
        self._page.close()
        self._page.open(self.settings)
        log.info("reloaded %s", self._loaded.path)
        systemd.ready("working")

    def _take_over(self, workers: Workers) -> None:
        former = [*self._former, self.workers]
        held = _held(former, workers.settings)
        self.ledger.recover(OF_AGENT, uploads=DROP not in held, models=MIRROR not in held)
        self.problems.forget_workers()
        self._shared.liveness.limit = _silence_allowed(workers.settings)
        self._former, self.workers = former, workers
        self.workers.start(paused=self.pause.is_on, held=held)
        self.workers.hurry()  # somebody has asked for something, and waits

    def _end_former(self) -> None:
        """Close the exchanged workers that have ended, begin what has waited for them, and tell what still waits."""
        former = [(workers, workers.alive()) for workers in self._former]
        for workers, alive in former:
            if not alive:
                self._former.remove(workers)
                workers.close()
        begin = self.workers.waiting - _held(self._former, self.workers.settings)
        if begin and not (self.ended or self.workers.stop.is_set()):
            self.ledger.take_back(uploads=DROP in begin, models=MIRROR in begin)
            self.workers.start_waiting(begin)
            self.workers.hurry()
        held_up = frozenset(part for _, alive in former for part in alive)
        if held_up == self._held_up:
            return
        self._held_up = held_up
        if held_up:
            told = (_held_up(part, workers.settings) for workers, alive in former for part in sorted(alive))
            self.problems.report("reload", f"a reload, pause or resume waits for {' · '.join(told)}")
        else:
            self.problems.clear("reload")


def _held(former: Iterable[Workers], new: Settings) -> frozenset[str]:
    """The parts that workers by the settings `new` must not begin yet."""
    return frozenset(part for workers in former for part in workers.held(new))


def _held_up(part: str, settings: Settings) -> str:
    """What workers of this part wait for, that do not end."""
    name, folder = {DROP: ("the drop", settings.drop.folder), MIRROR: ("the mirror", settings.mirror.folder)}.get(
        part, (f"the {part}", None)
    )
    if folder is not None and disk_of(folder).look().disk == "silent":
        return f"{name}: {disk_of(folder).fault()}"
    return f"{name}: its old work has not ended"


def _silence_allowed(settings: Settings) -> float:
    """Seconds of silence allowed to a worker: the longest wait for one answer, and a margin for the worker itself."""
    return settings.transfer.stall + max(client.ANSWER_SECONDS, session.ANSWER_SECONDS) + 60.0


def exit_now(code: int) -> None:
    """End the process even if a thread is stuck in a system call: everything important is on disk."""
    logging.shutdown()
    os._exit(code)
