"""The pause of all transfers; it survives a restart of the agent.

The monotonic clock measures it. The ledger shows its end as a wall time, which is corrected when the clock is set.

Failures handled: a clock that is set during the pause, a ledger that can't be written (the pause still holds).
"""

import math
import time
from contextlib import suppress

from axomsync.core.errors import LocalFault
from axomsync.ledger import Ledger
from axomsync.ledger.facts import PAUSE_ENDS, PAUSE_SECONDS, number_in
from axomsync.status.report import pause_left

CLOCK_STEP_SECONDS = 5.0  # a larger difference means that the clock was set


class Pause:
    """The pause of one agent; off until `begin`."""

    def __init__(self, ledger: Ledger) -> None:
        facts = ledger.read.facts()
        self._ledger = ledger
        self._ends = time.monotonic() + pause_left(facts, time.time())
        self._told = number_in(facts.get(PAUSE_ENDS)) or -math.inf  # seconds since the epoch

    @property
    def is_on(self) -> bool:
        """True while no transfer may start; running transfers end, all other work goes on."""
        return time.monotonic() < self._ends

    def begin(self, seconds: float) -> float:
        """Pause for `seconds` (`inf`: until `end`); returns the wall time of the end. Raises `LocalFault`."""
        told = time.time() + seconds
        self._ledger.set_facts(**{PAUSE_ENDS: str(told), PAUSE_SECONDS: str(seconds)})
        self._ends, self._told = time.monotonic() + seconds, told
        return told

    def end(self) -> None:
        """End the pause. Raises `LocalFault`."""
        self.begin(-math.inf)

    def correct(self) -> None:
        """Correct the stored end after the wall clock was set."""
        left = self._ends - time.monotonic()
        if left > 0 and math.isfinite(left) and abs(self._told - (time.time() + left)) > CLOCK_STEP_SECONDS:
            with suppress(LocalFault):
                self._told = time.time() + left
                self._ledger.set_facts(**{PAUSE_ENDS: str(self._told)})
