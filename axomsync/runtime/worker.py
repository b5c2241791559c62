"""The worker protocol and the context given to every worker.

A worker is a part of the agent with its own thread: drop, mirror, upkeep, hooks. It beats, watches `stop`, and reports its
problems under `subject`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from axomsync.console.client import Console
from axomsync.core.awake import awake_seconds
from axomsync.core.errors import Stopping, Transient
from axomsync.ledger import Ledger
from axomsync.runtime.gates import Gates
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.problems import Problems
from axomsync.runtime.ring import Ring
from axomsync.runtime.throttle import Throttle
from axomsync.storage.client import Storage


class Worker(Protocol):
    """A part of the agent. `run` works in a thread called `name` until `stop` of its context is set."""

    name: str
    subject: str

    def run(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """Shared objects and rules: start no transfer while `paused()`; end soon after `stop` is set.

    `random` yields 0 ≤ x < 1; `identity` distinguishes agents on one folder; `now` is the wall clock (seconds since the
    epoch); `clock` gives monotonic seconds, and `awake` those in which this process was not stopped.
    """

    ledger: Ledger
    console: Console
    storage: Storage
    meter: Meter
    throttle: Throttle
    problems: Problems
    liveness: Liveness
    stop: threading.Event
    random: Callable[[], float]
    identity: str
    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    awake: Callable[[], float] = awake_seconds
    paused: Callable[[], bool] = lambda: False
    gates: Gates = field(default_factory=Gates)
    ring: Ring = field(default_factory=Ring)

    def demand_no_stop(self) -> None:
        """Raise `Stopping` once the agent stops; for long work."""
        if self.stop.is_set():
            raise Stopping("the agent is stopping")

    def demand_no_pause(self) -> None:
        """Raise `Transient` during a pause; for who has been asked for a transfer."""
        if self.paused():
            raise Transient("transfers are paused; `axomsync resume` ends the pause")
