"""Division of a large file into ranges that end at line ends. No copies are made; joined, the ranges are the original.

Failures handled: lines longer than a shard (that shard extends to the line's end), a file that ends early (`SourceChanged`).
"""

import os

from axomsync.core.errors import SourceChanged
from axomsync.core.records import Segment

LOOK_BACK = 1024 * 1024  # bytes read at a time to find a line end


def plan(file: int, size: int, shard: int) -> list[Segment]:
    """Ranges of at most `shard` bytes, each ending after a line end; only a single longer line makes a longer range."""
    shards, start = [], 0
    while size - start > shard:
        end = _last_line_end(file, start, start + shard) or _next_line_end(file, start + shard, size)
        shards.append(Segment(start, end))
        start = end
    if start < size:
        shards.append(Segment(start, size))
    return shards


def shard_name(filename: str, number: int, count: int) -> str:
    """Name of one shard: `train.jsonl` → `train-00002-of-00008.jsonl`, the form of dataset tools. Numbers count from 1."""
    stem, extension = os.path.splitext(filename)
    return f"{stem}-{number:05}-of-{count:05}{extension}"


def _last_line_end(file: int, start: int, end: int) -> int | None:
    position = end
    while position > start:
        begin = max(start, position - LOOK_BACK)
        found = _read(file, begin, position - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        position = begin
    return None


def _next_line_end(file: int, start: int, size: int) -> int:
    position = start
    while position < size:
        piece = _read(file, position, min(LOOK_BACK, size - position))
        found = piece.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(piece)
    return size


def _read(file: int, position: int, length: int) -> bytes:
    piece = os.pread(file, length, position)
    if len(piece) < length:
        raise SourceChanged("the file became shorter while it was read")
    return piece
