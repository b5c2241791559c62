"""Models from another disk or box: compared with their records, and then like models that were downloaded."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from axomsync.core.errors import LocalFault, Rejected, Transient
from axomsync.core.records import ModelState
from axomsync.mirror.check.scrub import Upkeep
from axomsync.mirror.imports import Arrival
from axomsync.mirror.loop import Mirror
from axomsync.runtime.gates import Gates
from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import remount, small_disk
from tests.rig.faults import FOREVER, KEY, Content, Fault, FaultyServer
from tests.rig.gatekeepers import Gatekeeper

MIB = 1 << 20
FILES = {
    "a.bin": Content(3 * MIB + 7, 1),
    "sub/b.bin": Content(5000, 2),
    "empty": Content(0),
    "c.json": Content(20, 3, b"{}"),
}


@pytest.fixture
def origin(tmp_path: Path, server: FaultyServer) -> MirrorHere:
    """Another box, which has mirrored from the same console."""
    return MirrorHere(tmp_path / "other box", server)


def carried(origin: MirrorHere, server: FaultyServer, *versions: str) -> Path:
    """The mirror folder of the other box, with these versions, as a disk that is carried here."""
    for version in versions or ("v1",):
        server.add_model("bot", version, FILES)
    origin.sync()
    return origin.folder


def known(arrivals: list[Arrival]) -> list[tuple[str | None, str]]:
    return [(arrival.model.version if arrival.model else None, arrival.outcome) for arrival in arrivals]


def whole(mirror: MirrorHere, version: str = "v1") -> bool:
    folder = mirror.folder / "bot" / version
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {".axomsync.json"}
    return there == FILES.keys() and not any(content.fault_in(folder / rel) for rel, content in FILES.items())


def inner(mirror: MirrorHere) -> list[str]:
    """What is left in the inner part."""
    return [str(path.relative_to(mirror.folder)) for path in mirror.folder.glob(".axomsync/*/*")]


def flip(path: Path, at: int = 1000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.unlink()  # another version may share it
    path.write_bytes(data)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / ".axomsync.json").read_bytes())
    change(record)
    (folder / ".axomsync.json").write_text(json.dumps(record))


# The way of a model


def test_what_was_imported_is_not_fetched_again(mirror: MirrorHere, origin: MirrorHere, server: FaultyServer) -> None:
    disk = carried(origin, server, "v1", "v2")
    before = len(server.requests)
    arrivals = mirror.take_in(disk)
    assert known(arrivals) == [("v2", "imported"), ("v1", "imported")]
    assert len(server.requests) == before  # no console either
    assert whole(mirror)
    assert whole(mirror, "v2")
    assert os.readlink(mirror.folder / "bot" / "current") == "v2"
    assert {(row.state, row.reason) for row in mirror.models()} == {(ModelState.PUBLISHED, None)}
    assert inner(mirror) == []
    for row in mirror.models():
        assert mirror.proofs(row.id) == {"a.bin": "proven", "sub/b.bin": "proven", "empty": "size only", "c.json": "proven"}
        assert row.verified_at is not None
        assert (row.bytes_done, row.bytes_total) == (sum(c.size for c in FILES.values()),) * 2
    mirror.sync()  # the console lists them
    asked = server.requests[before:]
    assert not any(request.is_storage for request in asked)
    assert [request.path for request in asked] == ["/api/models"]
    assert known(mirror.take_in(disk)) == [("v2", "present"), ("v1", "present")]
    mirror.scrub()
    assert {row.damage for row in mirror.models()} == {None}


def test_a_full_disk_costs_no_descriptor(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer, tmp_path: Path
) -> None:
    disk = carried(origin, server)
    with small_disk(mirror.folder, "size=2m"):
        mirror.take_in(disk)
        before = len(os.listdir("/proc/self/fd"))
        assert known(mirror.take_in(disk)) == known(mirror.take_in(disk)) == [("v1", "failed")]
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("named", ["", "bot", "bot/v1"])
def test_each_kind_of_folder(mirror: MirrorHere, origin: MirrorHere, server: FaultyServer, named: str) -> None:
    disk = carried(origin, server)
    assert known(mirror.take_in(disk / named)) == [("v1", "imported")]
    assert whole(mirror)


def test_hooks_hear_of_it_and_a_gate_looks_first(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer, tmp_path: Path
) -> None:
    keeper = Gatekeeper(tmp_path)
    disk = carried(origin, server)
    mirror.gates = keeper.gates('print("it is not signed"); sys.exit(1)')
    [refused] = mirror.take_in(disk)
    assert (refused.outcome, str(refused.failure)) == ("refused", "[hooks] before_publish: it is not signed")
    assert not (mirror.folder / "bot").exists()
    assert mirror.models() == []
    assert inner(mirror) == []
    mirror.gates = keeper.gates('open(place + "/sub/b.bin", "r+b").write(b"evil")')
    [refused] = mirror.take_in(disk)
    assert "changed while it looked" in str(refused.failure)
    assert not (mirror.folder / "bot").exists()
    mirror.gates = keeper.gates("sys.exit(75)")
    [failed] = mirror.take_in(disk)
    assert failed.outcome == "failed"
    assert len(inner(mirror)) == 1
    mirror.gates = Gates()
    assert known(mirror.take_in(disk)) == [("v1", "imported")]
    assert whole(mirror)
    assert inner(mirror) == []
    events = [(event.kind, event.subject) for event in mirror.reader().events_due(1e12)]
    assert events == [("model_published", mirror.models()[0].id)]


def test_what_a_gate_looks_at_for_long_is_not_taken_for_a_leftover(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer, tmp_path: Path
) -> None:
    disk = carried(origin, server)
    server.models.clear()  # else the poll would want to fetch it
    keeper, gate = Gatekeeper(tmp_path), tmp_path / "gate"
    os.mkfifo(gate)
    mirror.gates = keeper.gates(f"open({str(gate)!r}).read()")
    with mirror.context() as context:
        loop, arrivals = Mirror(context), list[Arrival]()
        importing = threading.Thread(target=lambda: arrivals.extend(loop.take_in([disk], lambda: None)))
        importing.start()
        try:
            eventually("the gate", keeper.asked)
            mirror.later = 2 * 3600.0
            assert len(inner(mirror)) == 1
            loop.poll(lambda: None)
            Upkeep(context).scrub(lambda: None)
            assert len(inner(mirror)) == 1
        finally:
            gate.write_text("")
            importing.join()
    assert known(arrivals) == [("v1", "imported")]


def test_what_an_import_left_is_removed_after_an_hour(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer, tmp_path: Path
) -> None:
    disk = carried(origin, server)
    server.models.clear()
    mirror.gates = Gatekeeper(tmp_path).gates("sys.exit(75)")
    assert known(mirror.take_in(disk)) == [("v1", "failed")]
    server.inject(Fault(503), "/api/models", times=FOREVER)  # it needs no console
    for hours, left in ((0.5, 1), (1.5, 0)):
        mirror.later = hours * 3600.0
        with pytest.raises(Transient):
            mirror.sync()
        assert len(inner(mirror)) == left


def test_the_selection_takes_its_part_of_a_mirror_and_a_named_model_comes_all_the_same(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer
) -> None:
    server.add_model("other", "v1", FILES)
    disk = carried(origin, server, "v1", "v2", "v3")
    mirror.settings |= {"exclude": ["other"], "keep": 1, "files": ["a.bin", "*.json"]}
    arrivals = mirror.take_in(disk)
    assert {(a.model.name, a.model.version, a.outcome) for a in arrivals if a.model} == {
        ("bot", "v3", "imported"),
        ("bot", "v2", "left out"),
        ("bot", "v1", "left out"),
        ("other", "v1", "left out"),
    }
    assert sorted(p.name for p in (mirror.folder / "bot/v3").iterdir()) == [".axomsync.json", "a.bin", "c.json"]
    assert mirror.models()[0].left_out == ("empty", "sub/b.bin")
    assert known(mirror.take_in(disk / "other" / "v1")) == [("v1", "imported")]
    stored = len(server.storage_requests())
    mirror.sync()
    assert (mirror.folder / "other" / "v1").is_dir()
    assert len(server.storage_requests()) == stored


def test_a_download_and_a_known_row_give_way(mirror: MirrorHere, origin: MirrorHere, server: FaultyServer) -> None:
    disk = carried(origin, server)
    server.objects.clear()  # storage is gone
    mirror.patience = 0.3
    mirror.sync()
    [row] = mirror.models()
    assert row.state is not ModelState.PUBLISHED
    assert known(mirror.take_in(disk)) == [("v1", "imported")]
    [row] = mirror.models()
    assert (row.state, row.reason, row.attempts, row.next_attempt) == (ModelState.PUBLISHED, None, 0, None)
    assert whole(mirror)
    assert inner(mirror) == []


def test_while_the_loop_works(mirror: MirrorHere, origin: MirrorHere, server: FaultyServer) -> None:
    """Two imports at once, beside polls that list the model: it appears once, and nothing is fetched."""
    disk = carried(origin, server)
    stored, mirror.settings["exclude"] = len(server.storage_requests()), ["bot"]
    mirror.settings["poll"] = "1s"
    got: list[tuple[str | None, str]] = []
    with mirror.running() as loop:
        eventually("the list", lambda: [row.state for row in mirror.models()] == [ModelState.IGNORED])

        def take() -> None:
            got.extend(known(loop.take_in([disk / "bot" / "v1"], lambda: None)))

        takers = [threading.Thread(target=take) for _ in range(2)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        polls = len(server.requests)
        loop.hurry()
        eventually("a poll after it", lambda: len(server.requests) > polls)
    assert sorted(got) == [("v1", "imported"), ("v1", "present")]
    assert whole(mirror)
    assert len(server.storage_requests()) == stored
    [row] = mirror.models()
    assert row.state is ModelState.PUBLISHED
    assert row.pulled


# What proves the bytes


@pytest.mark.parametrize("rel", ["a.bin", "sub/b.bin"])
def test_a_flipped_byte_is_refused_with_its_file(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer, rel: str
) -> None:
    disk = carried(origin, server, "v1", "v2")
    flip(disk / "bot" / "v1" / rel)
    arrivals = mirror.take_in(disk)
    assert known(arrivals) == [("v2", "imported"), ("v1", "refused")]
    assert f"/bot/v1/{rel}: its bytes 0-" in str(arrivals[1].failure)
    assert not (mirror.folder / "bot" / "v1").exists()
    assert inner(mirror) == []
    assert [row.version for row in mirror.models()] == ["v2"]


def test_a_record_that_was_made_to_fit_is_no_proof_by_storage(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer
) -> None:
    """Other bytes with fitting digests, and the true ETag: whoever can write the record can do that."""

    disk = carried(origin, server)
    flip(disk / "bot/v1/a.bin")

    def fit(record: dict[str, Any]) -> None:
        file = next(file for file in record["files"] if file["rel"] == "a.bin")
        data = (disk / "bot/v1/a.bin").read_bytes()
        file["blake3"] = [[start, end, blake3(data[start:end]).hexdigest()] for start, end, _ in file["blake3"]]

    edit(disk / "bot/v1", fit)
    [refused] = mirror.take_in(disk)
    assert "a.bin: its record says that storage's checksum proves it, and its MD5 is" in str(refused.failure)
    edit(disk / "bot/v1", lambda record: [file.update(proof="size only") for file in record["files"]])
    [imported] = mirror.take_in(disk)
    assert imported.outcome == "imported"
    assert mirror.proofs(mirror.models()[0].id)["a.bin"] == "size only"


def test_what_storage_told_this_box_counts_more_than_the_record(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer
) -> None:
    disk = carried(origin, server)
    mirror.sync()
    shutil.rmtree(mirror.folder / "bot")  # the ledger still knows its files
    edit(disk / "bot/v1", lambda record: record["files"][0].update(etag='"0123456789abcdef0123456789abcdef"'))
    [refused] = mirror.take_in(disk)
    assert "storage's ETag of a.bin is" in str(refused.failure)
    assert "axomsync forget bot/v1" in str(refused.failure)
    assert refused.outcome == "refused"


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a path out of the folder": (lambda r: r["files"][0].update(rel="../../evil"), "would leave the model's folder"),
    "an absolute path": (lambda r: r["files"][0].update(rel="/etc/passwd"), "is an absolute path"),
    "our own name": (lambda r: r["files"][0].update(rel=".axomsync.json"), "reserved for axomsync"),
    "a size beyond any disk": (lambda r: r["files"][0].update(size=1 << 63), "files.0.size"),
    "a label that is no folder": (lambda r: r.update(name="n" * 500), "can't be a folder name"),
    "no digests": (lambda r: r["files"][0].update(blake3=[]), "no digests for all of it"),
    "digests of a part": (lambda r: r["files"][0]["blake3"][0].__setitem__(0, 7), "no digests for all of it"),
    "a file that is not there": (lambda r: r["files"][0].update(rel="x.bin"), "it is missing"),
    "another size": (lambda r: r["files"][3].update(size=5001, blake3=[[0, 5001, "0" * 64]]), "5000 bytes instead of 5001"),
    "more than the disk holds": (
        lambda r: r["files"][0].update(size=1 << 50, blake3=[[0, 1 << 50, "0" * 64]]),
        "more bytes must be free",
    ),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_that_can_not_be_right(mirror: MirrorHere, origin: MirrorHere, server: FaultyServer, kind: str) -> None:
    disk = carried(origin, server)
    change, words = RECORDS[kind]
    edit(disk / "bot/v1", change)
    [refused] = mirror.take_in(disk)
    assert words in str(refused.failure), refused
    assert sorted(path.name for path in mirror.folder.iterdir()) in ([], [".axomsync"])
    assert inner(mirror) == []
    assert mirror.models() == []


def test_links_and_special_files_are_refused_and_never_waited_for(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer, tmp_path: Path
) -> None:
    disk = carried(origin, server, "v1", "v2", "v3", "v4")
    versions = [disk / "bot" / f"v{number}" for number in (1, 2, 3, 4)]
    (tmp_path / "secret").mkdir()
    for rel in ("a.bin", "b.bin"):
        shutil.copy(versions[0] / ("a.bin" if rel == "a.bin" else "sub/b.bin"), tmp_path / "secret" / rel)
    (versions[0] / "a.bin").unlink()
    (versions[0] / "a.bin").symlink_to(tmp_path / "secret/a.bin")
    (versions[1] / "a.bin").unlink()
    os.mkfifo(versions[1] / "a.bin")
    shutil.rmtree(versions[2] / "sub")
    (versions[2] / "sub").symlink_to(tmp_path / "secret")
    (versions[3] / ".axomsync.json").unlink()
    os.mkfifo(versions[3] / ".axomsync.json")
    (disk / "elsewhere").symlink_to(tmp_path / "secret")
    arrivals = mirror.take_in(disk)
    assert {arrival.outcome for arrival in arrivals} == {"refused"}
    assert len(arrivals) == 4
    told = "\n".join(str(arrival.failure) for arrival in arrivals)
    assert told.count("it is a link or no regular file") == 3
    assert "v4: this is not a record of a model: it is no regular file" in told
    assert not (mirror.folder / "bot").exists()


def test_a_folder_without_models(mirror: MirrorHere, tmp_path: Path) -> None:
    (tmp_path / "nothing" / "a" / "b" / "c").mkdir(parents=True)
    with pytest.raises(Rejected, match="no model is there"):
        mirror.take_in(tmp_path / "nothing")
    [failed] = mirror.take_in(tmp_path / "not there")
    assert isinstance(failed.failure, LocalFault)


def test_a_source_that_changes_under_way_is_told_as_that(
    mirror: MirrorHere, origin: MirrorHere, server: FaultyServer
) -> None:
    server.add_model("bot", "v1", {"a.bin": Content(9 * MIB)})
    origin.sync()
    path = origin.folder / "bot/v1/a.bin"

    def beat() -> None:
        if inner(mirror):  # the copy has begun: a piece was read
            os.truncate(path, 5 * MIB)

    with mirror.context() as context:
        [failed] = Mirror(context).take_in([origin.folder], beat)
    assert (failed.outcome, str(failed.failure)) == ("failed", f"{path}: it changed while it was read")
    assert not (mirror.folder / "bot").exists()
    assert mirror.models() == []


# As a process


def test_without_console_or_key_and_killed_half_way(tmp_path: Path, server: FaultyServer, origin: MirrorHere) -> None:
    """From a disk that can't be written; without an agent, killed, again, and then by a running agent without a console."""
    server.add_model("bot", "v1", FILES | {"large.bin": Content(40 * MIB, 9)})
    origin.sync()
    with (
        small_disk(tmp_path / "usb", "size=64m") as disk,
        AgentProcess(tmp_path / "box", "http://127.0.0.1:9/api", None) as agent,
    ):
        shutil.copytree(origin.folder, disk, dirs_exist_ok=True, symlinks=True)
        remount(disk, "ro")
        kill = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:signal=KILL:when=4",
        ]
        agent.launch("import", str(disk), prefix=tuple(kill))
        agent.wait()
        assert not (agent.mirror / "bot").exists()
        done = agent.call("import", str(disk), "--json")
        assert done.returncode == 0, done.stderr
        [row] = json.loads(done.stdout)
        assert (row["outcome"], row["path"]) == ("imported", str(agent.mirror / "bot/v1"))
        assert list(agent.mirror.glob(".axomsync/*/.imported-*")) == []
        agent.start()
        done = agent.call("import", str(disk / "bot" / "current"))
        assert (done.returncode, "present" in done.stdout) == (0, True), done.stderr
        assert agent.status()["mirror"]["counts"]["published"] == 1
        agent.terminate()


def test_two_at_once_without_an_agent(tmp_path: Path, server: FaultyServer, origin: MirrorHere) -> None:
    disk = carried(origin, server)
    flip(carried(origin, server, "v2") / "bot/v2/a.bin")
    with AgentProcess(tmp_path / "box", "http://127.0.0.1:9/api", KEY) as agent:
        commands = [
            subprocess.Popen(agent.command("import", str(disk)), stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        said = [command.communicate(timeout=60)[0] for command in commands]
        assert [command.returncode for command in commands] == [1, 1, 1]
        assert sorted("imported" in text for text in said) == [False, False, True], said
        assert all("bot/v1/" not in text and "bot/v2/a.bin" in text for text in said)
        assert sorted(os.listdir(agent.mirror / "bot")) == ["current", "v1"]
