"""Bytes per second over the last hour, by direction, for the chart of the status page. In memory and bounded.

The agent feeds it running totals often. A gap in the feeding (a suspended machine) counts as zero; the bytes of the gap
are in the piece after it.
"""

import threading
from collections import deque
from collections.abc import Mapping

DIRECTIONS = ("up", "down")
PIECE_SECONDS = 10
PIECES = 360


class Throughput:
    """One hour in pieces of ten seconds. All times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._first = int(now // PIECE_SECONDS)
        self._seen: dict[str, int] = dict.fromkeys(DIRECTIONS, 0)
        self._moved: deque[tuple[int, dict[str, int]]] = deque(maxlen=PIECES)  # only pieces with bytes
        self._lock = threading.Lock()

    def observe(self, totals: Mapping[str, int], now: float) -> None:
        """Take in `totals`: bytes since the start of the process, by direction."""
        piece = int(now // PIECE_SECONDS)
        with self._lock:
            fresh = {direction: totals[direction] - seen for direction, seen in self._seen.items()}
            if not any(fresh.values()):
                return
            if not self._moved or self._moved[-1][0] != piece:
                self._moved.append((piece, dict.fromkeys(DIRECTIONS, 0)))
            for direction, count in fresh.items():
                self._moved[-1][1][direction] += count
                self._seen[direction] += count

    def rates(self, now: float) -> dict[str, list[int]]:
        """Bytes per second in each whole piece since the start, one hour at most, oldest first."""
        end = int(now // PIECE_SECONDS)
        begin = max(self._first, end - PIECES)
        with self._lock:
            moved = {piece: dict(counts) for piece, counts in self._moved if begin <= piece < end}
        nothing = dict.fromkeys(DIRECTIONS, 0)
        return {
            direction: [moved.get(piece, nothing)[direction] // PIECE_SECONDS for piece in range(begin, end)]
            for direction in DIRECTIONS
        }
