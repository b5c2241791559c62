"""What a seed means: a world, and the steps of one run against it. Pure.

A world is drawn from `seed % WORLDS`, so that many seeds share one and its number of calls is counted once. Everything else
is drawn from the seed: what kind of trouble, in which lives, at which share of a life's calls, with which knobs.
"""

import errno
import gzip
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from tests.torture.forge import CHANGES, KILL_AFTER, KILL_BEFORE, LOOKS, SHORT

WORLDS = 48
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EDQUOT, errno.EINTR, errno.EACCES)
KINDS = ("kill", "power", "error", "wire", "ledger", "limits")
DISKS = {"ext4": ("mkfs.ext4", "-b", "4096"), "xfs": ("mkfs.xfs",), "btrfs": ("mkfs.btrfs", "--mixed")}

# Each is drawn in a quarter of the runs. The first value is near the agent's own.
KNOBS: dict[str, tuple[Any, ...]] = {
    "SMALLEST_SEGMENT": (65_536, 1_000_003),
    "LARGEST_SEGMENT": (131_072, 4_000_037),
    "COMMIT_BYTES": (50_000, 1_000_000),
    "COMMIT_SECONDS": (0.0, 0.05),
    "COMMIT_FILES": (1, 3),
    "GROUP_COMMIT_MOST": (1, 2),
    "UPLOADS_AT_ONCE": (1, 3),
    "MODELS_AT_ONCE": (1, 2),
    "PUT_PIECE": (1_000, 65_536),
    "WRITE_SIZE": (4_096, 70_001),
    "SHORT_BODY": (0, 5_000),
    "QUICK_TRIES": (1, 2),
    "FIRST_LANES": (1, 16),
    "HASHED_BY_ONE_LANE": (1, 100_000),
    "WORTH_ASKING": (1,),
}
ALWAYS: dict[str, Any] = {"BACKOFF_BASE": 0.01, "LONGEST_QUICK_PAUSE_SECONDS": 0.05}  # nobody waits for nothing


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


@dataclass(frozen=True)
class Blow:
    """A strike at the share `place` (0 to 1) of the calls of its kind."""

    place: float
    how: int
    kind: int = CHANGES
    lasts: int = 1


@dataclass(frozen=True)
class Wire:
    """A fault of the far side: the `number`-th of `world.FAULTS`, for `times` requests after `skip` of them."""

    number: int
    skip: int
    times: int


@dataclass(frozen=True)
class Attack:
    """What happens to the ledger between two lives, at the share `place` of its bytes."""

    how: str  # flip, cut, zero, lose, wal (flips a byte of the write-ahead log)
    place: float
    length: int


@dataclass(frozen=True)
class Step:
    """One life and what surrounds it; all parts but the life may be absent."""

    blow: Blow | None = None
    wire: tuple[Wire, ...] = ()
    attack: Attack | None = None  # before the life
    arrives: int = 0  # so many of the world's files and versions appear before the life
    power_fails: bool = False  # after the blow; else the disk keeps what was written
    descriptors: int = 0
    memory: int = 0


@dataclass(frozen=True)
class Schedule:
    """One run."""

    seed: int
    kind: str
    world: int
    disk: str  # of DISKS, "" for the machine's own
    steps: tuple[Step, ...]
    knobs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"SEED={self.seed} KIND={self.kind} world {self.world} {self.disk} {self.steps} {self.knobs}"


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
    published = tuple(_published(dice)) if number % 3 != 0 or not dropped else ()
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


def _published(dice: Random) -> Iterator[Published]:
    for index in range(dice.randint(1, 3)):
        files = tuple(
            (dice.choice(("{}.bin", "sub/{}.json", "tokenizer-{}.txt")).format(number), size, dice.getrandbits(30))
            for number, size in enumerate(
                dice.choice((0, 1, 900, 70_000, 300_000, 1_200_000)) for _ in range(dice.randint(1, 4))
            )
        )
        part = dice.choice((None, None, 100_000, 65_536))
        yield Published(dice.choice(("chassis", "wheel")), f"v{index}", files, part, etag=dice.random() < 0.85)


