"""The bandwidth limit, shared by all lanes in both directions; it may change while they run."""

import threading
import time
from collections.abc import Callable
from datetime import datetime

from axomsync.core.policy import BandwidthRule, bandwidth_at

LONGEST_PAUSE_SECONDS = 5.0  # storage drops a sender after about 20 s of silence
RULE_SECONDS = 1.0  # the timetable is read again after that
PIECES_A_SECOND = 64  # so that even a few hundred lanes wait less than the longest pause for their turn
SMALLEST_PIECE = 4096
BYTES_A_SECOND_A_LANE = 1_000_000  # one read brings up to 400 KiB; a slower lane would pause too long


class Throttle:
    """Makes callers wait for their share of the bandwidth. `clock` gives monotonic seconds, `local_time` the wall clock."""

    def __init__(
        self,
        rules: tuple[BandwidthRule, ...],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        local_time: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._rules = rules
        self._clock, self._sleep, self._local_time = clock, sleep, local_time
        self._rate: float | None = None
        self._read_at: float | None = None
        self._free_at = clock()
        self._lock = threading.Lock()

    def change(self, rules: tuple[BandwidthRule, ...]) -> None:
        """Replace the rules from now on."""
        with self._lock:
            self._rules, self._read_at = rules, None

    def take(self, count: int) -> None:
        """Wait until `count` bytes may be moved, at most 5 s: the rest of the debt slows the next calls.

        A change of the rate cancels the debt: a slow night's debt would take hours to pay off by day.
        """
        if not self._rules:
            return
        with self._lock:
            now = self._clock()
            rate = self._current_rate(now)
            if rate is None:
                return
            self._free_at = max(self._free_at, now) + count / rate
            # The first tenth of a second is free, so that small pieces need no sleep each.
            pause = min(self._free_at - now - 0.1, LONGEST_PAUSE_SECONDS)
        if pause > 0:
            self._sleep(pause)

    def piece(self, wanted: int) -> int:
        """Bytes to move at a time: at most `wanted`, fewer when many lanes share a low rate."""
        with self._lock:
            rate = self._current_rate(self._clock()) if self._rules else None
        return wanted if rate is None else min(wanted, max(SMALLEST_PIECE, int(rate / PIECES_A_SECOND)))

    def lanes(self, wanted: int) -> int:
        """Number of lanes to use: at most `wanted`, fewer when the rate is too low for so many."""
        with self._lock:
            rate = self._current_rate(self._clock()) if self._rules else None
        return wanted if rate is None else min(wanted, max(1, int(rate / BYTES_A_SECOND_A_LANE)))

    def _current_rate(self, now: float) -> float | None:
        if self._read_at is None or now - self._read_at >= RULE_SECONDS:
            rate, self._read_at = bandwidth_at(self._rules, self._local_time()), now
            if rate != self._rate:
                self._rate, self._free_at = rate, now
        return self._rate
