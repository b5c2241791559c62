"""Power loss just after a pass: the state that the ledger records is on the disk. A real ext4, as root."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, sha256
from tests.rig.disks import loop_disk

MB = 1 << 20


@pytest.fixture(autouse=True)
def root() -> None:
    assert os.geteuid() == 0, "these tests mount filesystems; run them as root"


@contextmanager
def as_after_power_loss(image: Path, place: Path) -> Iterator[Path]:
    """The content of a disk in use, as the next start of the machine would find it."""
    copy = image.with_name("copy.img")
    shutil.copyfile(image, copy)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", copy, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("shard", ["", "80B"])
def test_receipts_and_reasons_are_whole_after_a_power_loss(
    tmp_path: Path, sandbox: Sandbox, make_agent: AgentFactory, shard: str
) -> None:
    image = tmp_path / "disk.img"
    agent = make_agent(sandbox, shard=shard)
    with loop_disk(agent.drop, image, 32 * MB, "mkfs.ext4", "-b", "4096"):
        for number in range(8):
            folder = agent.drop / f"x{number % 3}" / "y"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jsonl").write_bytes(dataset(str(number)))
            (folder / f"{number}-broken.jsonl").write_bytes(b"broken\n")
        os.sync()  # the people who drop files must sync them
        agent.sync(expect=1)
        rows = {row["path"]: row for row in agent.uploads()}
        with as_after_power_loss(image, tmp_path / "after") as after:
            for number in range(8):
                rel = f"x{number % 3}/y/{number}"
                archived = after / "uploaded" / f"{rel}.jsonl"
                note = json.loads(archived.with_name(f"{number}.jsonl.receipt.json").read_bytes())
                assert (note["sha256"], note["key"]) == (sha256(dataset(str(number))), rows[f"{rel}.jsonl"]["key"])
                assert archived.read_bytes() == dataset(str(number))
                rejected = after / "rejected" / f"{rel}-broken.jsonl"
                assert "line 1, column 1" in rejected.with_name(f"{number}-broken.jsonl.reason.txt").read_text()
                assert rejected.read_bytes() == b"broken\n"
                assert not (after / f"{rel}.jsonl").exists()
