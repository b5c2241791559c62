"""Pure decisions about time: back-off, the bandwidth at a time, URLs near their expiry, when models were made, the lanes.

Clock and randomness are arguments, so every decision can be tested without waiting.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

BACKOFF_BASE = 1.0
BACKOFF_CAP = 300.0
QUICK_TRIES = 3  # of one call, as long as the far side answers
LONGEST_WAIT_SECONDS = 3600.0  # upper limit for every retry, also when the far side asks for more


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


def made_at(created_at: str | None) -> float:
    """When a model was made: what the console wrote, in seconds since the epoch. UTC without an offset, 0 if unreadable."""
    try:
        made = datetime.fromisoformat(created_at or "")
    except (ValueError, TypeError):
        return 0.0
    return (made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp()


def worth_starting(age: float, expires_in: float | None, used: bool) -> bool:
    """Decide whether a request may start on a signed URL that arrived `age` seconds ago.

    A running transfer survives the expiry of its URL, but no request may start after it. So 30 s are kept in hand, or a
    quarter of the lifetime when that is shorter. An unused URL is always worth one try: clocks may be wrong, and storage
    decides.
    """
    if expires_in is None or not used:
        return True
    return age < expires_in - min(30.0, expires_in / 4)


@dataclass(frozen=True, slots=True)
class BandwidthRule:
    """`rate` bytes a second from `minute` of the day on, on `days` (0 is Monday); None is no limit."""

    days: frozenset[int]
    minute: int
    rate: float | None


def bandwidth_at(rules: tuple[BandwidthRule, ...], now: datetime) -> float | None:
    """The rate at local time `now`: of the rule that began last, within the week before."""
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
SETTLED_SECONDS = 2.0  # by then new connections have reached their speed, also over long distances
COLLAPSE = 0.5
PROBE_AGAIN_SECONDS, LONGEST_PROBE_PAUSE_SECONDS = 5.0, 60.0


class LaneCount:
    """Controls the number of lanes: more while that brings at least 10 %, fewer when the far side is overloaded.

    More lanes can be slower, when storage throttles or the CPU is full; so the total rate decides, not errors alone. Where
    storage limits each connection, twice the lanes bring twice the rate within 0.5 s; that they bring nothing is known only
    after 2 s. An early rate may have been a burst, since some stores send the first bytes of a request at full speed: when
    more lanes do not beat such a rate, it is measured again first. Probes become rarer over time. `observe` is called a few
    times a second while every allowed lane is busy; times are monotonic seconds.

    `thrifty`: more lanes that bring less than 10 % are given up again; else only if they are slower. And when the rate
    collapses, the count begins at the least again.
    """

    def __init__(self, most: int, first: int = FIRST_LANES, *, least: int = 1, thrifty: bool = False) -> None:
        self.most, self._least, self._thrifty = most, least, thrifty
        self.count = max(least, min(first, most))
        self._best_count, self._best_rate = self.count, 0.0
        self._best_is_early = False
        self._frozen_until: float | None = None
        self._pause = PROBE_AGAIN_SECONDS
        self._since: float | None = None  # start of the rates below
        self._rates: list[float] = []

    def observe(self, rate: float, now: float) -> int:
        """Record the total `rate` (bytes or files a second) of the last interval and return the new number of lanes."""
        if self._since is None:
            self._since = now
        age = now - self._since
        if age < EARLY_SECONDS:  # the rate still shows the change itself
            return self.count
        self._rates.append(rate)
        mean = sum(self._rates) / len(self._rates)
        if self._thrifty and age >= SETTLED_SECONDS and mean < self._best_rate * COLLAPSE and self.count > self._least:
            self._best_count, self._best_rate, self._pause = self._least, 0.0, PROBE_AGAIN_SECONDS
            self._change(self._least)
        elif self._frozen_until is not None:
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
            if self._thrifty or mean < self._best_rate:
                self.count = self._best_count
            self._freeze(now)
        return self.count

    def congested(self, now: float) -> int:
        """Halve the lanes and stay there for a while: the far side asked for fewer requests."""
        self.count = self._best_count = max(self._least, self.count // 2)
        self._best_rate, self._best_is_early, self._pause = 0.0, False, LONGEST_PROBE_PAUSE_SECONDS
        self._freeze(now)
        return self.count

    def _watch(self, rate: float, now: float) -> None:
        early, self._best_is_early = self._best_is_early, False
        if not early and rate < self._best_rate * COLLAPSE and self.count > self._least:
            self._best_count, self._best_rate, self._pause = self.count, rate, PROBE_AGAIN_SECONDS
            self._change(max(self._least, self.count // 2))
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
    """Compare two reasons without their numbers and without the name of a model's file before storage's message.

    Missing bytes change all the time, and so does the file that met the fault first; neither is worth a new line.
    """
    return _essence(one) == _essence(other)


def _essence(reason: str) -> str:
    return re.sub(r"\d+", "", re.sub(r"^.*?: (?=storage )", "", without_request(reason)))


def without_request(reason: str) -> str:
    """Remove the far side's name of the request from a reason, see `http.request_id`."""
    return re.sub(r"; request [\w.:+/=-]+", "", reason)
