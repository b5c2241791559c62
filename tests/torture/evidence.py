"""What a run leaves for the claims. This module imports nothing of the agent and asks it nothing."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.worlds import Dropped, Published, World


@dataclass(frozen=True)
class Life:
    """One life: exit code or minus signal, counted calls, the struck call, what it wrote, durable ranges that it fetched."""

    verb: tuple[str, ...]
    code: int
    changes: int
    looks: int
    struck: str
    words: str
    fetched_again: tuple[str, ...]
    asked: tuple[str, ...]  # versions of whose objects storage was asked
    how: int | None  # how it was struck


@dataclass
class Truth:
    """What people and the console did so far. A version is known by its `version`, which is unique in a world."""

    dropped: list[Dropped] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)  # oldest first
    replaced: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)  # former (size, number) of a file
    grown: dict[str, str] = field(default_factory=dict)  # version → the file that its list got later
    took: list[str] = field(default_factory=lambda: ["*"])  # [mirror] files in the beginning
    takes: list[str] = field(default_factory=lambda: ["*"])  # and now
    unlisted: set[str] = field(default_factory=set)
    ever_removed: bool = False  # a version was unlisted, or its folder removed by a person
    forgotten: set[str] = field(default_factory=set)  # versions whose folders a person removed: links to them lead nowhere
    refused: set[str] = field(default_factory=set)  # versions that a gate says no to
    agreed: dict[str, set[str]] = field(default_factory=dict)  # name → versions that `current` may lead to by people's word
    promoted: set[str] = field(default_factory=set)  # names of which a command said that `current` leads
    imported: set[str] = field(default_factory=set)  # versions on a disk of which `import` said that it took them
    imported_before: set[str] = field(default_factory=set)  # when the last life began
    damaged: dict[Path, bytes | None] = field(default_factory=dict)  # what lies there; None is nothing


@dataclass(frozen=True)
class Evidence:
    """What is there after a life. `at_rest`: nothing goes wrong any more, and this life was to find nothing to do."""

    data: Path
    beside: Path
    world: World
    truth: Truth
    bytes_of: Callable[[int, int], bytes]
    uploaded: dict[str, bytes]
    lives: tuple[Life, ...]
    requests: tuple[tuple[str, str], ...]
    secrets: tuple[str, ...]
    at_rest: bool
    before: dict[str, Any]
    ledger_attacked: bool
    wire_failed: bool

    @property
    def dropped(self) -> list[Dropped]:
        return self.truth.dropped

    @property
    def published(self) -> list[Published]:
        return self.truth.published

    @property
    def drop(self) -> Path:
        return self.data / "drop"

    @property
    def mirror(self) -> Path:
        return self.data / "mirror"

    def everything(self) -> dict[str, Any]:
        """All that a life with nothing to do leaves as it is."""
        found: dict[str, Any] = {}
        for folder in (self.drop, self.mirror, self.data / "view"):
            for path in sorted(folder.rglob("*")):
                s = path.lstat()
                judged = ".axomsync" in path.parts and self.truth.refused  # it is made ready for the gate again
                if "agents" not in path.parts and not judged:  # in `agents` each life says that it was here
                    found[str(path)] = (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns if not path.is_dir() else 0)
        found["ledger"] = rows_of(self.data / "state" / "state.db")
        return found

    def is_idle(self) -> bool:
        """The last life sent and fetched nothing, and changed nothing. A pass asks about what a gate refused, though."""
        asks = any("download" in path or not path.startswith("/api") for _, path in self.requests)
        busy = any(method != "GET" for method, _ in self.requests) or (asks and not self.truth.refused)
        return not busy and self.before == self.everything()


def rows_of(ledger: Path) -> dict[str, list[Any]]:
    """The rows of uploads, models and segments, but for times; {} if there is no ledger that can be read."""
    if not ledger.exists():
        return {}
    place = Path(tempfile.mkdtemp())
    try:
        for file in ledger.parent.glob("state.db*"):
            shutil.copyfile(file, place / file.name)
        with closing(sqlite3.connect(place / ledger.name)) as db:
            sql = {
                "uploads": "SELECT id, path, state, sha256, key, etag, in_drop, reason FROM uploads",
                "models": "SELECT id, state, path, reason, damage FROM models",
                "segments": "SELECT * FROM segments",
            }
            return {table: sorted(map(repr, db.execute(statement))) for table, statement in sql.items()}
    except (sqlite3.Error, UnicodeError):
        return {}
    finally:
        shutil.rmtree(place)


def folders_of(mirror: Path, model: Published) -> list[Path]:
    """The folders of a version: its own, or one with a part of its id when two versions have the same labels."""
    parent = mirror / model.name
    return [path for path in parent.glob(f"{model.version}*") if path.is_dir() and not path.is_symlink()]
