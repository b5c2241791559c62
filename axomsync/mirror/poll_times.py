"""When a box asks the console for models, so that ten thousand boxes never ask at the same moment. Pure.

Each box has a share of its own, from 0 to 1, that never changes: it says at which part of the interval the box polls. Boxes
that start together, after a power cut for one, are spread by their shares; boxes that failed together, by chance.
`tests/rig/fleet.py` simulates ten thousand; `docs/fleet.md` has the figures.
"""

import hashlib
import math
from collections.abc import Callable

from axomsync.core.policy import LONGEST_WAIT_SECONDS, QUICK_TRIES, backoff

SPREAD_SECONDS = 60.0  # the longest time over which boxes that begin together are spread
TRIES_IN_TROUBLE = 1  # a console that is down must not get three requests where it gets one when it is well


def share_of(identity: str) -> float:
    """The share of a box, 0 ≤ x < 1."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:6]) / 2**48


class PollTimes:
    """The polls of one box: `due` is the time of the next one. All times are monotonic seconds."""

    def __init__(self, share: float, poll: float) -> None:
        """`poll`: seconds between two polls."""
        self._share, self._poll, self._spread = share, poll, min(poll, SPREAD_SECONDS)
        self._failed, self._answered = 0, False
        self.due = -math.inf

    def begin(self, now: float, *, polled_before: bool) -> None:
        """Begin now. A box that has never polled polls at once: somebody waits for it."""
        self.due = now + self._share * self._spread if polled_before else -math.inf

    @property
    def tries(self) -> int:
        """How often the next poll may try."""
        return TRIES_IN_TROUBLE if self._failed else QUICK_TRIES

    def answered(self, began: float) -> None:
        """The console has answered the poll that began then. One that somebody asked for in between moves no other."""
        following = began + (self._poll if self._answered else self._share * self._poll)
        self.due = min(self.due, following) if self.due > began else following
        self._failed, self._answered = 0, True

    def failed(self, began: float, random: Callable[[], float], retry_after: float | None) -> float:
        """The console has not answered; returns the seconds from `began` to the next poll.

        Even after the first failure they are spread over half of the interval, and never end at the moment that the console
        has asked everybody to wait for.
        """
        self._failed += 1
        asked = min(retry_after or 0.0, LONGEST_WAIT_SECONDS)
        chance = random()
        wait = asked + max(backoff(self._failed, lambda: chance), self._spread * (1 + chance) / 2)
        self.due = began + wait
        return wait

    def postponed(self, began: float, pause: float) -> None:
        """Something else keeps the box from polling for this long."""
        self.due = began + pause
