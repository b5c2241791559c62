"""Immediate retries of short failures.

Failures handled: `Transient`, a few times; a stop during a pause (`Stopping`).
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from axomsync.core.errors import Stopping, Transient
from axomsync.core.policy import QUICK_TRIES, backoff
from axomsync.runtime.heartbeat import Beat

T = TypeVar("T")

LONGEST_PAUSE_SECONDS = 10.0


def persist(
    call: Callable[[], T], stop: threading.Event, random: Callable[[], float], beat: Beat, tries: int = QUICK_TRIES
) -> T:
    """Return the result of `call`; after a `Transient` it is tried again after a short pause, `tries` times in all.

    `beat` is called before each try. When the far side asks for a longer pause than 10 s, its failure is raised at once.
    """
    for attempt in range(1, tries):
        beat()
        try:
            return call()
        except Transient as failure:
            pause = backoff(attempt, random, failure.retry_after)
            if pause > LONGEST_PAUSE_SECONDS:
                raise
            if stop.wait(pause):
                raise Stopping("the agent is stopping") from failure
    beat()
    return call()
