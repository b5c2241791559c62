"""The record in a folder that others may write into: any content is a record or none, and an error is never an absence."""

import json
import os
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from axomsync.core.errors import LocalFault
from axomsync.core.filesystems import is_folder
from axomsync.core.records import DurableSegment, ModelFile, ModelState, Proof, RemoteModel
from axomsync.mirror.check.verify import examine, full_speed
from axomsync.mirror.publish import current
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.mirror.publish.record import Record, read_record, write_record
from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import AgentProcess
from tests.rig.anything import ANYTHING, for_any, how_many, nearly
from tests.rig.faults import Content, FaultyServer

DIGEST = "0" * 64
GOOD: dict[str, Any] = {
    "format": 1, "model_id": "m", "name": "chassis", "version": "v1", "params": 7, "base_model_id": None,
    "created_at": None, "published_at": "2027-01-01T00:00:00+00:00", "left_out": ["b"], "remarks": ["odd"],
    "files": [{"rel": "a/x", "size": 9, "etag": '"e"', "proof": "proven", "blake3": [[0, 4, DIGEST], [4, 9, DIGEST]]}],
}  # fmt: skip
FILE = GOOD["files"][0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "chassis" / "v1"
    made.mkdir(parents=True)
    return made


def put(folder: Path, document: object) -> None:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    (folder / ".axomsync.json").write_bytes(data)


def test_record_is_read_as_written(folder: Path) -> None:
    model = RemoteModel("m", "chassis", "v1", None, "base", "ready", "2027")
    file = ModelFile("a/x", 9, None, (DurableSegment(0, 9, DIGEST),))
    record = Record(model, (file,), {"a/x": Proof.STRUCTURE}, "2027-01-01", ("b",), ("odd",))
    for _ in range(2):
        write_record(folder, record)
        assert read_record(folder) == record
    assert os.listdir(folder) == [".axomsync.json"]
    assert (folder / ".axomsync.json").stat().st_mode & 0o777 == 0o644


def test_record_of_older_and_newer_versions_is_read(folder: Path) -> None:
    older = {name: value for name, value in GOOD.items() if name not in ("left_out", "remarks")}
    put(folder, older)
    record = read_record(folder)
    assert record is not None
    assert (record.left_out, record.remarks) == ((), ())
    put(folder, GOOD | {"format": 2, "news": {"deep": 1}, "files": [FILE | {"proof": "by a seal", "sha256": "x"}]})
    record = read_record(folder)
    assert record is not None
    assert record.proofs == {"a/x": Proof.SIZE}


BAD: dict[str, object] = {
    "empty": b"",
    "zeros": b"\0" * 1000,
    "cut": json.dumps(GOOD).encode()[:100],
    "a list": [],
    "a number": 7,
    "no files": GOOD | {"files": []},
    "an id that is none": GOOD | {"model_id": {}},
    "a number as name": GOOD | {"name": 5},
    "Infinity": json.dumps(GOOD | {"params": float("inf")}).encode(),
    "a lone surrogate": json.dumps(GOOD | {"name": "\ud800"}).encode(),
    "2^70": GOOD | {"params": 1 << 70},
    "a size of 2^63": GOOD | {"files": [FILE | {"size": 1 << 63}]},
    "sizes that no disk holds": GOOD | {"files": [FILE | {"rel": rel, "size": 1 << 62} for rel in "xy"]},
    "a size below zero": GOOD | {"files": [FILE | {"size": -1}]},
    "a size that is a text": GOOD | {"files": [FILE | {"size": "9"}]},
    "true as size": GOOD | {"files": [FILE | {"size": True}]},
    "a segment beyond the end": GOOD | {"files": [FILE | {"blake3": [[0, 10, DIGEST]]}]},
    "a segment backwards": GOOD | {"files": [FILE | {"blake3": [[4, 4, DIGEST]]}]},
    "a segment of two": GOOD | {"files": [FILE | {"blake3": [[0, 4]]}]},
    "a digest that is none": GOOD | {"files": [FILE | {"blake3": [[0, 4, "g" * 64]]}]},
    "a digest with more behind it": GOOD | {"files": [FILE | {"blake3": [[0, 4, DIGEST + "\n"]]}]},
    "an ETag without end": GOOD | {"files": [FILE | {"etag": "x" * 2000}]},
    "deep": b'{"files": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "huge": b" " * (65 << 20),
    "ever more values": b"[" + b"[]," * 2_000_000 + b"0]",
    **{
        f"the path {rel!r}": GOOD | {"files": [FILE | {"rel": rel}]}
        for rel in (
            "../../etc/passwd",
            "/etc/passwd",
            "a/../../x",
            "a\0b",
            "",
            ".",
            "a//b",
            ".axomsync.json",
            "a\nb",
            "x" * 300,
        )
    },
    "a path twice": GOOD | {"files": [FILE, FILE]},
    "paths that differ in case": GOOD | {"files": [FILE, FILE | {"rel": "A/x"}]},
    "a path left out that leads elsewhere": GOOD | {"left_out": ["../x"]},
    "a path that is left out and is not": GOOD | {"left_out": ["a/x"]},
}


@pytest.mark.parametrize("kind", BAD)
def test_record_that_is_invalid_is_none_and_logged_once(folder: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    put(folder, BAD[kind])
    for _ in range(3):
        assert read_record(folder) is None
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"{folder / '.axomsync.json'}: this is not a record of a model: ")
    assert told.isprintable()
    assert len(told) < 800


def plant(path: Path, kind: str, outside: Path) -> None:
    outside.write_text(json.dumps(GOOD))
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(outside)
    elif kind == "dangling link":
        path.symlink_to(outside.parent / "nothing")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "device":
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero has no end
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))


