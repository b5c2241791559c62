"""The mirror folder: obstacles are never followed or overwritten, and `current` leads to the newest."""

import json
import os
import shutil
from pathlib import Path

import pytest

from axomsync.core.records import ModelState
from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import Content, FaultyServer

FILES = {"a.bin": Content(1000, 1), "sub/deep/b.bin": Content(500, 2)}


def staging(mirror: MirrorHere, model_id: str) -> Path:
    folder = mirror.folder / ".axomsync" / "here" / model_id
    folder.mkdir(parents=True)
    return folder


def blocked(mirror: MirrorHere, model_id: str, reason: str) -> None:
    model = mirror.model(model_id)
    assert model.state == ModelState.BLOCKED
    assert reason in (model.reason or "")


@pytest.mark.parametrize("where", ["sub", "sub/deep"])
def test_symlink_on_the_way_is_not_followed(server: FaultyServer, mirror: MirrorHere, tmp_path: Path, where: str) -> None:
    model_id, outside = server.add_model("chassis", "v1", FILES), tmp_path / "outside"
    outside.mkdir()
    link = staging(mirror, model_id) / where
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    mirror.sync()
    blocked(mirror, model_id, f"{link} is a symlink or a file where a folder must be; move it away")
    assert list(outside.iterdir()) == []
    link.unlink()
    mirror.sync()
    assert mirror.model(model_id).state == ModelState.PUBLISHED


def test_a_symlink_instead_of_a_file_is_not_followed(server: FaultyServer, mirror: MirrorHere, tmp_path: Path) -> None:
    model_id, outside = server.add_model("chassis", "v1", FILES), tmp_path / "outside"
    outside.write_text("mine")
    (staging(mirror, model_id) / "a.bin").symlink_to(outside)
    mirror.sync()
    blocked(mirror, model_id, "a.bin")
    assert outside.read_text() == "mine"


def test_foreign_files_in_staging_are_not_published(server: FaultyServer, mirror: MirrorHere, tmp_path: Path) -> None:
    model_id, outside = server.add_model("chassis", "v1", FILES), tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    folder = staging(mirror, model_id)
    (folder / "old").mkdir()
    (folder / "old" / "file").write_text("of an earlier manifest")
    (folder / ".axomsync.json").symlink_to(outside / "precious")
    (folder / "link").symlink_to(outside)
    mirror.sync()
    published = mirror.folder / "chassis" / "v1"
    assert {p.relative_to(published).as_posix() for p in published.rglob("*") if not p.is_dir()} == {
        *FILES,
        ".axomsync.json",
    }
    assert not (published / "old").exists()
    assert (outside / "precious").read_text() == "mine"


@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_foreign_file_in_the_place_of_the_name(server: FaultyServer, mirror: MirrorHere, tmp_path: Path, kind: str) -> None:
    model_id, outside = server.add_model("chassis", "v1", FILES), tmp_path / "outside"
    outside.mkdir()
    if kind == "symlink":
        (mirror.folder / "chassis").symlink_to(outside)
    else:
        (mirror.folder / "chassis").write_text("mine")
    mirror.sync()
    blocked(mirror, model_id, f"{mirror.folder / 'chassis'} is not a plain folder; move it away")
    assert list(outside.iterdir()) == []
    assert server.storage_requests() == []


def test_two_ids_that_claim_one_name(server: FaultyServer, mirror: MirrorHere) -> None:
    first = server.add_model("chassis", "v1", FILES, model_id="11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa")
    other = {"a.bin": Content(77, 7)}
    second = server.add_model("chassis", "v1", other, model_id="22222222-bbbb-4bbb-8bbb-bbbbbbbbbbbb")
    mirror.sync()
    paths = {Path(str(mirror.model(model_id).path)).name for model_id in (first, second)}
    assert paths in ({"v1", "v1--22222222"}, {"v1", "v1--11111111"})
    contents = {first: FILES, second: other}
    for model_id, files in contents.items():
        folder = Path(str(mirror.model(model_id).path))
        assert json.loads((folder / ".axomsync.json").read_bytes())["model_id"] == model_id
        assert [fault for rel, content in files.items() if (fault := content.fault_in(folder / rel))] == []
    assert (mirror.folder / "chassis" / "current").resolve() == Path(str(mirror.model(second).path))
    before = sorted(os.listdir(mirror.folder / "chassis"))
    shutil.rmtree(mirror.state)
    server.requests.clear()
    mirror.sync()
    assert server.storage_requests() == []
    assert sorted(os.listdir(mirror.folder / "chassis")) == before


