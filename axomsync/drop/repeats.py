"""Lines that are equal, byte for byte, to an earlier line of the file: an export that ran twice, a chunk written again.

Such lines are valid data, so they are only reported. Memory is constant: the first `REMEMBERED` lines are kept as hashes of
8 bytes, and all are compared. After them, one window of lines in each `STRIDE` bytes is compared with them and within
itself. That is enough to notice a file that was appended to itself (with lines of 21 bytes or more), and hardly slows the
check of a large file. Which window it is follows from its place in the file alone, so parts can be looked at apart.
"""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from axomsync.core.records import RepeatedLines

REMEMBERED = 50_000  # about 4 MB for each file that is being checked
STRIDE = 1024 * 1024
NAMED = 20


def hits_stride(start: int, end: int) -> bool:
    """Whether lines are compared in the piece of a file between these offsets: in its first window."""
    return end // STRIDE > start // STRIDE


class Marks:
    """Hashes of lines of a part of a file, for `Repeats.join`. Picklable.

    Only hashes of processes that were given the same secret for them can be joined. `left` is how many lines may still be
    remembered before this part; as many, and those that are compared anyway, are kept.
    """

    def __init__(self, left: int) -> None:
        self._left = left
        # Number of the first, hashes, whether they are compared in any case, and whether one by one.
        self.groups: list[tuple[int, array[int], bool, bool]] = []

    def take_window(self, window: bytes, number: int, *, compared: bool) -> None:
        """Take in lines as `Repeats.take_window` does."""
        if compared or self._left > 0:
            hashes = array("q", map(hash, window[:-1].split(b"\n")))
            self._left -= len(hashes)
            self.groups.append((number, hashes, compared, False))

    def take_line(self, mark: int, number: int) -> None:
        """Take in one line by its hash."""
        self._left -= 1
        if self.groups:
            first, hashes, _, single = self.groups[-1]
            if single and first + len(hashes) == number:
                hashes.append(mark)
                return
        self.groups.append((number, array("q", [mark]), True, True))


class Repeats:
    """Counter of repeated lines; takes the lines in their order."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._seen: set[int] = set()
        self._compared = self._count = 0
        self._first: list[int] = []

    @property
    def left(self) -> int:
        """How many lines are still to be remembered."""
        return max(0, self._remembered - self._compared)

    def take_window(self, window: bytes, number: int, *, compared: bool) -> None:
        """Take in whole lines that follow each other, from this number on; `compared`: they are compared in any case."""
        if compared or self._compared < self._remembered:
            self.take(window[:-1].split(b"\n"), number)

    def take_line(self, mark: int, number: int) -> None:
        """Take in one line by its hash."""
        self.take_hashes([mark], number)

    def join(self, marks: Marks, before: int) -> None:
        """Take in lines that follow `before` others, and whose own numbers begin with 1."""
        for number, hashes, compared, single in marks.groups:
            if single:
                for place, mark in enumerate(hashes, before + number):
                    self.take_hashes([mark], place)
            elif compared or self._compared < self._remembered:
                self.take_hashes(hashes.tolist(), before + number)

    def take(self, lines: Iterable[bytes], number: int) -> None:
        """Take in lines as `take_window` does, and compare all of them."""
        # Python's hash of bytes is SipHash with a secret of the process, so no file can be made with lines that collide.
        self.take_hashes(list(map(hash, lines)), number)

    def take_hashes(self, hashes: list[int], number: int) -> None:
        """Take lines by their hashes; equal lines have equal hashes."""
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
        """The repeated lines; None if no line repeats another."""
        return RepeatedLines(self._count, self._compared, tuple(self._first)) if self._count else None


def repeated_words(document: Mapping[str, Any] | None, lines: int | None) -> str | None:
    """Warning for people about a `repeated_document` of a file with that many lines; None if no line repeats."""
    if document is None:
        return None
    count, compared = document["count"], document["compared"]
    what = "lines" if compared == lines else "compared lines"
    named = ", ".join(f"{number:,}" for number in document["first"]) + ", …" * (count > len(document["first"]))
    return f"{count:,} of {compared:,} {what} repeat an earlier one: line {named}"
