"""What the agent gives its workers, for tests that run one of them in this process."""

import threading
import time
from typing import Any

from axomsync.ledger import Ledger
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.problems import Problems
from axomsync.runtime.throttle import Throttle
from axomsync.runtime.worker import WorkerContext


def worker_context(ledger: Ledger, console: Any = None, storage: Any = None, **given: Any) -> WorkerContext:
    """All that is not `given` as a worker has it that is alone and has no limits; no far side unless there is one."""
    alone = {
        "awake": given.get("clock", time.monotonic),
        "meter": Meter(given.get("clock", time.monotonic)),
        "throttle": Throttle(()),
        "problems": Problems(ledger),
        "liveness": Liveness(600.0, time.monotonic),
        "stop": threading.Event(),
        "random": lambda: 0.5,
        "identity": "here",
    }
    return WorkerContext(ledger=ledger, console=console, storage=storage, **{**alone, **given})