KINDS = ("folder", "FIFO", "link", "dangling link", "link to itself", "device", "socket")


@pytest.mark.parametrize("kind", KINDS)
def test_record_that_is_no_file_is_none(folder: Path, tmp_path: Path, kind: str) -> None:
    os.chdir(folder)  # a socket's path may be short alone
    plant(Path(".axomsync.json"), kind, tmp_path / "outside")
    assert read_record(folder) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [".axomsync.json.new", ".axomsync.json"])
def test_record_is_never_written_into_planted_files(folder: Path, tmp_path: Path, kind: str, where: str) -> None:
    os.chdir(folder)
    plant(Path(where), kind, tmp_path / "outside")
    record = Record(
        RemoteModel("m", "chassis", "v1", None, None, "ready", None), (ModelFile("a", 0, None, ()),), {"a": Proof.SIZE}, ""
    )
    if (where, kind) == (".axomsync.json", "folder"):
        with pytest.raises(OSError, match="directory"):
            write_record(folder, record)
    else:
        write_record(folder, record)
        assert read_record(folder) == record
    assert (tmp_path / "outside").read_text() == json.dumps(GOOD)
    assert not (tmp_path / "nothing").exists()
    assert [name for name in os.listdir(folder) if "unfinished" in name] == []


@pytest.mark.parametrize("where", ["version", "name"])
def test_record_in_a_linked_folder_is_none(folder: Path, tmp_path: Path, where: str) -> None:
    put(folder, GOOD)
    link = tmp_path / "other" / "v1" if where == "version" else tmp_path / "other"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(folder if where == "version" else folder.parent)
    assert read_record(tmp_path / "other" / "v1") is None


def test_record_files_have_one_order(folder: Path) -> None:
    other = {**GOOD["files"][0], "rel": "\N{NO-BREAK SPACE}"}
    put(folder, {**GOOD, "files": [other, *GOOD["files"]]})
    record = read_record(folder)
    assert record is not None
    assert [file.rel for file in record.files] == ["a/x", "\N{NO-BREAK SPACE}"], "as it is written again"


