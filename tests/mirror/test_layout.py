"""Names from the console: reversible as folders, refused as paths when they could do harm."""

import os
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from axomsync.core.errors import Rejected
from axomsync.core.records import ManifestFile, ModelState, RemoteModel
from axomsync.mirror.layout import check_manifest, escape, folder_names, labels_at, staging_name, unescape
from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import Content, FaultyServer

labels = st.text(min_size=1, max_size=40) | st.sampled_from(
    [".", "..", "current", ".axomsync", "%41", "a/b", "a\0b", "\ud800"]
)


@given(labels)
@example("..")
@example("current")
@example("%2E")
@example("‮gpj.exe")
def test_escape_makes_one_safe_component_and_is_reversible(label: str) -> None:
    component = escape(label)
    assert unescape(component) == label
    assert component not in ("", ".", "..", "current")
    assert not component.startswith(".")
    assert not set(component) & set("/\0\n")
    assert component.isprintable()


@given(labels, labels, st.booleans())
@example("bot", "v1", True)
def test_a_folder_tells_the_labels_that_its_model_had(name: str, version: str, clash: bool) -> None:
    model = RemoteModel("an/id of it", name, version, None, None, "ready", None)
    with suppress(Rejected):  # a label may be too long
        path = "/".join(["/srv/models", *folder_names(model, clash=clash)])
        assert labels_at(path, model.id) == (name, version)


@given(st.lists(labels, unique=True, min_size=2, max_size=6))
def test_different_labels_have_different_components(several: list[str]) -> None:
    assert len({escape(label) for label in several}) == len(several)


unremarkable = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_ +@=~äß日", min_size=1)


# Hypothesis also tries words that it finds in the program, and these are names that the mirror and the disk use.
@given(unremarkable.filter(lambda label: label not in ("current", "lost+found")))
def test_unremarkable_labels_stay_as_they_are(label: str) -> None:
    assert escape(label) == label


def test_every_id_has_a_name_of_its_own_in_staging() -> None:
    assert staging_name("bot/v1") == "bot%2Fv1"
    ids = ["/" * 81, "/" * 82, "漢" * 81, "x" * 200, "\ud800" * 100, "漢" * 200]
    names = {staging_name(each) for each in ids}
    assert len(names) == len(ids)
    assert all(len(os.fsencode(f".imported-{name}")) <= 255 and "/" not in name for name in names)
    assert staging_name(staging_name("/" * 81)) not in names, "an id that looks like one"


@pytest.mark.parametrize(("name", "version"), [("x" * 241, "v1"), ("n", "ü" * 121), ("/" * 81, "v")])
def test_a_label_that_is_too_long_for_a_folder(name: str, version: str) -> None:
    with pytest.raises(Rejected, match="can't be a folder name"):
        folder_names(RemoteModel("id", name, version, None, None, "ready", None), clash=False)


def manifest(*rels: str, size: int = 1) -> list[ManifestFile]:
    return [ManifestFile(rel, size, "http://x", None) for rel in rels]


HOSTILE = {
    "parent": (["ok", "../x"], "'../x' would leave the model's folder"),
    "absolute": (["/etc/x"], "'/etc/x' is an absolute path"),
    "parent inside": (["a/../../x"], "'a/../../x' would leave the model's folder"),
    "parent at the end": (["a/.."], "would leave"),
    "NUL": (["a\0b"], "holds a NUL byte"),
    "empty": ([""], "is not a plain relative path"),
    "dot": (["./a"], "is not a plain relative path"),
    "double slash": (["a//b"], "is not a plain relative path"),
    "a folder": (["a/"], "is not a plain relative path"),
    "twice": (["a", "b", "a"], "'a' is listed twice"),
    "case": (["Model.bin", "model.bin"], "'model.bin' differs from 'Model.bin' only in case"),
    "case, in German": (["straße", "STRASSE"], "only in case"),
    "file as a folder": (["a", "a/b"], "'a/b' lies under the path of the file 'a'"),
    "folder as a file": (["a/b/c", "a"], "lies under the path of the file 'a'"),
    "case of a folder": (["A/b", "a"], "lies under the path of the file 'a'"),
    "our record": ([".axomsync.json"], "has a name that is reserved for axomsync"),
    "our record in capitals": ([".AXOMSYNC.json"], "has a name that is reserved for axomsync"),
    "our record as a folder": ([".axomsync.json/a"], "has a name that is reserved for axomsync"),
    "our record while it is replaced": ([".axomsync.json.new"], "has a name that is reserved for axomsync"),
    "a name that we may give a file": ([".AXOMsync-unfinished-0"], "has a name that is reserved for axomsync"),
    "a line break": (["a\nb"], "holds a control character"),
    "an escape": (["a/\x1b[2J"], "holds a control character"),
    "a file as a folder, among others": (
        ["a", "a b", "a!", "a-b/c", "a/b", "aa"],
        "'a/b' lies under the path of the file 'a'",
    ),
    "a long name": (["x" * 256], "is too long for a file name"),
    "a long name in UTF-8": (["日" * 86], "is too long for a file name"),
    "a deep path": (["/".join("x" * 1400)], "lies more than 100 folders deep"),
    "a long path": (["/".join(["x" * 200] * 16)], "is too long for a file name"),
    "no files": ([], "lists no files"),
}


@pytest.mark.parametrize(("rels", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_manifest_is_refused_with_its_fault(rels: list[str], reason: str) -> None:
    with pytest.raises(Rejected) as refusal:
        check_manifest(manifest(*rels))
    assert reason in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_manifest_with_more_bytes_than_any_disk_is_refused() -> None:
    with pytest.raises(Rejected, match="more bytes than any disk holds"):
        check_manifest(manifest("a", "b", size=1 << 62))


def test_odd_but_safe_paths_are_allowed() -> None:
    check_manifest(
        manifest("a b/ü.bin", "..hidden", ".gitattributes", "a\\b", "x...", "sub/.axomsync.json", "con", "-rf", "*")
    )


@pytest.mark.parametrize("rels", [rels for rels, _ in HOSTILE.values()], ids=HOSTILE.keys())
def test_hostile_manifest_writes_nothing(server: FaultyServer, mirror: MirrorHere, rels: list[str]) -> None:
    good = server.add_model("chassis", "v1", {"a": Content(5)})
    model_id = server.add_model("evil", "v1", {"a": Content(5)})
    server.manifests[model_id] = [{**server.manifests[model_id][0], "rel": rel} for rel in rels]
    outside = {path for path in mirror.folder.parent.rglob("*") if mirror.folder not in path.parents}
    mirror.sync()
    assert mirror.model(model_id).state == ModelState.BLOCKED
    assert mirror.model(good).state == ModelState.PUBLISHED
    assert {path for path in mirror.folder.iterdir() if path.name != ".axomsync"} == {mirror.folder / "chassis"}
    assert not [path for path in (mirror.folder / ".axomsync").rglob("*") if path.is_file()]
    after = {path for path in mirror.folder.parent.rglob("*") if mirror.folder not in path.parents}
    assert {path for path in after - outside if mirror.state not in path.parents} <= {mirror.state}
    assert [r for r in server.storage_requests() if model_id in r.path] == []
