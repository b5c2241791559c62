"""A pause of all transfers, which outlives the agent that was asked for it.

It runs by the monotonic clock; what others are told in the ledger is a wall time, corrected when somebody sets the clock.

Failures handled: a clock that is set during the pause, a ledger that can't be written (the pause holds all the same).
"""

import math
import time
from contextlib import suppress

from axomsync.core.errors import LocalFault
from axomsync.ledger import Ledger
from axomsync.ledger.facts import PAUSE_ENDS, PAUSE_SECONDS, number_in
from axomsync.status.report import pause_left

CLOCK_STEP_SECONDS = 5.0  # a clock that goes on by itself is never off by so much between two looks


class Pause:
    """The pause of one agent; none while it was not asked for."""

    def __init__(self, ledger: Ledger) -> None:
        facts = ledger.read.facts()
        self._ledger = ledger
        self._ends = time.monotonic() + pause_left(facts, time.time())
        self._told = number_in(facts.get(PAUSE_ENDS)) or -math.inf  # seconds since the epoch

    @property
    def is_on(self) -> bool:
        """No transfer is begun, and those under way end; all else goes on."""
        return time.monotonic() < self._ends

    def begin(self, seconds: float) -> float:
        """Pause for so long (`inf`: until `end`); returns the wall time of the end. Raises `LocalFault`."""
        told = time.time() + seconds
        self._ledger.set_facts(**{PAUSE_ENDS: str(told), PAUSE_SECONDS: str(seconds)})
        self._ends, self._told = time.monotonic() + seconds, told
        return told

    def end(self) -> None:
        """Go on. Raises `LocalFault`."""
        self.begin(-math.inf)

    def correct(self) -> None:
        """Tell others the end by what the wall clock says now, if somebody has set it."""
        left = self._ends - time.monotonic()
        if left > 0 and math.isfinite(left) and abs(self._told - (time.time() + left)) > CLOCK_STEP_SECONDS:
            with suppress(LocalFault):
                self._told = time.time() + left
                self._ledger.set_facts(**{PAUSE_ENDS: str(self._told)})
