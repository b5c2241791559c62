"""`[mirror] files` changes: a published model gets its missing files, and loses none."""

import os
import threading
from pathlib import Path

import pytest

from axomsync.core.records import ModelState
from axomsync.mirror.publish.record import read_record
from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import FOREVER, Content, Fault, FaultyServer

MIB = 1 << 20
FILES = {"a.bin": Content(20 * MIB, 1), "sub/b.bin": Content(3 * MIB, 2), "c.txt": Content(500, 3), "d.json": Content(9, 4)}


@pytest.fixture
def folder(server: FaultyServer, mirror: MirrorHere) -> Path:
    """A model with only its large file selected."""
    server.add_model("chassis", "v1", FILES)
    mirror.settings["files"] = ["a.*"]
    mirror.sync()
    server.requests.clear()
    return mirror.folder / "chassis" / "v1"


def rels(folder: Path) -> set[str]:
    """Check that the files on disk are those of the record, and have the right bytes."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {".axomsync.json"}
    record = read_record(folder)
    assert record is not None
    assert there == {file.rel for file in record.files} == set(record.proofs)
    assert there | set(record.left_out) == set(FILES)
    assert not any(FILES[rel].fault_in(folder / rel) for rel in there)
    return there


def test_files_selection_without_more_files_requests_nothing(server: FaultyServer, mirror: MirrorHere, folder: Path) -> None:
    for files in ["a.*"], ["a.bin", "*.gguf"]:
        mirror.settings["files"] = files
        mirror.sync()
    assert server.console_requests("/download") == server.storage_requests() == []


def test_files_selected_later_join_the_published_ones(server: FaultyServer, mirror: MirrorHere, folder: Path) -> None:
    inode, over = (folder / "a.bin").stat().st_ino, threading.Event()
    seen: set[tuple[str, ...]] = set()

    def read() -> None:
        current = mirror.folder / "chassis" / "current"
        while not over.is_set():
            there = sorted(str(path.relative_to(current)) for path in current.rglob("*") if path.is_file())
            seen.add(tuple(rel for rel in there if ".axomsync" not in rel and (current / rel).stat().st_size))

    reader = threading.Thread(target=read)
    reader.start()
    mirror.settings["files"] = ["*.bin", "*.txt"]
    try:
        mirror.sync()
    finally:
        over.set()
        reader.join()
    assert seen <= {("a.bin",), ("a.bin", "sub/b.bin"), ("a.bin", "c.txt", "sub/b.bin")}, "each whole, the large one first"
    assert rels(folder) == {"a.bin", "sub/b.bin", "c.txt"}
    assert (folder / "a.bin").stat().st_ino == inode
    assert {request.key.rsplit("/", 1)[1] for request in server.storage_requests()} == {"1", "2"}, "not a.bin"
    (model,) = mirror.models()
    assert (model.state, model.reason, model.bytes_total) == (ModelState.PUBLISHED, None, 23 * MIB + 500)
    assert model.bytes_done == model.bytes_total
    assert list((mirror.folder / ".axomsync" / "here").iterdir()) == []
    server.requests.clear()
    mirror.sync()
    mirror.later = 31 * 86400.0
    mirror.scrub()
    assert server.storage_requests() == server.console_requests("/download") == []
    assert mirror.models()[0].damage is None


def test_files_no_longer_selected_stay(server: FaultyServer, mirror: MirrorHere, folder: Path) -> None:
    mirror.settings["files"] = ["c.txt"]
    mirror.sync()
    assert rels(folder) == {"a.bin", "c.txt"}
    server.add_model("chassis", "v2", FILES)
    mirror.sync()
    assert rels(mirror.folder / "chassis" / "v2") == {"c.txt"}


@pytest.mark.parametrize("lost", ["nothing", "the ledger"])
def test_files_that_can_not_be_fetched_leave_the_published_ones(
    server: FaultyServer, mirror: MirrorHere, folder: Path, lost: str
) -> None:
    mirror.settings["files"] = ["*"]
    server.inject(Fault(status=500), f"/{mirror.models()[0].id}/", times=FOREVER)
    mirror.patience = 0.5
    mirror.sync()
    assert rels(folder) == {"a.bin"}
    assert mirror.models()[0].state == ModelState.QUEUED
    server.heal()
    if lost == "the ledger":
        for path in mirror.state.iterdir():
            path.unlink()
    mirror.sync()
    assert rels(folder) == set(FILES)
    assert [(model.state, model.reason) for model in mirror.models()] == [(ModelState.PUBLISHED, None)]


def test_crash_between_two_renames_is_finished_later(server: FaultyServer, mirror: MirrorHere, folder: Path) -> None:
    """A file that was moved and is in no record yet is fetched again and replaces itself."""
    mirror.settings["files"] = ["*"]
    (folder / "sub").mkdir()
    (folder / "sub" / "b.bin").write_bytes(b"as a crash has left it")
    mirror.sync()
    assert rels(folder) == set(FILES)


def test_a_file_that_a_crash_left_moved_is_not_fetched_again(server: FaultyServer, mirror: MirrorHere, folder: Path) -> None:
    mirror.settings["files"], mirror.patience = ["*"], 0.5
    no = Fault(status=500, first=mirror.once_whole({rel: FILES[rel] for rel in ("sub/b.bin", "c.txt")}))
    server.inject(no, f"/{mirror.models()[0].id}/3", times=FOREVER)
    mirror.sync()
    staging = next((mirror.folder / ".axomsync" / "here").iterdir())
    (folder / "sub").mkdir()
    (staging / "sub" / "b.bin").rename(folder / "sub" / "b.bin")
    server.heal()
    server.requests.clear()
    mirror.sync()
    assert rels(folder) == set(FILES)
    assert server.sent() < 100, "the rest, and a byte of each object, to see that it is the same"


def test_a_link_in_the_place_of_a_folder_is_not_followed_to_a_moved_file(
    server: FaultyServer, mirror: MirrorHere, folder: Path, tmp_path: Path
) -> None:
    mirror.settings["files"], mirror.patience = ["*"], 0.5
    no = Fault(status=500, first=mirror.once_whole({rel: FILES[rel] for rel in ("sub/b.bin", "c.txt")}))
    server.inject(no, f"/{mirror.models()[0].id}/3", times=FOREVER)
    mirror.sync()
    staging = next((mirror.folder / ".axomsync" / "here").iterdir())
    outside = tmp_path / "outside"
    outside.mkdir()
    (staging / "sub" / "b.bin").rename(outside / "b.bin")
    (folder / "sub").symlink_to(outside)
    server.heal()
    mirror.sync()
    assert not FILES["sub/b.bin"].fault_in(outside / "b.bin"), "it is somebody's"
    assert mirror.models()[0].state == ModelState.BLOCKED


def test_files_with_other_bytes_do_not_join(server: FaultyServer, mirror: MirrorHere, folder: Path) -> None:
    server.models.clear()
    server.add_model("chassis", "v1", {**FILES, "a.bin": Content(19 * MIB, 9)})
    mirror.settings["files"] = ["*"]
    mirror.sync()
    assert rels(folder) == {"a.bin"}
    (model,) = mirror.models()
    assert model.state == ModelState.BLOCKED
    assert "a.bin has another size in the console than the published one" in str(model.reason)


@pytest.mark.parametrize("change", ["excluded", "gone", "vanished", "not ready"])
def test_model_that_is_no_longer_wanted_stays_unchanged(
    server: FaultyServer, mirror: MirrorHere, folder: Path, change: str
) -> None:
    """More files were already started: the published copy still counts as there."""
    (model,) = mirror.models()
    server.inject(Fault(status=500), f"/{model.id}/", times=FOREVER)
    mirror.settings["files"], mirror.patience = ["*"], 0.5
    mirror.sync()
    assert mirror.model(model.id).state == ModelState.QUEUED
    match change:
        case "excluded":
            mirror.settings["exclude"] = ["chassis*"]
        case "gone":
            server.models.clear()
        case "vanished":
            server.inject(Fault(status=404), "/download", times=FOREVER)
        case _:
            server.models[0]["status"] = "training"
    mirror.sync()
    assert rels(folder) == {"a.bin"}
    assert mirror.model(model.id).state in (ModelState.QUEUED, ModelState.BLOCKED)
    mirror.settings["files"], mirror.later = ["a.*"], 7200.0
    mirror.sync()
    assert rels(folder) == {"a.bin"}
    assert mirror.model(model.id).state == ModelState.PUBLISHED


def test_staging_with_planted_links_and_pipes_is_safe(
    server: FaultyServer, mirror: MirrorHere, folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    outside.chmod(0o600)
    staging = mirror.folder / ".axomsync" / "here" / mirror.models()[0].id
    (staging / "sub").mkdir(parents=True)
    (staging / "link").symlink_to(outside)
    (staging / "sub" / "link").symlink_to(tmp_path)
    os.mkfifo(staging / "pipe")
    mirror.settings["files"] = ["*.bin", "*.txt"]
    mirror.sync()
    assert mirror.models()[0].state == ModelState.PUBLISHED
    assert (folder / "c.txt").is_file()
    assert (outside.read_text(), outside.stat().st_mode & 0o777) == ("mine", 0o600)
    assert {path.name for path in folder.rglob("*")} <= {"a.bin", "sub", "b.bin", "c.txt", ".axomsync.json"}
