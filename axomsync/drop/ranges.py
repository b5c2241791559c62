"""Check of a large file on all cores: one reading into memory that is shared with processes, which parse parts of it.

This process reads each byte once, and computes the digests over the very memory that the others parse: what is judged and
what the digests stand for can't differ, whoever writes to the file meanwhile. The memory is a ring of slots. A part of the
file begins after the first line end of a slot and ends at that of the next; a longer line is handed over as it comes. What
was found in the parts is joined in their order, and is what `jsonl.check` would have found (a test compares them).

Failures handled: a file that ends before its size (`SourceChanged`); a process that dies or does not answer (another one
takes its place, and where that does not help, `jsonl.check` reads the file from its beginning; a log line tells it); no
process that may be begun, no shared memory (`jsonl.check` reads the file, likewise).
"""

import hashlib
import itertools
import logging
import mmap
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection
from typing import Literal

from axomsync.core.errors import SourceChanged
from axomsync.core.records import Checked, Segment
from axomsync.drop import jsonl
from axomsync.drop.digests import PIECES_BEHIND, BackgroundHasher, RangeDigests
from axomsync.drop.jsonl import HEAD, LARGE_LINE, LINE_LIMIT, READ_SIZE, Parser, Part
from axomsync.drop.line_worker import Begin, Piece, Work
from axomsync.drop.line_workers import LineWorker, LineWorkers, Reader
from axomsync.drop.shapes import Shapes

log = logging.getLogger(__name__)

LARGE = 256 * 1024 * 1024  # bytes of a file for which it pays to begin processes
SLOT = 2 * 1024 * 1024  # bytes; a multiple of READ_SIZE
MOST_SLOTS = 20
SLOTS_BESIDE = 4  # those of the processes
LOOK_SECONDS = 0.1
MOST_LOST = 3  # processes, before the check does without
_LOST = "a process that parses lines was lost"
ANSWER_SECONDS = 60.0  # a process that is silent for longer is given up


_numbers = itertools.count()  # of the memories


class WorkersLost(Exception):
    """The processes can't finish this file."""


class _FormTurnedUp(Exception):
    """The first lines of the file have no known form, and a later one has."""


