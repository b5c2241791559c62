"""Compressed exports on their whole way: unpacked, checked, uploaded as what they hold, put away as they were dropped."""

import gzip
import io
import json
import os
import resource
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from axomsync.cli import tables
from axomsync.core.records import UploadState
from axomsync.drop.intake import Intake
from axomsync.drop.unpacking import zstd
from axomsync.ledger import Reader
from axomsync.status.documents import upload_document
from tests.drop.conftest import dataset, receipt, sha256, tree
from tests.drop.inprocess import DropHere, ledger_template
from tests.rig.contexts import worker_context
from tests.rig.disks import small_disk

INCLUDE = ["*.jsonl", "*.jsonl.gz", "*.jsonl.zst"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ledger_template(tmp_path_factory.mktemp("template"))


def here_in(folder: Path, template: Path, **drop: Any) -> DropHere:
    return DropHere(folder, template, **{"include": INCLUDE, **drop})


def spooled(here: DropHere) -> list[str]:
    """Names in the spool, and files without a name that this process has open there."""
    spool = here.state / "spool"
    mine = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_link(name)]
    return [*os.listdir(spool), *(each for each in mine if each.startswith(f"{spool}/"))]


def _is_link(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


def rows(here: DropHere) -> dict[str, tuple[str, str | None]]:
    return {os.fsdecode(row.path): (str(row.state), row.reason) for row, _ in here.uploads()}


def tarred(content: bytes) -> bytes:
    with tarfile.open(fileobj=(made := io.BytesIO()), mode="w") as archive:
        info = tarfile.TarInfo("a.jsonl")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def test_a_compressed_export_goes_up_as_what_it_holds(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path / "here", template)
    one, two = dataset("one", 2000), dataset("two")
    packed = {"a.jsonl.gz": gzip.compress(one), "sub/B.JSONL.ZST": zstd.compress(two)}
    (here.folder / "sub").mkdir()
    for name, data in packed.items():
        (here.folder / name).write_bytes(data)
    here.finish()
    assert sorted(here.far.names.values()) == ["B.JSONL", "a.jsonl"]
    assert sorted(here.far.objects.values()) == sorted([one, two])
    assert here.far.puts == 2
    archived = tree(here.folder / "uploaded")
    assert {name: archived[name] for name in packed} == packed, "the archive has the files as they were dropped"
    told = receipt(here.folder / "uploaded" / "a.jsonl.gz")
    assert (told["filename"], told["bytes"], told["sha256"], told["lines"]) == ("a.jsonl", len(one), sha256(one), 2000)
    size = len(packed["a.jsonl.gz"])
    assert told["packed"] == {"kind": "gzip", "bytes": size, "sha256": sha256(packed["a.jsonl.gz"])}
    document = {row.filename: upload_document(row) for row, _ in here.uploads()}["a.jsonl"]
    assert (document["bytes"], document["packed"]) == (len(one), told["packed"])
    explained: dict[str, Any] = {"kind": "upload", "name": "a.jsonl.gz", "state": "uploaded", "means": "", "reason": None}
    lines = tables.explanation(explained | {"keeps": [], "next_attempt": None, "facts": document})
    assert f"  packed: gzip, {size} bytes, sha256 {told['packed']['sha256']}" in map(str, lines)
    assert spooled(here) == []
    assert (here.state / "spool").stat().st_mode & 0o777 == 0o700

    # The same content once more, compressed in other ways and not at all, is a duplicate; also for a ledger that was lost.
    elsewhere = here_in(tmp_path / "elsewhere", template)
    (here.folder / "uploaded").rename(elsewhere.folder / "uploaded")
    for installation in (here, elsewhere):
        before = installation.far.puts
        for folder in ("plain", "again", "other"):
            (installation.folder / folder).mkdir()
        (installation.folder / "plain" / "a.jsonl").write_bytes(one)
        (installation.folder / "again" / "a.jsonl.gz").write_bytes(gzip.compress(one, 1))
        (installation.folder / "other" / "a.jsonl.zst").write_bytes(zstd.compress(one))
        installation.finish()
        assert installation.far.puts == before, "nothing is sent again"
        states = {path: state for path, (state, _) in rows(installation).items()}
        assert {states[path] for path in ("plain/a.jsonl", "again/a.jsonl.gz", "other/a.jsonl.zst")} == {"duplicate"}
        told = receipt(installation.folder / "uploaded" / "other" / "a.jsonl.zst")
        assert (told["duplicate"], told["sha256"], told["packed"]["kind"]) == (True, sha256(one), "zstd")
    adopted = {row.path: upload_document(row) for row, _ in elsewhere.uploads()}[b"a.jsonl.gz"]
    assert (adopted["bytes"], adopted["packed"]) == (document["bytes"], document["packed"]), "the receipt tells it"


def test_a_pushed_export_is_unpacked_whatever_include_says(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path, template, include=["*.jsonl"])
    file = here.outside / "a.jsonl.gz"
    file.write_bytes(gzip.compress(dataset("a")))
    with here.ledger() as ledger:
        intake = Intake(here.settings, worker_context(ledger, here.far, here.far, now=lambda: here.clocks.wall))
        intake.run_pushed(intake.push([file]))
    assert here.far.objects == {"tmp/1/a.jsonl": dataset("a")}
    assert file.exists()


ODD: dict[str, tuple[bytes, str]] = {
    "cut.jsonl.gz": (gzip.compress(dataset("x", 500))[:-9], "the gzip data end early"),
    "empty.jsonl.gz": (b"", "the file is empty, and no gzip data"),
    "holds-nothing.jsonl.gz": (gzip.compress(b""), "unpacked, the file is empty"),
    "holds-nothing.jsonl.zst": (zstd.compress(b""), "unpacked, the file is empty"),
    "plain.jsonl.gz": (dataset("p"), "rename it to plain.jsonl"),
    "twice.jsonl.gz": (gzip.compress(gzip.compress(dataset("x"))), "unpacked, this is not JSONL but gzip data"),
    "twice.jsonl.zst": (zstd.compress(gzip.compress(dataset("x"))), "unpacked, this is not JSONL but gzip data"),
    "tar.jsonl.gz": (gzip.compress(tarred(dataset("x"))), "unpacked, this is not JSONL but a tar archive"),
    "hole.jsonl.gz": (gzip.compress(bytes(100_000)), "unpacked, this is not JSONL but a hole (NUL bytes)"),
    "garbage.jsonl.zst": (zstd.compress(dataset("x")) + b"garbage", "on it is no zstd data"),
    "line.jsonl.gz": (gzip.compress(dataset("x") + b"[1]\n"), "line 4, column 1: "),
}


def test_what_is_no_dataset_is_rejected_with_the_reason(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path, template)
    for name, (data, _) in ODD.items():
        (here.folder / name).write_bytes(data)
    here.finish()
    found = rows(here)
    for name, (data, reason) in ODD.items():
        assert found[name][0] == UploadState.REJECTED, name
        assert reason in (found[name][1] or ""), name
        assert reason in (here.folder / "rejected" / f"{name}.reason.txt").read_text(), name
        assert (here.folder / "rejected" / name).read_bytes() == data
    assert (here.far.puts, spooled(here)) == (0, [])


def test_a_file_that_include_does_not_name_stays_as_it_was(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path, template, include=["*.jsonl"])
    (here.folder / "a.jsonl.gz").write_bytes(gzip.compress(dataset("x")))
    (here.folder / "b.jsonl").write_bytes(gzip.compress(dataset("x")))
    here.finish()
    [(name, (state, reason))] = rows(here).items()
    assert (name, state) == ("b.jsonl", UploadState.REJECTED)
    assert "gzip data; unpack it first (gunzip), or name it *.jsonl.gz and put that in [drop] include" in (reason or "")


def test_a_bomb_is_held_before_it_is_unpacked_whole(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path, template, max_put="1MB")
    packed = gzip.compress(bytes(200_000_000), 1)
    (here.folder / "bomb.jsonl.gz").write_bytes(packed)
    (here.folder / "good.jsonl.gz").write_bytes(gzip.compress(dataset("good")))
    here.finish()
    found = rows(here)
    assert found["good.jsonl.gz"][0] == UploadState.UPLOADED
    state, reason = found["bomb.jsonl.gz"]
    assert state == UploadState.HELD
    assert reason is not None
    assert reason.startswith(
        f"its {len(packed)} bytes hold 1048576 bytes or more unpacked; these are more than storage takes"
    )
    again = here.read(Reader.uploads)
    here.live()
    assert here.read(Reader.uploads) == again, "it is not unpacked again while nothing has changed"


def test_the_reserve_is_kept_and_more_room_lets_a_held_file_go_on(tmp_path: Path, template: Path) -> None:
    with small_disk(tmp_path / "small", "size=8m") as small:
        here = here_in(tmp_path / "here", template)
        shutil.copy(template, small / "state.db")
        here.state = small
        here.reserve = 3_000_000
        content = dataset("wide", 100_000)
        (here.folder / "a.jsonl.gz").write_bytes(gzip.compress(content))
        ballast = small / "ballast"
        ballast.write_bytes(bytes(2_500_000))
        here.finish()
        state, reason = rows(here)["a.jsonl.gz"]
        assert state == UploadState.HELD
        assert "bytes or more, and" in (reason or "")
        assert "[mirror] reserve = 3000000 bytes; free some space there" in (reason or "")
        assert spooled(here) == []
        before = here.read(Reader.uploads)
        here.live()
        assert here.read(Reader.uploads) == before
        ballast.unlink()
        here.finish()
        assert rows(here)["a.jsonl.gz"] == (UploadState.UPLOADED, None)
        assert list(here.far.objects.values()) == [content]


def test_many_files_share_a_small_room_one_after_the_other(tmp_path: Path, template: Path) -> None:
    with small_disk(tmp_path / "small", "size=10m") as small:
        here = here_in(tmp_path / "here", template)
        shutil.copy(template, small / "state.db")
        here.state, here.reserve = small, 3_000_000
        contents = [dataset(f"file {number}", 100_000) for number in range(6)]  # of which one has room
        for number, content in enumerate(contents):
            (here.folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(content, 1))
        for _ in range(20):
            here.live()
            here.clocks.advance(4000)
        assert {state for state, _ in rows(here).values()} == {"uploaded"}
        assert sorted(here.far.objects.values()) == sorted(contents)
        assert here.far.puts == 6


def test_a_write_that_fails_lets_the_file_wait(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path, template)
    content = dataset("a", 100_000)
    (here.folder / "a.jsonl.gz").write_bytes(gzip.compress(content))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
    try:
        here.live()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    state, reason = rows(here)["a.jsonl.gz"]
    assert state == UploadState.SETTLING
    fault = "a file may not become so large here; raise LimitFSIZE= of the unit (ulimit -f)"
    assert reason == f"{here.state / 'spool'}: {fault}"
    assert spooled(here) == []
    here.clocks.advance(4000)
    here.finish()
    assert list(here.far.objects.values()) == [content]


def test_what_lies_in_the_spool_at_the_start_is_removed_and_no_link_is_followed(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path, template)
    spool, precious = here.state / "spool", here.outside / "precious"
    precious.write_bytes(b"x")
    spool.mkdir()
    (spool / "left-behind").write_bytes(bytes(1000))
    (spool / "link").symlink_to(precious)
    here.live()
    assert (os.listdir(spool), precious.read_bytes()) == ([], b"x")

    spool.rmdir()
    spool.symlink_to(here.outside)
    (here.folder / "a.jsonl.gz").write_bytes(gzip.compress(dataset("a")))
    here.live()
    assert "a symlink is in its place, which is not followed" in (rows(here)["a.jsonl.gz"][1] or "")
    assert (os.listdir(here.outside), precious.read_bytes()) == (["precious"], b"x")


def test_a_compressed_file_goes_up_in_shards(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path, template, shard="100kB", max_put="100kB")
    content = dataset("long", 9000)
    (here.folder / "a.jsonl.zst").write_bytes(zstd.compress(content))
    here.far.faults.extend(["", "lost", "refused", "refused", "refused", "refused", "refused"])
    for _ in range(8):
        here.live()
        here.clocks.advance(4000)
        here.settings = here.settings.model_copy(update={"shard": None})  # what is planned goes on
    [(row, shards)] = here.uploads()
    assert row.state is UploadState.UPLOADED
    assert shards[0].filename == f"a-00001-of-{len(shards):05}.jsonl"
    assert here.content(row, shards) == content
    assert spooled(here) == []


def test_a_later_try_unpacks_again_and_takes_only_the_same_content(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path, template)
    here.far.faults.extend(["refused"] * 4)
    file = here.folder / "a.jsonl.gz"
    file.write_bytes(gzip.compress(dataset("a", 500)))
    here.live()
    [(row, _)] = here.uploads()
    assert (row.state, row.attempts, spooled(here)) == (UploadState.QUEUED, 1, []), "what waits takes no room"
    stamp = file.stat()
    changed = bytearray(file.read_bytes())
    changed[4] ^= 1  # the time in the header: another file that holds the same
    file.write_bytes(changed)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    for _ in range(4):
        here.clocks.advance(4000)
        here.finish()
    [(row, _)] = here.uploads()
    assert row.state is UploadState.UPLOADED
    assert row.packed_sha256 == sha256(bytes(changed)), "it started over"
    assert receipt(here.folder / "uploaded" / "a.jsonl.gz")["packed"]["sha256"] == sha256(bytes(changed))


def test_nothing_is_unpacked_for_a_console_that_gives_no_url(tmp_path: Path, template: Path) -> None:
    here = here_in(tmp_path, template)
    here.far.faults.extend(["expired"] * 4)
    (here.folder / "a.jsonl.gz").write_bytes(gzip.compress(dataset("a", 500)))
    here.live()
    for refuses, reserve, told in (
        ("the console answered 503", 10**18, "the console answered 503"),
        (None, 10**18, "has no room for them beside [mirror] reserve"),
        (None, 0, ""),
    ):
        here.far.console_refuses, here.reserve = refuses, reserve
        here.clocks.advance(4000)
        here.live()
        assert told in (rows(here)["a.jsonl.gz"][1] or "")
    assert rows(here)["a.jsonl.gz"] == (UploadState.UPLOADED, None)


def test_a_kill_at_any_write_sends_the_content_once_and_leaves_no_spool(tmp_path: Path, template: Path) -> None:
    content = dataset("a", 300)
    for writes in range(1, 12):
        here = here_in(tmp_path / str(writes), template)
        (here.folder / "a.jsonl.gz").write_bytes(gzip.compress(content))
        here.live(writes)
        here.finish()
        assert list(here.far.objects.values()) == [content], writes
        [(row, _)] = here.uploads()
        assert row.state is UploadState.UPLOADED
        assert spooled(here) == []


def test_other_ways_to_finish(tmp_path: Path, template: Path) -> None:
    packed = gzip.compress(dataset("a"))
    for after, stays in (("delete", False), ("keep", True)):
        here = here_in(tmp_path / after, template, after=after)
        (here.folder / "a.jsonl.gz").write_bytes(packed)
        here.finish()
        here.live()
        assert (here.folder / "a.jsonl.gz").exists() is stays
        assert not (here.folder / "uploaded").exists()
        assert here.far.puts == 1
        if stays:  # other rights are no other bytes; to know that, the file itself is read again
            (here.folder / "a.jsonl.gz").chmod(0o600)
            here.live()
            assert here.far.puts == 1
            assert rows(here)["a.jsonl.gz"] == (UploadState.UPLOADED, None)
        assert json.loads(json.dumps(upload_document(here.uploads()[0][0])))["packed"]["kind"] == "gzip"
