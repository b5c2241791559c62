"""Digests of bytes that pass by, in one go with the work on them."""

import hashlib
import queue
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from blake3 import blake3

from axomsync.records import Segment

PIECES_BEHIND = 4  # that hashing may lag behind sending, which bounds the memory


class SentDigests:
    """MD5 and SHA-256, or BLAKE3, of what is sent; a context manager.

    `beside` takes the MD5, which costs as much as all the rest, in a thread of its own, where it does not slow a fast
    network down: hashing and sending both let go of the GIL. Which of SHA-256 and BLAKE3 it is, `proof` says.
    """

    def __init__(self, proof: str, *, beside: bool) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._proof = blake3() if proof == "blake3" else hashlib.sha256()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(PIECES_BEHIND)
        self._thread = threading.Thread(target=self._work, name="digests", daemon=True) if beside else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._finish()

    def update(self, piece: bytes) -> None:
        """Take in the next piece."""
        if self._thread is not None:
            self._pieces.put(piece)
        else:
            self._md5.update(piece)
        self._proof.update(piece)

    def md5(self) -> str:
        """Of all pieces; no more may follow."""
        self._finish()
        return self._md5.hexdigest()

    def proof(self) -> str:
        """The other digest, of all pieces so far."""
        return self._proof.hexdigest()

    def _finish(self) -> None:
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._md5.update(piece)


class RangeDigests:
    """A BLAKE3 for each of `ranges`, which follow one another from byte 0 on."""

    def __init__(self, ranges: Sequence[Segment]) -> None:
        self._ends = [each.end for each in ranges]
        self._done: list[str] = []
        self._current, self._position = blake3(), 0

    def update(self, piece: bytes) -> None:
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
        """Of all ranges that have passed, in order."""
        return tuple(self._done)
