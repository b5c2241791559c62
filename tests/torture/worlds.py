"""What there is before the first life: files that people drop, versions that the console lists, a configuration. Pure."""

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

WORLDS = 48


@dataclass(frozen=True)
class Dropped:
    """A file that a person drops. `data` are its bytes; `content` is what storage must get, None if it is invalid."""

    path: str
    data: bytes
    content: bytes | None


@dataclass(frozen=True)
class Published:
    """A version that the console lists: for each file its size and the number that its bytes follow from."""

    name: str
    version: str
    files: tuple[tuple[str, int, int], ...]
    part: int | None  # size of the parts of its multipart uploads
    etag: bool


@dataclass(frozen=True)
class World:
    """What there is before the first life."""

    number: int
    config: dict[str, dict[str, Any]]
    dropped: tuple[Dropped, ...]
    published: tuple[Published, ...]
    refused: tuple[str, ...] = ()  # versions that a gate says no to
    gateways: int = 0
    secrets: tuple[str, ...] = ()  # words: a gate says no to files that have one


def world_of(number: int) -> World:
    """The world of this number."""
    dice = Random(f"world {number}")
    drop: dict[str, Any] = {"settle": "20ms", "after": dice.choice(("archive", "archive", "keep", "delete"))}
    if dice.random() < 0.3:
        drop["shard"] = "2KiB"
    if dice.random() < 0.3:
        drop["include"] = ["*.jsonl", "*.jsonl.gz"]
    mirror: dict[str, Any] = {"reserve": "1MiB", "verify": dice.choice(("etag", "etag", "size"))}
    if dice.random() < 0.25:
        mirror["keep"] = 1
    if dice.random() < 0.4:
        mirror["views"] = [f"{dice.choice(('flat', 'hf'))}:VIEW"]
    dropped = tuple(_dropped(dice, packed="include" in drop)) if number % 3 != 1 else ()
    published = tuple(some_published(dice)) if number % 3 != 0 or not dropped else ()
    transfer = {"connections": dice.choice((1, 4, 16)), "stall": "2s"}
    return World(number, {"drop": drop, "mirror": mirror, "transfer": transfer, "web": {"listen": ""}}, dropped, published)


def _dropped(dice: Random, *, packed: bool) -> Iterator[Dropped]:
    seen: list[tuple[str, bytes]] = []
    for index in range(dice.randint(1, 5)):
        name = dice.choice((f"{index}.jsonl", f"deep/er/{index}.jsonl", f"ä b+{index}%2F.jsonl"))
        kind = dice.random()
        if kind < 0.2 and seen:
            first, data = dice.choice(seen)  # the content of another file, perhaps under its name, which is no new upload
            name = dice.choice((name, f"again/{index}/{os.path.basename(first)}"))
        else:
            texts = ({"text": f"{dice.getrandbits(64):x} " * dice.randint(1, 30)} for _ in range(dice.randint(1, 40)))
            data = b"".join(json.dumps(text).encode() + b"\n" for text in texts)
        if kind > 0.85:
            yield Dropped(name, data + b"no JSON\n", None)
        elif packed and kind > 0.6:
            yield Dropped(f"{name}.gz", gzip.compress(data, mtime=0), data)
        else:
            seen.append((name, data))
            yield Dropped(name, data, data)


def some_published(dice: Random) -> Iterator[Published]:
    """One to three versions."""
    for index in range(dice.randint(1, 3)):
        files = tuple(
            (dice.choice(("{}.bin", "sub/{}.json", "tokenizer-{}.txt")).format(number), size, dice.getrandbits(30))
            for number, size in enumerate(
                dice.choice((0, 1, 900, 70_000, 300_000, 1_200_000)) for _ in range(dice.randint(1, 4))
            )
        )
        part = dice.choice((None, None, 100_000, 65_536))
        yield Published(dice.choice(("chassis", "wheel")), f"v{index}", files, part, etag=dice.random() < 0.85)
