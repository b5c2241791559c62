"""What a worker is, and what every worker is given.

A worker is a part of the agent with a thread of its own: the drop folder's, the mirror's, the upkeep's, the hooks'. It
beats, watches `stop`, and tells its trouble as the problem `subject`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from axomsync.console.client import Console
from axomsync.core.awake import awake_seconds
from axomsync.ledger import Ledger
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.problems import Problems
from axomsync.runtime.throttle import Throttle
from axomsync.storage.client import Storage


class Worker(Protocol):
    """A part of the agent that works in a thread called `name`, until `stop` of its context is set."""

    name: str
    subject: str

    def run(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """While `paused()`, no transfer is begun. `random` yields 0 ≤ x < 1, `stop` ends everything soon after it is set,
    `identity` tells agents on one folder apart.

    `now` is the wall clock (seconds since the epoch), `clock` gives monotonic seconds, `awake` those in
    which this process was not stopped.
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