def test_foreign_folder_is_left_alone(server: FaultyServer, mirror: MirrorHere) -> None:
    model_id = server.add_model("chassis", "v1", FILES)
    (mirror.folder / "chassis" / "v1").mkdir(parents=True)
    (mirror.folder / "chassis" / "v1" / "mine").write_text("mine")
    mirror.sync()
    assert Path(str(mirror.model(model_id).path)).name == f"v1--{model_id[:8]}"
    assert os.listdir(mirror.folder / "chassis" / "v1") == ["mine"]
    assert (mirror.folder / "chassis" / "current").readlink() == Path(f"v1--{model_id[:8]}")


@pytest.mark.parametrize(
    ("name", "folder"), [("../up", "%2E.%2Fup"), ("a/b", "a%2Fb"), (".hidden", "%2Ehidden"), ("..", "%2E.")]
)
def test_labels_that_are_no_file_names(server: FaultyServer, mirror: MirrorHere, name: str, folder: str) -> None:
    server.add_model(name, "current", FILES)
    mirror.sync()
    assert sorted(os.listdir(mirror.folder)) == sorted([".axomsync", folder])
    assert (mirror.folder / folder / "current").readlink() == Path("%63urrent")
    assert FILES["a.bin"].fault_in(mirror.folder / folder / "current" / "a.bin") is None


def test_current_leads_to_the_version_that_was_created_last(server: FaultyServer, mirror: MirrorHere) -> None:
    for version in ("v1", "v2", "v3"):
        server.add_model("chassis", version, FILES)
    created = {"v1": "2026-05-01T10:00:00Z", "v2": "2026-05-01T10:00:00.5Z", "v3": "2026-05-01T11:59:00+02:00"}
    for document in server.models:
        document["created_at"] = created[document["version"]]
    mirror.sync()
    link = mirror.folder / "chassis" / "current"
    assert link.readlink() == Path("v2"), "v3 was created a minute before, and half a second counts"
    server.add_model("chassis", "v0", FILES, model_id="late")
    server.models[0]["created_at"] = "2020-01-01"
    mirror.sync()
    assert mirror.model("late").state == ModelState.PUBLISHED
    assert link.readlink() == Path("v2")


def test_current_that_is_foreign_is_left_alone(server: FaultyServer, mirror: MirrorHere) -> None:
    (mirror.folder / "chassis" / "current").mkdir(parents=True)
    model_id = server.add_model("chassis", "v1", FILES)
    mirror.sync()
    assert mirror.model(model_id).state == ModelState.PUBLISHED
    assert not (mirror.folder / "chassis" / "current").is_symlink()


def test_copy_of_a_version_is_not_taken_for_the_version(server: FaultyServer, mirror: MirrorHere) -> None:
    server.add_model("chassis", "v1", FILES)
    mirror.sync()
    shutil.copytree(mirror.folder / "chassis" / "v1", mirror.folder / "chassis" / "v1.backup")
    shutil.rmtree(mirror.state)
    mirror.sync()
    assert (mirror.folder / "chassis" / "current").readlink() == Path("v1")


def test_a_published_folder_that_is_not_whole_is_not_adopted(server: FaultyServer, mirror: MirrorHere) -> None:
    model_id = server.add_model("chassis", "v1", FILES)
    mirror.sync()
    (mirror.folder / "chassis" / "v1" / "a.bin").unlink()
    shutil.rmtree(mirror.state)
    mirror.sync()
    blocked(
        mirror,
        model_id,
        f"{mirror.folder / 'chassis' / 'v1'}: a.bin was changed or removed; `axomsync verify --repair` fetches it again",
    )


def test_files_selects_the_wanted_files(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.settings["files"] = ["*.bin"]
    model_id = server.add_model("chassis", "v1", {**FILES, "README.md": Content(9, 9)})
    mirror.sync()
    published = mirror.folder / "chassis" / "v1"
    assert {p.relative_to(published).as_posix() for p in published.rglob("*.*") if p.is_file()} == {*FILES, ".axomsync.json"}
    assert server.storage_requests(server.key_of(model_id, "README.md")) == []


def test_two_agents_on_one_folder(server: FaultyServer, mirror: MirrorHere) -> None:
    """The second agent finds the models of the first, though its ledger does not know them."""
    model_id = server.add_model("chassis", "v1", FILES)
    mirror.sync()
    mirror.state = mirror.state.parent / "another"
    server.requests.clear()
    mirror.sync()
    assert mirror.model(model_id).state == ModelState.PUBLISHED
    assert server.storage_requests() == []
