"""Labels that move: a model's folder follows its labels in the console, once no process reads it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axomsync.mirror.publish import current
from axomsync.mirror.publish.record import read_record
from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import Content, FaultyServer

OLD, NEW = {"a.bin": Content(3000, 1)}, {"a.bin": Content(3000, 2)}


def relabel(server: FaultyServer, model_id: str, name: str, version: str) -> None:
    for document in server.models:
        if document["id"] == model_id:
            document |= {"name": name, "version": version}


def names(mirror: MirrorHere, name: str = "chassis") -> list[str]:
    return sorted(os.listdir(mirror.folder / name))


def problems(mirror: MirrorHere) -> dict[str, str]:
    return {problem.subject: problem.reason for problem in mirror.reader().problems()}


@contextmanager
def reading(path: Path) -> Iterator[int]:
    code = "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


def test_current_leaves_a_version_that_a_person_removed(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["views"] = [f"flat:{mirror.folder.parent / 'view'}"]
    for version, files in (("v1", OLD), ("v2", NEW)):
        server.add_model("chassis", version, files)
    mirror.sync()
    assert current.leads_to(mirror.folder / "chassis") == "v2"
    shutil.rmtree(mirror.folder / "chassis" / "v2")
    server.models = [document for document in server.models if document["version"] == "v1"]
    mirror.settings["poll"] = "1s"
    with mirror.running():
        eventually("v1", lambda: current.leads_to(mirror.folder / "chassis") == "v1")
        eventually("the view", (mirror.folder.parent / "view" / "chassis" / "a.bin").exists)
    assert problems(mirror) == {}


def test_a_label_that_moves_to_another_model(server: FaultyServer, mirror: MirrorHere) -> None:
    first = server.add_model("chassis", "latest", OLD)
    mirror.sync()
    relabel(server, first, "chassis", "v1")
    second = server.add_model("chassis", "latest", NEW, model_id="the-second")
    mirror.sync()
    mirror.sync()
    parent = mirror.folder / "chassis"
    assert names(mirror) == ["current", "latest", "v1"]
    assert {mirror.model(i).path for i in (first, second)} == {str(parent / "v1"), str(parent / "latest")}
    assert OLD["a.bin"].fault_in(parent / "v1" / "a.bin") is None
    assert NEW["a.bin"].fault_in(parent / "latest" / "a.bin") is None
    record = read_record(parent / "v1")
    assert record is not None
    assert (record.model.id, record.model.version) == (first, "v1")
    assert os.readlink(parent / "current") == "latest"
    assert {model.reason for model in mirror.models()} == {None}
    assert problems(mirror) == {}


def test_folder_in_use_keeps_its_name_and_is_reported(server: FaultyServer, mirror: MirrorHere) -> None:
    first = server.add_model("chassis", "latest", OLD)
    mirror.sync()
    parent = mirror.folder / "chassis"
    with reading(parent / "latest" / "a.bin") as pid:
        relabel(server, first, "chassis", "v1")
        second = server.add_model("chassis", "latest", NEW, model_id="the-second")
        mirror.sync()
        assert mirror.model(first).path == str(parent / "latest")
        assert f"its folder is still {parent / 'latest'}: it is renamed" in (mirror.model(first).reason or "")
        told = problems(mirror)["chassis/latest"]
        assert "holds chassis/v1; it is renamed once no process reads it: python" in told
        assert f"(pid {pid}) has it open" in told
        assert mirror.model(second).path == str(parent / "latest--the-seco")
    mirror.sync()  # the one makes room
    mirror.sync()  # for the other
    assert names(mirror) == ["current", "latest", "v1"]
    assert NEW["a.bin"].fault_in(parent / "latest" / "a.bin") is None
    assert mirror.model(second).path == str(parent / "latest")
    assert problems(mirror) == {}


def test_a_model_that_is_renamed_takes_its_pin_along(server: FaultyServer, mirror: MirrorHere) -> None:
    first = server.add_model("chassis", "v1", OLD)
    server.add_model("chassis", "v2", NEW)
    mirror.sync()
    current.pin(mirror.folder / "chassis", "v1", mirror.folder / ".axomsync")
    relabel(server, first, "frame", "v1")
    mirror.sync()
    assert names(mirror) == ["current", "v2"]
    assert os.readlink(mirror.folder / "chassis" / "current") == "v2"
    assert names(mirror, "frame") == [".pinned", "current", "v1"]
    assert os.readlink(mirror.folder / "frame" / ".pinned") == "v1"
    relabel(server, first, "frame", "v7")
    mirror.sync()
    assert names(mirror, "frame") == [".pinned", "current", "v7"]
    assert os.readlink(mirror.folder / "frame" / "current") == "v7"


def test_the_last_model_of_a_name_leaves_nothing_behind(server: FaultyServer, mirror: MirrorHere) -> None:
    first = server.add_model("chassis", "v1", OLD)
    mirror.sync()
    relabel(server, first, "frame", "v1")
    mirror.sync()
    assert sorted(os.listdir(mirror.folder)) == [".axomsync", "frame"]


def test_two_models_that_swap_their_labels(server: FaultyServer, mirror: MirrorHere) -> None:
    first, second = server.add_model("chassis", "v1", OLD), server.add_model("chassis", "v2", NEW)
    mirror.sync()
    relabel(server, first, "chassis", "v2")
    relabel(server, second, "chassis", "v1")
    for _ in range(3):
        mirror.sync()
    assert names(mirror) == ["current", "v1", "v2"]
    assert OLD["a.bin"].fault_in(mirror.folder / "chassis" / "v2" / "a.bin") is None
    assert NEW["a.bin"].fault_in(mirror.folder / "chassis" / "v1" / "a.bin") is None


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_a_crash_after_the_rename_costs_nothing(server: FaultyServer, mirror: MirrorHere, ledger: str) -> None:
    """The folder has its new name, record and ledger still the old one."""
    first = server.add_model("chassis", "v1", OLD)
    mirror.sync()
    parent = mirror.folder / "chassis"
    (parent / "v1").rename(parent / "v2")
    relabel(server, first, "chassis", "v2")
    if ledger == "lost":
        shutil.rmtree(mirror.state)
    server.requests.clear()
    mirror.sync()
    assert server.storage_requests() == []
    assert mirror.model(first).path == str(parent / "v2")
    assert json.loads((parent / "v2" / ".axomsync.json").read_bytes())["version"] == "v2"
    assert os.readlink(parent / "current") == "v2"


def test_a_move_that_is_taken_back_leaves_the_pin_as_it_was(server: FaultyServer, mirror: MirrorHere) -> None:
    server.add_model("chassis", "v1", OLD)
    mirror.sync()
    parent = mirror.folder / "chassis"
    current.pin(parent, "v1", mirror.folder / ".axomsync")
    current.prepare_move(parent / "v1", parent / "v2", mirror.folder / ".axomsync")
    current.take_back_move(parent / "v1", parent / "v2", mirror.folder / ".axomsync")
    assert current.pinned(parent) == "v1"


def test_wait_never_prints_a_path_that_will_be_another_models(agent: AgentProcess, server: FaultyServer) -> None:
    first = server.add_model("chassis", "latest", OLD)
    agent.sync()
    parent = agent.mirror / "chassis"
    with reading(parent / "latest" / "a.bin"):
        relabel(server, first, "chassis", "v1")
        agent.sync()
        waiting = agent.call("wait", "chassis/v1", "--timeout", "1s")
        assert waiting.returncode == 75
        assert "its folder is still" in waiting.stderr
        assert agent.call("wait", first, "--timeout", "1s").stdout.strip() == str(parent / "latest")
    agent.sync()
    assert agent.call("wait", "chassis/v1", "--timeout", "1s").stdout.strip() == str(parent / "v1")


# `current`

STRANGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (lambda link: link.mkdir(), "it is no symlink"),
    "a file": (lambda link: link.write_text("mine"), "it is no symlink"),
    "a link that leads outside": (
        lambda link: link.symlink_to("/usr"),
        "it is a symlink to /usr, which the agent did not make",
    ),
    "a link to the folder above": (lambda link: link.symlink_to(".."), "it is a symlink to .."),
    "a link to a folder of their own": (lambda link: link.symlink_to("mine"), "it leads to mine, which is not a version"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_current_that_is_foreign_is_reported_and_left_alone(server: FaultyServer, mirror: MirrorHere, kind: str) -> None:
    make, told = STRANGERS[kind]
    server.add_model("chassis", "v1", OLD)
    mirror.sync()
    parent = mirror.folder / "chassis"
    (parent / "mine").mkdir()
    (parent / "current").unlink()
    make(parent / "current")
    before = os.lstat(parent / "current").st_ino
    server.add_model("chassis", "v2", NEW)
    mirror.sync()
    assert os.lstat(parent / "current").st_ino == before
    mirror.sync()
    reason = problems(mirror)["chassis/current"]
    assert told in reason
    assert reason.endswith("move it away, and the agent makes its own")
    os.rename(parent / "current", parent / "away")
    mirror.sync()
    assert os.readlink(parent / "current") == "v2"
    assert problems(mirror) == {}


def test_list_entry_without_its_fields_is_a_problem_until_corrected(server: FaultyServer, mirror: MirrorHere) -> None:
    server.add_model("chassis", "v1", OLD)
    del server.models[0]["version"]
    mirror.sync()
    assert f"chassis {server.models[0]['id']} (no version)" in problems(mirror)["list of models"]
    server.models[0]["version"] = "v1"
    mirror.sync()
    assert problems(mirror) == {}
