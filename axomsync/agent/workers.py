"""The workers of one configuration, each in a thread of its own.

A reload replaces them as a whole; what they share, the ledger first, stays. Failures handled: a worker that trips a bug (see
`guard`), a worker that waits for storage at the end (it is waited for until a deadline).
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from axomsync import config
from axomsync.agent.guard import Guard, collect
from axomsync.config import Settings
from axomsync.console.client import Console
from axomsync.core.awake import awake_seconds
from axomsync.core.errors import AxomsyncError
from axomsync.drop.intake import Intake
from axomsync.ledger import Ledger
from axomsync.mirror.check.scrub import Upkeep
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.fetch.lanes import Lanes
from axomsync.mirror.loop import Mirror
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.ops.hooks import Hooks
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.problems import Problems
from axomsync.runtime.throttle import Throttle
from axomsync.runtime.worker import Worker, WorkerContext
from axomsync.storage.client import Storage

if TYPE_CHECKING:
    from axomsync.runtime.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all workers of an agent share, and what outlives a reload."""

    ledger: Ledger
    identity: str
    meter: Meter
    throttle: Throttle
    liveness: Liveness
    problems: Problems
    random: Callable[[], float]
    environ: Mapping[str, str]
    guard: Guard


class Workers:
    """`patience` is how many seconds a model may bring nothing before it is given up for now."""

    def __init__(self, settings: Settings, shared: Shared, patience: float) -> None:
        self.settings, self._shared = settings, shared
        self.stop = threading.Event()
        self.paused = False  # they were started during a pause
        ca_file = str(settings.console.ca_file) if settings.console.ca_file else None
        self.console = Console(
            settings.console.url, lambda: config.load_key(settings, shared.environ), ca_file=ca_file, clock=awake_seconds
        )
        context = self._context()
        self._storage = context.storage
        self.intake = Intake(settings.drop, context) if settings.drop.enabled else None
        self.mirror: Mirror | None = None
        self.upkeep: Upkeep | None = None
        if settings.mirror.enabled:
            self.mirror, self.upkeep = self._build_mirror(context, patience)
        self.hooks = Hooks(settings.hooks, context, shared.environ)
        self._threads: list[threading.Thread] = []
        self._schedule: Schedule | None = None

    def _context(self) -> WorkerContext:
        shared = self._shared
        return WorkerContext(
            ledger=shared.ledger,
            console=self.console,
            storage=Storage.of(self.settings),
            meter=shared.meter,
            throttle=shared.throttle,
            problems=shared.problems,
            liveness=shared.liveness,
            stop=self.stop,
            random=shared.random,
            identity=shared.identity,
            paused=lambda: self.paused,
        )

    def _build_mirror(self, context: WorkerContext, patience: float) -> tuple[Mirror, Upkeep]:
        settings = self.settings.mirror
        mirror = MirrorContext(
            **vars(context),
            settings=settings,
            mirror_folder=MirrorFolder(settings.folder, context.identity),
            lanes=Lanes(self.settings.transfer.connections, context, hashes=settings.verify == "etag"),
            patience=patience,
        )
        return Mirror(mirror), Upkeep(mirror)

    def start(self, *, paused: bool) -> None:
        """Begin to work; while the agent is paused, no transfer is begun."""
        from axomsync.runtime.schedule import Schedule  # here, since a single pass needs none and its import takes a while

        self.paused = paused
        self._schedule = Schedule()
        if self.intake is not None:
            self._schedule.every(self.settings.drop.rescan, self.intake.wake)
        if self.mirror is not None:
            self._schedule.every(self.settings.mirror.poll, self.mirror.wake)
        everybody: tuple[Worker | None, ...] = (self.intake, self.mirror, self.upkeep, self.hooks)
        for worker in everybody:
            if worker is not None:
                self._spawn(worker.name, worker.subject, worker.run, self.stop)

    def begin_pass(self) -> dict[str, AxomsyncError]:
        """Begin one pass of both directions at the same time; returns what will hold the end of each that fails."""
        failures: dict[str, AxomsyncError] = {}
        for worker in (self.intake, self.mirror):
            if worker is not None:
                self._once(worker.name, worker.subject, worker.run_once, failures)
        return failures

    def begin_push(self, rows: Sequence[int]) -> dict[str, AxomsyncError]:
        """As `begin_pass`, for the uploads of these rows and nothing else."""
        failures: dict[str, AxomsyncError] = {}
        if self.intake is not None:
            self._once(self.intake.name, "console", partial(self.intake.run_pushed, rows), failures)
        return failures

    def begin_errand(self, subject: str, work: Callable[[], None]) -> dict[str, AxomsyncError]:
        """As `begin_pass`, for one piece of work."""
        failures: dict[str, AxomsyncError] = {}
        self._once("errand", subject, work, failures)
        return failures

    @property
    def working(self) -> bool:
        """Whether one of them has not come to its end yet."""
        return any(thread.is_alive() for thread in self._threads)

    def hurry(self) -> None:
        """Look at everything now, and end the pauses that a refused key or a console in trouble asked for."""
        for worker in (self.intake, self.mirror):
            if worker is not None:
                worker.hurry()

    def end(self) -> None:
        """Have all come to their end; one that waits for storage needs until its stall time is over."""
        if self.stop.is_set():
            return
        self.stop.set()
        if self._schedule is not None:
            self._schedule.end()
        self.hurry()

    def wait(self, deadline: float) -> None:
        """Wait for the end of all, until `deadline` (monotonic seconds) at the latest."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Let go of the connections."""
        self.console.close()
        self._storage.close()

    def _once(self, name: str, subject: str, work: Callable[[], None], failures: dict[str, AxomsyncError]) -> None:
        self._spawn(name, subject, partial(collect, subject, work, failures), None)

    def _spawn(self, name: str, subject: str, work: Callable[[], None], again: threading.Event | None) -> None:
        thread = threading.Thread(target=self._shared.guard.run, args=(name, subject, work, again), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
