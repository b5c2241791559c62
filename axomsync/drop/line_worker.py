"""The process that parses parts of a large file. It gets memory that it shares with the agent, and reads no file.

It takes one request after the other from a pipe: which bytes of the shared memory are the next of which part. It ends when
the pipe does, which is within milliseconds of the agent's own end, however that comes.

Failures handled: an agent that is gone. Anything else ends the process, and the agent then checks the file by itself.
"""

import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import NamedTuple

from axomsync.drop.jsonl import InvalidDataset, Parser, Part
from axomsync.drop.repeats import Marks, hits_stride
from axomsync.drop.shapes import Shapes

MORE_LIKELY_KILLED = 200  # of 1000, when memory is short: the agent can do without this process


class Memory(NamedTuple):
    """Request: from now on, bytes are in the memory whose descriptor follows."""

    size: int


class Begin(NamedTuple):
    """A part of a file begins."""

    line_limit: int
    large_line: int
    read_size: int
    at_line_end: bool
    left: int  # see `Marks`
    shapes: Shapes | None
    shapes_before: int  # lines that these have taken in


class Piece(NamedTuple):
    """These bytes of the memory are the next of the part, and lie at this offset in the file."""

    place: int
    length: int
    offset: int


class Work(NamedTuple):
    """Request: parse these pieces. The answer is a `Part` if the part ends with them, else None."""

    begin: Begin | None  # else the part of the last request goes on
    pieces: tuple[Piece, ...]
    ends: bool


@dataclass
class Reading:
    """One part, as far as it has come."""

    parser: Parser
    read_size: int
    newlines: int = 0
    is_over: bool = False

    def feed(self, memory: mmap.mmap, piece: Piece) -> None:
        """Parse bytes, in pieces that end where those of one reading of the whole file would."""
        done = 0
        while done < piece.length and not self.is_over:
            offset = piece.offset + done
            length = min(self.read_size - offset % self.read_size, piece.length - done)
            begin = piece.place + done
            compared = hits_stride(offset, offset + length)
            try:
                self.newlines += self.parser.feed(memory[begin : begin + length], self.newlines, compared=compared)
            except InvalidDataset:
                self.is_over = True
            done += length

    def part(self) -> Part:
        """Return what was found."""
        return self.parser.part(self.newlines, is_over=self.is_over)


def begin(request: Begin) -> Reading:
    """Return the reading of a new part."""
    parser = Parser(
        request.line_limit,
        request.large_line,
        request.shapes,
        marks=Marks(request.left),
        at_line_end=request.at_line_end,
        shapes_before=request.shapes_before,
    )
    return Reading(parser, request.read_size)


def serve(pipe: Connection) -> None:
    """Answer requests until the pipe ends."""
    memory, reading = None, None
    while True:
        request = pipe.recv()
        if isinstance(request, Memory):
            if memory is not None:
                memory.close()
            handle = recv_handle(pipe)
            memory = mmap.mmap(handle, request.size, prot=mmap.PROT_READ)
            os.close(handle)
            continue
        reading = reading if request.begin is None else begin(request.begin)
        if memory is not None and reading is not None:
            for piece in request.pieces:
                reading.feed(memory, piece)
            pipe.send(reading.part() if request.ends else None)


def main(descriptor: int) -> None:
    """Serve the pipe with this descriptor; the body of the process."""
    _be_killed_first()
    with suppress(EOFError, OSError):
        serve(Connection(descriptor))


def _be_killed_first() -> None:
    with suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        score = int(file.read())
        file.write(b"%d" % min(1000, score + MORE_LIKELY_KILLED))
