"""Check of a very long line: is it a JSON object? Reads in pieces, in memory that does not grow with the line. Pure.

The JSON library parses all other lines; it builds the whole value, which takes up to thirty times the size of the line. This
module gives the same answer as the library (a test compares them) and builds no value: it remembers only the open brackets,
one byte for each level.

Failures handled: every fault that makes a line no JSON object, also one that lies across two pieces; invalid UTF-8 likewise.
"""

import codecs
import math
import re
from enum import Enum, auto

import orjson
from blake3 import blake3

from axomsync.drop.diagnosis import AROUND, Break, Want

DEEPEST = 1024  # levels; the library has the same limit
WORTH_A_LEAP = 2048  # bytes
KEPT_BYTES = 4 * AROUND  # around the place of an error

_HEX = rb"[0-9a-fA-F]"
_UNICODE = rb"\\u(?:[0-9a-cA-CefEF]%b{3}|[dD][0-7]%b{2}|[dD][89abAB]%b{2}\\u[dD][c-fC-F]%b{2})" % (
    (_HEX,) * 4
)  # no lone half of a surrogate pair
_TEXT = rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|%b)' % _UNICODE
_BLANK = rb"[ \t\r]*+"

_blank = re.compile(_BLANK)
# One call matches only as many characters as need little memory. (Not possessive: Python before 3.11.5 has a bug there.)
_text = re.compile(_TEXT + rb"{0,1000}")
_digits = re.compile(rb"[-+.0-9eE]*+")
_number = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?")
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_LONGEST_ESCAPE = 12
_LITERALS = {b"t": b"true", b"f": b"false", b"n": b"null"}
_CLOSE = {ord("}"): ord("{"), ord("]"): ord("[")}
_OPENINGS = {ord("{"): b'{"":', ord("["): b"["}
_CLOSINGS = {ord("{"): ord("}"), ord("["): ord("]")}
_COMMAS = (b"},", b"],", b'",', b",")  # where elements and members often end


class _At(Enum):
    VALUE = auto()
    FIRST_VALUE = auto()  # or the array's end
    KEY = auto()
    FIRST_KEY = auto()  # or the object's end
    COLON = auto()
    MORE = auto()
    STRING = auto()
    NUMBER = auto()
    END = auto()


_WANTS = {
    _At.VALUE: Want.VALUE, _At.FIRST_VALUE: Want.VALUE, _At.KEY: Want.KEY, _At.FIRST_KEY: Want.KEY,
    _At.COLON: Want.COLON, _At.MORE: Want.MORE, _At.END: Want.NOTHING,
}  # fmt: skip


def mark_of(line: bytes) -> int:
    """Hash of a line; different lines have different hashes."""
    return hash(blake3(line).digest())


class NotJson(Exception):
    """The line is not JSON. `column` counts characters from 1."""

    def __init__(self, at: Break, column: int) -> None:
        super().__init__(at)
        self.at, self.column = at, column


class NotUtf8(Exception):
    """The line is not UTF-8. `position` counts bytes and `column` characters, from 1; `found` begins with the invalid byte.

    `at_the_end` is true if the line ended within a character.
    """

    def __init__(self, position: int, column: int, found: bytes, *, at_the_end: bool) -> None:
        super().__init__(position)
        self.position, self.column, self.found, self.at_the_end = position, column, found, at_the_end


