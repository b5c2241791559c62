"""Is this file a JSONL dataset, and what are its digests? One sequential reading, in constant memory.

Lines are parsed a window at a time: one call for hundreds of lines costs half of what a call a line does, and a window
stays in the CPU's cache. Only a window with something wrong in it is looked at line by line.

Failures handled: content of another kind (named by its first bytes), lines that are no JSON object, broken UTF-8 (with
the position of the byte), blank lines, a last line that was cut off, lines too long to load, an empty file, a file that
ends before its size (`SourceChanged`), large lines (read piece by piece: eight of 200 MB at once take no more memory than
any). All problems up to a limit are reported, not just the first. Lines that repeat others are no failure, and only told; so
are odd shapes, unless one shape is wanted.
"""

import hashlib
import os
import re
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import orjson

from axomsync.core.errors import Rejected, SourceChanged
from axomsync.core.records import Checked, RepeatedLines, Segment, Shape
from axomsync.drop.acceptor import Acceptor, NotJson, NotUtf8, mark_of
from axomsync.drop.diagnosis import (
    AROUND,
    BLANK_LINE,
    CUT_IN_A_CHARACTER,
    EMPTY,
    ENDS_EARLY,
    LAST_ENDS_EARLY,
    NOTHING_BUT_BLANK,
    Break,
    Want,
    Words,
    not_an_object,
    not_utf8,
    too_long,
    wanted,
    words_for,
)
from axomsync.drop.digests import BackgroundHasher, RangeDigests
from axomsync.drop.foreign import foreign_content
from axomsync.drop.repeats import Marks, Repeats, hits_stride
from axomsync.drop.shapes import Shapes

READ_SIZE = 256 * 1024
WINDOW = 64 * 1024
SAMPLE_SIZE = 1024 * 1024
LINE_LIMIT = 256 * 1000 * 1000
PROBLEM_LIMIT = 20
START = 4096  # bytes of a line that are looked at when it is too long
HEAD = 4096  # bytes of a file by which other kinds are known

