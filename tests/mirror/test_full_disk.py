"""A real, small filesystem that runs full at any moment, and has room again later: nobody need do anything else."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from axomsync.records import ModelState
from tests.mirror.inprocess import MirrorHere
from tests.rig.disks import fill
from tests.rig.faults import Content, Fault, FaultyServer

MIB = 1 << 20
FILES = {"a.bin": Content(5 * MIB, 1), "b/c.bin": Content(1000, 2), "d.bin": Content(3 * MIB, 3)}
PIECE = 256 * 1024
REQUESTS = 8 * MIB // PIECE


@pytest.fixture
def disk(mirror: MirrorHere, tmp_path: Path) -> Iterator[Path]:
    """ext4, 24 MB, below the mirror folder."""
    assert os.geteuid() == 0, "mounting a filesystem takes root"
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(24 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mirror.folder], check=True)
    try:
        yield mirror.folder
    finally:
        subprocess.run(["umount", "--lazy", mirror.folder], check=True)


def test_ten_moments_at_which_the_disk_is_full(server: FaultyServer, mirror: MirrorHere, disk: Path) -> None:
    server.longest_answer = PIECE
    outcomes = []
    for number in range(10):
        model_id = server.add_model(f"chassis-{number}", "v1", FILES)
        server.inject(Fault(first=lambda: fill(disk)), f"/{model_id}/", skip=number * REQUESTS // 10)
        mirror.sync()
        blocked = mirror.model(model_id)
        outcomes.append(blocked.state)
        if blocked.state != ModelState.PUBLISHED:
            assert blocked.state == ModelState.BLOCKED
            assert "free" in (blocked.reason or "")
            assert not (disk / blocked.name).exists(), "not even a folder"
        (disk / "filler").unlink()
        mirror.sync()
        published = mirror.model(model_id)
        assert published.state == ModelState.PUBLISHED, published.reason
        folder = Path(str(published.path))
        assert [fault for rel, content in FILES.items() if (fault := content.fault_in(folder / rel))] == []
        subprocess.run(["rm", "-r", disk / published.name], check=True)
        server.models.clear()
    assert outcomes.count(ModelState.BLOCKED) >= 5
