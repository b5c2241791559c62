"""Damage at rest: found by reading, named by file and segment, and repaired by fetching only the damaged segments."""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from axomsync.core.errors import LocalFault
from axomsync.core.records import Manifest, ManifestFile, ModelFile, ModelState
from axomsync.mirror.check.scrub import Upkeep
from axomsync.mirror.fetch.partial import Job, PartialFile
from axomsync.mirror.fetch.urls import SignedUrls
from axomsync.mirror.publish.record import read_record
from axomsync.runtime.meter import Meter
from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import FOREVER, Content, Fault, FaultyServer

MIB = 1 << 20
LARGE = Content(80 * MIB + 17, 1)
FILES = {"a.bin": LARGE, "sub/b.bin": Content(300_000, 2), "sub/c.bin": Content(300_000, 3)}
DAY = 86400.0


def flip(path: Path, *positions: int) -> None:
    with path.open("r+b") as file:
        for position in positions:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 4]))


def swap(folder: Path) -> None:
    (folder / "sub/b.bin").rename(folder / "x")
    (folder / "sub/c.bin").rename(folder / "sub/b.bin")
    (folder / "x").rename(folder / "sub/c.bin")


@pytest.fixture
def folder(server: FaultyServer, mirror: MirrorHere) -> Path:
    """A published model, one month later."""
    server.add_model("chassis", "v1", FILES)
    mirror.sync()
    mirror.later = 31 * DAY
    server.requests.clear()
    return mirror.folder / "chassis" / "v1"


def is_whole(folder: Path) -> bool:
    return not any(content.fault_in(folder / rel) for rel, content in FILES.items())


@pytest.mark.parametrize(("verify", "word"), [("etag", "proven"), ("size", "size only")])
def test_ledger_has_the_proofs_of_files(server: FaultyServer, mirror: MirrorHere, verify: str, word: str) -> None:
    mirror.settings["verify"] = verify
    server.add_model("chassis", "v1", {"a.bin": Content(9, 1), "b.bin": Content(9, 2)})
    mirror.sync()
    assert mirror.models()[0].proofs == ((word, 2),)
    shutil.rmtree(mirror.state)
    mirror.sync()
    assert mirror.models()[0].proofs == ((word, 2),), "from the record, where the ledger was lost"
    with closing(sqlite3.connect(mirror.state / "state.db")) as db, db:
        db.execute("UPDATE models SET proofs = NULL, verified_at = NULL")
    assert mirror.models()[0].proofs == ()
    mirror.scrub()
    assert mirror.models()[0].proofs == ((word, 2),), "as after an upgrade"


def test_undamaged_model_is_only_read(server: FaultyServer, mirror: MirrorHere, folder: Path) -> None:
    before = {path: path.stat().st_ino for path in folder.rglob("*")}
    mirror.scrub()
    assert server.requests == []
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == before


