"""Any sequence of drops, pauses, kills, clock steps and failures of storage: at the end storage has every finished file.

The drop folder is real, and so are the ways in which files appear in it; time moves only when a test moves it.
"""

import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from axomsync.core.records import UploadState
from axomsync.drop import head_start
from axomsync.ledger import Reader
from tests.drop.conftest import dataset
from tests.drop.inprocess import DropHere, ledger_template
from tests.drop.test_appearing import (
    copy,
    hard_link,
    memory_map,
    move_in,
    temporary_then_rename,
    write_and_close,
    write_in_pieces,
)
from tests.rig.anything import some

WAYS = [write_and_close, write_in_pieces, temporary_then_rename, move_in, hard_link, copy, memory_map]
FAULTS = ["refused", "expired", "cut", "lost before storing", "lost", "lost, then expired"]
FOLDERS = st.sampled_from(["", "x", "x/y"])
NAMES = st.sampled_from(["a.jsonl", "b.jsonl", "it's 100%.jsonl"])
LINES = st.integers(1, 4)

template: Path


class AnySequence(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm"
        self.home = Path(tempfile.mkdtemp(prefix="axomsync-any-", dir=memory if os.path.isdir(memory) else None))
        self.patch = pytest.MonkeyPatch()
        self.number = 0
        self.must: set[tuple[str, bytes]] = set()  # name and content
        self.may: set[tuple[str, bytes]] = set()  # overwritten or removed, perhaps before the agent took it
        self.broken: set[tuple[str, bytes]] = set()
        self.lying: dict[Path, tuple[str, bytes]] = {}
        self.writers: dict[Path, tuple[IO[bytes], mmap.mmap | None]] = {}

    @initialize(
        after=st.sampled_from(["archive", "archive", "keep", "delete"]),
        shard=st.sampled_from(["", "", "80B"]),
        dedupe=st.sampled_from(["name", "content"]),
        head_starts=st.booleans(),
    )
    def install(self, after: str, shard: str, dedupe: str, head_starts: bool) -> None:
        self.patch.setattr(head_start, "WORTH_A_HEAD_START", 0 if head_starts else math.inf)
        self.here = DropHere(self.home, template, after=after, shard=shard, dedupe=dedupe)

    def teardown(self) -> None:
        try:
            if hasattr(self, "here"):
                self.settle_accounts()
        finally:
            self.patch.undo()
            for file, mapping in self.writers.values():
                if mapping is not None:
                    mapping.close()
                file.close()
            shutil.rmtree(self.home)

    # Actions of people and programs

    @rule(way=st.sampled_from(WAYS), folder=FOLDERS, name=NAMES, lines=LINES, again=st.booleans())
    def drop(self, way: Callable[[Path, Path, str, bytes], str], folder: str, name: str, lines: int, again: bool) -> None:
        place = self.here.folder / folder
        if place / name in self.writers:
            return
        place.mkdir(parents=True, exist_ok=True)
        self.number += not again  # else the same content again, perhaps
        data = dataset(str(self.number), lines)
        self.replace(place / name, data)
        (self.here.outside / name).unlink(missing_ok=True)
        if way is hard_link:
            (place / name).unlink(missing_ok=True)
        way(place, self.here.outside, name, data)
        self.must.add((name, data))

    @rule(folder=FOLDERS, name=NAMES, data=st.sampled_from([b"", b"{}\n[]\n", b'{"a": "\xff"}\n', b'{"cut": "o']))
    def drop_broken(self, folder: str, name: str, data: bytes) -> None:
        place = self.here.folder / folder
        if place / name in self.writers:
            return
        place.mkdir(parents=True, exist_ok=True)
        self.replace(place / name, data)
        (place / name).write_bytes(data)
        self.broken.add((name, data))

    @rule(name=NAMES, mapped=st.booleans())
    def begin_to_write(self, name: str, mapped: bool) -> None:
        """Begin a file; its first part alone would be a valid dataset, but is not all."""
        path = self.here.folder / name
        if path in self.writers:
            return
        self.number += 1
        data = dataset(f"slowly {self.number}", 2)
        self.replace(path, data)
        path.unlink(missing_ok=True)
        file = path.open("w+b", buffering=0)
        if mapped:
            file.write(dataset("not yet", 1) * 4)
            mapping = mmap.mmap(file.fileno(), 0)
            self.writers[path] = (file, mapping)
        else:
            file.write(dataset(f"slowly {self.number}", 1))
            self.writers[path] = (file, None)

    @precondition(lambda self: self.writers)
    @rule()
    def finish_writing(self) -> None:
        path, (file, mapping) = self.writers.popitem()
        _, data = self.lying[path]
        if mapping is not None:
            mapping[: len(data)] = data
            mapping.close()
            os.ftruncate(file.fileno(), len(data))
        else:
            file.write(data[file.tell() :])
        file.close()
        self.must.add((path.name, data))

    @rule(name=NAMES, folder=FOLDERS)
    def take_away(self, name: str, folder: str) -> None:
        path = self.here.folder / folder / name
        if path not in self.writers:
            self.replace(path, None)
            path.unlink(missing_ok=True)

    @rule(name=NAMES, other=NAMES)
    def rename(self, name: str, other: str) -> None:
        old, new = self.here.folder / name, self.here.folder / other
        if name == other or not old.exists() or {old, new} & self.writers.keys():
            return
        data = old.read_bytes()
        self.replace(new, data)
        self.replace(old, None)
        old.rename(new)
        if (name, data) in self.broken:
            self.broken.add((other, data))
        else:
            self.must.add((other, data))

    def replace(self, path: Path, data: bytes | None) -> None:
        """Replace a file; the agent may have taken the old one already, or not."""
        if path.exists() and path in self.lying:
            gone = self.lying.pop(path)
            elsewhere = {entry for place, entry in self.lying.items() if place.exists()}
            if gone in self.must and gone not in elsewhere:
                self.must.remove(gone)
                self.may.add(gone)
        if data is not None:
            self.lying[path] = (path.name, data)

    # Actions of the agent

    @rule()
    def look(self) -> None:
        self.here.live()

    @rule(writes=st.integers(0, 12))
    def look_and_be_killed(self, writes: int) -> None:
        self.here.live(writes)

    @rule(faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=6))
    def storage_is_in_a_mood(self, faults: list[str]) -> None:
        self.here.far.faults.extend(faults)

    @rule(seconds=st.sampled_from([1.0, 60.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.here.clocks.advance(seconds)

    @rule(hours=st.sampled_from([-30, -1, 1, 30]))
    def the_clock_is_set(self, hours: int) -> None:
        self.here.clocks.wall += hours * 3600

    # Conditions at the end

    def settle_accounts(self) -> None:
        while self.writers:
            self.finish_writing()
        self.here.far.faults.clear()
        self.here.finish()
        far, by_content = self.here.far, self.here.settings.dedupe == "content"
        handed: dict[tuple[str, bytes], int] = {}
        keys: set[str] = set()
        for row, shards in self.here.uploads():
            if row.state is UploadState.UPLOADED:
                data = self.here.content(row, shards)
                handed[row.filename, data] = handed.get((row.filename, data), 0) + 1
                keys.update(shard.key or "" for shard in shards) if shards else keys.add(row.key or "")
        allowed = self.must | self.may
        assert set(handed.values()) <= {1}, "the same was uploaded twice"
        assert handed.keys() <= allowed, "what nobody dropped was uploaded"
        if by_content:
            assert {data for _, data in self.must} <= {data for _, data in handed}
            assert len({data for _, data in handed}) == len(handed)
        else:
            assert handed.keys() >= self.must
        orphans = {key for each in self.here.read(Reader.orphans).values() for key in each}
        vanished = {row.key for row, _ in self.here.uploads() if row.state is UploadState.FAILED}
        assert far.objects.keys() <= keys | orphans | vanished, "an object that nobody knows of"
        if self.here.settings.after == "archive":
            kept = {path.read_bytes() for path in (self.here.folder / "uploaded").rglob("*") if path.is_file()}
            assert {data for _, data in self.must} <= kept


def run(sequences: int, home: Path) -> None:
    global template  # hypothesis makes a state machine without arguments
    template = ledger_template(home)
    calm = settings(
        max_examples=sequences,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(AnySequence, settings=calm)


def test_storage_has_every_finished_file_after_any_sequence(tmp_path: Path) -> None:
    run(some(100), tmp_path)


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_storage_has_every_finished_file_after_many_more_sequences(tmp_path: Path) -> None:
    run(5000, tmp_path)
