"""The choice of the next bytes to fetch. Pure: plans, leases, thefts over all files of all models; no I/O, clock or locks.

A file's missing bytes are cut into segments that wait in one queue. A lane leases one, works through it, and finishes it or
gives the rest back. A lane that finds no waiting segment takes half of the largest remainder of another lane. When the
remainder is too small to share, it may fetch a straggler's rest a second time; the first to finish wins.
"""

import bisect
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from axomsync.core.policy import LaneCount
from axomsync.core.records import Segment

F = TypeVar("F", bound=Hashable)  # the caller's type for a file

MEBIBYTE = 1024 * 1024
SMALLEST_SEGMENT = 16 * MEBIBYTE
LARGEST_SEGMENT = 256 * MEBIBYTE
LARGEST_MINIMUM_THEFT = 8 * MEBIBYTE
SMALLEST_MINIMUM_THEFT = MEBIBYTE
INTERVAL_SECONDS = 0.9
LAG_SECONDS = 15.0
FINISHED_REMEMBERED = 8


def segment_size(size: int, lanes: int, align: int = 1) -> int:
    """Bytes per segment for a file of `size` bytes: several per lane, so that lanes end together, but none too small.

    A multiple of `align`, so that the parts of a multipart object arrive whole.
    """
    length = max(SMALLEST_SEGMENT, min(LARGEST_SEGMENT, size // (4 * max(1, lanes))))
    return -(-length // align) * align


def cut(gaps: Iterable[Segment], length: int, align: int = 1) -> list[Segment]:
    """Cut gaps into pieces of about `length` bytes that end at multiples of `align`; a short last piece is not cut off."""
    pieces = []
    for gap in gaps:
        start = gap.start
        while gap.end - start > length * 3 // 2:
            end = (start + length) // align * align
            pieces.append(Segment(start, end))
            start = end
        pieces.append(Segment(start, gap.end))
    return pieces


class Coverage:
    """The bytes of a file that are there: segments are added in any order, overlapping or not."""

    def __init__(self, size: int, segments: Iterable[Segment] = ()) -> None:
        self.size = size
        self.covered = 0
        self._ranges: list[tuple[int, int]] = []  # sorted and disjoint
        for segment in segments:
            self.add(segment.start, segment.end)

    def add(self, start: int, end: int) -> int:
        """Add bytes `start` to `end` (exclusive); returns how many of them are new."""
        if start >= end:
            return 0
        before = self.covered
        low = bisect.bisect_left(self._ranges, start, key=lambda r: r[1])
        high = bisect.bisect_right(self._ranges, end, key=lambda r: r[0])
        joined = self._ranges[low:high]
        merged = (min([start, *(r[0] for r in joined)]), max([end, *(r[1] for r in joined)]))
        self._ranges[low:high] = [merged]
        self.covered += merged[1] - merged[0] - sum(stop - begin for begin, stop in joined)
        return self.covered - before

    def gaps(self, start: int = 0, end: int | None = None) -> list[Segment]:
        """Missing segments between `start` and `end` (exclusive; by default the file's size)."""
        end, position, gaps = self.size if end is None else end, start, []
        for begin, stop in self._ranges:
            if begin > position and position < end:
                gaps.append(Segment(position, min(begin, end)))
            position = max(position, stop)
        if position < end:
            gaps.append(Segment(position, end))
        return gaps

    @property
    def prefix(self) -> int:
        """Number of bytes from the beginning without a gap."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0

    @property
    def complete(self) -> bool:
        """True when nothing is missing."""
        return self.covered == self.size


@dataclass(eq=False, slots=True)
class Lease(Generic[F]):
    """A segment in the hands of a lane: bytes up to `position` are received; a thief moves `end` closer."""

    file: F
    start: int
    position: int
    end: int
    twin: "Lease[F] | None" = None  # the lease that fetches the same rest, if any
    whole: bool = False  # the store sends all in one stream, which can't be shared
    slow: bool = False  # far behind its siblings: its connection must end
    surplus: bool = False  # the number of lanes has shrunk: this one must stop
    gateway: str | None = None  # that the bytes come through; it may wait for storage, or for another box
    lost: bool = False  # the twin was faster, or the file starts over: further bytes are dropped

    @property
    def left(self) -> int:
        """Bytes still to receive."""
        return 0 if self.lost else max(0, self.end - self.position)


@dataclass(slots=True)
class Board(Generic[F]):
    """All waiting segments and running leases. The caller holds a lock around each call."""

    waiting: deque[tuple[F, Segment]] = field(default_factory=deque)
    leases: dict[Lease[F], None] = field(default_factory=dict)  # an ordered set, so that results don't depend on chance

    def add(self, file: F, segments: Iterable[Segment]) -> None:
        """Append these segments to the queue."""
        self.waiting.extend((file, segment) for segment in segments)

    def take(
        self, smallest_theft: int = LARGEST_MINIMUM_THEFT, ready: Callable[[F], bool] = lambda file: True
    ) -> Lease[F] | None:
        """Lease the next segment of a file that is `ready`, else half of the largest remainder (at least `smallest_theft`
        bytes), else None.
        """
        for place, (file, segment) in enumerate(self.waiting):
            if ready(file):
                del self.waiting[place]
                return self._lease(file, segment.start, segment.end)
        return self._steal(smallest_theft)

    def duplicate(self, slow: Iterable[Lease[F]]) -> Lease[F] | None:
        """Lease the rest of the straggler with the most left a second time, at the end of a download."""
        candidates = [lease for lease in slow if lease in self.leases and _can_share(lease)]
        if self.waiting or not candidates:
            return None
        straggler = max(candidates, key=lambda lease: lease.left)
        twin = self._lease(straggler.file, straggler.position, straggler.end)
        straggler.twin, twin.twin = twin, straggler
        return twin

    def finish(self, lease: Lease[F]) -> None:
        """End a lease whose bytes are all received. A twin that still works on them has lost."""
        self.leases.pop(lease, None)
        if lease.twin is not None:
            lease.twin.lost = True
            lease.twin.twin = None

    def give_back(self, lease: Lease[F], rest: Iterable[Segment]) -> None:
        """End an unfinished lease: its `rest` goes to the front of the queue, unless a twin works on it."""
        self.leases.pop(lease, None)
        if lease.twin is not None:
            lease.twin.twin = None
        elif not lease.lost:
            self.waiting.extendleft((lease.file, segment) for segment in rest)

    def recut(self, file: F, length: int, align: int) -> None:
        """Cut the waiting segments of this file again, at their place in the queue."""
        mine = sorted((segment for owner, segment in self.waiting if owner == file), key=lambda segment: segment.start)
        if not mine:
            return
        first = next(index for index, (owner, _) in enumerate(self.waiting) if owner == file)
        others = [item for item in self.waiting if item[0] != file]
        joined = [mine[0]]
        for segment in mine[1:]:
            if segment.start == joined[-1].end:
                joined[-1] = Segment(joined[-1].start, segment.end)
            else:
                joined.append(segment)
        fresh = [(file, segment) for segment in cut(joined, length, align)]
        next_one = self.waiting[first][1].start  # the queue may begin in the middle of the file
        begun = next(index for index, (_, segment) in enumerate(fresh) if segment.end > next_one)
        fresh = [*fresh[begun:], *fresh[:begun]]
        self.waiting = deque([*others[:first], *fresh, *others[first:]])

    def begin_at(self, share: float, files: Container[F]) -> None:
        """Move the first `share` of the waiting segments of these files behind their last one."""
        mine = [item for item in self.waiting if item[0] in files]
        turn = int(share * len(mine))
        turned = iter([*mine[turn:], *mine[:turn]])
        self.waiting = deque(next(turned) if item[0] in files else item for item in self.waiting)

    def knows(self, file: F) -> bool:
        """Check whether any part of this file waits for a download thread or is being fetched by one."""
        return any(lease.file == file for lease in self.leases) or any(owner == file for owner, _ in self.waiting)

    def shrink(self, count: int) -> None:
        """Mark all leases beyond the first `count` as surplus, so that their lanes stop and give the rest back."""
        for lease in list(self.leases)[count:]:
            lease.surplus = not lease.whole  # a single stream can't be continued by another lane

    def drop(self, files: Container[F]) -> None:
        """Remove all segments and leases of these files."""
        self.waiting = deque(item for item in self.waiting if item[0] not in files)
        for lease in [lease for lease in self.leases if lease.file in files]:
            lease.lost = True
            self.leases.pop(lease, None)

    def widen(self, lease: Lease[F], size: int) -> None:
        """Give this lease the whole file, since the store sends all of it; other leases on it are lost."""
        self.waiting = deque(item for item in self.waiting if item[0] != lease.file)
        for other in [other for other in self.leases if other.file == lease.file and other is not lease]:
            other.lost = True
            self.leases.pop(other, None)
        lease.twin, lease.end, lease.whole = None, size, True

    def _lease(self, file: F, start: int, end: int) -> Lease[F]:
        lease = Lease(file, start, start, end)
        self.leases[lease] = None
        return lease

    def _steal(self, smallest: int) -> Lease[F] | None:
        victim = max(filter(_can_share, self.leases), key=lambda lease: lease.left, default=None)
        if victim is None or victim.left < 2 * smallest:
            return None
        middle = victim.position + victim.left // 2
        thief = self._lease(victim.file, middle, victim.end)
        victim.end = middle
        return thief


def _can_share(lease: Lease[F]) -> bool:
    return lease.twin is None and not lease.whole and lease.left > 0


@dataclass(slots=True)
class _Track:
    at: float
    position: int
    rate: float | None = None  # bytes per second over the last interval
    lagging_since: float | None = None


class Pace(Generic[F]):
    """Speed of each lease, to find those far behind. Observed about once a second; times are monotonic seconds."""

    def __init__(self) -> None:
        self._tracks: dict[Lease[F], _Track] = {}
        self._finished: deque[float] = deque(maxlen=FINISHED_REMEMBERED)
        self.typical = 0.0  # bytes per second: median of the moving leases and the last finished ones

    def finish(self, count: int, seconds: float) -> None:
        """Record a finished lease of `count` bytes. Many leases are too short to be observed while they run."""
        if seconds > 0 and count >= SMALLEST_MINIMUM_THEFT:  # for small ones the start-up time dominates
            self._finished.append(count / seconds)

    def observe(self, leases: Iterable[Lease[F]], now: float) -> None:
        """Record the positions of the leases."""
        self._tracks = {lease: self._tracks.get(lease) or _Track(now, lease.position) for lease in leases}
        for lease, track in self._tracks.items():
            if now - track.at >= INTERVAL_SECONDS:
                track.rate = (lease.position - track.position) / (now - track.at)
                track.at, track.position = now, lease.position
        rates = sorted([*self._finished, *(track.rate for track in self._tracks.values() if track.rate)])
        if len(rates) > 1:  # a single rate says nothing about the typical one
            self.typical = rates[len(rates) // 2]
        for track in self._tracks.values():
            lags = track.rate is not None and track.rate < self.typical / 10
            track.lagging_since = (track.lagging_since or now) if lags else None

    @property
    def smallest_theft(self) -> int:
        """Bytes of the smallest theft: less than about one second's work is not worth a request."""
        return int(max(SMALLEST_MINIMUM_THEFT, min(LARGEST_MINIMUM_THEFT, self.typical)))

    def stragglers(self) -> list[Lease[F]]:
        """Leases so slow that another lane, starting at their position, would overtake them."""
        return [lease for lease, t in self._tracks.items() if t.rate is not None and t.rate < self.typical / 3]

    def lagging(self, now: float) -> list[Lease[F]]:
        """Leases under a tenth of the typical rate for so long that their connection counts as broken."""
        return [
            lease
            for lease, track in self._tracks.items()
            if track.lagging_since is not None and now - track.lagging_since >= LAG_SECONDS
        ]


@dataclass(slots=True)
class Host(Generic[F]):
    """One storage host: its segments, its number of lanes, and their speed."""

    lanes: LaneCount
    board: Board[F] = field(default_factory=Board)
    pace: Pace[F] = field(default_factory=Pace)
    moved: int = 0  # bytes received since the last observation
