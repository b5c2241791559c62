"""What a seed means: a world, and the steps of one run against it. Pure.

A world is drawn from `seed % WORLDS`, so that many seeds share one and its number of calls is counted once. Everything else
is drawn from the seed: its story, what kind of trouble, in which lives, at which share of a life's calls, with which knobs.
"""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from tests.torture.forge import CHANGES, KILL_AFTER, KILL_BEFORE, LOOKS, SHORT
from tests.torture.steps import Attack, Blow, Step, Wire
from tests.torture.stories import STORIES, told
from tests.torture.worlds import WORLDS, world_of

ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EDQUOT, errno.EINTR, errno.EACCES)
KINDS = ("kill", "power", "error", "wire", "ledger", "limits", "room", "oom")
DISKS = {"power": ("ext4", "ext4", "xfs", "btrfs"), "room": ("ext4",), "oom": ("ext4",)}  # by kind; else the machine's own

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
# Drawn together in a quarter of the runs, by dice of their own: so they leave all that a seed means otherwise as it is.
HEAD_STARTS: dict[str, tuple[Any, ...]] = {"WORTH_A_HEAD_START": (0, 2_000), "CHECKED_FIRST": (0, 1_000)}
MANY_CARRIERS: dict[str, tuple[Any, ...]] = {"RATE_SECONDS": (0.001,), "EARLY_SECONDS": (0.0,)}  # likewise
ALWAYS: dict[str, Any] = {  # nobody waits for nothing
    "BACKOFF_BASE": 0.01,
    "LONGEST_QUICK_PAUSE_SECONDS": 0.05,
    "GONE_POLLS": 1,
    "GONE_SECONDS": 0.0,
}


@dataclass(frozen=True)
class Schedule:
    """One run."""

    seed: int
    kind: str
    world: int
    disk: str  # of DISKS, "" for the machine's own
    steps: tuple[Step, ...]
    knobs: dict[str, Any] = field(default_factory=dict)
    story: str = ""  # of STORIES, "" for a world in which nothing changes

    def __str__(self) -> str:
        words = f"SEED={self.seed} KIND={self.kind} STORY={self.story or 'none'} world {self.world}"
        return f"{words} {self.disk} {self.steps} {self.knobs}"


def kind_of(seed: int, kinds: Sequence[str]) -> str:
    """The kind of trouble that a campaign gives to a seed. Not by `seed % …`, which picks the world."""
    return Random(f"kind of {seed}").choice(kinds)


def story_of(seed: int) -> str:
    """The story that a campaign gives to a seed: half of the seeds have one."""
    return Random(f"story of {seed}").choice((*STORIES, *("" for _ in STORIES)))


def drawn(seed: int, kind: str, story: str = "") -> Schedule:
    """The schedule of a seed, with trouble of one of KINDS in a story of STORIES."""
    if story:
        return _story_drawn(seed, kind, story)
    dice = Random(f"{kind} {seed}")
    world = world_of(seed % WORLDS)
    knobs = _knobs(seed, dice)
    disk = dice.choice(DISKS[kind]) if kind in DISKS else ""
    lives = dice.choice((2, 2, 3) if kind == "ledger" else (1, 1, 2, 3))
    late = dice.randint(0, (len(world.dropped) + len(world.published)) // 2) if lives > 1 else 0
    steps = []
    for number in range(lives):
        step = Step(arrives=late if number == 1 else 0)
        steps.append(_troubled(step, kind, dice, first=number == 0))
    return Schedule(seed, kind, world.number, disk, tuple(steps), knobs)


def _story_drawn(seed: int, kind: str, story: str) -> Schedule:
    dice = Random(f"{kind} {seed} {story}")
    world, calm = told(seed % WORLDS, story)
    knobs = _knobs(seed, dice)
    disk = dice.choice(DISKS[kind]) if kind in DISKS else ""
    most = (len(world.dropped) + len(world.published)) // 2
    calm = (calm[0], replace(calm[1], arrives=dice.randint(0, most) if dice.random() < 0.3 else 0), *calm[2:])
    always = dice.randrange(len(calm))  # this step is troubled in any case
    steps: list[Step] = []
    for number, step in enumerate(calm):
        if number != always and dice.random() < 0.4:
            steps.append(step)
            continue
        steps.append(_troubled(step, kind, dice, first=not steps))
        if dice.random() < 0.3:  # the same again, and struck again
            steps.append(_troubled(replace(step, happens=(), arrives=0), kind, dice, first=False))
    return Schedule(seed, kind, world.number, disk, tuple(steps), knobs, story)


def _knobs(seed: int, dice: Random) -> dict[str, Any]:
    knobs = ALWAYS | {name: dice.choice(values) for name, values in KNOBS.items() if dice.random() < 0.25}
    for of_what, more in (("head starts", HEAD_STARTS), ("many carriers", MANY_CARRIERS)):
        own = Random(f"{of_what} of {seed}")
        knobs |= {name: own.choice(values) for name, values in more.items()} if own.random() < 0.25 else {}
    return knobs


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
        case "room":
            step = replace(step, blow=Blow(place, KILL_BEFORE) if dice.random() < 0.2 else None)
            if dice.random() < 0.6:
                return replace(step, room=dice.choice((0, 8_192, 100_000, 1 << 20, dice.randint(0, 4 << 20))))
            return replace(step, inodes=dice.choice((0, 1, dice.randint(2, 60))))
        case "oom":
            return replace(step, group=dice.randint(2 << 20, 48 << 20))
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
        less += [replace(step, power_fails=False)] if step.power_fails else []
        less += [replace(step, room=None, inodes=None)] if step.room is not None or step.inodes is not None else []
        less += [replace(step, happens=step.happens[:n] + step.happens[n + 1 :]) for n in range(len(step.happens))]
        for one in less:
            yield replace(schedule, steps=(*schedule.steps[:index], one, *schedule.steps[index + 1 :]))