def check(
    file: int,
    size: int,
    mode: Literal["full", "sample", "off"],
    beat: Callable[[], None],
    workers: LineWorkers,
    *,
    shards: Sequence[Segment] = (),
    shapes: Shapes | None = None,
    good: Callable[[int], None] = jsonl.nobody_listens,
    large: int = LARGE,
) -> Checked:
    """Do what `jsonl.check` does, and do it on all cores if more than `large` bytes are to be parsed."""
    if mode == "full" and size > large and workers.most > 0:
        try:
            return check_in_parts(file, size, beat, workers, shards=shards, shapes=shapes, good=good)
        except WorkersLost as lost:
            log.warning("%s; this process checks the file again, on one core", lost)
    return jsonl.check(file, size, mode, beat, shards=shards, shapes=shapes, good=good)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How a file is read; other sizes than these are for tests."""

    slot: int = SLOT
    read_size: int = READ_SIZE
    line_limit: int = LINE_LIMIT
    large_line: int = LARGE_LINE


IN_EARNEST = Sizes()


def check_in_parts(
    file: int,
    size: int,
    beat: Callable[[], None],
    workers: LineWorkers,
    *,
    shards: Sequence[Segment] = (),
    shapes: Shapes | None = None,
    good: Callable[[int], None] = jsonl.nobody_listens,
    sizes: Sizes = IN_EARNEST,
) -> Checked:
    """Do what `jsonl.check` does in mode "full". Raises `WorkersLost`; `shapes` is untouched then."""
    try:
        return _check(file, size, beat, workers, shards, shapes, good, sizes, guess=True)
    except _FormTurnedUp:
        return _check(file, size, beat, workers, shards, shapes, good, sizes, guess=False)


def _check(
    file: int,
    size: int,
    beat: Callable[[], None],
    workers: LineWorkers,
    shards: Sequence[Segment],
    shapes: Shapes | None,
    good: Callable[[int], None],
    sizes: Sizes,
    *,
    guess: bool,
) -> Checked:
    joined = None if shapes is None else Shapes(shapes.wanted)
    result = Parser(sizes.line_limit, sizes.large_line, joined)
    result.sniff(os.pread(file, HEAD, 0), size)
    sha256, ranges = hashlib.sha256(), RangeDigests(shards or [Segment(0, size)])
    with _ring(sizes.slot, min(MOST_SLOTS, workers.most + SLOTS_BESIDE)) as ring, workers.reader() as reader:
        parts = _Parts(ring, workers, reader, result, joined, sizes, guess=guess)
        # Two threads, since with many cores SHA-256 is the limit.
        with (
            BackgroundHasher(size, sha256.update, partial(ring.hashed, 0)) as first,
            BackgroundHasher(size, ranges.update, partial(ring.hashed, 1)) as second,
        ):
            while not parts.are_joined:
                while ring.position < size and ring.has_room:
                    view = ring.read(file, size)
                    first.update(view)
                    second.update(view)
                    parts.cut(is_last=ring.position == size)
                parts.go_on()
                beat()
                if result.is_good:
                    good(parts.joined_bytes)
    repeated, shape = result.finish(parts.lines)
    if shapes is not None and joined is not None:
        shapes.become(joined)
    whole, each = sha256.hexdigest(), ranges.hexdigests()
    return jsonl.checked_of(whole, size, parts.lines, each, sharded=bool(shards), repeated=repeated, shape=shape)


class _Ring:
    """The shared memory: slots that are filled one after the other, and free again when nobody needs them."""

    def __init__(self, descriptor: int, memory: mmap.mmap, hashed_told: int, slot: int, number: int) -> None:
        self.descriptor, self.memory, self.slot = descriptor, memory, slot
        self._needed = [0] * number  # by how many parts
        self._read = 0  # slots that were filled
        self._hashed = [0, 0]  # slots that were hashed, by each of the two threads
        self._hashed_told = hashed_told
        self.position = 0  # in the file: bytes that were read
        self.filled = slice(0, 0)  # the last slot that was filled, its bytes

    @property
    def size(self) -> int:
        """Bytes of all slots."""
        return self.slot * len(self._needed)

    @property
    def has_room(self) -> bool:
        """Whether the next slot is free."""
        number = self._read % len(self._needed)
        unhashed = self._read - min(self._hashed)
        return unhashed < min(PIECES_BEHIND, len(self._needed)) and not self._needed[number]

    @property
    def wakes(self) -> int:
        """A descriptor that can be read when a slot was hashed."""
        return self._hashed_told

    def read(self, file: int, size: int) -> memoryview:
        """Fill the next slot from the file, which has `size` bytes, and return its bytes."""
        begin = self._read % len(self._needed) * self.slot
        end = begin + min(self.slot, size - self.position)
        view = memoryview(self.memory)[begin:end]
        done = 0
        while done < len(view):
            count = os.preadv(file, [view[done:]], self.position + done)
            if not count:
                raise SourceChanged("the file became shorter while it was read")
            done += count
        self._read += 1
        self.position += done
        self.filled = slice(begin, end)
        return view

    def hashed(self, thread: int, _: bytes | memoryview) -> None:
        """Note that the next slot was hashed. Called by the hashing threads."""
        self._hashed[thread] += 1
        os.eventfd_write(self._hashed_told, 1)

    def slept(self) -> None:
        """Forget what woke its reader."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._hashed_told)

    def need(self, place: int, *, change: int = 1) -> None:
        """Note that one part more needs the slot of this byte, or with `change` -1, one less."""
        self._needed[place // self.slot] += change


@contextmanager
def _ring(slot: int, number: int) -> Iterator[_Ring]:
    """Yield a ring of so many slots of so many bytes. Raises `WorkersLost` where there can't be one."""
    with ExitStack() as opened:
        try:
            descriptor = os.memfd_create("lines", os.MFD_CLOEXEC)
            opened.callback(os.close, descriptor)
            os.ftruncate(descriptor, slot * number)
            opened.callback(os.ftruncate, descriptor, 0)  # what another process still maps goes, too
            hashed_told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            opened.callback(os.close, hashed_told)
            memory = mmap.mmap(descriptor, slot * number)
        except OSError as error:
            raise WorkersLost(f"no memory that processes can share: {error}") from None
        yield _Ring(descriptor, memory, hashed_told, slot, number)
        with suppress(BufferError):  # after a failure, its frames may hold views; the collector closes it then
            memory.close()


@dataclass
class _Part:
    """A part of the file on its way through a process."""

    number: int
    at_line_end: bool
    pieces: list[Piece] = field(default_factory=list)  # not sent yet
    sent: list[Piece] = field(default_factory=list)  # not answered yet
    ends: bool = False  # all its pieces are known
    end: int = 0  # offset in the file behind the last of them
    worker: LineWorker | None = None
    asked: float = 0.0  # monotonic time of the last request or answer
    is_answered: bool = False  # some of its bytes are no longer needed in the ring
    has_shapes: bool = False  # it was given all that is known of shapes, and goes on with that


class _Parts:
    """The parts of one file: cut where lines end, given to processes, joined in their order."""

    def __init__(
        self,
        ring: _Ring,
        workers: LineWorkers,
        reader: Reader,
        result: Parser,
        shapes: Shapes | None,
        sizes: Sizes,
        *,
        guess: bool,
    ) -> None:
        self._ring, self._workers, self._reader, self._sizes = ring, workers, reader, sizes
        self._result, self._shapes = result, shapes
        self._guess = guess  # if the first lines have no known form, that none has
        self._memory = next(_numbers)
        self._last = _Part(0, at_line_end=False)  # pieces are added to it
        self._open = deque([self._last])  # in their order, those that are not done
        self._done: dict[int, tuple[_Part, Part]] = {}  # by their numbers, those that are not joined
        self._joined = self._lost = 0
        self.joined_bytes = 0
        self._is_cut = False
        self._newlines = 0
        self._ends_in_a_line = False

    @property
    def are_joined(self) -> bool:
        """Everything was joined."""
        return self._is_cut and not self._open and not self._done

    @property
    def lines(self) -> int:
        """Lines of what was joined."""
        return self._newlines + self._ends_in_a_line

    def cut(self, *, is_last: bool) -> None:
        """Take in the slot that was filled last."""
        begin, end = self._ring.filled.start, self._ring.filled.stop
        offset = self._ring.position - (end - begin)
        cut = self._ring.memory.find(b"\n", begin, end) + 1 if offset else 0
        if cut:
            self._add(begin, cut, offset, ends=True)
            offset, begin = offset + cut - begin, cut
            self._last = _Part(self._last.number + 1, at_line_end=offset % self._sizes.read_size > 0)
            self._open.append(self._last)
        if begin < end or not cut:
            self._add(begin, end, offset, ends=is_last)
        elif is_last:
            self._open.pop()  # the file ended where it would begin
        if is_last:
            self._is_cut = True
            self._ends_in_a_line = self._ring.memory[end - 1] != ord("\n")

    def _add(self, begin: int, end: int, offset: int, *, ends: bool) -> None:
        self._last.pieces.append(Piece(begin, end - begin, offset))
        self._last.ends, self._last.end = ends, offset + end - begin
        self._ring.need(begin)

    def go_on(self) -> None:
        """Send what can be sent, wait for an answer, join what can be joined. Raises `WorkersLost`, `InvalidDataset`."""
        goes_on = True
        for part in list(self._open):
            if part.worker is None:
                goes_on = goes_on and self._begin(part)
            elif part.pieces and not part.sent:
                self._send(part, None)
        self._receive()
        while (done := self._done.pop(self._joined, None)) is not None:
            self._join(*done)

    def _begin(self, part: _Part) -> bool:
        """Give the part to a process if it is its turn, and there is one."""
        if not part.ends and len(part.pieces) < 2:  # else it is a long line, which must not fill the ring
            return False
        shapes, has_shapes = None, False
        if self._shapes is not None:
            shapes = self._shapes.begun() or (self._shapes.guessed() if self._guess else None)
            if shapes is None:
                if part.number > self._joined:
                    return False
                shapes, has_shapes = self._shapes, True
        busy = [each.worker for each in self._open]
        idle = (each for each in self._reader.workers if each not in busy)
        worker = next(idle, None) or self._workers.lease(self._reader)
        if worker is None:
            if not self._reader.workers and self._workers.are_refused:
                raise WorkersLost("no process can be begun that parses lines")
            return False
        part.worker, part.has_shapes, part.is_answered = worker, has_shapes, False
        sizes, left = self._sizes, self._result.repeats.left
        before = self._newlines if has_shapes else 0
        limits = (sizes.line_limit, sizes.large_line, sizes.read_size)
        self._send(part, Begin(*limits, part.at_line_end, left, shapes, before))
        return True

    def _send(self, part: _Part, begin: Begin | None) -> None:
        if part.worker is None:
            return
        work = Work(begin, tuple(part.pieces), part.ends)
        part.sent, part.pieces, part.asked = part.pieces, [], time.monotonic()
        part.worker.owes_answer = True
        try:
            part.worker.give_memory(self._memory, self._ring.descriptor, self._ring.size)
            part.worker.pipe.send(work)
        except OSError:
            self._lose(part)

    def _receive(self) -> None:
        """Wait a moment for answers, or for room in the ring."""
        asked = {part.worker.pipe: part for part in self._open if part.worker is not None and part.sent}
        for ready in connection.wait([*asked, self._ring.wakes], LOOK_SECONDS):
            if isinstance(ready, connection.Connection):
                part = asked.pop(ready)
                try:
                    answer = ready.recv()
                except (OSError, EOFError, pickle.UnpicklingError):
                    self._lose(part)
                else:
                    self._take(part, answer)
        self._ring.slept()
        overdue = time.monotonic() - ANSWER_SECONDS
        for part in asked.values():
            if part.asked < overdue:
                self._lose(part)

    def _lose(self, part: _Part) -> None:
        """The part's process has died, or is silent: another one begins the part again, if its bytes are still there."""
        if part.worker is not None:
            self._workers.give_back(self._reader, part.worker)
        part.worker = None
        self._lost += 1
        long_line = any(each.worker is not None and not each.ends for each in self._open)  # it may need the ring's room
        if part.is_answered or long_line or self._lost > MOST_LOST:
            raise WorkersLost(f"{_LOST}, the last of {self._lost}")
        log.warning("%s; another one takes its place", _LOST)
        part.pieces, part.sent = part.sent + part.pieces, []

    def _take(self, part: _Part, answer: Part | None) -> None:
        for piece in part.sent:
            self._ring.need(piece.place, change=-1)
        part.sent, part.is_answered = [], True
        if part.worker is not None:
            part.worker.owes_answer = part.worker.is_new = False
        if answer is not None and part.worker is not None:
            self._open.remove(part)
            self._done[part.number] = part, answer
            if self._workers.is_wanted_back(self._reader, part.worker):
                self._workers.give_back(self._reader, part.worker)

    def _join(self, part: _Part, found: Part) -> None:
        before = self._newlines
        self._newlines += found.newlines
        self._joined += 1
        self.joined_bytes = part.end
        self._result.join(found, before)
        if self._shapes is not None and found.shapes is not None:
            if part.has_shapes:
                self._shapes.become(found.shapes)
                return
            if found.shapes.has_form and not self._shapes.has_form:
                raise _FormTurnedUp
            self._shapes.join(found.shapes, before)
