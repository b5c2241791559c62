"""Trouble of the machine: the message names path and remedy, nothing is lost, and work goes on by itself afterwards.

Needs root for mounts. Root reads everything, so where permission matters the agent runs without that privilege.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, puts, stored, tree
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Fault, FaultyServer

WITHOUT_PRIVILEGE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@pytest.fixture(autouse=True)
def root() -> None:
    assert os.geteuid() == 0, "these tests mount filesystems; run them as root"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "axom-test", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    space = os.statvfs(path)
    assert space.f_bavail == 0


def sync_without_privilege(agent: AgentProcess) -> tuple[int, str]:
    before = len(agent.log()) if agent.log_file.exists() else 0
    agent.launch("sync", prefix=WITHOUT_PRIVILEGE)
    return agent.wait(), agent.log()[before:]


def test_full_disk_keeps_the_file_and_the_archive_is_made_later(sandbox: Sandbox, agent: AgentProcess) -> None:
    with mounted(agent.drop, "size=64k"):
        (agent.drop / "a.jsonl").write_bytes(dataset("a"))
        (agent.drop / "b.jsonl").write_bytes(b"broken")
        filler = agent.drop / "filler.bin"
        fill(filler)
        for _ in range(2):
            done = agent.sync(expect=1)
            need = f"the disk is full; free some space on {agent.drop} (the agent goes on by itself)"
            assert f"uploaded, but it can't be put away: {agent.drop}/uploaded" in done.stderr
            assert f"it can't be moved to rejected/: {agent.drop}/rejected" in done.stderr
            assert done.stderr.count(need) == 2
            assert {"a.jsonl", "b.jsonl"} <= tree(agent.drop).keys()
            assert stored(sandbox) == {"a.jsonl": [dataset("a")]}
            assert {problem["subject"] for problem in agent.status()["problems"]} == {"a.jsonl", "b.jsonl"}
        filler.unlink()
        agent.sync(expect=1)  # a file is rejected in this pass
        left = tree(agent.drop)
        assert "line 1, column 1" in left.pop("rejected/b.jsonl.reason.txt").decode()
        assert left.pop("uploaded/a.jsonl.receipt.json")
        assert left == {"uploaded/a.jsonl": dataset("a"), "rejected/b.jsonl": b"broken"}
        assert {row["path"]: row["state"] for row in agent.uploads()} == {"a.jsonl": "uploaded", "b.jsonl": "rejected"}
        agent.sync()
    assert len(puts(sandbox)) == 1


def test_read_only_folder_is_named_and_its_files_are_uploaded(sandbox: Sandbox, agent: AgentProcess) -> None:
    with mounted(agent.drop, "size=1m"):
        (agent.drop / "a.jsonl").write_bytes(dataset("a"))
        subprocess.run(["mount", "-o", "remount,ro", agent.drop], check=True)
        for _ in range(2):
            done = agent.sync(expect=75)
            assert f"{agent.drop}/uploaded: the filesystem is read-only; remount it read-write" in done.stderr
        subprocess.run(["mount", "-o", "remount,rw", agent.drop], check=True)
        agent.sync()
        assert (agent.drop / "uploaded" / "a.jsonl").read_bytes() == dataset("a")
        (row,) = agent.uploads()
        assert (row["state"], row["reason"]) == ("uploaded", None)
    assert stored(sandbox) == {"a.jsonl": [dataset("a")]}
    assert len(puts(sandbox)) == 1


def test_missing_folder_is_named_and_used_when_it_appears(sandbox: Sandbox, agent: AgentProcess) -> None:
    agent.drop.rmdir()
    done = agent.sync(expect=1)
    assert f"{agent.drop}: it does not exist; create it or correct the configuration" in done.stderr
    assert not agent.drop.exists()
    agent.drop.mkdir()
    (agent.drop / "a.jsonl").write_bytes(dataset("a"))
    agent.sync()
    assert stored(sandbox) == {"a.jsonl": [dataset("a")]}


def test_unmounted_filesystem_does_not_count_as_removed_files(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, after="keep")
    with mounted(agent.home / "elsewhere", "size=1m"):
        (agent.home / "elsewhere" / "a.jsonl").write_bytes(dataset("a"))
        subprocess.run(["mount", "--bind", agent.home / "elsewhere", agent.drop], check=True)
        try:
            agent.sync()
        finally:
            subprocess.run(["umount", agent.drop], check=True)
        agent.sync()  # the empty folder below the mount point
        subprocess.run(["mount", "--bind", agent.home / "elsewhere", agent.drop], check=True)
        try:
            agent.sync()
        finally:
            subprocess.run(["umount", agent.drop], check=True)
    assert [row["state"] for row in agent.uploads()] == ["uploaded"]
    assert len(puts(sandbox)) == 1


def test_unreadable_files_are_named_and_the_others_go_on(sandbox: Sandbox, agent: AgentProcess) -> None:
    for path in ("secret.jsonl", "open.jsonl", "locked/a.jsonl", "listed/b.jsonl"):
        (agent.drop / path).parent.mkdir(exist_ok=True)
        (agent.drop / path).write_bytes(dataset(path))
    (agent.drop / "secret.jsonl").chmod(0)
    (agent.drop / "locked").chmod(0)
    (agent.drop / "listed").chmod(0o444)
    code, said = sync_without_privilege(agent)
    assert code == 75, said
    file = f"{agent.drop}/secret.jsonl"
    assert f"secret.jsonl: {file}: root may not read it; run: chmod u+rwX {file}" in said
    assert f"drop folder: {agent.drop}/l" in said
    assert re.search(rf"root may not look into .*; run: chmod u\+rwX {agent.drop}/l\S+ \(and 1 more\)", said)
    assert stored(sandbox) == {"open.jsonl": [dataset("open.jsonl")]}

    for path, mode in (("secret.jsonl", 0o600), ("locked", 0o755), ("listed", 0o755)):
        (agent.drop / path).chmod(mode)
    code, said = sync_without_privilege(agent)
    assert code == 0, said
    assert {name: len(objects) for name, objects in stored(sandbox).items()} == {
        "open.jsonl": 1, "secret.jsonl": 1, "a.jsonl": 1, "b.jsonl": 1,
    }  # fmt: skip


@pytest.mark.parametrize("closed", ["before the pass", "while it settles"])
def test_a_folder_that_one_look_of_a_pass_can_not_read_is_told_and_left_to_the_next(
    server: FaultyServer, tmp_path: Path, closed: str
) -> None:
    settings = {"drop": {"settle": "3s"}, "mirror": {"enabled": False}}
    with AgentProcess(tmp_path / "box", server.url, KEY, settings) as agent:
        locked = agent.drop / "locked"
        locked.mkdir()
        for path in (locked / "a.jsonl", agent.drop / "b.jsonl"):
            path.write_bytes(dataset(path.name))
        server.inject(Fault(first=lambda: locked.chmod(0o755)), "/b.jsonl", method="PUT")
        if closed == "before the pass":
            locked.chmod(0)
        agent.launch("sync", prefix=WITHOUT_PRIVILEGE)
        if closed == "while it settles":
            eventually("both", lambda: len(agent.uploads()) == 2)
            locked.chmod(0)
        assert agent.wait() == 75
        assert f"ends with 75: drop folder: {locked}: root may not look into" in agent.log()
        agent.sync()
        assert {row["state"] for row in agent.uploads()} == {"uploaded"}


def test_running_agent_takes_a_file_once_it_is_readable(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, rescan="500ms")
    (agent.drop / "secret.jsonl").write_bytes(dataset("secret"))
    (agent.drop / "secret.jsonl").chmod(0)
    agent.start(*WITHOUT_PRIVILEGE)
    eventually("the message", lambda: "secret.jsonl: root may not read it" in agent.log())
    (agent.drop / "secret.jsonl").chmod(0o600)
    eventually("the receipt", (agent.drop / "uploaded" / "secret.jsonl.receipt.json").exists)
    assert stored(sandbox) == {"secret.jsonl": [dataset("secret")]}


def test_files_in_a_temporarily_unreadable_folder_are_not_forgotten(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, after="keep")
    (agent.drop / "sub").mkdir()
    (agent.drop / "sub" / "a.jsonl").write_bytes(dataset("a"))
    agent.sync()
    (agent.drop / "sub").chmod(0)
    sync_without_privilege(agent)
    (agent.drop / "sub").chmod(0o755)
    agent.sync()
    assert [row["state"] for row in agent.uploads()] == ["uploaded"]
