"""One answer of storage, from the connection to the disk.

Bytes are written and hashed as they come, and noted in the journal at once. Failures handled: a disk that is full or can't
be written (`LocalFault`), a connection that is far slower than its siblings (`Transient`), a lease that other lanes have
finished or taken over (further bytes are dropped), a stop of the agent.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from axomsync.core.errors import Stopping, Transient
from axomsync.core.oserrors import local_fault
from axomsync.mirror.fetch.dispatch import Dispatcher
from axomsync.mirror.fetch.journal import Journal
from axomsync.mirror.fetch.partial import PartialFile
from axomsync.mirror.fetch.segments import Lease
from axomsync.runtime.throttle import Throttle
from axomsync.storage.client import RangeReply

WRITE_SIZE = 128 * 1024  # writing and hashing from the CPU's cache costs a fifth less
PIECES_A_WRITE = 1000  # the kernel takes 1024
WRITE_SECONDS = 1.0  # slow bytes are written at least this often


@dataclass(frozen=True)
class Tools:
    """Objects that every reception uses. `hashes`: hash the bytes on arrival, for the comparison with ETags."""

    dispatcher: Dispatcher
    journal: Journal
    throttle: Throttle
    stop: threading.Event
    hashes: bool


class Reception:
    """One answer on its way to the disk: a contiguous run of bytes with its digest."""

    def __init__(self, tools: Tools, lease: Lease[PartialFile], descriptor: int, beat: Callable[[], None]) -> None:
        file = lease.file
        self._tools, self._lease, self._file, self._descriptor, self._beat = tools, lease, file, descriptor, beat
        self._start = self._noted = lease.position
        self._generation, self._gateway = file.generation, lease.gateway
        self._digest = blake3()
        parts = file.evidence.parts if tools.hashes else None
        self._parts = parts.run(lease.position) if parts is not None else None
        self._written_at = time.monotonic()
        self._buffer: list[memoryview] = []
        self._buffered = 0

    def receive(self, reply: RangeReply) -> None:
        """Write the body until the lease is done; received bytes are noted even after a failure."""
        try:
            for chunk in reply.chunks:
                self._tools.throttle.take(len(chunk))
                self._buffer.append(chunk)
                self._buffered += len(chunk)
                self._beat()
                if self._is_due():
                    self._write()
                if self._lease.lost or self._lease.surplus or self._lease.position + self._buffered >= self._lease.end:
                    break
                if self._tools.stop.is_set() or self._file.job.over.is_set():
                    raise Stopping("the agent is stopping")
                if self._lease.slow:
                    raise Transient("the connection has less than a tenth of the speed of its siblings")
        finally:
            self._write()

    def _is_due(self) -> bool:
        late = time.monotonic() - self._written_at >= WRITE_SECONDS
        return late or self._buffered >= WRITE_SIZE or len(self._buffer) >= PIECES_A_WRITE

    def _write(self) -> None:
        if not self._buffer:
            return
        position = self._lease.position
        pieces, self._buffer, self._buffered = self._buffer, [], 0
        try:
            written = os.pwritev(self._descriptor, pieces, position)
            while written < sum(map(len, pieces)):  # a signal or a limit may cut a write short
                rest = b"".join(pieces)[written:]
                written += os.pwrite(self._descriptor, rest, position + written)
        except OSError as error:
            raise local_fault(error, str(self._file.path)) from None
        left = self._tools.dispatcher.advance(self._lease, written)
        for piece in pieces:
            if len(piece) > left:
                piece = piece[:left]
            self._digest.update(piece)
            if self._parts is not None:
                self._parts.update(piece)
            left -= len(piece)
        self._written_at = time.monotonic()
        self._note()

    def _note(self) -> None:
        """Note the written bytes at once: a lane that hangs later could not."""
        position, count = self._lease.position, self._lease.position - self._noted
        if count:
            digest = self._digest.hexdigest()
            self._tools.journal.note(self._file, self._generation, self._start, position, digest, self._gateway)
            self._noted = position
            self._tools.dispatcher.noted(self._file.job, count)
