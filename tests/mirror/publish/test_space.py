"""Space in the mirror: versions that retention removes from a real folder, spares, or brings back."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from axomsync.core.records import ModelState
from axomsync.mirror.publish import current
from axomsync.mirror.publish.readers import reader_of
from tests.mirror.inprocess import MirrorHere
from tests.rig.disks import small_disk
from tests.rig.faults import Content, FaultyServer

MIB = 1 << 20
FILES = {"a.bin": Content(300_000, 1), "sub/b.bin": Content(5000, 2)}


def add(server: FaultyServer, *versions: int, name: str = "chassis", size: int = 300_000) -> list[str]:
    """Versions of one name, each newer than the one before."""
    return [server.add_model(name, f"v{n}", {**FILES, "a.bin": Content(size, n)}) for n in versions]


def unlist(server: FaultyServer, model_id: str) -> None:
    server.models[:] = [model for model in server.models if model["id"] != model_id]


def there(mirror: MirrorHere, name: str = "chassis") -> list[str]:
    return sorted(entry for entry in os.listdir(mirror.folder / name) if not entry.startswith("."))


def test_keep_removes_older_versions_after_newer_ones_came(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["keep"] = 2
    ids = add(server, 1, 2)
    mirror.sync()
    assert there(mirror) == ["current", "v1", "v2"]
    ids += add(server, 3)
    mirror.sync()
    assert there(mirror) == ["current", "v2", "v3"]
    pruned = mirror.model(ids[0])
    assert (pruned.state, pruned.path, pruned.bytes_done) == (ModelState.PRUNED, None, 0)
    assert pruned.reason == "not among the newest 2 of its name ([mirror] keep)"
    asked = len(server.storage_requests())
    mirror.sync()
    assert (there(mirror), len(server.storage_requests())) == (["current", "v2", "v3"], asked)
    mirror.settings["keep"] = 0
    mirror.sync()
    assert there(mirror) == ["current", "v1", "v2", "v3"], "who wants more of them gets them back"


def test_keep_does_not_fetch_older_versions(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["keep"] = 1
    ids = add(server, 1, 2)
    mirror.sync()
    assert there(mirror) == ["current", "v2"]
    assert mirror.model(ids[0]).state == ModelState.IGNORED


def test_a_version_that_is_open_stays_until_it_is_closed(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["keep"] = 1
    add(server, 1)
    mirror.sync()
    old = mirror.folder / "chassis" / "v1"
    for holds in ("open", "map"):
        code = {
            "open": "import sys; f = open(sys.argv[1])",
            "map": "import mmap, sys; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()",
        }[holds]
        command = [sys.executable, "-c", f"{code}; print(flush=True); sys.stdin.read()", str(old / "a.bin")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server_process:
            assert server_process.stdout is not None
            server_process.stdout.readline()
            reader = reader_of(old)
            assert reader is not None
            assert f"(pid {server_process.pid})" in reader
            add(server, 2 if holds == "open" else 3)
            mirror.sync()
            assert "v1" in there(mirror)
            server_process.communicate()
    mirror.sync()
    assert there(mirror) == ["current", "v3"]


def test_open_file_of_another_users_process_is_noticed(tmp_path: Path) -> None:
    """A service user sees only its own processes in /proc; the kernel still shows that a file is open."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"x" * 100)
    for path in (folder, folder / "a.bin"):
        os.chown(path, 65534, 65534)
    look = "import os; from pathlib import Path; from axomsync.mirror.publish.readers import reader_of; os.setuid(65534)"
    command = [sys.executable, "-c", f"{look}; print(reader_of(Path('.')))"]
    with (folder / "a.bin").open("rb"):
        told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert told == "a process of another user or container, which has a.bin open\n"
    assert subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout == "None\n"


def test_reader_of_a_version_does_not_keep_others_that_share_its_files(tmp_path: Path) -> None:
    old, new = tmp_path / "v1", tmp_path / "v2"
    for folder in (old, new):
        folder.mkdir()
        (folder / "own.bin").write_bytes(b"x")
    (old / "shared.bin").write_bytes(b"y")
    os.link(old / "shared.bin", new / "shared.bin")
    look = "import sys; from pathlib import Path; from axomsync.mirror.publish.readers import reader_of"
    look += "; print(reader_of(Path(sys.argv[1])))"
    for opened in (old / "shared.bin", new / "shared.bin", new / "own.bin"):
        with opened.open("rb"):
            for asked in (old, new):
                command = [sys.executable, "-c", look, str(asked)]
                told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                assert (told != "None\n") is (opened.parent == asked), (opened, asked, told)


