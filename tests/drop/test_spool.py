"""The spool of unpacked files: one room for all, files without names, nothing left when a file is given up."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from axomsync.core.errors import SourceChanged, Stopping
from axomsync.drop.content import Content, Contents
from axomsync.drop.spool import NoRoom, Spool
from axomsync.drop.unpacking import zstd
from tests.drop.conftest import dataset
from tests.drop.test_restless import FUSE
from tests.rig.agent import eventually
from tests.rig.disks import small_disk

MB = 1_000_000


def free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def test_all_files_share_the_room_and_what_is_promised_to_one_is_kept_from_the_others(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        spool = Spool(disk, 2 * MB)
        one = spool.open(4 * MB)
        assert 2 * MB < spool.room() < 3 * MB
        with pytest.raises(NoRoom) as refused:
            spool.open(3 * MB)
        assert (refused.value.shared, refused.value.needed) == (True, 3 * MB)
        two = spool.open(1 * MB)
        two.write(bytes(2 * MB))
        with pytest.raises(NoRoom) as stopped:
            two.write(bytes(MB))
        assert (stopped.value.shared, stopped.value.needed) == (True, 3 * MB)
        one.write(bytes(4 * MB))
        with pytest.raises(NoRoom):
            one.write(bytes(MB))
        assert free(disk) >= 2 * MB, "the reserve"
        assert [each.size for each in (one, two)] == [4 * MB, 2 * MB]
        one.close()
        one.close()
        two.write(bytes(MB))
        two.close()
        assert (os.listdir(disk / "spool"), spool.room()) == ([], free(disk) - 2 * MB)
        with pytest.raises(NoRoom) as alone:
            spool.open(9 * MB)
        assert not alone.value.shared
        assert os.listdir(disk / "spool") == []


def test_a_filesystem_without_nameless_files_serves_too(tmp_path: Path) -> None:
    (tmp_path / "behind").mkdir()
    (tmp_path / "mount").mkdir()
    mounted = subprocess.Popen([sys.executable, "-c", FUSE, str(tmp_path / "behind"), str(tmp_path / "mount")])
    try:
        eventually("the mount", lambda: os.path.ismount(tmp_path / "mount"))
        spool = Spool(tmp_path / "mount", 0)
        file = spool.open(3)
        file.write(b"abc")
        assert os.pread(file.descriptor, 5, 0) == b"abc"
        assert [name for name in os.listdir(tmp_path / "mount" / "spool") if not name.startswith(".fuse_hidden")] == []
        file.close()
        eventually("its end", lambda: os.listdir(tmp_path / "behind" / "spool") == [])
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "mount")], check=False)
        mounted.terminate()  # it ends by itself only when no process has a copy of the mount
        mounted.wait(10)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_stop_and_a_change_in_the_middle_give_the_room_back(tmp_path: Path, name: str) -> None:
    for folder in ("drop", "state"):
        (tmp_path / folder).mkdir()
    file = tmp_path / "drop" / name
    lines = dataset("a", 100_000)
    file.write_bytes(gzip.compress(lines) if name.endswith("gz") else zstd.compress(lines))
    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise Stopping("the agent is stopping")

    def change() -> None:
        with file.open("ab") as more:
            more.write(b"more")

    spool = Spool(tmp_path / "state", 0)
    contents = Contents(tmp_path / "drop", spool, 10 * MB)
    content = Content(contents, name.encode())
    for step, failure in ((stop, Stopping), (change, SourceChanged)):
        with content.opened() as (descriptor, stamp), pytest.raises(failure):
            content.body(descriptor, stamp, step)
    assert not [name for name in os.listdir("/proc/self/fd") if _leads_to(name, tmp_path / "state" / "spool")]


def _leads_to(name: str, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}").startswith(f"{folder}/")
    except FileNotFoundError:
        return False
