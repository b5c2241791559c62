"""Detection of finished files: no program writes to them any more, and the marker is present if `done_marker` is set."""

import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from axomsync.core.records import UploadState
from axomsync.drop.intake import STILL_WRITTEN
from axomsync.drop.open_files import being_written
from axomsync.ledger import Reader
from axomsync.sandbox.console import Sandbox
from axomsync.storage.s3 import Confirmation
from tests.drop.conftest import AgentFactory, dataset
from tests.drop.inprocess import DropHere, ledger_template

Make = Callable[..., DropHere]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **drop: DropHere(tmp_path / "home", ledger_template(tmp_path / "template"), **drop)


def test_being_written_is_true_for_writers_and_mappings_but_not_for_readers(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    whole = os.fsencode(path)
    with path.open("rb"):
        assert not being_written(whole)
    with path.open("r+b") as file:
        assert being_written(whole)
        mapping = mmap.mmap(file.fileno(), 0)
    assert being_written(whole)
    mapping.close()
    assert not being_written(whole)
    assert not being_written(whole + b" that is not there")


def test_writer_with_a_long_pause_gives_one_upload(make: Make) -> None:
    here = make()
    with (here.folder / "a.jsonl").open("wb", buffering=0) as file:
        file.write(dataset("a", 1))
        for _ in range(3):
            here.clocks.advance(600)
            here.live()
        (row,) = here.read(Reader.uploads)
        assert (row.state, row.reason) == (UploadState.SETTLING, STILL_WRITTEN)
        file.write(dataset("a", 2))
    here.live()
    assert list(here.far.objects.values()) == [dataset("a", 1) + dataset("a", 2)]
    assert [row.reason for row in here.read(Reader.uploads)] == [None]


def test_writer_after_the_upload_keeps_the_file_in_its_place(make: Make) -> None:
    here = make()
    path = here.folder / "a.jsonl"
    path.write_bytes(dataset("a", 1))
    later: list[object] = []
    put = here.far.put

    def put_and_open(url: str, pieces: Iterator[bytes], length: int, content_type: str) -> Confirmation:
        confirmed = put(url, pieces, length, content_type)
        if not later:
            later.append(path.open("ab", buffering=0))
        return confirmed

    here.far.put = put_and_open  # type: ignore[method-assign]
    here.live()
    (row,) = here.read(Reader.uploads)
    assert row.state is UploadState.UPLOADED
    assert "can't be put away: a program still has it open for writing" in (row.reason or "")
    later[0].write(dataset("a", 2))  # type: ignore[attr-defined]
    later[0].close()  # type: ignore[attr-defined]
    here.finish()
    assert sorted(here.far.objects.values(), key=len) == [dataset("a", 1), dataset("a", 1) + dataset("a", 2)]
    assert (here.folder / "uploaded" / "a.jsonl").read_bytes() == dataset("a", 1) + dataset("a", 2)


def test_done_marker_is_awaited_and_removed_with_its_file(make: Make) -> None:
    here = make(done_marker=".done", include=["*"])
    path, marker = here.folder / "a.jsonl", here.folder / "a.jsonl.done"
    path.write_bytes(dataset("a"))
    here.live()
    assert (here.far.objects, here.read(Reader.uploads)) == ({}, [])
    marker.touch()
    here.live()
    assert list(here.far.objects.values()) == [dataset("a")]
    assert not marker.exists()


@pytest.mark.parametrize("hours", [4, 400 * 24])
def test_done_marker_finishes_a_file_from_the_future(make: Make, hours: int) -> None:
    """The file was written, or copied with its time, before the clock was set back; its marker was made after that."""
    here = make(done_marker=".done")
    path = here.folder / "a.jsonl"
    path.write_bytes(dataset("a"))
    (here.folder / "a.jsonl.done").touch()
    os.utime(path, ns=(0, path.stat().st_mtime_ns + hours * 3600 * 10**9))
    here.live()
    assert list(here.far.objects.values()) == [dataset("a")]


def test_done_marker_older_than_its_file_does_not_count(make: Make) -> None:
    here = make(done_marker=".done", after="keep")
    path, marker = here.folder / "a.jsonl", here.folder / "a.jsonl.done"
    path.write_bytes(dataset("a"))
    marker.touch()
    here.live()
    path.write_bytes(dataset("b"))
    os.utime(path, ns=(0, marker.stat().st_mtime_ns + 1))
    here.live()
    assert list(here.far.objects.values()) == [dataset("a")]
    os.utime(marker, ns=(0, path.stat().st_mtime_ns))
    here.live()
    assert list(here.far.objects.values()) == [dataset("a"), dataset("b")]
    assert marker.exists()


def test_rejected_file_goes_its_way_again_by_any_of_the_words_about_it(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    """Its marker is removed with it: who follows the words, the reason or the printed command must make a new one."""
    agent = make_agent(sandbox, done_marker=".done")
    (agent.drop / "sub folder").mkdir()
    path = agent.drop / "sub folder" / "a.jsonl"
    reason = agent.drop / "rejected" / "sub folder" / "a.jsonl.reason.txt"

    path.write_bytes(b"broken\n")
    path.with_name("a.jsonl.done").touch()
    agent.sync(expect=1)
    assert not path.with_name("a.jsonl.done").exists()
    assert reason.read_text().endswith(f"move it back to {path}; then create {path}.done\n")
    asked = "correct it, move it from rejected/ back into the drop folder, and then create a.jsonl.done beside it"
    assert agent.uploads()[0]["reason"].endswith(asked)
    reason.write_bytes(b"\0" * 10)  # as a power loss leaves it
    agent.sync(expect=None)
    assert reason.read_text().endswith(f"; then create {path}.done\n")

    shown = [agent.call(verb).stdout.splitlines() for verb in ("uploads", "status")]
    step, same = (line for lines in shown for line in lines if line.startswith("correct it and move it back: "))
    assert step == same
    (agent.drop / "rejected" / "sub folder" / "a.jsonl").write_bytes(dataset("a"))
    subprocess.run(["sh", "-c", step.partition(": ")[2]], check=True)
    agent.sync()
    assert [row["state"] for row in agent.uploads()] == ["rejected", "uploaded"]
