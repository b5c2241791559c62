"""Every way in which a file can appear while the agent runs, below a root that is a symlink; and files left alone.

Scans are an hour apart here, so only the watch can find the dropped files.
"""

import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from axomsync.sandbox.console import Sandbox
from axomsync.sandbox.objectstore import ObjectStore
from tests.drop.conftest import AgentFactory, dataset, receipt, sha256, stored
from tests.rig.agent import AgentProcess, eventually
from tests.rig.recording import RecordingRelay


@dataclass(frozen=True)
class Watched:
    sandbox: Sandbox
    agent: AgentProcess
    outside: Path  # on the same filesystem as the drop folder

    def taken(self, path: str) -> dict[str, object]:
        """Wait for the receipt of a file."""
        file = self.agent.drop / "uploaded" / path
        note = file.with_name(f"{file.name}.receipt.json")
        eventually(f"a receipt for {path}", note.exists)
        eventually(f"{path} in the archive", file.exists)
        return receipt(file)

    def has(self, name: str, data: bytes) -> bool:
        return stored(self.sandbox).get(name) == [data]


@pytest.fixture(scope="module")
def watched(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One running agent for all files of this module; its drop folder is named by a symlink."""
    home = tmp_path_factory.mktemp("watched")
    real, outside = home / "real", home / "outside"
    real.mkdir()
    outside.mkdir()
    (home / "drop").symlink_to(real)
    config = {"mirror": {"enabled": False}, "drop": {"rescan": "1h"}}
    with (
        Sandbox(home / "sandbox", store=object_store, relay_class=RecordingRelay) as sandbox,
        AgentProcess(home, sandbox.url, sandbox.key, config) as agent,
    ):
        agent.start()
        yield Watched(sandbox, agent, outside)


def write_and_close(drop: Path, outside: Path, name: str, data: bytes) -> str:
    (drop / name).write_bytes(data)
    return name


def write_in_pieces(drop: Path, outside: Path, name: str, data: bytes) -> str:
    with (drop / name).open("wb", buffering=0) as file:
        for byte in range(0, len(data), 10):
            file.write(data[byte : byte + 10])
    return name


def temporary_then_rename(drop: Path, outside: Path, name: str, data: bytes) -> str:
    (drop / f".{name}.Xy12").write_bytes(data)
    os.rename(drop / f".{name}.Xy12", drop / name)
    return name


def move_in(drop: Path, outside: Path, name: str, data: bytes) -> str:
    (outside / name).write_bytes(data)
    os.rename(outside / name, drop / name)
    return name


def hard_link(drop: Path, outside: Path, name: str, data: bytes) -> str:
    (outside / name).write_bytes(data)
    os.link(outside / name, drop / name)
    return name


def copy(drop: Path, outside: Path, name: str, data: bytes) -> str:
    (outside / name).write_bytes(data)
    shutil.copy2(outside / name, drop / name)
    return name


def memory_map(drop: Path, outside: Path, name: str, data: bytes) -> str:
    with (drop / name).open("w+b") as file:
        os.ftruncate(file.fileno(), len(data))
        with mmap.mmap(file.fileno(), len(data)) as mapping:
            mapping[:] = data
    return name


def _tree(folder: Path, name: str, data: bytes) -> str:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / name).write_bytes(data)
    return f"{folder.name}/a/b/{name}"


def move_a_tree_in(drop: Path, outside: Path, name: str, data: bytes) -> str:
    path = _tree(outside / "moved", name, data)
    os.rename(outside / "moved", drop / "moved")
    return path


def make_a_tree(drop: Path, outside: Path, name: str, data: bytes) -> str:
    return _tree(drop / "made", name, data)


def copy_a_tree(drop: Path, outside: Path, name: str, data: bytes) -> str:
    path = _tree(outside / "copied", name, data)
    shutil.copytree(outside / "copied", drop / "copied")
    return path


@pytest.mark.parametrize(
    "appear",
    [
        write_and_close,
        write_in_pieces,
        temporary_then_rename,
        move_in,
        hard_link,
        copy,
        memory_map,
        move_a_tree_in,
        make_a_tree,
        copy_a_tree,
    ],
)
def test_file_is_taken_however_it_appears(watched: Watched, appear: Callable[[Path, Path, str, bytes], str]) -> None:
    name = f"{appear.__name__}.jsonl"
    data = dataset(name, 50)
    path = appear(watched.agent.drop, watched.outside, name, data)
    assert watched.taken(path)["sha256"] == sha256(data)
    assert watched.has(name, data)
    assert (watched.agent.drop / "uploaded" / path).read_bytes() == data
    assert not (watched.agent.drop / path).exists()


def test_temporary_names_are_left_alone_until_renamed(watched: Watched) -> None:
    folder = watched.agent.drop / "exports"
    folder.mkdir()
    temporary = ["x.jsonl.part", "x.jsonl.tmp", "x.jsonl~", ".x.jsonl", ".x.jsonl.Ab34Cd", "x.csv"]
    for name in temporary:
        (folder / name).write_bytes(dataset("temporary"))
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "y.jsonl").write_bytes(dataset("hidden"))
    (folder / "link.jsonl").symlink_to(folder / "x.csv")

    (folder / "sentinel.jsonl").write_bytes(dataset("sentinel"))
    watched.taken("exports/sentinel.jsonl")
    assert sorted(p.name for p in folder.iterdir()) == sorted([*temporary, ".hidden", "link.jsonl"])

    os.rename(folder / "x.jsonl.part", folder / "x.jsonl")
    watched.taken("exports/x.jsonl")
    assert watched.has("x.jsonl", dataset("temporary"))


def test_file_dropped_while_the_agent_is_down_is_taken_at_its_start(watched: Watched) -> None:
    watched.agent.kill()
    data = dataset("meanwhile")
    (watched.agent.drop / "meanwhile.jsonl").write_bytes(data)
    watched.agent.start()
    watched.taken("meanwhile.jsonl")
    assert watched.has("meanwhile.jsonl", data)


def test_root_that_is_deleted_and_made_again_is_watched_again(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, rescan="300ms")
    agent.start()
    shutil.rmtree(agent.drop)
    eventually("the missing folder in the log", lambda: f"drop folder: {agent.drop}: it does not exist" in agent.log())
    agent.drop.mkdir()
    eventually("the end of it", lambda: "drop folder: works again" in agent.log())
    (agent.drop / "a.jsonl").write_bytes(dataset("a"))
    eventually("its receipt", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
    assert stored(sandbox) == {"a.jsonl": [dataset("a")]}
    # One line for the folder, and one for its watch if that was checked meanwhile; not one every 0.3 s.
    told = [line for line in agent.log().splitlines() if "it does not exist" in line]
    assert len(told) in (1, 2), told
    assert agent.status()["problems"] == []
