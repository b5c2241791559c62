"""Is this file a JSONL dataset, and what are its digests? One sequential reading, in constant memory.

Lines are parsed a window at a time: one call for hundreds of lines costs half of what a call a line does, and a window
stays in the CPU's cache. Only a window with something wrong in it is looked at line by line.

Failures handled: content of another kind (named by its first bytes), lines that are no JSON object, broken UTF-8 (with
the position of the byte), blank lines, a last line that was cut off, lines too long to load, an empty file, a file that
ends before its size (`SourceChanged`). All problems up to a limit are reported, not just the first. Lines that repeat
others are no failure, and only told.
"""

import hashlib
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from axomsync.drop.digests import Beside, RangeDigests
from axomsync.drop.repeats import Repeats
from axomsync.errors import Rejected, SourceChanged
from axomsync.records import Checked, Segment

READ_SIZE = 256 * 1024
WINDOW = 64 * 1024
SAMPLE_SIZE = 1024 * 1024
LINE_LIMIT = 256 * 1000 * 1000
PROBLEM_LIMIT = 20

_FOREIGN = (
    (b"\x1f\x8b", "gzip data; unpack it first (gunzip)"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd data; unpack it first (unzstd)"),
    (b"\xfd7zXZ\x00", "xz data; unpack it first (unxz)"),
    (b"BZh", "bzip2 data; unpack it first (bunzip2)"),
    (b"PAR1", "a Parquet file; export it as JSONL"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
    (b"\xef\xbb\xbf", "text with a byte-order mark; save it as UTF-8 without BOM"),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong; line and column count from 1, and are None when the whole file is meant."""

    reason: str
    line: int | None = None
    column: int | None = None

    @property
    def kind(self) -> str:
        """What this has in common with others of its sort, to count them."""
        return re.sub(r"^byte \d+ of the line \(0x..\)", "a byte", self.reason.partition(":")[0])

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


def check(
    file: int,
    size: int,
    mode: Literal["full", "sample", "off"],
    beat: Callable[[], None],
    *,
    shards: Sequence[Segment] = (),
    read_size: int = READ_SIZE,
    line_limit: int = LINE_LIMIT,
) -> Checked:
    """Read exactly `size` bytes of the open `file`, and raise `InvalidDataset` unless it is a JSONL dataset.

    `mode` "sample" parses only the lines near both ends, "off" none; the digests always cover every byte. `shards` are
    ranges that get a digest each. `beat` is called after each piece of at most `read_size` bytes. A line longer than
    `line_limit` bytes ends the check.
    """
    sha256, ranges, parser = hashlib.sha256(), RangeDigests(shards), _Parser(line_limit)
    if mode != "off":
        parser.sniff(os.pread(file, 4096, 0), size)
    newlines, last, offset = 0, b"", 0
    with Beside(size, sha256.update, ranges.update) as digests:
        while offset < size:
            piece = os.pread(file, min(read_size, size - offset), offset)
            if not piece:
                raise SourceChanged("the file became shorter while it was read")
            digests.update(piece)
            near_an_end = offset < SAMPLE_SIZE or offset + len(piece) > size - SAMPLE_SIZE
            newlines += parser.feed(piece, newlines, parse=mode == "full" or (mode == "sample" and near_an_end))
            last = piece[-1:]
            offset += len(piece)
            beat()
    lines = newlines + (0 if last in (b"\n", b"") else 1)
    parser.finish(lines)
    return Checked(sha256.hexdigest(), size, lines, ranges.hexdigests(), parser.repeats.found())


class _Parser:
    """Parses lines as pieces come in and collects what is wrong."""

    def __init__(self, line_limit: int) -> None:
        self.repeats = Repeats()
        self._line_limit = line_limit
        self._faults: list[Fault] = []
        self._counts: Counter[str] = Counter()
        self._carry: list[bytes] | None = []  # the beginning of an unfinished line; None while lines are passed over
        self._carried = 0
        self._blank_from: int | None = None
        # Stands between the lines of a window, which are parsed as one array. No line knows it, so where it comes out
        # between two values again, the line before it was whole: `{"a": [1` and `2]}` can't be taken for lines.
        self._seam = secrets.randbits(48)
        self._joint = b",%d," % self._seam

    def sniff(self, head: bytes, size: int) -> None:
        """Recognise what is no JSONL at all, and end the check with a name for it."""
        reason = "the file is empty" if size == 0 else _foreign_content(head)
        if reason:
            raise InvalidDataset([Fault(reason)], Counter({reason: 1}))

    def feed(self, piece: bytes, newlines_before: int, *, parse: bool) -> int:
        """Take in the next piece, before which `newlines_before` lines have ended; returns how many end in it."""
        if not parse:
            self._carry = None
            return len(piece) - len(piece.replace(b"\n", b""))  # CPython's `count` goes byte by byte, at half the speed
        begun = piece.find(b"\n") + 1
        if not begun:
            self._keep(piece, newlines_before + 1)
            return 0
        ended = 1
        if self._carry is not None:
            self._demand_short(begun - 1, newlines_before + 1)
            self._line(b"".join((*self._carry, piece[: begun - 1])), newlines_before + 1)
        end = piece.rfind(b"\n") + 1
        for window in _windows(piece, begun, end):
            number = newlines_before + ended + 1
            ended += self._accepted(window, number) or self._line_by_line(window, number)
        self._carry, self._carried = [], 0
        self._keep(piece[end:], newlines_before + ended + 1)
        return ended

    def _accepted(self, window: bytes, number: int) -> int:
        """How many lines the window has, when they are nothing but objects; else 0."""
        try:
            values = orjson.loads(b"[%b]" % window[:-1].replace(b"\n", self._joint))
        except orjson.JSONDecodeError:
            return 0
        lines, seams = values[::2], values[1::2]
        if len(seams) != len(lines) - 1 or seams.count(self._seam) != len(seams) or set(map(type, lines)) != {dict}:
            return 0
        self._flush_blank()
        self.repeats.take_window(window, number)
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
            self._carry.append(tail)
            self._carried += len(tail)

    def _demand_short(self, more: int, number: int) -> None:
        if self._carried + more > self._line_limit:
            self._flush_blank()
            self._add(Fault(f"the line is longer than {self._line_limit // 1_000_000} MB; split its object", number))
            raise InvalidDataset(self._faults, self._counts)

    def finish(self, lines: int) -> None:
        """The file has ended after `lines` lines."""
        unfinished = b"".join(self._carry) if self._carry else b""
        if unfinished:
            self._line(unfinished, lines, ended=False)
        if not self._faults and self._blank_from == 1:
            self._add(Fault("the file holds nothing but blank lines"))
        if self._faults:
            raise InvalidDataset(self._faults, self._counts)

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
            self._add(Fault(f"a JSON object is needed, this is {_kind(value)}", number, 1))
        self.repeats.take((line,), number)

    def _flush_blank(self) -> None:
        """More lines follow after blank ones, so they do matter; one fault stands for a run of them."""
        if self._blank_from is not None:
            self._add(Fault("the line is blank", self._blank_from))
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


def _not_utf8(line: bytes, number: int, ended: bool) -> Fault | None:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as bad:
        column = len(line[: bad.start].decode("utf-8")) + 1
        if not ended and bad.end == len(line) and bad.reason == "unexpected end of data":
            return Fault("the last line was cut off within a character", number, column)
        return Fault(f"byte {bad.start + 1} of the line (0x{line[bad.start]:02x}) is not UTF-8", number, column)
    return None


def _not_json(line: bytes, number: int, ended: bool, error: orjson.JSONDecodeError) -> Fault:
    hint = "" if ended or error.pos < len(line.decode("utf-8").rstrip()) else "; the last line was cut off"
    return Fault(f"not valid JSON: {error.msg.split(': line')[0]}{hint}", number, error.pos + 1)


def _foreign_content(head: bytes) -> str | None:
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            return f"this is not JSONL but {name}"
    start = head.lstrip()[:100]
    if start.startswith(b"<"):
        return "this is not JSONL but HTML or XML; was an error page saved in place of the data?"
    if start.startswith(b"["):
        return "this is not JSONL but one JSON array; write one object a line (jq -c '.[]')"
    if re.fullmatch(rb"\{\s*", head.splitlines()[0] if head.strip() else b""):
        return "this is not JSONL but JSON over several lines; write one object a line (jq -c .)"
    if re.match(rb"[^{}\n\"]*[\w\"]+\s*[,;\t][^{}\n]*\n", head):
        return "this is not JSONL but looks like CSV; export it as JSONL"
    return None


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "true or false"}
    return names.get(type(value), "null")
