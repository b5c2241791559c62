"""What must be true at the end of a piece of a soak. Nothing of the agent is imported or asked: folders, digests, words.

The promises are those of `tests.torture.claims`, over what hours have left. A second object for a content is none of the
faults here: answers were lost all the time.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.rig.faults import Content, id_of
from tests.soak.plan import KEEP, Progress, Published, dropped
from tests.torture.worlds import Dropped

RECORD = ".axomsync.json"


def broken(progress: Progress, box: Path, words: str, secrets: tuple[str, ...]) -> list[str]:
    """Each promise that does not hold, in words. The agent has ended; nothing was to be done any more."""
    files = [dropped(progress.seed, number) for number in range(progress.files)]
    return [
        *_models(progress, box / "models"),
        *_files(files, progress, box / "drop"),
        *_receipts(progress, box / "drop"),
        *_left_over(progress, box),
        *(f"it wrote {secret}" for secret in secrets if secret in words),
        *(f"it wrote: {_around(words, sign)}" for sign in ("Traceback (most recent", "please report it") if sign in words),
    ]


def due(progress: Progress) -> list[Published]:
    """The versions that must be on disk: listed, and among the newest of their name."""
    return [
        version
        for number, version in enumerate(progress.versions)
        if version.listed and sum(later.name == version.name for later in progress.versions[number + 1 :]) < KEEP
    ]


def is_put_away(progress: Progress, drop: Path) -> bool:
    """Nothing lies in the drop folder any more but what the agent keeps there."""
    return not any(_open_files(drop)) and len(progress.uploads) > 0


def digest_of(data: bytes) -> str:
    """The SHA-256 of a content, as uploads and receipts are compared by it."""
    return hashlib.sha256(data).hexdigest()


def _models(progress: Progress, mirror: Path) -> Iterator[str]:
    wanted = {(version.name, version.version) for version in due(progress)}
    for version in progress.versions:
        folder = mirror / version.name / version.version
        if not folder.is_dir():
            if (version.name, version.version) in wanted:
                yield f"{folder} is not there"
            continue
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {RECORD}
        missing = version.files.keys() - there
        if there - version.files.keys() or any(not rel.endswith(".txt") for rel in missing):
            yield f"{folder} has {sorted(there)} and not {sorted(version.files)}"
        elif missing and (version.name, version.version) in wanted:
            yield f"{folder} was not extended by {sorted(missing)}"
        for rel in there & version.files.keys():
            if fault := Content(*version.files[rel]).fault_in(folder / rel):
                yield fault
    for name in {version.name for version in progress.versions}:
        link = mirror / name / "current"
        if link.is_symlink() and not (link / RECORD).is_file():
            yield f"{link} leads to nothing"
        newest = [version for version in progress.versions if version.name == name][-1]
        if newest.listed and link.resolve().name != newest.version:
            yield f"{link} leads to {link.resolve()}, not to {newest.version}"


def _files(files: list[Dropped], progress: Progress, drop: Path) -> Iterator[str]:
    for path in _open_files(drop):
        yield f"{path} was not put away"
    kept = Counter(_digest(path) for path in drop.rglob("*") if path.is_file() and not path.is_symlink())
    stored = set(progress.uploads.values())
    contents = {digest_of(file.content) for file in files if file.content is not None}
    for digest, number in Counter(digest_of(file.data) for file in files).items():
        if kept[digest] < number:
            yield f"{number - kept[digest]} of {digest} are nowhere"
    for digest in contents - stored:
        yield f"{digest} is not in storage"
    for digest in stored - contents:
        yield f"{digest} is in storage, and no valid file has it"
    invalid = sum(file.content is None for file in files)
    reasons = len(list((drop / "rejected").rglob("*.reason.txt")))
    if reasons != invalid:
        yield f"{invalid} files are invalid, and {reasons} have a reason"


def _receipts(progress: Progress, drop: Path) -> Iterator[str]:
    archived = [path for path in (drop / "uploaded").rglob("*") if path.is_file()]
    receipts = {path for path in archived if path.name.endswith(".receipt.json")}
    for path in archived:
        if path not in receipts and path.with_name(f"{path.name}.receipt.json") not in receipts:
            yield f"{path} has no receipt"
    for path in receipts:
        try:
            told = json.loads(path.read_bytes())
        except ValueError:
            yield f"{path} is no JSON"
            continue
        if progress.uploads.get(told["key"]) != told["sha256"]:
            yield f"{path} names {told['key']}, which has other bytes or is not there"


def _left_over(progress: Progress, box: Path) -> Iterator[str]:
    for folder in (box / "drop", box / "state"):
        yield from (f"{path} is left" for path in folder.rglob(".axomsync-*"))
    claims = box / "drop" / ".axomsync" / "claims"
    if claims.exists() and (left := [path.name for path in claims.iterdir() if path.is_symlink() and not path.suffix]):
        yield f"the claims {left[:5]} are left"
    kept = {id_of(version.name, version.version) for version in progress.versions if not version.listed}  # for a day
    received = (path for path in (box / "models" / ".axomsync").rglob("*") if path.is_file() and path.stat().st_size)
    if staging := [path for path in received if kept.isdisjoint(path.parts)]:
        yield f"{[str(path) for path in staging[:5]]} are left in staging"


def _open_files(drop: Path) -> Iterator[Path]:
    for path in drop.rglob("*"):
        if path.is_file() and path.relative_to(drop).parts[0] not in ("uploaded", "rejected", ".axomsync"):
            yield path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _around(text: str, sign: str) -> str:
    place = text.index(sign)
    return text[max(0, place - 300) : place + 1500]
