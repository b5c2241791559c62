"""What comes to the agent in a soak: files, and changes of the console's list; each is drawn from seed and number. Pure."""

import gzip
import json
import os
from dataclasses import dataclass, field
from random import Random

from tests.torture.worlds import Dropped

FILES, FILES_A_MINUTE = 20_000, 56.0  # six hours until the end
VERSIONS, CHANGES_A_MINUTE = 200, 1.0
NAMES = 25  # of models
KEEP = 3  # versions of a name


@dataclass
class Published:
    """A version that the console has: size and number of each file, of which its bytes follow. `listed`: not withdrawn."""

    name: str
    version: str
    files: dict[str, tuple[int, int]]
    part: int | None
    listed: bool = True


@dataclass
class Progress:
    """How far a soak is; saved between its pieces."""

    seed: int
    ports: tuple[int, int]  # of the far side and of the gateway
    seconds: float = 0.0  # in all pieces
    lives: int = 0
    files: int = 0  # dropped
    changes: int = 0  # of the list
    versions: list[Published] = field(default_factory=list)  # oldest first
    uploads: dict[str, str] = field(default_factory=dict)  # key to SHA-256
    requests: int = 0
    faults: int = 0


def dropped(seed: int, number: int) -> Dropped:
    """The file of this number: mostly whole; one in fifty invalid, some compressed, some the same as the one before."""
    dice = Random(f"soak {seed} file {number}")
    folder, kind = dice.choice(("", "", "a/", "b/deeper/")), dice.random()
    if kind < 0.05 and number:
        before = dropped(seed, number - 1)
        return Dropped(f"again/{number}/{os.path.basename(before.path)}", before.data, before.content)
    lines = dice.choices((1, 5, 20, 200, 2000), (10, 40, 40, 9, 1))[0]
    data = b"".join(
        json.dumps({"text": f"{dice.getrandbits(64):x} " * dice.randint(1, 10)}).encode() + b"\n" for _ in range(lines)
    )
    if kind < 0.07:
        return Dropped(f"{folder}{number}.jsonl", data + b"no JSON\n", None)
    if kind < 0.15:
        return Dropped(f"{folder}{number}.jsonl.gz", gzip.compress(data, mtime=0), data)
    return Dropped(f"{folder}{number}.jsonl", data, data)


def change_list(progress: Progress) -> None:
    """Make the next change of the console's list: a version appears, is withdrawn, or comes back."""
    dice = Random(f"soak {progress.seed} change {progress.changes}")
    progress.changes += 1
    kind, gone = dice.random(), [version for version in progress.versions if not version.listed]
    listed = [version for version in progress.versions if version.listed]
    if (kind < 0.7 or not listed) and len(progress.versions) < VERSIONS:
        progress.versions.append(_new(dice, len(progress.versions)))
    elif kind < 0.85 and gone:
        dice.choice(gone).listed = True
    elif listed:
        dice.choice(listed).listed = False


def _new(dice: Random, number: int) -> Published:
    names = ("weights-{}.bin", "sub/{}.bin", "notes-{}.txt")
    files = {
        dice.choice(names).format(index): (dice.choice((0, 1, 900, 70_000, 300_000, 2_500_000)), dice.getrandbits(16))
        for index in range(dice.randint(1, 5))
    }
    return Published(f"model-{dice.randrange(NAMES):02}", f"v{number}", files, dice.choice((None, None, 100_000, 65_536)))