def kind_of(seed: int, kinds: Sequence[str]) -> str:
    """The kind of trouble that a campaign gives to a seed. Not by `seed % …`, which picks the world."""
    return Random(f"kind of {seed}").choice(kinds)


def drawn(seed: int, kind: str) -> Schedule:
    """The schedule of a seed, with trouble of one of KINDS."""
    dice = Random(f"{kind} {seed}")
    world = world_of(seed % WORLDS)
    knobs = ALWAYS | {name: dice.choice(values) for name, values in KNOBS.items() if dice.random() < 0.25}
    disk = dice.choice(("ext4", "ext4", "xfs", "btrfs")) if kind == "power" else ""
    lives = dice.choice((2, 2, 3) if kind == "ledger" else (1, 1, 2, 3))
    late = dice.randint(0, (len(world.dropped) + len(world.published)) // 2) if lives > 1 else 0
    steps = []
    for number in range(lives):
        step = Step(arrives=late if number == 1 else 0)
        steps.append(_troubled(step, kind, dice, first=number == 0))
    return Schedule(seed, kind, world.number, disk, tuple(steps), knobs)


def _troubled(step: Step, kind: str, dice: Random, *, first: bool) -> Step:
    place = dice.random()
    match kind:
        case "kill" | "power":
            blow = Blow(place, dice.choice((KILL_BEFORE, KILL_BEFORE, KILL_AFTER)))
            return replace(step, blow=blow, power_fails=kind == "power")
        case "error":
            of_kind = dice.choice((CHANGES, CHANGES, CHANGES, LOOKS))
            how = (
                dice.choice((*ERRORS, SHORT)) if of_kind == CHANGES else dice.choice((errno.EIO, errno.EMFILE, errno.EINTR))
            )
            lasts = dice.choice((1, 1, 1, 3, 20, 10**9))  # a call that is interrupted for ever is repeated for ever
            return replace(step, blow=Blow(place, how, of_kind, min(lasts, 20) if how == errno.EINTR else lasts))
        case "wire":
            wires = tuple(Wire(dice.getrandbits(30), dice.choice((0, 0, 1, 3)), dice.choice((1, 1, 2, 5))) for _ in range(3))
            return replace(step, wire=wires, blow=Blow(place, KILL_BEFORE) if dice.random() < 0.3 else None)
        case "ledger":
            way = dice.choice(("flip", "flip", "cut", "zero", "lose", "wal"))
            attack = None if first else Attack(way, dice.random(), dice.choice((1, 1, 8, 100, 4096)))
            return replace(step, attack=attack, blow=Blow(place, KILL_BEFORE) if first or dice.random() < 0.3 else None)
        case "limits":
            if dice.random() < 0.7:
                return replace(step, descriptors=dice.randint(12, 60))
            return replace(step, memory=dice.randint(150, 900) << 20)
    raise ValueError(kind)


def simpler(schedule: Schedule) -> Iterator[Schedule]:
    """Schedules with one thing less."""
    for index in range(len(schedule.steps)):
        yield replace(schedule, steps=schedule.steps[:index] + schedule.steps[index + 1 :])
    for name in schedule.knobs.keys() - ALWAYS.keys():
        yield replace(schedule, knobs={knob: value for knob, value in schedule.knobs.items() if knob != name})
    for index, step in enumerate(schedule.steps):
        less = [replace(step, wire=step.wire[:n] + step.wire[n + 1 :]) for n in range(len(step.wire))]
        less += [replace(step, arrives=0)] if step.arrives else []
        less += [replace(step, blow=None)] if step.blow else []
        for one in less:
            yield replace(schedule, steps=(*schedule.steps[:index], one, *schedule.steps[index + 1 :]))
