"""Sub-folders, the archive and the rejects on other filesystems: files are put away all the same, none is lost."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from axomsync.core.errors import SourceChanged
from axomsync.core.records import UploadState
from axomsync.drop import archive
from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, puts, stored, tree
from tests.drop.inprocess import DropHere, ledger_template
from tests.rig.agent import eventually
from tests.rig.disks import small_disk

GOOD, BROKEN = dataset("a"), b'{"a": NaN}\n'


@pytest.fixture
def disks() -> Iterator[ExitStack]:
    with ExitStack() as mounted:
        yield mounted


def make(tmp_path: Path, **drop: Any) -> DropHere:
    (tmp_path / "template").mkdir()
    return DropHere(tmp_path / "box", ledger_template(tmp_path / "template"), settle="0s", **drop)


def bind(disks: ExitStack, folder: Path, elsewhere: Path) -> None:
    """Mount a folder of the same filesystem; no rename is possible between the mount and the rest either."""
    for path in (folder, elsewhere):
        path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", elsewhere, folder], check=True)
    disks.callback(lambda: subprocess.run(["umount", "--lazy", folder], check=True))


@pytest.mark.parametrize("after", ["archive", "keep", "delete"])
@pytest.mark.parametrize("mounted", ["sub", "uploaded", "rejected", "uploaded/sub", "bind"])
def test_files_are_put_away_across_filesystems(tmp_path: Path, disks: ExitStack, mounted: str, after: str) -> None:
    here = make(tmp_path, after=after)
    if mounted == "bind":
        bind(disks, here.folder / "sub", tmp_path / "elsewhere")
    else:
        disks.enter_context(small_disk(here.folder / mounted, "size=8m"))
    (here.folder / "sub").mkdir(exist_ok=True)
    for path, content in (("sub/a.jsonl", GOOD), ("sub/b.jsonl", BROKEN)):
        (here.folder / path).write_bytes(content)
        (here.folder / path).chmod(0o640)
        os.utime(here.folder / path, ns=(10**18, 10**18 + 1))
        os.setxattr(here.folder / path, "trusted.axom", b"kept")
    here.finish()
    states = {row.path: row.state for row, _ in here.uploads()}
    assert states == {b"sub/a.jsonl": UploadState.UPLOADED, b"sub/b.jsonl": UploadState.REJECTED}
    files = {path: data for path, data in tree(here.folder).items() if path.endswith(".jsonl")}
    good = {"archive": {"uploaded/sub/a.jsonl": GOOD}, "keep": {"sub/a.jsonl": GOOD}, "delete": {}}[after]
    assert files == {**good, "rejected/sub/b.jsonl": BROKEN}
    for path in files:
        status = (here.folder / path).stat()
        assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 10**18 + 1)
        assert os.getxattr(here.folder / path, "trusted.axom") == b"kept"
    assert not [path for path in tree(here.folder) if "/.axomsync-" in path or path.startswith(".axomsync-")]


def test_existing_name_on_the_other_filesystem_is_left_alone(tmp_path: Path, disks: ExitStack) -> None:
    here = make(tmp_path)
    disks.enter_context(small_disk(here.folder / "uploaded", "size=8m"))
    for content in (GOOD, dataset("b"), GOOD, GOOD):
        (here.folder / "a.jsonl").write_bytes(content)
        here.finish()
    archived = sorted(path.read_bytes() for path in (here.folder / "uploaded").glob("*.jsonl"))
    assert archived == sorted([GOOD, GOOD, GOOD, dataset("b")])
    assert not (here.folder / "a.jsonl").exists()


def test_full_disk_of_the_archive_loses_nothing_and_is_reported(tmp_path: Path, disks: ExitStack) -> None:
    here = make(tmp_path)
    disks.enter_context(small_disk(here.folder / "uploaded", "size=64k"))
    content = dataset("large", 10_000)
    (here.folder / "a.jsonl").write_bytes(content)
    here.live()
    ((row, _),) = here.uploads()
    assert row.state is UploadState.UPLOADED
    assert row.reason is not None
    assert "can't be put away" in row.reason
    assert f"the disk is full; free some space on {here.folder / 'uploaded'} (" in row.reason
    assert (here.folder / "a.jsonl").read_bytes() == content
    assert list((here.folder / "uploaded").iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=8m", here.folder / "uploaded"], check=True)
    here.clocks.advance(7200)
    here.finish()
    assert (here.folder / "uploaded" / "a.jsonl").read_bytes() == content
    assert len(here.far.objects) == 1


def test_file_that_can_not_be_removed_is_reported_and_leaves_no_copy(tmp_path: Path, disks: ExitStack) -> None:
    here = make(tmp_path)
    bind(disks, here.folder / "sub", tmp_path / "elsewhere")
    (here.folder / "sub" / "a.jsonl").write_bytes(GOOD)
    subprocess.run(["mount", "-o", "remount,bind,ro", here.folder / "sub"], check=True)
    for _ in range(3):
        here.live()
        here.clocks.advance(7200)
        ((row, _),) = here.uploads()
        assert "can't be put away" in (row.reason or "")
        assert "the filesystem is read-only; remount it read-write" in (row.reason or "")
        assert [path for path in tree(here.folder / "uploaded") if "jsonl" in path] == []
    subprocess.run(["mount", "-o", "remount,bind,rw", here.folder / "sub"], check=True)
    here.finish()
    assert sorted(tree(here.folder)) == ["uploaded/sub/a.jsonl", "uploaded/sub/a.jsonl.receipt.json"]
    assert len(here.far.objects) == 1


# The kernel stops the agent here: at the entry of the n-th renameat2(2) of the thread that puts the file away, or of its
# first unlinkat(2). The first rename is that of the note, the second is refused, the third gives the copy its name, the
# fourth changes the file's name, and then the file is removed.
@pytest.mark.parametrize("content", [GOOD, BROKEN], ids=["archive", "rejects"])
@pytest.mark.parametrize(("call", "number"), [("renameat2", 3), ("renameat2", 4), ("unlinkat", 1)])
def test_crash_in_the_middle_leaves_both_and_is_finished_by_the_next_agent(
    sandbox: Sandbox, make_agent: AgentFactory, disks: ExitStack, content: bytes, call: str, number: int
) -> None:
    agent = make_agent(sandbox)
    area = "uploaded" if content is GOOD else "rejected"
    disks.enter_context(small_disk(agent.drop / area, "size=8m"))
    (agent.drop / "a.jsonl").write_bytes(content)
    fault = f"inject={call}:signal=KILL:when={number}"
    agent.launch("sync", prefix=("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", fault))
    eventually("the crash", lambda: agent.process is not None and agent.process.poll() is not None)
    copies = [data for path, data in tree(agent.drop).items() if data == content]
    assert len(copies) == 2, f"not where it was meant to be stopped: {list(tree(agent.drop))}"
    agent.sync(expect=None)
    agent.sync()
    note = "a.jsonl.receipt.json" if content is GOOD else "a.jsonl.reason.txt"
    assert sorted(tree(agent.drop)) == [f"{area}/a.jsonl", f"{area}/{note}"]
    assert (agent.drop / area / "a.jsonl").read_bytes() == content
    assert len(puts(sandbox)) == (1 if content is GOOD else 0)
    assert stored(sandbox) == ({"a.jsonl": [GOOD]} if content is GOOD else {})


def test_copy_is_compared_with_the_checked_bytes_whatever_the_stamp(tmp_path: Path, disks: ExitStack) -> None:
    """The bytes changed, and size and times are the same: the copy is compared with the digest, and discarded."""
    here = make(tmp_path, after="keep")
    (here.folder / "a.jsonl").write_bytes(GOOD)
    here.finish()
    ((row, _),) = here.uploads()
    archived = here.folder / "uploaded"
    archived.mkdir()
    disks.enter_context(small_disk(archived, "size=1m"))
    with pytest.raises(SourceChanged, match="its new content is treated as a new file"):
        archive.archive(here.folder, replace(row, sha256="0" * 64), row, [])
    assert list(archived.iterdir()) == []
    assert (here.folder / "a.jsonl").read_bytes() == GOOD