DAMAGES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "one bit": (lambda f: flip(f / "a.bin", 5 * MIB), 1, "segments differ from the published ones (bytes "),
    "two far apart": (lambda f: flip(f / "a.bin", 0, 80 * MIB), 2, "a.bin: 2 of "),
    "truncation": (
        lambda f: os.truncate(f / "a.bin", 80 * MIB),
        1,
        f"a.bin: has {80 * MIB} bytes instead of {80 * MIB + 17}",
    ),
    "bytes too many": (lambda f: os.truncate(f / "sub/b.bin", 300_001), 0, "sub/b.bin: has 300001 bytes instead of 300000"),
    "a missing file": (lambda f: (f / "sub/b.bin").unlink(), 1, "sub/b.bin: is missing"),
    "a missing folder": (
        lambda f: shutil.rmtree(f / "sub"),
        2,
        "sub/b.bin: is missing (bytes 0-300000); sub/c.bin: is missing",
    ),
    "a symlink": (
        lambda f: ((f / "sub/b.bin").unlink(), (f / "sub/b.bin").symlink_to("c.bin")),
        1,
        "sub/b.bin: can't be read",
    ),
    "a FIFO": (
        lambda f: ((f / "sub/b.bin").unlink(), os.mkfifo(f / "sub/b.bin")),
        1,
        "sub/b.bin: is no longer a file",
    ),
    "swapped files": (swap, 2, "sub/b.bin: 1 of 1 segments differ"),
    "zeros": (lambda f: (f / "sub/c.bin").write_bytes(bytes(300_000)), 1, "sub/c.bin: 1 of 1 segments"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_repaired_by_fetching_its_segments_alone(
    server: FaultyServer, mirror: MirrorHere, folder: Path, kind: str
) -> None:
    damage, segments, told = DAMAGES[kind]
    record = read_record(folder)
    assert record is not None
    longest = max(part.end - part.start for file in record.files for part in file.segments)
    damage(folder)
    server.inject(Fault(status=503), "/download", times=FOREVER)
    mirror.scrub()
    model = next(model for model in mirror.models() if model.name == "chassis")
    assert told in (model.damage or "")
    assert (model.state, server.storage_requests()) == (ModelState.PUBLISHED, [])
    server.heal()
    mirror.scrub()
    assert server.storage_requests() == [], "not at once again"
    mirror.later += 3700
    mirror.scrub()
    assert is_whole(folder)
    assert server.asked() <= segments * longest
    assert read_record(folder) == record
    assert next(m.damage for m in mirror.models()) is None
    server.requests.clear()
    mirror.later += 31 * DAY
    mirror.scrub()
    assert server.requests == []


def test_damage_that_is_found_during_a_pause_is_repaired_after_it(
    server: FaultyServer, mirror: MirrorHere, folder: Path
) -> None:
    flip(folder / "sub/b.bin", 1000)
    with mirror.context() as context:
        Upkeep(replace(context, paused=lambda: True)).scrub(lambda: None)
    assert server.requests == []
    assert mirror.told == [
        "chassis/v1: damaged, and can't be repaired now: transfers are paused; `axomsync resume` ends the pause"
    ]
    mirror.later += 3600.0
    mirror.scrub()
    assert is_whole(folder)
    assert mirror.told == []


def test_changed_object_is_not_mixed_in(server: FaultyServer, mirror: MirrorHere, folder: Path) -> None:
    flip(folder / "a.bin", 5 * MIB)
    damaged = (folder / "a.bin").stat().st_ino
    server.replace(next(key for key, o in server.objects.items() if o.content == LARGE), Content(LARGE.size, 99))
    mirror.scrub()
    assert "1 of " in (next(iter(mirror.models())).damage or "")
    assert (folder / "a.bin").stat().st_ino == damaged
    assert list((mirror.folder / ".axomsync" / "here").iterdir()) == []


def test_late_lane_makes_no_file_in_a_removed_folder(tmp_path: Path) -> None:
    """The lane may have waited for a new URL while the job ended."""
    manifest = Manifest("m", (ManifestFile("a.bin", 5, "http://127.0.0.1/a", None),))
    links = SignedUrls(manifest, lambda: manifest, time.monotonic)
    with Meter(time.monotonic).transfer("down", "m", 5, 0) as gauge:
        job = Job("m", links, gauge, 1.0, lambda failure: None)
        partial = PartialFile(job, ModelFile("a.bin", 5, None, ()), tmp_path / "a.bin")
        partial.release(partial.acquire())
        (tmp_path / "a.bin").unlink()
        partial.give_up()
        with pytest.raises(LocalFault, match="no job waits for it any more"):
            partial.acquire()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["digest", "garbage", "missing"])
def test_damaged_record_is_written_again(server: FaultyServer, mirror: MirrorHere, folder: Path, kind: str) -> None:
    path = folder / ".axomsync.json"
    document = json.loads(path.read_bytes())
    if kind == "digest":
        document["files"][1]["blake3"][0][2] = "0" * 64
        path.write_text(json.dumps(document))
    elif kind == "garbage":
        path.write_bytes(b"\0" * 100)
    else:
        path.unlink()
    mirror.scrub()
    assert is_whole(folder)
    mended = read_record(folder)
    assert mended is not None
    assert {file.rel: file.segments for file in mended.files} == {f.rel: f.segments for f in mirror.files(mended.model.id)}
    assert server.sent() <= 300_000


def test_adopted_model_is_read_soon(server: FaultyServer, mirror: MirrorHere, folder: Path) -> None:
    flip(folder / "sub/b.bin", 7)
    shutil.rmtree(mirror.state)
    mirror.sync()
    assert next(iter(mirror.models())).state == ModelState.PUBLISHED
    mirror.scrub()
    assert is_whole(folder)


@pytest.mark.parametrize("blocked", [True, False], ids=["blocked", "unknown to the ledger"])
def test_damaged_folder_that_was_not_adopted_is_repaired(
    server: FaultyServer, mirror: MirrorHere, folder: Path, blocked: bool
) -> None:
    (folder / "sub/b.bin").unlink()
    shutil.rmtree(mirror.state)
    if blocked:
        mirror.sync()
        assert next(iter(mirror.models())).state == ModelState.BLOCKED
    with mirror.context() as context:
        Upkeep(context).repair(server.models[0]["id"], lambda: None)
        if not blocked:
            led = [one.model for one in context.ledger.read.currents()]
            assert led == [server.models[0]["id"]], "it leads there already"
    assert is_whole(folder)
    mirror.sync()
    assert next(iter(mirror.models())).state == ModelState.PUBLISHED


@pytest.mark.parametrize(("days", "is_due"), [(0.0, False), (29.0, False), (31.0, True), (-1.0, True), (-400.0, True)])
def test_scrub_reads_in_time_though_the_clock_was_set(
    server: FaultyServer, mirror: MirrorHere, days: float, is_due: bool
) -> None:
    """A time further ahead than possible came from a wrong clock."""
    files = {"a.bin": Content(9, 1)}
    server.add_model("chassis", "v1", files)
    mirror.sync()
    mirror.later = days * DAY
    flip(mirror.folder / "chassis" / "v1" / "a.bin", 7)
    mirror.scrub()
    assert (files["a.bin"].fault_in(mirror.folder / "chassis" / "v1" / "a.bin") is None) is is_due