def test_a_pinned_version_stays_and_current_stays_with_it(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["keep"] = 1
    add(server, 1)
    mirror.sync()
    parent = mirror.folder / "chassis"
    current.pin(parent, "v1", mirror.folder / ".axomsync")
    add(server, 2, 3)
    mirror.sync()
    assert there(mirror) == ["current", "v1", "v3"]
    assert os.readlink(parent / "current") == "v1"
    shutil.rmtree(mirror.state)
    mirror.sync()
    assert os.readlink(parent / "current") == "v1", "a pin outlives the ledger"
    assert current.unpin(parent, mirror.folder / ".axomsync")
    assert os.readlink(parent / "current") == "v3"
    mirror.sync()
    assert there(mirror) == ["current", "v3"]


def test_keep_gone_false_removes_gone_models_after_a_day_of_polls(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["keep_gone"] = False
    ids = add(server, 1, 2)
    mirror.sync()
    unlist(server, ids[0])
    for hours in range(0, 24, 2):
        mirror.later = hours * 3600.0
        mirror.sync()
        assert "v1" in there(mirror), hours
    assert mirror.model(ids[0]).reason == "the console no longer lists it; its copy stays"
    mirror.later = 25 * 3600.0
    mirror.sync()
    assert there(mirror) == ["current", "v2"]
    assert mirror.model(ids[0]).reason == "removed in the console ([mirror] keep_gone = false)"


def test_a_model_that_is_listed_again_after_its_removal_stays(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["keep_gone"] = False
    ids = add(server, 1, 2)
    mirror.sync()
    listed = list(server.models)
    unlist(server, ids[0])
    for hours in range(0, 30, 2):
        mirror.later = hours * 3600.0
        mirror.sync()
    assert "v1" not in there(mirror)
    server.models[:] = listed
    mirror.sync()
    mirror.sync()
    assert "v1" in there(mirror), "its absence of then does not count"


@pytest.mark.parametrize("kind", ["empty", "malformed"])
def test_incomplete_lists_remove_nothing_however_long(server: FaultyServer, mirror: MirrorHere, kind: str) -> None:
    mirror.settings["keep_gone"] = False
    ids = add(server, 1, 2)
    mirror.sync()
    if kind == "empty":
        server.models.clear()
    else:
        unlist(server, ids[0])
        server.models.append({"id": "nameless", "status": "ready"})
    for hours in range(0, 60, 4):
        mirror.later = hours * 3600.0
        mirror.sync()
    assert there(mirror) == ["current", "v1", "v2"]


def test_max_size_limits_the_bytes(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["max_size"] = "700kB"
    add(server, 1, 2)
    mirror.sync()
    assert there(mirror) == ["current", "v1", "v2"]
    add(server, 3)
    mirror.sync()
    assert there(mirror) == ["current", "v2", "v3"]
    (large,) = add(server, 4, size=900_000)
    mirror.sync()
    assert "bytes too many for [mirror] max_size with this model" in (mirror.model(large).reason or "")
    assert there(mirror) == ["current", "v2", "v3"], "without v2 it would not fit either"
    asked = len(server.storage_requests())
    mirror.sync()
    assert (there(mirror), len(server.storage_requests())) == (["current", "v2", "v3"], asked)


def test_full_disk_is_freed_by_retention(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["keep"] = 2
    with small_disk(mirror.folder, "size=8m"):
        add(server, 1, 2, size=3 * MIB)
        mirror.sync()
        assert there(mirror) == ["current", "v1", "v2"]
        add(server, 3, size=3 * MIB)
        mirror.sync()
        assert there(mirror) == ["current", "v2", "v3"]


def test_nothing_is_removed_for_a_model_that_the_disk_can_not_take(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["max_size"] = f"{9 * MIB}B"
    with small_disk(mirror.folder, "size=8m"):
        add(server, 1, 2, size=2 * MIB)
        mirror.sync()
        (large,) = add(server, 3, size=7 * MIB)
        mirror.sync()
        assert "more bytes must be free" in (mirror.model(large).reason or "")
        assert there(mirror) == ["current", "v1", "v2"], "without v1 there would be no room either"
        mirror.settings["keep"] = 1
        (small,) = add(server, 4, size=5 * MIB)
        mirror.sync()
        assert mirror.model(small).state is ModelState.PUBLISHED, "without v1 there is"


def test_lost_ledger_knows_published_models_again_without_a_list(server: FaultyServer, mirror: MirrorHere) -> None:
    ids = add(server, 1, 2)
    mirror.sync()
    before = mirror.files(ids[0])
    shutil.rmtree(mirror.state)
    server.models.clear()
    asked = len(server.storage_requests())
    mirror.sync()
    found = mirror.model(ids[0])
    assert (found.state, found.path) == (ModelState.PUBLISHED, str(mirror.folder / "chassis" / "v1"))
    assert mirror.files(ids[0]) == before
    assert len(server.storage_requests()) == asked


def test_leftovers_of_a_removal_are_removed_after_a_crash(server: FaultyServer, mirror: MirrorHere) -> None:
    add(server, 1)
    mirror.sync()
    grave = mirror.folder / ".axomsync" / "here" / ".removed-x"
    shutil.copytree(mirror.folder / "chassis" / "v1", grave)
    mirror.sync()
    assert not grave.exists()


def test_leftovers_of_a_write_are_removed_when_no_process_can_use_them(server: FaultyServer, mirror: MirrorHere) -> None:
    """This includes a killed command, which had its own name."""
    add(server, 1)
    mirror.sync()
    internal, version = mirror.folder / ".axomsync", mirror.folder / "chassis" / "v1"
    (internal / "abcdefabcdef").mkdir()
    stale, fresh = list[Path](), list[Path]()
    for folder in (internal / "here", internal / "abcdefabcdef"):
        for left in (stale, fresh):
            left.append(folder / f".new-link-{len(left)}-{id(left)}")
            left[-1].symlink_to("v1")
    for left in (stale, fresh):
        left.append(version / f".axomsync-unfinished-{id(left)}")
        left[-1].write_text("half")
    for path in stale:
        os.utime(path, (time.time() - 7200,) * 2, follow_symlinks=False)
    mirror.sync()
    assert [path for path in stale if os.path.lexists(path)] == []
    assert all(os.path.lexists(path) for path in fresh), "somebody may be about to put it in its place"


def test_staging_of_a_lost_agent_is_removed_after_a_month(server: FaultyServer, mirror: MirrorHere) -> None:
    add(server, 1)
    staging = mirror.folder / ".axomsync" / "abcdefabcdef" / "model"
    staging.mkdir(parents=True)
    (staging / "weights").write_bytes(b"half")
    mirror.later = 29 * 86400.0
    mirror.sync()
    assert (staging / "weights").exists()
    mirror.later = 31 * 86400.0
    mirror.sync()
    assert not staging.parent.exists()


def test_staging_of_an_unwanted_model_is_removed(server: FaultyServer, mirror: MirrorHere) -> None:
    wanted = server.add_model("chassis", "v1", {**FILES, "weights.safetensors": Content(1000)})  # noise: it is blocked
    mirror.sync()
    assert (mirror.model(wanted).state, mirror.model(wanted).bytes_done) == (ModelState.BLOCKED, 306_000)
    (staging,) = [entry for entry in (mirror.folder / ".axomsync" / "here").iterdir() if entry.is_dir()]
    mirror.settings["exclude"] = ["chassis"]
    mirror.sync()
    assert (mirror.model(wanted).state, mirror.model(wanted).bytes_done) == (ModelState.IGNORED, 0)
    assert not staging.exists()
    mirror.settings["exclude"] = []
    mirror.sync()
    assert (mirror.model(wanted).state, mirror.model(wanted).bytes_done) == (ModelState.BLOCKED, 306_000)


@pytest.mark.parametrize("lost", ["DELETE FROM segments", "DELETE FROM files", "DELETE FROM models"])
def test_staging_that_the_ledger_does_not_know_goes_with_its_model(
    server: FaultyServer, mirror: MirrorHere, lost: str
) -> None:
    """A ledger that was damaged, or came back from a backup, may have lost its rows."""
    server.add_model("chassis", "v1", {**FILES, "weights.safetensors": Content(1000)})  # noise: it is blocked
    mirror.sync()
    (staging,) = [entry for entry in (mirror.folder / ".axomsync" / "here").iterdir() if entry.is_dir()]
    server.models.clear()
    server.add_model("other", "v1", FILES)
    mirror.sync()
    with closing(sqlite3.connect(mirror.state / "state.db")) as db:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(lost)
        db.commit()
    mirror.later = 23 * 3600.0
    mirror.sync()
    assert staging.exists()
    mirror.later = 25 * 3600.0
    mirror.sync()
    assert not staging.exists()


def test_staging_of_an_unwanted_model_that_came_back_after_a_power_failure_is_removed(
    server: FaultyServer, mirror: MirrorHere
) -> None:
    server.add_model("chassis", "v1", FILES)
    mirror.settings["exclude"] = ["chassis"]
    mirror.sync()
    (row,) = mirror.models()
    staging = mirror.folder / ".axomsync" / "here" / row.id
    staging.mkdir(parents=True)
    (staging / "a.bin").write_bytes(b"half")
    mirror.sync()
    assert not staging.exists()


def test_staging_of_a_model_gone_for_a_day_is_removed(server: FaultyServer, mirror: MirrorHere) -> None:
    gone = server.add_model("chassis", "v1", {**FILES, "weights.safetensors": Content(1000)})  # noise: it is blocked
    mirror.sync()
    (document,) = server.models
    server.models.clear()
    kept = (ModelState.GONE, 306_000)
    for hours in (0, 23, 25):  # an empty list proves nothing
        mirror.later = hours * 3600.0
        mirror.sync()
        assert (mirror.model(gone).state, mirror.model(gone).bytes_done) == kept
    server.add_model("other", "v1", FILES)
    mirror.sync()
    assert (mirror.model(gone).state, mirror.model(gone).bytes_done) == (ModelState.GONE, 0)
    server.models.append(document)
    mirror.sync()
    assert (mirror.model(gone).state, mirror.model(gone).bytes_done) == (ModelState.BLOCKED, 306_000)
