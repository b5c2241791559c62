"""Trying again at once what failed for a moment."""

import threading
from collections.abc import Callable
from typing import TypeVar

from axomsync.core.errors import Stopping, Transient
from axomsync.core.policy import backoff

T = TypeVar("T")

QUICK_TRIES = 3
LONGEST_PAUSE_SECONDS = 10.0


def persist(call: Callable[[], T], stop: threading.Event, random: Callable[[], float], tries: int = QUICK_TRIES) -> T:
    """The result of `call`, which is tried up to `tries` times as long as it raises `Transient`, with short pauses.

    A far side that asks to be left alone for longer is: its failure is raised at once.
    """
    for attempt in range(1, tries):
        try:
            return call()
        except Transient as failure:
            pause = backoff(attempt, random, failure.retry_after)
            if pause > LONGEST_PAUSE_SECONDS:
                raise
            if stop.wait(pause):
                raise Stopping("the agent is stopping") from failure
    return call()
