"""Lines that are equal, byte for byte, to an earlier line of the file: an export that ran twice, a chunk written again.

Such lines are valid data, so they are only reported. Memory is constant: the first `REMEMBERED` lines are kept as hashes of
8 bytes, and all are compared. After them, every `EVERY`th window is compared with them and within itself. That is enough to
notice a file that was appended to itself (with lines of 21 bytes or more), and hardly slows the check of a large file.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from axomsync.core.records import RepeatedLines

REMEMBERED = 50_000  # about 4 MB for each file that is being checked
EVERY = 16
NAMED = 20


class Repeats:
    """Counter of repeated lines; takes the lines in their order."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._seen: set[int] = set()
        self._compared = self._count = self._windows = 0
        self._first: list[int] = []

    def take_window(self, window: bytes, number: int) -> None:
        """Take whole lines that follow each other; `number` is that of the first."""
        if self._compared >= self._remembered:
            self._windows += 1
            if self._windows % EVERY:
                return
        self.take(window[:-1].split(b"\n"), number)

    def take(self, lines: Iterable[bytes], number: int) -> None:
        """Take lines as `take_window` does, but compare all of them."""
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
