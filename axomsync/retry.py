"""Trying again at once what failed for a moment."""

import threading
from collections.abc import Callable
from typing import TypeVar

from axomsync.errors import Stopping, Transient
from axomsync.policy import backoff

T = TypeVar("T")

QUICK_TRIES = 3


def persist(call: Callable[[], T], stop: threading.Event, random: Callable[[], float], tries: int = QUICK_TRIES) -> T:
    """The result of `call`, which is tried up to `tries` times as long as it raises `Transient`, with short pauses."""
    for attempt in range(1, tries):
        try:
            return call()
        except Transient as failure:
            if stop.wait(min(10.0, backoff(attempt, random, failure.retry_after))):
                raise Stopping("the agent is stopping") from failure
    return call()
