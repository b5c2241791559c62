"""Signals during the start, before the agent has its own handlers.

Failures handled: a stop while the agent is still starting (also a clean end), a reload (ignored: nothing is loaded yet).
"""

import os
import signal
from collections.abc import Callable


def end_at_a_signal(code: Callable[[int], int]) -> None:
    """Have SIGINT and SIGTERM end this process with the exit code that `code` gives for the signal's number."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(code(number)))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
