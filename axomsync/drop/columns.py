"""The column of a value within a line of JSON, found by the path of keys and indices that leads to it. Pure.

Only lines with a finding are looked at, so this may be slow. The line was accepted before; this reads it once more.

Failures handled: a path that leads nowhere, numbers and depths that Python's own reader refuses (column 1).
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress

Path = Sequence[str | int]

_blank = re.compile(r"[ \t\r]*")
_decoder = json.JSONDecoder(parse_int=str, parse_float=str)  # a number is only passed over, however long it is


def column_of(line: bytes, path: Path, *, of_key: bool = False) -> int:
    """Return the column of the value at `path`, or of its key, in characters from 1; 1 when it can't be found."""
    text = line.decode("utf-8", "replace")
    place = _end(text, 0)
    with suppress(ValueError, IndexError, RecursionError):
        for step in path[:-1]:
            place = _places(text, place, step)[1]
        if path:
            place = _places(text, place, path[-1])[0 if of_key else 1]
        return place + 1
    return 1


def _places(text: str, place: int, step: str | int) -> tuple[int, int]:
    """Return the places of the key and the value that `step` leads to, in the object or array at `place`.

    Raises `ValueError` where it leads nowhere. Of equal keys the last counts, as for the library that parses lines.
    """
    found: tuple[int, int] | None = None
    is_object = isinstance(step, str)
    if text[place] != ("{" if is_object else "["):
        raise ValueError(place)
    index = 0
    place = _end(text, place + 1)
    while text[place] not in "}]":
        key: str | int = index
        key_place = place
        if is_object:
            key, place = _decoder.raw_decode(text, place)
            place = _end(text, _end(text, place) + 1)
        if key == step:
            found = (key_place, place)
            if not is_object:
                break
        place = _end(text, _decoder.raw_decode(text, place)[1])
        index += 1
        if text[place] == ",":
            place = _end(text, place + 1)
    if found is None:
        raise ValueError(step)
    return found


def _end(text: str, place: int) -> int:
    match = _blank.match(text, place)
    return place if match is None else match.end()
