"""One PUT of one body: its pieces are read while they are sent, and digested on the way.

Failures handled: a file that ends before the body, or changes while it is sent, or since its check (`SourceChanged`). What
storage answers is raised by the storage client.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from axomsync.core.errors import SourceChanged
from axomsync.drop.digests import BackgroundHasher
from axomsync.drop.source import OpenSource
from axomsync.runtime.meter import Gauge
from axomsync.runtime.throttle import Throttle
from axomsync.storage.client import Storage
from axomsync.storage.s3 import Confirmation

PUT_PIECE = 1024 * 1024


class Digest(Protocol):
    """A digest of the bytes that it was given."""

    def update(self, piece: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


class Guard(Protocol):
    """What stands before the pieces of a body. Each call may wait, and breaks the PUT off by raising."""

    def may_send(self, end: int) -> None:
        """Return once the bytes before `end`, counted from the body's beginning, may be sent."""

    def proof(self) -> str | None:
        """Return, once the last piece may be sent, the digest that the body must have; None if it is not known."""

    def step(self) -> None:
        """Note that a piece was sent. Raises `Stopping`."""


class Sent(NamedTuple):
    """A PUT that storage has confirmed; `md5` is that of the bytes that were sent."""

    confirmed: Confirmation
    md5: str


class Sending:
    """Bytes `start` to `start + length` of the open `file`, on their way to storage once. They come from `source`."""

    def __init__(
        self,
        file: int,
        start: int,
        length: int,
        digest: Digest,
        source: OpenSource,
        guard: Guard,
        throttle: Throttle,
        gauge: Gauge,
    ) -> None:
        self._file, self._start, self._length, self._digest = file, start, length, digest
        self._source, self._guard, self._throttle, self._gauge = source, guard, throttle, gauge
        self._sent = 0
        self.complete = length == 0  # the last piece was handed over: storage may have all of it

    def put(self, storage: Storage, url: str, content_type: str) -> Sent:
        """Send them to a signed URL. A failure takes back what the gauge has received."""
        md5 = hashlib.md5(usedforsecurity=False)
        try:
            with BackgroundHasher(self._length, md5.update) as digests:  # MD5 costs as much as all other work together
                confirmed = storage.put(url, self._pieces(digests), self._length, content_type)
        except BaseException:
            self._gauge.receive(-self._sent)
            raise
        return Sent(confirmed, md5.hexdigest())

    def _pieces(self, digests: BackgroundHasher) -> Iterator[bytes]:
        while self._sent < self._length:
            size = min(self._throttle.piece(PUT_PIECE), self._length - self._sent)
            self._guard.may_send(self._sent + size)
            piece = os.pread(self._file, size, self._start + self._sent)
            if not piece:
                raise SourceChanged("the file changed while it was uploaded")
            self._source.demand_unchanged()
            digests.update(piece)
            self._digest.update(piece)
            if self._sent + len(piece) == self._length:
                if self._guard.proof() not in (None, self._digest.hexdigest()):
                    raise SourceChanged("the file's content changed after it was checked")
                self.complete = True
            self._throttle.take(len(piece))
            yield piece
            self._sent += len(piece)
            self._gauge.receive(len(piece))
            self._guard.step()
