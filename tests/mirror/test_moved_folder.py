"""`[mirror] folder` is changed: the agent works in the new one, with what came along, and leaves the old one alone."""

import os
import shutil
from pathlib import Path

import pytest

from axomsync.core.records import ModelState
from axomsync.mirror.publish import current
from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import Content, FaultyServer

FILES = {"a.bin": Content(3000, 1), "config.json": Content(2, head=b"{}")}


@pytest.fixture
def moved(server: FaultyServer, mirror: MirrorHere, tmp_path: Path) -> Path:
    """Two versions are here, one that was pulled, and one that the console no longer lists; returns a place for them."""
    for name, version in (("bot", "v1"), ("bot", "v2"), ("left-out", "v1"), ("gone", "v1")):
        server.add_model(name, version, FILES)
    mirror.settings["exclude"] = ["left-out"]
    mirror.sync()
    with mirror.running() as loop:
        loop.pull("left-out", lambda: None)
    server.models = [document for document in server.models if document["name"] != "gone"]
    mirror.sync()
    server.requests.clear()
    return tmp_path / "another disk"


def places(mirror: MirrorHere) -> dict[str, tuple[ModelState, str | None]]:
    return {f"{row.name}/{row.version}": (row.state, row.path) for row in mirror.models()}


def in_place(mirror: MirrorHere, *names: str) -> dict[str, tuple[ModelState, str | None]]:
    return {name: (ModelState.PUBLISHED, str(mirror.folder / name)) for name in names}


@pytest.mark.parametrize("way", ["moved", "copied"])
def test_models_that_came_along_are_taken_as_they_are(
    server: FaultyServer, mirror: MirrorHere, moved: Path, way: str
) -> None:
    old = mirror.folder
    if way == "moved":
        os.rename(old, moved)
    else:
        shutil.copytree(old, moved, symlinks=True)
    mirror.folder = moved
    mirror.sync()
    assert places(mirror) == in_place(mirror, "bot/v1", "bot/v2", "left-out/v1", "gone/v1")
    assert server.storage_requests() == server.console_requests("/download") == []
    mirror.settings["keep"] = 1
    mirror.sync()
    assert sorted(os.listdir(moved / "bot")) == ["current", "v2"]
    assert way == "moved" or sorted(os.listdir(old / "bot")) == ["current", "v1", "v2"]


def test_models_are_fetched_into_an_empty_folder_and_the_old_one_stays(
    server: FaultyServer, mirror: MirrorHere, moved: Path
) -> None:
    old, before = mirror.folder, sorted(path.relative_to(mirror.folder) for path in mirror.folder.rglob("*"))
    moved.mkdir()
    mirror.folder, mirror.settings["keep"] = moved, 1
    mirror.sync()
    assert places(mirror) | in_place(mirror, "bot/v2") == places(mirror)
    assert FILES["a.bin"].fault_in(moved / "bot" / "v2" / "a.bin") is None
    assert current.leads_to(moved / "bot") == "v2"
    assert {state for name, (state, _) in places(mirror).items() if name != "bot/v2"} <= {
        ModelState.IGNORED,
        ModelState.GONE,
    }
    assert sorted(path.relative_to(old) for path in old.rglob("*")) == before
