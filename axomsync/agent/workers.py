"""The workers of one configuration, each in its own thread.

A reload replaces all of them; the shared objects, such as the ledger, stay. Failures handled: a bug in a worker (see
`guard`), a worker that waits for storage at the end (waited for until a deadline), one that a dead filesystem holds (the
next workers begin without its part, and begin that when it has ended).
"""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from axomsync import config
from axomsync.agent.guard import Guard, collect
from axomsync.config import Settings
from axomsync.console.client import Console
from axomsync.core.awake import awake_seconds
from axomsync.core.errors import AxomsyncError
from axomsync.core.windows import Promotes
from axomsync.drop.expiry import Expiry
from axomsync.drop.intake import Intake
from axomsync.ledger import Ledger
from axomsync.mirror.check.scrub import Upkeep
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.fetch.lanes import Lanes
from axomsync.mirror.loop import Mirror
from axomsync.mirror.moves import Promotion
from axomsync.mirror.publish.access import Access
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.mirror.warm import Warmer
from axomsync.ops.hooks import Hooks, gates
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.problems import Problems
from axomsync.runtime.ring import Ring
from axomsync.runtime.throttle import Throttle
from axomsync.runtime.worker import Worker, WorkerContext
from axomsync.storage.client import Storage
from axomsync.transport.links import connections_for_links

if TYPE_CHECKING:
    from axomsync.runtime.schedule import Schedule

