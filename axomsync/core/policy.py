"""Decisions about time, pure: how long to back off, which bandwidth holds now, whether a URL is still worth starting.

Clock and randomness are arguments, so every decision can be tested without waiting.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

BACKOFF_BASE = 1.0
BACKOFF_CAP = 300.0
LONGEST_WAIT_SECONDS = 3600.0  # for anything that is tried again; what a far side asks for is cut to that


def backoff(attempt: int, random: Callable[[], float], retry_after: float | None = None) -> float:
    """Seconds to wait before try number `attempt + 1` (the first failure is attempt 1).

    Full jitter over an exponential that is capped at five minutes; never sooner than the far side asked
    (`retry_after`, seconds, itself capped at an hour so that a bad header can't park the agent for ever).
    """
    window = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(attempt, 16))
    wait = random() * window
    if retry_after is not None:
        wait = max(wait, min(retry_after, LONGEST_WAIT_SECONDS))
    return wait


def worth_starting(age: float, expires_in: float | None, used: bool) -> bool:
    """Whether a request may be started on a signed URL that arrived `age` seconds ago.

    A stream survives the expiry of its URL, a request does not start after it: keep 30 s in hand, or a quarter of the
    lifetime when that is shorter. A URL that was never tried is worth one try whatever the clocks say, since they may be
    wrong and storage is the judge.
    """
    if expires_in is None or not used:
        return True
    return age < expires_in - min(30.0, expires_in / 4)


@dataclass(frozen=True, slots=True)
class BandwidthRule:
    """From `minute` of the day on, on `days` (0 is Monday), `rate` bytes a second hold; None is no limit."""

    days: frozenset[int]
    minute: int
    rate: float | None


def bandwidth_at(rules: tuple[BandwidthRule, ...], now: datetime) -> float | None:
    """The rate that holds at local time `now`: that of the rule which began last, looking back over one week."""
    for back in range(8):
        day = now - timedelta(days=back)
        begun = [
            rule for rule in rules if day.weekday() in rule.days and (back > 0 or rule.minute <= now.hour * 60 + now.minute)
        ]
        if begun:
            return max(begun, key=lambda rule: rule.minute).rate
    return None


FIRST_LANES = 4
GROWTH_WORTH_HAVING = 1.10
GROWTH_BEYOND_DOUBT = 1.5
EARLY_SECONDS = 0.5
SETTLED_SECONDS = 2.0  # new connections have found their speed by then, also over a long way
COLLAPSE = 0.5
PROBE_AGAIN_SECONDS, LONGEST_PROBE_PAUSE_SECONDS = 5.0, 60.0


class LaneCount:
    """How many lanes to use: more as long as that brings at least 10 %, fewer when storage is overrun.

    More lanes can be slower: storage that throttles, or a CPU that is full. So the total decides, not only errors. Where
    each connection is capped, twice as many lanes bring twice as much within half a second; that no more comes can only be
    said after two. What was measured early may have been a burst, as storage that gives each request its first bytes for
    free makes it: where more lanes do not bring more than that, it is measured again first. Later they are tried less and
    less often. Fed a few times a second while every allowed lane is busy; times are monotonic seconds.
    """

    def __init__(self, most: int, first: int = FIRST_LANES) -> None:
        self.most = most
        self.count = max(1, min(first, most))
        self._best_count, self._best_rate = self.count, 0.0
        self._best_is_early = False
        self._frozen_until: float | None = None
        self._pause = PROBE_AGAIN_SECONDS
        self._since: float | None = None  # when the rates below began to be taken
        self._rates: list[float] = []

    def observe(self, rate: float, now: float) -> int:
        """Take in the total `rate` (bytes a second) over the last interval and return the number of lanes from now on."""
        if self._since is None:
            self._since = now
        age = now - self._since
        if age < EARLY_SECONDS:  # measures the change itself
            return self.count
        self._rates.append(rate)
        mean = sum(self._rates) / len(self._rates)
        if self._frozen_until is not None:
            if age >= SETTLED_SECONDS:
                self._watch(mean, now)
        elif mean > self._best_rate * (GROWTH_WORTH_HAVING if age >= SETTLED_SECONDS else GROWTH_BEYOND_DOUBT):
            self._best_count, self._best_rate, self._pause = self.count, mean, PROBE_AGAIN_SECONDS
            self._best_is_early = age < SETTLED_SECONDS
            if self.count < self.most:
                self._change(min(self.most, self.count * 2))
            else:
                self._freeze(now)
        elif age >= SETTLED_SECONDS:
            if mean < self._best_rate:
                self.count = self._best_count
            self._freeze(now)
        return self.count

    def congested(self, now: float) -> int:
        """Storage asked for fewer requests: halve, and stay there for a while."""
        self.count = self._best_count = max(1, self.count // 2)
        self._best_rate, self._best_is_early, self._pause = 0.0, False, LONGEST_PROBE_PAUSE_SECONDS
        self._freeze(now)
        return self.count

    def _watch(self, rate: float, now: float) -> None:
        early, self._best_is_early = self._best_is_early, False
        if not early and rate < self._best_rate * COLLAPSE and self.count > 1:
            self._best_count, self._best_rate, self._pause = self.count, rate, PROBE_AGAIN_SECONDS
            self._change(max(1, self.count // 2))
        elif self.count < self.most and (early or now >= (self._frozen_until or 0.0)):
            self._best_count, self._best_rate = self.count, rate
            self._change(min(self.most, self.count * 2))
        else:
            if early:
                self._best_rate = rate
            self._since, self._rates = now, []

    def _freeze(self, now: float) -> None:
        self._frozen_until, self._since, self._rates = now + self._pause, None, []
        self._pause = min(2 * self._pause, LONGEST_PROBE_PAUSE_SECONDS)

    def _change(self, count: int) -> None:
        self.count, self._frozen_until, self._since, self._rates = count, None, None, []


def same_but_for_numbers(one: str, other: str) -> bool:
    """Whether two reasons say the same: how many bytes are missing changes all the time, and so does which of a model's
    files met storage's trouble first. That is not worth a line each."""
    return _essence(one) == _essence(other)


def _essence(reason: str) -> str:
    return re.sub(r"\d+", "", re.sub(r"^.*?: (?=storage )", "", without_request(reason)))


def without_request(reason: str) -> str:
    """A reason without what the far side calls the request that met it, see `http.request_id`."""
    return re.sub(r"; request [\w.:+/=-]+", "", reason)
