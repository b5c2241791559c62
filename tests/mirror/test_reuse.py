"""Files unchanged since another version are linked, not fetched; and never shared by mistake."""

import json
import os
import shutil
from pathlib import Path

import pytest

from axomsync.core.records import ModelState
from axomsync.mirror.publish.record import read_record
from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import AgentProcess
from tests.rig.disks import loop_disk
from tests.rig.faults import FOREVER, KEY, Content, Fault, FaultyServer

MIB = 1 << 20
SAME = Content(20 * MIB, 1)
PARTS = 8 * MIB


def publish(
    server: FaultyServer, mirror: MirrorHere, version: str, same: Content = SAME, **options: object
) -> tuple[Path, int]:
    """A new version whose large file is `same`; returns its folder, and the bytes fetched for it."""
    before = server.sent()
    files = {"a.bin": same, "b.bin": Content(2 * MIB, len(server.models)), "c.json": Content(100, len(server.models))}
    model_id = server.add_model("chassis", version, files, **options)  # type: ignore[arg-type]
    mirror.sync()
    model = mirror.model(model_id)
    assert model.state == ModelState.PUBLISHED, model.reason
    folder = Path(str(model.path))
    assert [fault for rel, content in files.items() if (fault := content.fault_in(folder / rel))] == []
    return folder, server.sent() - before


@pytest.mark.parametrize("part_size", [None, PARTS])
def test_unchanged_file_is_linked(server: FaultyServer, mirror: MirrorHere, part_size: int | None) -> None:
    first, _ = publish(server, mirror, "v1", part_size=part_size)
    second, sent = publish(server, mirror, "v2", part_size=part_size)
    assert sent < 6 * MIB
    assert (first / "a.bin").stat().st_ino == (second / "a.bin").stat().st_ino
    records = [read_record(folder) for folder in (first, second)]
    assert [r.proofs["a.bin"] for r in records if r] == ["proven", "proven"]
    assert len({f.segments for r in records if r for f in r.files if f.rel == "a.bin"}) == 1
    shutil.rmtree(first)
    assert SAME.fault_in(second / "a.bin") is None


@pytest.mark.stress
def test_write_into_one_version_does_not_change_the_other(server: FaultyServer, mirror: MirrorHere, tmp_path: Path) -> None:
    """On a filesystem with shared blocks, versions share only blocks."""
    mirror.folder = tmp_path / "disk"
    with loop_disk(mirror.folder, tmp_path / "image", 400 * MIB, "mkfs.xfs"):
        first, _ = publish(server, mirror, "v1")
        second, sent = publish(server, mirror, "v2")
        assert sent < 6 * MIB
        assert (first / "a.bin").stat().st_nlink == 1
        with (first / "a.bin").open("r+b") as file:
            file.write(b"an edit in place")
        assert SAME.fault_in(second / "a.bin") is None


@pytest.mark.stress
def test_unchanged_file_of_another_user_shares_its_blocks(server: FaultyServer, tmp_path: Path) -> None:
    """protected_hardlinks(7) forbids links to files of other users that are not writable; XFS then uses reflinks."""
    mirror = tmp_path / "models"
    with loop_disk(mirror, tmp_path / "disk", 400 * MIB, "mkfs.xfs"):
        config = {"drop": {"enabled": False}, "mirror": {"folder": str(mirror)}}
        with AgentProcess(tmp_path / "box", server.url, KEY, config) as agent:
            server.add_model("chassis", "v1", {"a.bin": SAME})
            agent.sync()
            first, second = mirror / "chassis" / "v1" / "a.bin", mirror / "chassis" / "v2" / "a.bin"
            os.chown(first, 65534, 65534)
            sent, room = server.sent(), free(mirror)
            server.add_model("chassis", "v2", {"a.bin": SAME})
            agent.launch("sync", prefix=("setpriv", "--bounding-set=-fowner,-dac_override,-dac_read_search"))
            assert agent.wait() == 0
        assert server.sent() - sent < MIB
        assert SAME.fault_in(second) is None
        assert first.stat().st_ino != second.stat().st_ino
        assert room - free(mirror) < SAME.size // 2


def free(folder: Path) -> int:
    os.sync()
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize


def test_file_without_proof_is_fetched(server: FaultyServer, mirror: MirrorHere) -> None:
    first, _ = publish(server, mirror, "v1")
    second, sent = publish(server, mirror, "v2", Content(SAME.size, 2))
    assert sent > SAME.size, "another content of the same size"
    _, sent = publish(server, mirror, "v3", Content(SAME.size, 3), etag=False)
    assert sent > SAME.size, "no checksum"
    server.inject(Fault(headers={"x-amz-server-side-encryption": "aws:kms"}), times=FOREVER)
    _, sent = publish(server, mirror, "v4")
    assert sent > SAME.size, "an ETag that is no checksum"
    server.heal()
    for folder in (first, mirror.folder / "chassis" / "v4"):
        with (folder / "a.bin").open("r+b") as file:
            file.write(b"rotten")
    _, sent = publish(server, mirror, "v5")
    assert sent > SAME.size, "what would be linked has rotted"
    assert len({(mirror.folder / "chassis" / f"v{n}" / "a.bin").stat().st_ino for n in range(1, 6)}) == 5
    assert SAME.fault_in(second / "a.bin") is not None


def test_linked_file_left_by_a_crash_is_never_written_into(server: FaultyServer, mirror: MirrorHere) -> None:
    first, _ = publish(server, mirror, "v1")
    identity = server.add_model("chassis", "v2", {"a.bin": Content(SAME.size, 2)})
    staging = mirror.folder / ".axomsync" / "here" / identity
    staging.mkdir(parents=True)
    os.link(first / "a.bin", staging / "a.bin")
    shutil.rmtree(mirror.state)
    mirror.sync()
    assert mirror.model(identity).state == ModelState.PUBLISHED
    assert SAME.fault_in(first / "a.bin") is None
    assert Content(SAME.size, 2).fault_in(mirror.folder / "chassis" / "v2" / "a.bin") is None


def test_repair_of_a_version_does_not_touch_shared_files_of_the_other(server: FaultyServer, mirror: MirrorHere) -> None:
    first, _ = publish(server, mirror, "v1")
    second, _ = publish(server, mirror, "v2")
    with (first / "a.bin").open("r+b") as file:
        file.write(b"rotten")
    mirror.later = 31 * 86400.0
    server.requests.clear()
    mirror.scrub()
    for folder in (first, second):
        assert SAME.fault_in(folder / "a.bin") is None
    assert json.loads((second / ".axomsync.json").read_bytes())["version"] == "v2"