# The parts of the workers. None uses what another one uses, so each may begin and end by itself.
DROP, MIRROR, HOOKS = "drop", "mirror", "hooks"
PARTS = frozenset({DROP, MIRROR, HOOKS})
ONCE = "once"  # work that is begun by `begin_…`


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Objects that all workers share and that outlive a reload."""

    ledger: Ledger
    identity: str
    meter: Meter
    throttle: Throttle
    ring: Ring
    liveness: Liveness
    problems: Problems
    random: Callable[[], float]
    environ: Mapping[str, str]
    guard: Guard


class Workers:
    """All workers of one configuration. `patience`: seconds without progress after which a model is given up for now."""

    def __init__(self, settings: Settings, shared: Shared, patience: float) -> None:
        self.settings, self._shared = settings, shared
        self.stop = threading.Event()
        self.ended_at = math.inf  # monotonic time of `end`
        self.paused = False  # started during a pause
        self.waiting = frozenset[str]()  # parts that `start` has left out, and that have not begun
        ca_file = str(settings.console.ca_file) if settings.console.ca_file else None
        self.console = Console(
            settings.console.url, lambda: config.load_key(settings, shared.environ), ca_file=ca_file, clock=awake_seconds
        )
        context = self._context()
        self._storage = context.storage
        self.intake: Intake | None = None
        if settings.drop.enabled:
            self.intake = Intake(settings.drop, context, settings.mirror.reserve, settings.transfer.connections)
        self.archive = Expiry(settings.drop, context) if settings.drop.enabled else None
        self.mirror: Mirror | None = None
        self.upkeep: Upkeep | None = None
        self.promotion: Promotion | None = None
        self.warmer: Warmer | None = None
        if settings.mirror.enabled:
            self.mirror, self.upkeep, self.promotion, self.warmer = self._build_mirror(context, patience)
        self.hooks = Hooks(settings.hooks, context, shared.environ)
        self._threads: defaultdict[str, list[threading.Thread]] = defaultdict(list)  # by part
        self._schedule: Schedule | None = None

    def _context(self) -> WorkerContext:
        shared = self._shared
        return WorkerContext(
            ledger=shared.ledger,
            console=self.console,
            storage=Storage.of(self.settings),
            meter=shared.meter,
            throttle=shared.throttle,
            ring=shared.ring,
            problems=shared.problems,
            liveness=shared.liveness,
            stop=self.stop,
            random=shared.random,
            identity=shared.identity,
            paused=lambda: self.paused,
            gates=gates(self.settings.hooks, shared.environ),
        )

    def _build_mirror(self, context: WorkerContext, patience: float) -> tuple[Mirror, Upkeep, Promotion, Warmer | None]:
        settings, connections = self.settings.mirror, self.settings.transfer.connections or connections_for_links()
        mirror = MirrorContext(
            **vars(context),
            settings=settings,
            mirror_folder=MirrorFolder(
                settings.folder,
                context.identity,
                settings.promote,
                views=settings.views,
                access=Access(int(settings.mode, 8), settings.group),
            ),
            lanes=Lanes(connections, context, hashes=settings.verify == "etag"),
            patience=patience,
        )
        promotion = Promotion(context, mirror.mirror_folder, checked=bool(self.settings.hooks.health))
        return Mirror(mirror), Upkeep(mirror), promotion, Warmer(mirror) if settings.warm == "current" else None

    def start(self, *, paused: bool, held: frozenset[str] = frozenset()) -> None:
        """Start all workers but those of the parts in `held`; during a pause they start no transfer."""
        from axomsync.runtime.schedule import Schedule  # here, since a single pass needs none and this import is slow

        self.paused = paused
        self._schedule = Schedule()
        if self.intake is not None:
            self._schedule.every(self.settings.drop.rescan, self.intake.wake)
        if self.mirror is not None:
            self._schedule.every(self.settings.mirror.poll, self.mirror.wake)
        self.waiting = held
        self._start_parts(PARTS - held)

    def start_waiting(self, parts: frozenset[str]) -> None:
        """Start the workers of these parts, which `start` has left out."""
        self.waiting -= parts
        self._start_parts(parts)

    def _start_parts(self, parts: frozenset[str]) -> None:
        everybody: Mapping[str, tuple[Worker | None, ...]] = {
            DROP: (self.intake, self.archive),
            MIRROR: (self.promotion, self.mirror, self.upkeep, self.warmer),
            HOOKS: (self.hooks,),
        }
        for part, workers in everybody.items():
            for worker in workers:
                if worker is not None and part in parts:
                    self._spawn(worker.name, worker.subject, worker.run, self.stop, part)

    def begin_pass(self) -> dict[str, AxomsyncError]:
        """Start one pass of both directions at once; returns a dictionary that gets the failure of each direction."""
        failures: dict[str, AxomsyncError] = {}
        for worker in (self.intake, self.mirror):
            if worker is not None:
                self._once(worker.name, worker.subject, worker.run_once, failures)
        return failures

    def begin_push(self, rows: Sequence[int]) -> dict[str, AxomsyncError]:
        """Start the uploads of these rows and nothing else; returns like `begin_pass`."""
        failures: dict[str, AxomsyncError] = {}
        if self.intake is not None:
            self._once(self.intake.name, "console", partial(self.intake.run_pushed, rows), failures)
        return failures

    def begin_errand(self, subject: str, work: Callable[[], None]) -> dict[str, AxomsyncError]:
        """Start one piece of work; returns like `begin_pass`."""
        failures: dict[str, AxomsyncError] = {}
        self._once("errand", subject, work, failures)
        return failures

    @property
    def working(self) -> bool:
        """True while a thread is alive."""
        return bool(self.alive())

    def alive(self) -> frozenset[str]:
        """The parts that have a thread which is alive."""
        return frozenset(part for part, threads in self._threads.items() if any(thread.is_alive() for thread in threads))

    def held(self, new: Settings) -> frozenset[str]:
        """The parts that workers by the settings `new` must not begin yet, as these ones still work in their folders."""
        held, old = self.alive(), self.settings
        if DROP in held and _share_folders([old.drop.folder], _mirrored(new)):
            held |= {MIRROR}
        if MIRROR in held and _share_folders(_mirrored(old), [new.drop.folder]):
            held |= {DROP}
        return held

    def at_work(self) -> frozenset[int | str]:
        """The rows of uploads and the models that threads carry, or that wait for one."""
        files = frozenset[int]() if self.intake is None else self.intake.busy()
        return files | (set[str]() if self.mirror is None else self.mirror.busy())

    def hurry(self) -> None:
        """Check everything now, and end the pauses after a refused key or console trouble."""
        for worker in (self.intake, self.mirror):
            if worker is not None:
                worker.hurry()

    def promote_by(self, promotes: Promotes) -> None:
        """Promote models by another rule from now on."""
        if self.promotion is not None:
            self.promotion.change(promotes)

    def begin_follow_up(self) -> dict[str, AxomsyncError]:
        """Start what an agent would do after a pass: tell of moves, run hooks; returns like `begin_pass`."""
        failures: dict[str, AxomsyncError] = {}

        def follow_up() -> None:
            look = self.promotion.look if self.promotion is not None else None
            for subject, work in (("promotion", look), ("hooks", self.hooks.run_due), ("promotion", look)):
                if work is not None:
                    collect(subject, work, failures)

        self._spawn(self.hooks.name, self.hooks.subject, follow_up, None)
        return failures

    def end(self) -> None:
        """Tell all workers to stop; one that waits for storage needs up to its stall time."""
        if self.stop.is_set():
            return
        self.stop.set()
        self.ended_at = time.monotonic()
        if self._schedule is not None:
            self._schedule.end()
        self.hurry()

    def wait(self, deadline: float) -> None:
        """Wait for the end of all threads, at most until `deadline` (monotonic seconds)."""
        for threads in self._threads.values():
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Close all connections."""
        self.console.close()
        self._storage.close()

    def _once(self, name: str, subject: str, work: Callable[[], None], failures: dict[str, AxomsyncError]) -> None:
        self._spawn(name, subject, partial(collect, subject, work, failures), None)

    def _spawn(
        self, name: str, subject: str, work: Callable[[], None], again: threading.Event | None, part: str = ONCE
    ) -> None:
        thread = threading.Thread(target=self._shared.guard.run, args=(name, subject, work, again), name=name, daemon=True)
        self._threads[part].append(thread)
        thread.start()


def _mirrored(settings: Settings) -> list[Path]:
    """The folders that the mirror writes to."""
    return [settings.mirror.folder, *(view.folder for view in settings.mirror.views)]


def _share_folders(some: list[Path], others: list[Path]) -> bool:
    return any(config.overlap(folder, other) for folder in some for other in others)