LARGE_LINE = 1024 * 1024  # what is longer is read piece by piece, and never held
_BLANK = BLANK_LINE.kind or BLANK_LINE.what


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong; line and column count from 1, and are None when the whole file is meant."""

    reason: str
    line: int | None = None
    column: int | None = None
    kind: str = ""  # what this has in common with others of its sort, to count them

    @classmethod
    def of(cls, words: Words, line: int | None = None, column: int | None = None) -> Self:
        """In these words."""
        return cls(str(words), line, column, words.kind or words.what)

    def __str__(self) -> str:
        if self.line is None:
            return self.reason
        return f"line {self.line}" + (f", column {self.column}" if self.column else "") + f": {self.reason}"


class InvalidDataset(Rejected):
    """The file is no JSONL dataset. `faults` are the first problems, `total` counts them all, `counts` by their kind."""

    def __init__(self, faults: list[Fault], counts: Counter[str]) -> None:
        self.faults, self.counts, self.total = faults, counts, counts.total()
        more = f" (and {self.total - 1} more)" if self.total > 1 else ""
        super().__init__(f"{faults[0]}{more}")


def nobody_listens(good: int) -> None:
    """The `good` of a check that nobody follows."""


def check(
    file: int,
    size: int,
    mode: Literal["full", "sample", "off"],
    beat: Callable[[], None],
    *,
    shards: Sequence[Segment] = (),
    shapes: Shapes | None = None,
    good: Callable[[int], None] = nobody_listens,
    read_size: int = READ_SIZE,
    line_limit: int = LINE_LIMIT,
    large_line: int = LARGE_LINE,
) -> Checked:
    """Read exactly `size` bytes of the open `file`, and raise `InvalidDataset` unless it is a JSONL dataset.

    `mode` "sample" parses only the lines near both ends, "off" none; the digests always cover every byte. `shards` are
    ranges that get a digest each. `beat` is called after each piece of at most `read_size` bytes, and `good` with the number
    of bytes that were read, as long as nothing wrong was found in them. A line longer than
    `line_limit` bytes ends the check, one longer than `large_line` is parsed without being held. `shapes` takes in what the
    lines are; where it wants one shape, another makes the file invalid.
    """
    sha256, ranges = hashlib.sha256(), RangeDigests(shards or [Segment(0, size)])
    parser = Parser(line_limit, large_line, shapes)
    if mode != "off":
        parser.sniff(os.pread(file, HEAD, 0), size)
    newlines, last, offset = 0, b"", 0
    with BackgroundHasher(size, sha256.update, ranges.update) as digests:
        while offset < size:
            piece = os.pread(file, min(read_size, size - offset), offset)
            if not piece:
                raise SourceChanged("the file became shorter while it was read")
            digests.update(piece)
            near_an_end = offset < SAMPLE_SIZE or offset + len(piece) > size - SAMPLE_SIZE
            parse = mode == "full" or (mode == "sample" and near_an_end)
            compared = hits_stride(offset, offset + len(piece))
            newlines += parser.feed(piece, newlines, parse=parse, compared=compared)
            last = piece[-1:]
            offset += len(piece)
            beat()
            if parser.is_good:
                good(offset)
    lines = newlines + (0 if last in (b"\n", b"") else 1)
    repeated, shape = parser.finish(lines)
    return checked_of(
        sha256.hexdigest(), size, lines, ranges.hexdigests(), sharded=bool(shards), repeated=repeated, shape=shape
    )


def checked_of(
    sha256: str,
    size: int,
    lines: int,
    digests: Sequence[str],
    *,
    sharded: bool,
    repeated: RepeatedLines | None,
    shape: Shape | None,
) -> Checked:
    """Return the result of a check; `digests` are those of the shards, or the one of a file that goes up whole."""
    if sharded:
        return Checked(sha256, size, lines, shards=tuple(digests), repeated=repeated, shape=shape)
    return Checked(sha256, size, lines, next(iter(digests), None), repeated=repeated, shape=shape)


def check_stream(read: Callable[[int], bytes], shapes: Shapes | None = None) -> Checked:
    """Check what `read` gives until it gives nothing, as `check` does with a file. Raises `InvalidDataset`.

    A call of `read` returns at most so many bytes.
    """
    sha256, parser = hashlib.sha256(), Parser(LINE_LIMIT, LARGE_LINE, shapes)
    piece = _head(read)
    parser.sniff(piece, len(piece))
    size, newlines, last = 0, 0, b""
    with BackgroundHasher(sys.maxsize, sha256.update) as digests:
        while piece:
            digests.update(piece)
            newlines += parser.feed(piece, newlines, compared=hits_stride(size, size + len(piece)))
            size, last = size + len(piece), piece[-1:]
            piece = read(READ_SIZE)
    lines = newlines + (last != b"\n")
    repeated, shape = parser.finish(lines)
    return Checked(sha256.hexdigest(), size, lines, repeated=repeated, shape=shape)


def _head(read: Callable[[int], bytes]) -> bytes:
    """Return as many bytes as tell other kinds of files, or fewer at the end."""
    head = b""
    while len(head) < HEAD and (piece := read(READ_SIZE)):
        head += piece
    return head


def _shape(shapes: Shapes | None) -> Shape | None:
    """Return what was found of shapes. Raises `InvalidDataset` where another shape was wanted."""
    if shapes is None:
        return None
    if shapes.wanted is not None and shapes.faults:
        raise InvalidDataset([Fault(each.reason, each.line, each.column) for each in shapes.faults], shapes.counts)
    return shapes.report()


@dataclass(frozen=True, slots=True)
class Part:
    """What was found in some lines of a file, whose numbers begin with 1. Picklable."""

    newlines: int
    faults: list[Fault]
    counts: Counter[str]
    is_over: bool  # a line is too long: the check ends here
    blank_from: int | None  # blank lines at the end of the part
    marks: Marks
    shapes: Shapes | None


class Parser:
    """Parses lines as pieces come in and collects what is wrong.

    With `marks`, the lines are those of a part of a file, to be joined to others.
    """

    def __init__(
        self,
        line_limit: int = LINE_LIMIT,
        large_line: int = LARGE_LINE,
        shapes: Shapes | None = None,
        *,
        marks: Marks | None = None,
        at_line_end: bool = False,
        shapes_before: int = 0,
    ) -> None:
        self.repeats = Repeats()
        self._marks = marks if marks is not None else self.repeats
        # A part begins after a line end in the middle of a piece, where `feed` would go on with a window.
        self._at_line_end = at_line_end
        self._shapes, self._shapes_before = shapes, shapes_before  # lines that `shapes` counts before the first
        self._line_limit, self._large_line = line_limit, large_line
        self._faults: list[Fault] = []
        self._counts: Counter[str] = Counter()
        self._carry: list[bytes] | None = []  # the beginning of an unfinished line; None while lines are passed over
        self._carried = 0
        self._long: _LongLine | None = None  # takes the unfinished line in, when that is large
        self._blank_from: int | None = None
        # Stands between the lines of a window, which are parsed as one array. No line knows it, so where it comes out
        # between two values again, the line before it was whole: `{"a": [1` and `2]}` can't be taken for lines.
        self._seam = secrets.randbits(48)
        self._joint = b",%d," % self._seam

    @property
    def is_good(self) -> bool:
        """Nothing wrong was found so far."""
        odd = self._shapes is not None and self._shapes.wanted is not None and self._shapes.faults
        return not self._counts and not odd

    def sniff(self, head: bytes, size: int) -> None:
        """Recognise what is no JSONL at all, and end the check with a name for it."""
        reason = str(EMPTY) if size == 0 else foreign_content(head)
        if reason:
            raise InvalidDataset([Fault(reason, kind=reason)], Counter({reason: 1}))

    def feed(self, piece: bytes, newlines_before: int, *, parse: bool = True, compared: bool = False) -> int:
        """Take in the next piece, before which `newlines_before` lines have ended; returns how many end in it.

        `compared` has the lines of the first window compared with others, however many were.
        """
        if not parse:
            self._carry = self._long = None
            return len(piece) - len(piece.replace(b"\n", b""))  # CPython's `count` goes byte by byte, at half the speed
        end = piece.rfind(b"\n") + 1
        at_line_end, self._at_line_end = self._at_line_end, False
        if not end:
            self._keep(piece, newlines_before + 1)
            return 0
        begun = 0 if at_line_end else piece.find(b"\n") + 1
        ended = 1 if begun else 0
        if begun and self._carry is not None:
            self._demand_short(begun - 1, newlines_before + 1)
            self._last_part(piece[: begun - 1], newlines_before + 1)
        for window in _windows(piece, begun, end):
            number = newlines_before + ended + 1
            ended += self._accepted(window, number, compared=compared) or self._line_by_line(window, number)
            compared = False
        self._carry, self._carried = [], 0
        self._keep(piece[end:], newlines_before + ended + 1)
        return ended

    def _accepted(self, window: bytes, number: int, *, compared: bool) -> int:
        """Count the lines of the window if each is a JSON object; else return 0."""
        joined = window[:-1].replace(b"\n", self._joint)
        try:
            values = orjson.loads(b"[%b]" % joined)
        except orjson.JSONDecodeError:
            return 0
        lines, seams = values[::2], values[1::2]
        line_ends = (len(joined) - len(window) + 1) // (len(self._joint) - 1)
        if line_ends != len(seams):  # one stood within a string
            return 0
        if len(seams) != len(lines) - 1 or seams.count(self._seam) != len(seams) or set(map(type, lines)) != {dict}:
            return 0
        self._flush_blank()
        self._marks.take_window(window, number, compared=compared)
        if self._shapes is not None:
            self._shapes.take_window(lines, window, number + self._shapes_before)
        return len(lines)

    def _line_by_line(self, window: bytes, number: int) -> int:
        lines = window[:-1].split(b"\n")
        for offset, line in enumerate(lines):
            self._demand_short(len(line), number + offset)
            self._line(line, number + offset)
        return len(lines)

    def _keep(self, tail: bytes, number: int) -> None:
        if tail and self._carry is not None:
            self._demand_short(len(tail), number)
            self._carried += len(tail)
            if self._long is None and self._carried > self._large_line:
                self._long = _LongLine()
                for piece in self._carry:
                    self._long.feed(piece)
                self._carry = []
            if self._long is not None:
                self._long.feed(tail)
            else:
                self._carry.append(tail)

    def _last_part(self, tail: bytes, number: int, *, ended: bool = True) -> None:
        """The unfinished line ends with `tail`."""
        carried, long, length = self._carry or [], self._long, self._carried + len(tail)
        self._carry, self._carried, self._long = [], 0, None
        if long is None and carried and length > self._large_line:  # as it would be, had it come in smaller pieces
            long = _LongLine()
            for piece in carried:
                long.feed(piece)
        if long is None:
            self._line(b"".join((*carried, tail)), number, ended=ended)
            return
        long.feed(tail)
        if (fault := long.finish(number, ended=ended)) is None and long.is_blank:
            self._blank_from = self._blank_from or number
            return
        self._flush_blank()
        if fault is not None:
            self._add(fault)
            return
        self._marks.take_line(long.mark, number)
        if self._shapes is not None:
            self._shapes.take_long(length, number + self._shapes_before)

    def _demand_short(self, more: int, number: int) -> None:
        if self._carried + more > self._line_limit:
            self._flush_blank()
            start = self._long.start if self._long is not None else b"".join(self._carry or [])[:START]
            self._add(Fault.of(too_long(self._line_limit, start), number))
            raise InvalidDataset(self._faults, self._counts)

    def part(self, newlines: int, *, is_over: bool = False) -> Part:
        """Return what was found in a part that ends here, after so many line ends; `is_over` if `feed` has raised."""
        if not is_over:
            self._end(newlines + 1)
        marks = self._marks if isinstance(self._marks, Marks) else Marks(0)
        return Part(newlines, self._faults, self._counts, is_over, self._blank_from, marks, self._shapes)

    def join(self, part: Part, before: int) -> None:
        """Add a part that follows `before` lines. Raises `InvalidDataset` where the check ends with it."""
        faults, counts = part.faults, part.counts
        if part.blank_from == 1:  # nothing but blank lines
            self._blank_from = self._blank_from or before + 1
        elif part.newlines or faults or part.marks.groups or counts:
            if self._blank_from is not None and faults and (faults[0].line, faults[0].kind) == (1, _BLANK):
                faults = faults[1:]  # it goes on with the blank lines before it
                counts = counts - Counter({_BLANK: 1})
            self._flush_blank()
            kept = PROBLEM_LIMIT - len(self._faults)
            self._faults += [replace(each, line=(each.line or 0) + before) for each in faults[:kept]]
            self._counts += counts
            self._blank_from = part.blank_from and before + part.blank_from
        self.repeats.join(part.marks, before)
        if part.is_over:
            raise InvalidDataset(self._faults, self._counts)

    def _end(self, lines: int) -> None:
        if self._carry or self._long is not None:
            self._last_part(b"", lines, ended=False)

    def finish(self, lines: int) -> tuple[RepeatedLines | None, Shape | None]:
        """The file has ended after `lines` lines: return what is to be told. Raises `InvalidDataset`."""
        self._end(lines)
        if self._faults and self._faults[-1].line == lines and self._faults[-1].kind in ENDS_EARLY:
            self._counts[self._faults[-1].kind] -= 1
            self._add(Fault.of(LAST_ENDS_EARLY, lines, self._faults.pop().column))
        if not self._faults and self._blank_from == 1:
            self._add(Fault.of(NOTHING_BUT_BLANK))
        if self._faults:
            raise InvalidDataset(self._faults, self._counts)
        return self.repeats.found(), _shape(self._shapes)

    def _line(self, line: bytes, number: int, *, ended: bool = True) -> None:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not line.strip():
                self._blank_from = self._blank_from or number  # harmless at the end of the file
                return
            self._flush_blank()
            self._add(_not_utf8(line, number, ended) or _not_json(line, number, ended, error))
            return
        self._flush_blank()
        if type(value) is not dict:
            self._add(Fault.of(not_an_object(value, line[:AROUND].decode(errors="replace")), number, 1))
        elif self._shapes is not None:
            self._shapes.take(value, line, number + self._shapes_before)
        self._marks.take_line(mark_of(line) if len(line) > self._large_line else hash(line), number)

    def _flush_blank(self) -> None:
        """More lines follow after blank ones, so they do matter; one fault stands for a run of them."""
        if self._blank_from is not None:
            self._add(Fault.of(BLANK_LINE, self._blank_from))
            self._blank_from = None

    def _add(self, fault: Fault) -> None:
        self._counts[fault.kind] += 1
        if len(self._faults) < PROBLEM_LIMIT:
            self._faults.append(fault)


def _windows(piece: bytes, start: int, end: int) -> Iterator[bytes]:
    """The lines from `start` to `end` in parts of about `WINDOW` bytes that end at line ends."""
    while start < end:
        stop = piece.rfind(b"\n", start, start + WINDOW) + 1 or piece.find(b"\n", start) + 1
        yield piece[start:stop]
        start = stop


class _LongLine:
    """A line that is parsed while it passes by. Its first fault is kept, and the rest of it passed over."""

    def __init__(self) -> None:
        self._acceptor = Acceptor()
        self._refused: NotJson | NotUtf8 | None = None
        self.start = b""

    @property
    def is_blank(self) -> bool:
        """Nothing but blanks has come."""
        return self._refused is None and self._acceptor.is_blank

    @property
    def mark(self) -> int:
        """Hash of the whole line, as `mark_of` gives it."""
        return self._acceptor.mark

    def feed(self, piece: bytes) -> None:
        """The next bytes of the line."""
        if len(self.start) < START:
            self.start += piece[: START - len(self.start)]
        if self._refused is None:
            try:
                self._acceptor.feed(piece)
            except (NotJson, NotUtf8) as refused:
                self._refused = refused

    def finish(self, number: int, *, ended: bool) -> Fault | None:
        """End the line with this `number`; return its fault, if it has one."""
        try:
            if self._refused is not None:
                raise self._refused
            self._acceptor.finish(ended=ended)
        except NotJson as bad:
            return Fault.of(words_for(bad.at), number, bad.column)
        except NotUtf8 as bad:
            cut = bad.at_the_end and not ended
            return Fault.of(CUT_IN_A_CHARACTER if cut else not_utf8(bad.position, bad.found), number, bad.column)
        value = self._acceptor.value_like
        if type(value) is dict or self.is_blank:
            return None
        return Fault.of(not_an_object(value, self.start[:AROUND].decode(errors="replace")), number, 1)


def _not_utf8(line: bytes, number: int, ended: bool) -> Fault | None:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as bad:
        column = len(line[: bad.start].decode("utf-8")) + 1
        if not ended and bad.end == len(line) and bad.reason == "unexpected end of data":
            return Fault.of(CUT_IN_A_CHARACTER, number, column)
        return Fault.of(not_utf8(bad.start + 1, line[bad.start : bad.start + 4]), number, column)
    return None


def _not_json(line: bytes, number: int, ended: bool, error: orjson.JSONDecodeError) -> Fault:
    text = line.decode("utf-8")
    want = wanted(error.msg)
    place = len(text) if want is Want.REST else error.pos
    at = Break(
        want,
        text[:AROUND],
        text[max(0, place - AROUND) : place],
        text[place : place + AROUND],
        in_string=want is Want.REST and _leaves_string_open(text),
        ended=ended,
        said=error.msg.split(": line")[0],
    )
    return Fault.of(words_for(at), number, place + 1)


def _leaves_string_open(text: str) -> bool:
    return re.sub(r"\\.?", "", text).count('"') % 2 == 1
