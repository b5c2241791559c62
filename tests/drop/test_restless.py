"""Stamps that change without the bytes: rights that are set repeatedly, inode numbers that change at each look."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, puts, stored
from tests.drop.inprocess import DropHere, ledger_template
from tests.rig.agent import eventually


@pytest.fixture
def chmod_always(tmp_path: Path) -> Iterator[None]:
    """Run `chmod -R` on the drop folder as fast as possible."""
    stop, drop = threading.Event(), tmp_path / "drop"

    def work() -> None:
        while not stop.wait(0.05):
            for path in drop.glob("*.jsonl"):
                path.chmod(0o644)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("chmod_always")
@pytest.mark.parametrize("after", ["archive", "keep", "delete"])
def test_large_file_with_chmod_while_it_settles_is_sent_and_put_away(
    sandbox: Sandbox, make_agent: AgentFactory, after: str
) -> None:
    agent = make_agent(sandbox, after=after, settle="1s", config={"transfer": {"bandwidth": "2MB/s"}})
    content = dataset("large", 50_000)
    (agent.drop / "large.jsonl").write_bytes(content)
    agent.start()
    eventually("the upload", lambda: [row["state"] for row in agent.uploads()] == ["uploaded"])
    assert agent.terminate() == 0
    assert stored(sandbox) == {"large.jsonl": [content]}
    assert len(puts(sandbox)) == 1, "it was begun anew"
    assert [row["state"] for row in agent.uploads()] == ["uploaded"]


def test_chmod_makes_no_duplicate_of_a_kept_file_and_a_changed_content_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    here = DropHere(tmp_path / "box", ledger_template(tmp_path / "template"), settle="0s", after="keep")
    file = here.folder / "a.jsonl"
    file.write_bytes(dataset("a"))
    here.finish()
    for mode in (0o600, 0o640):
        file.chmod(mode)
        here.finish()
    ((row, _),) = here.uploads()
    assert (str(row.state), row.stamp.ctime_ns) == ("uploaded", file.stat().st_ctime_ns)
    assert len(here.far.objects) == 1

    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(dataset("b"))  # of the same size, and its time of modification is put back
    os.utime(file, ns=times)
    here.finish()
    assert sorted(here.far.objects.values()) == sorted([dataset("a"), dataset("b")])


FUSE = """
import itertools, os, sys
from mfusepy import FUSE, Operations, FuseOSError
class Restless(Operations):
    use_ns = True
    def __init__(self, root): self.root, self.numbers = root, itertools.count(1000)
    def at(self, path): return self.root + path
    def getattr(self, path, fh=None):
        try: st = os.lstat(self.at(path))
        except OSError as e: raise FuseOSError(e.errno)
        keys = "st_gid st_mode st_nlink st_size st_uid".split()
        times = {k: getattr(st, k + "_ns") for k in ("st_atime", "st_ctime", "st_mtime")}
        return {**{k: getattr(st, k) for k in keys}, **times, "st_ino": next(self.numbers)}
    def readdir(self, path, fh):
        return [(name, {"st_ino": next(self.numbers)}, 0) for name in (".", "..", *os.listdir(self.at(path)))]
    def mkdir(self, path, mode): return os.mkdir(self.at(path), mode)
    def rename(self, old, new): return os.rename(self.at(old), self.at(new))
    def unlink(self, path): return os.unlink(self.at(path))
    def symlink(self, name, target): return os.symlink(target, self.at(name))
    def readlink(self, path): return os.readlink(self.at(path))
    def open(self, path, flags): return os.open(self.at(path), flags)
    def create(self, path, mode, fi=None): return os.open(self.at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    def read(self, path, size, offset, fh): return os.pread(fh, size, offset)
    def write(self, path, data, offset, fh): return os.pwrite(fh, data, offset)
    def truncate(self, path, length, fh=None): os.truncate(self.at(path), length)
    def chmod(self, path, mode): return os.chmod(self.at(path), mode)
    def release(self, path, fh): return os.close(fh)
    def fsync(self, path, datasync, fh): return os.fsync(fh)
FUSE(Restless(sys.argv[1]), sys.argv[2], foreground=True, use_ino=True, attr_timeout=0, entry_timeout=0)
"""


@pytest.mark.parametrize(
    "after", ["archive", *(pytest.param(word, marks=pytest.mark.stress) for word in ("keep", "delete"))]
)
def test_changing_inode_numbers_do_not_stop_an_upload(
    sandbox: Sandbox, make_agent: AgentFactory, tmp_path: Path, after: str
) -> None:
    agent = make_agent(sandbox, after=after)
    (tmp_path / "behind").mkdir()
    mounted = subprocess.Popen([sys.executable, "-c", FUSE, str(tmp_path / "behind"), str(agent.drop)])
    try:
        eventually("the mount", lambda: os.path.ismount(agent.drop))
        (agent.drop / "a.jsonl").write_bytes(dataset("a"))
        (agent.drop / "broken.jsonl").write_bytes(b"broken")
        assert (agent.drop / "a.jsonl").stat().st_ino != (agent.drop / "a.jsonl").stat().st_ino
        agent.sync(expect=1)
        agent.sync()
        assert {row["path"]: row["state"] for row in agent.uploads()} == {"a.jsonl": "uploaded", "broken.jsonl": "rejected"}
        assert stored(sandbox) == {"a.jsonl": [dataset("a")]}
        left = {path.name for path in (tmp_path / "behind").rglob("*.jsonl")}
        assert left == ({"broken.jsonl"} if after == "delete" else {"a.jsonl", "broken.jsonl"})
    finally:
        subprocess.run(["umount", "-l", str(agent.drop)], check=False)
        mounted.terminate()  # it ends by itself only when no process has a copy of the mount
        mounted.wait(10)
