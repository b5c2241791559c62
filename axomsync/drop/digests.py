"""Digests of bytes, computed while the bytes are read or sent."""

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from blake3 import blake3

from axomsync.core.records import Segment

Bytes = bytes | memoryview

HASHED_IN_BACKGROUND = 8 * 1024 * 1024  # for fewer bytes, a thread costs more than it saves
DIGEST_PIECE = 1024 * 1024
PIECES_BEHIND = 4  # pieces that hashing may be late by; limits the memory


class BackgroundHasher:
    """Hashes pieces while their owner works on them or sends them (hashing releases the GIL). A context manager.

    Each of `updates` is called with each piece in its own thread, or at once if `size`, the sum of all bytes, is small.
    """

    def __init__(self, size: int, *updates: Callable[[Bytes], object]) -> None:
        self._updates = updates
        self._pieces: queue.Queue[Bytes | None] = queue.Queue(PIECES_BEHIND)
        beside = size > HASHED_IN_BACKGROUND
        self._thread = threading.Thread(target=self._work, name="digests", daemon=True) if beside else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Return when all pieces are hashed."""
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()

    def update(self, piece: Bytes) -> None:
        """Take in the next piece."""
        if self._thread is not None:
            self._pieces.put(piece)
        else:
            self._hash(piece)

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._hash(piece)

    def _hash(self, piece: Bytes) -> None:
        for update in self._updates:
            update(piece)


def digest_of(file: int, size: int, step: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of the first `size` bytes of an open file; `step` is called after each piece."""
    sha256, offset = hashlib.sha256(), 0
    while offset < size and (piece := os.pread(file, min(DIGEST_PIECE, size - offset), offset)):
        sha256.update(piece)
        offset += len(piece)
        step()
    return sha256.hexdigest()


class RangeDigests:
    """BLAKE3 of each of `ranges`, which follow each other from byte 0 on."""

    def __init__(self, ranges: Sequence[Segment]) -> None:
        self._ends = [each.end for each in ranges]
        self._done: list[str] = []
        self._current, self._position = blake3(), 0

    def update(self, piece: Bytes) -> None:
        """Take in the next piece of the whole."""
        view = memoryview(piece)
        while view and len(self._done) < len(self._ends):
            part = view[: self._ends[len(self._done)] - self._position]
            view = view[len(part) :]
            self._current.update(part)
            self._position += len(part)
            if self._position == self._ends[len(self._done)]:
                self._done.append(self._current.hexdigest())
                self._current = blake3()

    def hexdigests(self) -> tuple[str, ...]:
        """Digests of the ranges that are complete, in order."""
        return tuple(self._done)
