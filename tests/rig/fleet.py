"""Ten thousand boxes and one console, simulated: the boxes decide by `PollTimes`, as the agent does; no clock, no network.

`python -m tests.rig.fleet` prints the table in docs/fleet.md.
"""

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from axomsync.core.policy import backoff
from axomsync.mirror.poll_times import PollTimes, share_of
from axomsync.runtime.retry import LONGEST_PAUSE_SECONDS

BOXES = 10_000
POLL_SECONDS = 60.0  # the default of [mirror] poll
SETTLED = 600.0  # seconds after a start
ASKED = math.inf


@dataclass
class Fleet:
    """Boxes that all start at second 0. `down(t)`: None, or no answer, and how many seconds the console asks to wait."""

    down: Callable[[float], float | None] = lambda _: None
    boxes: int = BOXES
    poll: float = POLL_SECONDS
    polled_before: bool = True
    asked_at: Iterable[float] = ()  # when somebody has every box poll at once, as by `axomsync poll`
    requests: Counter[int] = field(default_factory=Counter)  # by second
    answers: list[list[float]] = field(default_factory=list)  # times of each box
    failures: list[list[float]] = field(default_factory=list)

    def run(self, until: float) -> None:
        """Simulate from second 0 on."""
        chance = random.Random(17)
        times = [PollTimes(share_of(f"{box:012x}"), self.poll) for box in range(self.boxes)]
        self.answers, self.failures = [[] for _ in times], [[] for _ in times]
        events = [(when, box, ASKED) for when in self.asked_at for box in range(self.boxes)]
        for box, one in enumerate(times):
            one.begin(0.0, polled_before=self.polled_before)
            events.append((max(0.0, one.due), box, one.due))
        heapq.heapify(events)
        while events and events[0][0] < until:
            now, box, due = heapq.heappop(events)
            one = times[box]
            if due in (ASKED, one.due):  # else another poll has set another time
                self._poll(box, one, now, chance.random)
                heapq.heappush(events, (max(one.due, now + 1.0), box, one.due))

    def _poll(self, box: int, one: PollTimes, began: float, chance: Callable[[], float]) -> None:
        """One poll, with the tries that `persist` makes."""
        at = began
        for attempt in range(1, one.tries + 1):
            self.requests[int(at)] += 1
            asked = self.down(at)
            if asked is None:
                self.answers[box].append(at)
                one.answered(began)
                return
            pause = backoff(attempt, chance, asked)
            if attempt == one.tries or pause > LONGEST_PAUSE_SECONDS:
                break
            at += pause
        self.failures[box].append(at)
        one.failed(began, chance, asked)

    def peak(self, begin: float, end: float) -> int:
        """The most requests in one second."""
        return max(self.requests[second] for second in range(int(begin), int(end)))

    def mean(self, begin: float, end: float) -> float:
        """Requests a second."""
        return sum(self.requests[second] for second in range(int(begin), int(end))) / (int(end) - int(begin))

    def back_after(self, begin: float, end: float) -> list[float]:
        """Of the boxes that failed in an outage: how many seconds after its `end` each had its first answer, in order."""
        return sorted(
            next((at for at in answers if at >= end), math.inf) - end
            for answers, failures in zip(self.answers, self.failures, strict=True)
            if any(begin <= at < end for at in failures)
        )


def outage(begin: float, end: float, retry_after: float = 0.0) -> Callable[[float], float | None]:
    """A console that does not answer for a while."""
    return lambda at: retry_after if begin <= at < end else None


def table() -> str:
    """The figures as Markdown."""
    rows = ["| case | requests a second: mean | the most in one second | boxes that failed | half, 99 %, all are back |"]
    rows.append("|---|---|---|---|---|")
    start = Fleet()
    start.run(SETTLED + 600)
    rows.append(_row("all days", start, SETTLED, SETTLED + 600))
    rows.append(_row("all boxes restart at once: the first minute", start, 0, 60))
    rows.append(_row("the second and third minute", start, 60, 180))
    rows.append(_row("the tenth minute", start, 540, 600))
    asked = Fleet(asked_at=[SETTLED])
    asked.run(SETTLED + 180)
    rows.append(_row("`axomsync poll` on all at once: the two minutes after that second", asked, SETTLED + 1, SETTLED + 120))
    outages = ((10, "10 s", 0.0), (60, "1 min", 0.0), (600, "10 min", 0.0), (3600, "1 h", 0.0))
    for seconds, words, retry_after in (*outages, (60, "1 min, `Retry-After: 20`", 20.0)):
        begin, end = SETTLED, SETTLED + seconds
        out = Fleet(outage(begin, end, retry_after))
        out.run(end + 700)
        rows.append(_row(f"outage of {words}", out, begin, end))
        back = out.back_after(begin, end)
        told = ", ".join(f"{back[min(len(back) - 1, int(len(back) * part))]:.0f}" for part in (0.5, 0.99, 1.0))
        rows.append(_row("the five minutes after it", out, end, end + 300, f"{len(back)} | {told} s"))
    return "\n".join(rows)


def _row(case: str, fleet: Fleet, begin: float, end: float, back: str = " | ") -> str:
    return f"| {case} | {fleet.mean(begin, end):.0f} | {fleet.peak(begin, end)} | {back} |"


if __name__ == "__main__":
    print(table())
