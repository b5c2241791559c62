"""What the workers of one mirror folder share."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from axomsync.config import MirrorSettings
from axomsync.console.client import Console
from axomsync.ledger import Ledger
from axomsync.mirror.fetch.lanes import Lanes
from axomsync.mirror.publish.folder import Place
from axomsync.runtime.heartbeat import Liveness
from axomsync.runtime.meter import Meter
from axomsync.runtime.problems import Problems


@dataclass(frozen=True)
class MirrorContext:
    """`random` yields 0 ≤ x < 1, `stop` ends everything soon after it is set, `patience` is that of a `Job`.

    `now` is the wall clock, `clock` gives monotonic seconds.
    """

    settings: MirrorSettings
    place: Place
    ledger: Ledger
    console: Console
    lanes: Lanes
    meter: Meter
    problems: Problems
    liveness: Liveness
    stop: threading.Event
    random: Callable[[], float]
    patience: float
    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
