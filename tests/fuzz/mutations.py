"""Inputs that are nearly right. Pure: chance is an argument."""

import json
from random import Random
from typing import Any

# What parsers stumble over. Not only one kind of text: a parser of dates gets numbers, one of numbers dates.
TOKENS = (
    b"\0", b"\r\n", b"\n\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\xc2\x85", b"[" * 2000,
    b'{"a":' * 2000, b"9" * 400, b"9" * 5000, b"-1", b"1e400", b"-0.0", b"NaN", b"Infinity", b"null", b"true", b'""', b"{}",
    b"[]", b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"0x10", b"1_0", "\u0663".encode(),
    b"..", b"../", b"/", b"//", b"%2F", b"%00", b"%", b"\\", b"@", b":", b"?", b"#", b"[::1]", b"[", b"]", b":99999", b";",
    b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"20261127T000000Z", b"00010101T000000Z",
    b"Mon, 31 Feb 2026 25:61:61 GMT", b"Thu, 01 Jan 0001 00:00:00 +2359", b"<Error><Code>", b"</Code>", b"<html>",
    b"bytes 0-0/1", b"bytes */0", b"gzip", b"a" * 300, "\u202e".encode(), "\U0001f600".encode(),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**63 - 1, 2**63, 2**64, 10**400, 1.5, 1e308, float("inf"), float("nan"), "", "\0", "\ud800",
    "../x", "/etc/passwd", "a\nb", "x" * 5000, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "a" * 64, [], {},
    [[]], {"": None}, [None] * 40,
)  # fmt: skip
LONGEST = 20_000


def mutated(data: bytes, dice: Random, most: int = LONGEST) -> bytes:
    """Change an input in a few places. A part after the last blank line that is JSON is also changed as such."""
    for _ in range(dice.choice((1, 1, 2, 4, 8))):
        head, gap, body = data.rpartition(b"\n\n")
        if dice.random() < 0.5 and (changed := _changed_document(body, dice)) is not None:
            data = head + gap + changed
        else:
            data = _changed_bytes(data, dice)
    return data[:most]


def _changed_document(text: bytes, dice: Random) -> bytes | None:
    """JSON with one value changed, None if it is no JSON."""
    try:
        document = json.loads(text)
        return json.dumps(_changed(document, dice), ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return None


def _changed(value: Any, dice: Random) -> Any:
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(list(value))
        kind = dice.random()
        if kind < 0.1:
            return {name: each for name, each in value.items() if name != key}
        if kind < 0.15:
            return {**value, dice.choice(("", "id", "\ud800", "a" * 100)): dice.choice(VALUES)}
        return {**value, key: _changed(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.8:
        place = dice.randrange(len(value))
        kind = dice.random()
        if kind < 0.1:
            return value[:place] + value[place + 1 :]
        if kind < 0.2:
            return [*value, value[place]]
        return [*value[:place], _changed(value[place], dice), *value[place + 1 :]]
    if isinstance(value, str) and value and dice.random() < 0.6:
        return _changed_bytes(value.encode("utf-8", "surrogatepass"), dice).decode("utf-8", "replace")
    if type(value) is int and dice.random() < 0.4:
        return value + dice.choice((-1, 1, 256, -value))
    return dice.choice(VALUES)


def _changed_bytes(data: bytes, dice: Random) -> bytes:
    begin = dice.randrange(len(data) + 1)
    end = min(len(data), begin + dice.choice((0, 1, 1, 2, 8, 100)))
    kind = dice.random()
    if kind < 0.35:
        middle = dice.choice(TOKENS)
    elif kind < 0.5:
        middle = dice.randbytes(max(1, end - begin))
    elif kind < 0.6:
        middle = b""
    elif kind < 0.75:
        middle = data[begin:end] * dice.choice((2, 3, 50))
    else:  # a piece from elsewhere in it
        place = dice.randrange(len(data) + 1)
        middle = data[place : place + dice.choice((1, 4, 30))]
    return data[:begin] + middle + data[end:]