class Acceptor:
    """Parser of one line. `feed` and `finish` raise `NotJson` and `NotUtf8`; the object is of no use after that."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._digest = blake3()
        self._stack = bytearray()  # open brackets, outermost first
        self._state = _At.VALUE
        self._is_key = False  # True while the open string is a key
        self._number = bytearray()  # the number, as far as it was received
        self._rest = b""  # not parsed yet
        self._no_leap_before, self._no_leap_from = 0, 0  # position in the line (bytes), and depth
        self._passed = self._passed_characters = 0  # bytes and characters parsed before it
        self._start = self._before = b""
        self._first = b""

    @property
    def is_blank(self) -> bool:
        """True while only blanks were received."""
        return not self._first

    @property
    def mark(self) -> int:
        """Hash of the whole line, as `mark_of` gives it."""
        return hash(self._digest.digest())

    @property
    def value_like(self) -> object:
        """A value of the same type as the line's value."""
        likes: dict[bytes, object] = {b"{": {}, b"[": [], b'"': "", b"t": True, b"f": False, b"n": None}
        return likes.get(self._first, 0)

    def feed(self, piece: bytes) -> None:
        """Parse the next bytes of the line."""
        self._decode(piece)
        self._digest.update(piece)
        if len(self._start) < KEPT_BYTES:
            self._start += piece[: KEPT_BYTES - len(self._start)]
        text = self._rest + piece
        done = self._go(text, final=False)
        self._pass(text[:done])
        self._rest = text[done:]

    def finish(self, *, ended: bool) -> None:
        """End the line; `ended` is true if a line end follows."""
        self._decode(b"", final=True)
        done = self._go(self._rest, final=True)
        if self._state is _At.END or self.is_blank:
            return
        self._fail(self._rest, max(done, len(self._rest)), Want.REST, ended=ended)

    def _decode(self, piece: bytes, *, final: bool = False) -> None:
        begun = len(self._utf8.getstate()[0])
        try:
            self._utf8.decode(piece, final)
        except UnicodeDecodeError as bad:
            before = bytes(bad.object)[: bad.start]
            bytes_before = self._passed + len(self._rest) - begun + bad.start
            whole = self._rest[: len(self._rest) - begun] + before
            column = self._passed_characters + _characters(whole) + 1
            raise NotUtf8(bytes_before + 1, column, bytes(bad.object)[bad.start : bad.start + 4], at_the_end=final) from None

    def _pass(self, text: bytes) -> None:
        self._passed += len(text)
        self._passed_characters += _characters(text)
        self._before = (self._before + text[-KEPT_BYTES:])[-KEPT_BYTES:]

    def _go(self, text: bytes, *, final: bool) -> int:
        """Parse as much of `text` as possible; returns the number of bytes."""
        place = 0
        while True:
            if self._state is _At.STRING:
                after = self._go_on_in_string(text, place, final=final)
            elif self._state is _At.NUMBER:
                after = self._go_on_in_number(text, place, final=final)
            else:
                is_element = self._state in (_At.VALUE, _At.FIRST_VALUE) and self._stack[-1:] == b"["
                if is_element or self._state in (_At.KEY, _At.FIRST_KEY):
                    place = self._leap(text, place)
                place = _end(_blank, text, place)
                after = self._step(text, place, final=final) if place < len(text) else None
            if after is None:
                return place
            place = after

    def _leap(self, text: bytes, place: int) -> int:
        """Skip elements or members that the library parses in one call; returns `place` if that is not worth it.

        The brackets that are open here are added before and after this text, so that the library can check it alone.
        """
        tried = self._passed + place < self._no_leap_before and len(self._stack) >= self._no_leap_from
        if len(text) - place < WORTH_A_LEAP or tried:
            return place
        in_object = self._state in (_At.KEY, _At.FIRST_KEY)
        around = b"".join(_OPENINGS[sign] for sign in self._stack[:-1]) + (b"{" if in_object else b"[")
        behind = bytes(_CLOSINGS[sign] for sign in reversed(self._stack))
        for end in (len(text), place + (len(text) - place) * 3 // 4):
            for comma in _COMMAS:
                cut = text.rfind(comma, place, end) + len(comma) - 1
                if cut <= place or not text[place:cut].strip():
                    continue
                try:
                    orjson.loads(around + text[place:cut] + behind)
                except orjson.JSONDecodeError:
                    continue
                self._state = _At.KEY if in_object else _At.VALUE
                return cut + 1
        self._no_leap_before, self._no_leap_from = self._passed + len(text), len(self._stack)
        return place

    def _step(self, text: bytes, place: int, *, final: bool) -> int | None:
        """Parse one token; returns its end, or None if more of the line is needed."""
        sign = text[place : place + 1]
        state = self._state
        self._first = self._first or sign
        if state in (_At.VALUE, _At.FIRST_VALUE) and sign != b"]":
            return self._begin_value(text, place, sign, final=final)
        if state in (_At.KEY, _At.FIRST_KEY) and sign == b'"':
            self._state, self._is_key = _At.STRING, True
        elif state is _At.COLON and sign == b":":
            self._state = _At.VALUE
        elif state is _At.MORE and sign == b",":
            self._state = _At.KEY if self._stack[-1] == ord("{") else _At.VALUE
        elif self._closes(state, sign):
            self._stack.pop()
            self._after_value()
        else:
            trailing = sign == b"}" if state is _At.KEY else state is _At.VALUE and self._stack[-1:] == b"[" and sign == b"]"
            self._fail(text, place, Want.NO_COMMA if trailing else _WANTS[state])
        return place + 1

    def _closes(self, state: _At, sign: bytes) -> bool:
        empty = {_At.FIRST_VALUE: b"]", _At.FIRST_KEY: b"}"}.get(state)
        if empty is not None:
            return sign == empty
        return state is _At.MORE and sign in (b"}", b"]") and _CLOSE[ord(sign)] == self._stack[-1]

    def _begin_value(self, text: bytes, place: int, sign: bytes, *, final: bool) -> int | None:
        if sign in (b"{", b"["):
            if len(self._stack) == DEEPEST:
                self._fail(text, place, Want.LESS_DEPTH)
            self._stack += sign
            self._state = _At.FIRST_KEY if sign == b"{" else _At.FIRST_VALUE
        elif sign == b'"':
            self._state, self._is_key = _At.STRING, False
        elif sign in b"-0123456789":
            self._state, self._number = _At.NUMBER, bytearray()
            return place
        elif (literal := _LITERALS.get(sign)) is not None:
            found = text[place : place + len(literal)]
            if len(found) < len(literal) and literal.startswith(found):
                if final:
                    self._fail(text, len(text), Want.REST)
                return None
            if found != literal:
                self._fail(text, place, Want.VALUE)
            self._after_value()
            return place + len(literal)
        else:
            self._fail(text, place, Want.DIGIT if sign in (b"+", b".") else Want.VALUE)
        return place + 1

    def _after_value(self) -> None:
        self._state = _At.MORE if self._stack else _At.END

    def _go_on_in_string(self, text: bytes, place: int, *, final: bool) -> int | None:
        after = _end(_text, text, place)
        if after > place:
            return after
        sign = text[place : place + 1]
        if sign == b'"':
            self._state = _At.COLON if self._is_key else _At.MORE if self._stack else _At.END
            return place + 1
        if sign == b"\\" and (len(text) - place >= _LONGEST_ESCAPE or final):
            begun = re.fullmatch(rb"\\(?:u%b{0,3})?" % _HEX, text[place:])
            want = Want.SURROGATE if re.match(rb"\\u%b{4}" % _HEX, text[place:]) else Want.ESCAPE
            self._fail(text, len(text) if begun else place, Want.REST if begun else want)
        if sign not in (b"", b"\\"):
            self._fail(text, place, Want.TEXT)
        return None

    def _go_on_in_number(self, text: bytes, place: int, *, final: bool) -> int | None:
        after = _end(_digits, text, place)
        self._number += text[place:after]
        if after == len(text) and not final:
            return after if after > place else None
        found = _number.match(self._number)
        if found is None or found.end() < len(self._number):
            self._fail_in_number(text, after, found)
        if (len(self._number) > 300 or b"e" in self._number.lower()) and math.isinf(float(self._number)):
            self._fail(text, after - len(self._number), Want.FINITE)
        self._after_value()
        return after

    def _fail_in_number(self, text: bytes, after: int, found: "re.Match[bytes] | None") -> None:
        good = 0 if found is None else found.end()
        left, where = bytes(self._number[good:]), after - len(self._number) + good
        if found is not None and found[0] in (b"0", b"-0") and left[:1].isdigit():
            self._fail(text, where - len(found[0]), Want.NO_ZERO)
        begun = re.match(rb"\.|[eE][-+]?|-", left)
        if begun:
            self._fail(text, where + begun.end(), Want.DIGIT)
        self._fail(text, where, Want.MORE if self._stack else Want.NOTHING)

    def _fail(self, text: bytes, place: int, want: Want, *, ended: bool = True) -> None:
        begun_before, place = min(0, place), max(0, place)  # a number may have begun in an earlier piece
        before = (self._before + text[max(0, place - KEPT_BYTES) : place])[-KEPT_BYTES:]
        after = text[place : place + KEPT_BYTES]
        at = Break(want, _shown(self._start), _shown(before)[-AROUND:], _shown(after), self._state is _At.STRING, ended)
        raise NotJson(at, self._passed_characters + _characters(text[:place]) + begun_before + 1)


def _end(pattern: re.Pattern[bytes], text: bytes, place: int) -> int:
    found = pattern.match(text, place)
    assert found is not None  # noqa: S101  # each of these expressions also matches nothing
    return found.end()


def _characters(text: bytes) -> int:
    """Count the characters that begin in these bytes."""
    return len(text.translate(None, _CONTINUATIONS))


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "ignore")[:KEPT_BYTES]
