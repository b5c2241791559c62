"""Check of very long lines in pieces: it accepts and refuses the same lines as the library for the others."""

import os
import subprocess
import sys

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from axomsync.drop.acceptor import DEEPEST, Acceptor, NotJson, NotUtf8
from tests.rig.anything import some

SEEDS = [
    b'{"a": [1, -0, 2.5e-3, 1E+2, true, false, null, {}, []], "b": {"c": "\\u00e9\\ud83d\\ude00\\n\xc3\xa9"}}',
    b'{"a": 1e308, "b": 1e309, "c": ' + b"9" * 310 + b"}",
    b'{"a": "\\ud800", "b": "\\udc00", "c": "\\uD83D\\uDE00"}',
    b' [ "x" , { "y" : [ ] } ] ',
    b'{"a": 0.' + b"1" * 400 + b', "": "\x7f"}',
    b'"alone"', b"-12", b"tru", b"", b"  ", b'{"a": 01}', b'{"a": 1.e1}', b'{"a":1}}',
]  # fmt: skip
SIGNS = b'{}[]",:\\ \t\r\x00\x1f0123456789-+.eEtrufalsn\xc3\xa9\xf0\x9f\xed\xa0\x80\xff/u'
patient = settings(deadline=None, max_examples=some(400), suppress_health_check=[HealthCheck.too_slow])


def accepts(line: bytes, sizes: list[int]) -> object:
    """Type of the line's value, or None; the line comes in pieces of these sizes, repeated."""
    acceptor, place, turn = Acceptor(), 0, 0
    try:
        while place < len(line):
            acceptor.feed(line[place : place + sizes[turn % len(sizes)]])
            place, turn = place + sizes[turn % len(sizes)], turn + 1
        acceptor.finish(ended=True)
    except (NotJson, NotUtf8):
        return None
    return None if acceptor.is_blank else type(acceptor.value_like)


def parses(line: bytes) -> object:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return type(value) if type(value) is not float else int


@st.composite
def nearly_json(draw: st.DrawFn) -> bytes:
    line = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(line)))
        sign = draw(st.sampled_from([SIGNS[n : n + 1] for n in range(len(SIGNS))]))
        line[place : place + draw(st.integers(0, 2))] = sign * draw(st.integers(0, 2))
    return bytes(line)


@patient
@given(nearly_json() | st.binary(max_size=20), st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_acceptor_agrees_with_the_library_for_any_line_in_any_pieces(line: bytes, sizes: list[int]) -> None:
    assert accepts(line, sizes) == parses(line)


LONG = (b'{"a": [1, {"b": "c"}], "d": "e, }, ]"}, ' * 200, b"[[], [{}], 1, true], " * 300, b'{"a": {"b": [' + b"0, " * 2000)


@patient
@given(
    st.lists(st.sampled_from([*LONG, b"]", b"}", b"[", b"{", b'"x": ', b"1", b", ", b'"', b"{}", b"NaN"]), max_size=6),
    st.sampled_from([b'{"x": [', b'{"x": {"y": [[', b"["]),
    st.sampled_from([b"0]}", b"0]]}}", b"]", b""]),
    st.integers(100, 9000),
)
def test_acceptor_is_right_where_the_library_parses_many_elements_at_once(
    parts: list[bytes], begin: bytes, end: bytes, size: int
) -> None:
    line = begin + b"".join(parts) + end
    assert accepts(line, [size]) == parses(line)


@pytest.mark.parametrize("depth", [DEEPEST - 1, DEEPEST])
def test_acceptor_allows_the_librarys_depth(depth: int) -> None:
    line = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    assert (accepts(line, [7]) is dict) == (parses(line) is dict) == (depth < DEEPEST)


LARGE = """
import os, sys
from axomsync.drop.jsonl import check
from tests.rig.memory import most_memory
kind, size = sys.argv[1], int(sys.argv[2])
element = {"text": b"word \\\\n ", "objects": b'{"a": 1}, '}[kind]
file = os.memfd_create("large")
os.write(file, b'{"x": "' if kind == "text" else b'{"x": [')
os.write(file, element * (size // len(element)))
os.write(file, b'"}\\n' if kind == "text" else b"0]}\\n")
before = most_memory()
print(check(file, os.fstat(file).st_size, "full", lambda: None).lines)
print(most_memory() - before)
"""


@pytest.mark.parametrize("kind", ["text", "objects"])
def test_acceptor_needs_little_memory_for_a_large_line(kind: str) -> None:
    size = 24_000_000
    done = subprocess.run(
        [sys.executable, "-c", LARGE, kind, str(size)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    lines, grown = map(int, done.stdout.split())
    assert lines == 1
    assert grown < size // 2, "the line was held"