@how_many()
def test_record_parses_or_refuses_any_document(folder: Path, examples: int) -> None:
    def holds(document: object) -> None:
        put(folder, document)
        record = read_record(folder)
        if record is not None:
            examine(folder, record.files, full_speed)
            write_record(folder, record)
            assert read_record(folder) == record

    for_any(st.just(GOOD) | nearly(GOOD) | nearly(GOOD) | ANYTHING | st.binary(max_size=50), examples, holds)


# An error is no absence


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Make every open(2) of this process fail with EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


READERS: dict[str, Callable[[Path, MirrorFolder], object]] = {
    "read_record": lambda folder, place: read_record(folder),
    "versions": lambda folder, place: current.versions(folder.parent),
    "point": lambda folder, place: current.point(folder.parent, place.root),
    "owner": lambda folder, place: place.owner(folder),
    "published": lambda folder, place: list(place.published()),
}


@pytest.mark.parametrize("ask", READERS)
def test_record_is_not_absent_without_a_free_descriptor(folder: Path, ask: str) -> None:
    put(folder, GOOD)
    (folder.parent / "current").symlink_to("v0")
    place = MirrorFolder(folder.parent.parent, "here")
    with no_descriptor_left(), pytest.raises(LocalFault, match="too many open files; raise LimitNOFILE"):
        READERS[ask](folder, place)
    assert os.readlink(folder.parent / "current") == "v0"


def test_record_at_an_unreadable_path_is_not_absent(tmp_path: Path) -> None:
    """For a name that is too long the system does not even report its absence."""
    assert is_folder(tmp_path)
    assert not is_folder(tmp_path / "nothing")
    assert not is_folder(None)
    with pytest.raises(LocalFault, match="too long"):
        is_folder(tmp_path / ("x" * 300))
    with pytest.raises(LocalFault, match="too long"):
        current.leads_to(tmp_path / ("x" * 300))
    (tmp_path / "current").symlink_to("x" * 300)
    with pytest.raises(LocalFault, match="too long"):
        current.foreign(tmp_path)
    model = RemoteModel("m", "chassis", "v1", None, None, "ready", None)
    with pytest.raises(LocalFault, match="too long"):
        MirrorFolder.lacks(tmp_path, Record(model, (ModelFile("x" * 300, 1, None, ()),), {}, ""))


def test_record_that_can_not_be_read_now_changes_nothing(agent: AgentProcess, server: FaultyServer) -> None:
    """The disk gives EIO for one version's record: nothing is fetched, `current` stays, the other version is known."""
    for version in ("v1", "v2"):
        server.add_model("chassis", version, {"a.bin": Content(3000, len(version))})
    agent.sync()
    shutil.rmtree(agent.state)
    server.requests.clear()
    record = agent.mirror / "chassis" / "v2" / ".axomsync.json"
    before = record.read_bytes()
    fails = ("strace", "-f", "-qq", "-o", "/dev/null", "-P", str(record), "-e", "trace=read", "-e", "inject=read:error=EIO")
    agent.launch("sync", prefix=fails)
    assert agent.wait() == 1
    assert f"{record}: the disk reported an I/O error" in agent.log()
    assert server.storage_requests() == []
    assert os.readlink(agent.mirror / "chassis" / "current") == "v2"
    assert sorted(os.listdir(agent.mirror / "chassis")) == ["current", "v1", "v2"]
    agent.sync()
    assert record.read_bytes() == before
    assert server.storage_requests() == []
    assert {model["state"] for model in agent.models()} == {"published"}


def test_record_that_is_foreign_does_not_end_the_agent(server: FaultyServer, mirror: MirrorHere) -> None:
    first = server.add_model("chassis", "v1", {"a.bin": Content(3000, 1)})
    mirror.sync()
    path = mirror.folder / "chassis" / "v1" / ".axomsync.json"
    for kind in ("FIFO", "device", "link"):
        path.unlink()
        plant(path, kind, mirror.folder.parent / "outside")
        server.requests.clear()
        mirror.sync()
        assert mirror.model(first).state == ModelState.PUBLISHED
        assert server.storage_requests() == []
        record = read_record(path.parent)
        assert record is not None, "the ledger's has taken its place"
        assert record.model.id == first
