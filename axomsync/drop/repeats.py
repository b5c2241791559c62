"""Lines that say, byte for byte, what an earlier line of the file said: an export that ran twice, a chunk written again.

That is legal data, and so only told. Memory is constant: the first `REMEMBERED` lines are kept, as hashes of 8 bytes, and
all compared. Of the lines after them every `EVERY`th window is, with those and within itself: enough to notice a file that
was appended to itself (with lines of 21 bytes or more), at a price that checking a large file does not feel.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from axomsync.core.records import RepeatedLines

REMEMBERED = 50_000  # about 4 MB for each file that is being checked
EVERY = 16
NAMED = 20


class Repeats:
    """Takes lines in, in their order."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._seen: set[int] = set()
        self._compared = self._count = self._windows = 0
        self._first: list[int] = []

    def take_window(self, window: bytes, number: int) -> None:
        """Whole lines that follow one another; `number` is that of the first."""
        if self._compared >= self._remembered:
            self._windows += 1
            if self._windows % EVERY:
                return
        self.take(window[:-1].split(b"\n"), number)

    def take(self, lines: Iterable[bytes], number: int) -> None:
        """As `take_window`, but all of these are compared."""
        # Python's hash of bytes is SipHash with a secret of the process, so nobody can make lines collide.
        self.take_hashes(list(map(hash, lines)), number)

    def take_hashes(self, hashes: list[int], number: int) -> None:
        """As `take`, of lines that are not held; equal lines have equal hashes."""
        distinct = set(hashes)
        if len(distinct) < len(hashes) or not distinct.isdisjoint(self._seen):
            self._note(hashes, number)
        if self._compared < self._remembered:
            self._seen |= distinct
        self._compared += len(hashes)

    def _note(self, hashes: list[int], number: int) -> None:
        here: set[int] = set()
        for place, each in enumerate(hashes, number):
            if each in here or each in self._seen:
                self._count += 1
                if len(self._first) < NAMED:
                    self._first.append(place)
            here.add(each)

    def found(self) -> RepeatedLines | None:
        """What was found; None when no line repeats another."""
        return RepeatedLines(self._count, self._compared, tuple(self._first)) if self._count else None


def repeated_words(document: Mapping[str, Any] | None, lines: int | None) -> str | None:
    """The warning for people about a `repeated_document` of a file with so many lines; None when no line repeats."""
    if document is None:
        return None
    count, compared = document["count"], document["compared"]
    what = "lines" if compared == lines else "compared lines"
    named = ", ".join(f"{number:,}" for number in document["first"]) + ", …" * (count > len(document["first"]))
    return f"{count:,} of {compared:,} {what} repeat an earlier one: line {named}"
