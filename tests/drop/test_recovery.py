"""What an agent takes up at its start: receipts that its ledger does not know or that say nothing, leftovers of a crash."""

import json
import os
import resource
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axomsync.core.errors import LocalFault
from axomsync.core.records import Stored, UploadState
from axomsync.drop.claims import STALE_SECONDS, Claims
from axomsync.drop.open_files import being_written
from axomsync.drop.receipts import survey
from axomsync.drop.watch import stamp_at, unmounted
from axomsync.ledger import Reader
from axomsync.runtime.heartbeat import unwatched
from tests.drop.conftest import dataset, receipt, sha256, tree
from tests.drop.inprocess import DropHere, ledger_template

UNFINISHED = ".axomsync-unfinished-0123"
STRANGER = 65534


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return ledger_template(tmp_path / "template")


def drop(here: DropHere, *names: str) -> None:
    for name in names:
        (here.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (here.folder / name).write_bytes(dataset(name))


def forged_receipt(name: str, **changes: object) -> str:
    """As the agent would write it of `dataset(name)`."""
    data = dataset(name)
    document: dict[str, object] = {
        "path": name, "filename": name, "upload_id": "up-x", "key": "k", "sha256": sha256(data), "md5": None, "etag": None,
        "bytes": len(data), "lines": 3, "repeated_lines": None, "time": "2026-01-01T00:00:00+00:00", "duplicate": False,
        "shards": [],
    }  # fmt: skip
    return json.dumps(document | changes)


def states(here: DropHere) -> list[UploadState]:
    return [row.state for row, _ in here.uploads()]


NAMES = tuple(f"{n}.jsonl" for n in range(5))


@pytest.mark.parametrize("taken_after", [0, 2])
def test_an_older_ledger_that_is_put_back_costs_no_second_upload(tmp_path: Path, template: Path, taken_after: int) -> None:
    here = DropHere(tmp_path / "here", template)
    drop(here, *NAMES[:taken_after])
    here.finish()
    shutil.copy(here.state / "state.db", tmp_path / "kept.db")
    drop(here, *NAMES[taken_after:])
    here.finish()
    assert here.far.puts == 5
    shutil.copy(tmp_path / "kept.db", here.state / "state.db")
    drop(here, *NAMES)
    here.finish()
    assert here.far.puts == 5
    assert states(here).count(UploadState.DUPLICATE) == states(here).count(UploadState.UPLOADED) == 5


def test_receipts_that_are_known_are_not_read_again(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    drop(here, *NAMES)
    here.finish()
    known = here.read(Reader.receipts)
    assert known.keys() == {f"uploaded/{name}.receipt.json".encode() for name in NAMES}
    found = survey(here.folder, known, unwatched)
    assert (found.marks, found.new, found.none, found.faults) == (known, [], {}, {})
    assert len(survey(here.folder, {}, unwatched).new) == 5


def test_what_was_forgotten_stays_forgotten_although_its_receipt_is_there(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    drop(here, "a.jsonl")
    here.finish()
    with here.ledger() as ledger:
        ledger.strike([1], [])
    drop(here, "a.jsonl")
    here.finish()
    assert here.far.puts == 2


@pytest.mark.parametrize("left", [b"", b"\0" * 500, b'{"path": "a.js'])
def test_a_receipt_that_says_nothing_is_written_again(tmp_path: Path, template: Path, left: bytes) -> None:
    here = DropHere(tmp_path / "here", template, shard="80B")
    drop(here, "x/a.jsonl", "b.jsonl")
    here.finish()
    shutil.copyfile(here.folder / "uploaded" / "b.jsonl", here.folder / "b.jsonl")
    here.finish()  # a duplicate, whose receipt has a name of its own
    before = tree(here.folder)
    receipts = [here.folder / name for name in before if name.endswith(".receipt.json")]
    assert len(receipts) == 3
    for file in receipts:
        file.write_bytes(left)
    (here.folder / "uploaded" / "nobody.jsonl.receipt.json").write_bytes(left)
    here.live()
    after = tree(here.folder)
    assert after.pop("uploaded/nobody.jsonl.receipt.json") == left
    assert after == before


@pytest.mark.parametrize(("left", "is_lost"), [(b"", True), (b"\0" * 500, True), (b"I corrected it", False)])
def test_a_reason_that_says_nothing_is_written_again(tmp_path: Path, template: Path, left: bytes, is_lost: bool) -> None:
    here = DropHere(tmp_path / "here", template)
    (here.folder / "x").mkdir()
    (here.folder / "x" / "a.jsonl").write_bytes(b'{"a": NaN}\n')
    here.finish()
    reason = here.folder / "rejected" / "x" / "a.jsonl.reason.txt"
    for path in (reason, reason.with_name("nobody.jsonl.reason.txt")):
        path.write_bytes(left)
    here.live()
    assert reason.with_name("nobody.jsonl.reason.txt").read_bytes() == left
    told = reason.read_text()
    if is_lost:
        assert told.startswith("x/a.jsonl was not uploaded: line 1, column 7: NaN is not JSON; write null")
        assert f"move it back to {here.folder}/x/a.jsonl" in told
    else:
        assert told.encode() == left


@pytest.mark.parametrize("after", ["archive", "keep", "delete"])
def test_a_receipt_of_another_user_proves_nothing(
    tmp_path: Path, template: Path, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = DropHere(tmp_path / "here", template, after=after)
    (here.folder / "uploaded").mkdir()
    theirs, shared = (here.folder / "uploaded" / f"{name}.receipt.json" for name in ("a.jsonl", "b.jsonl"))
    theirs.write_text(forged_receipt("a.jsonl"))
    os.chown(theirs, STRANGER, STRANGER)
    shared.write_text(forged_receipt("b.jsonl"))
    shared.chmod(0o664)
    drop(here, "a.jsonl", "b.jsonl")
    here.finish()
    assert here.far.puts == 2
    assert sorted(here.far.objects.values()) == [dataset("a.jsonl"), dataset("b.jsonl")]
    told = [record.message for record in caplog.records if "no receipt" in record.message]
    assert len(told) == 2
    assert all("another user has made it or may write to it; it proves nothing" in line for line in told)
    here.live()
    assert len([record for record in caplog.records if "no receipt" in record.message]) == 2, "told once"


@pytest.mark.parametrize("proof", ["receipt", "claim"])
def test_only_what_this_agent_has_sent_itself_is_deleted(tmp_path: Path, template: Path, proof: str) -> None:
    here = DropHere(tmp_path / "here", template, after="delete")
    if proof == "receipt":
        (here.folder / "uploaded").mkdir()
        (here.folder / "uploaded" / "a.jsonl.receipt.json").write_text(forged_receipt("a.jsonl"))
    else:
        other = Claims(here.folder, "other", keeps=True)
        other.register()
        other.settle(f"{sha256(dataset('a.jsonl'))}/a.jsonl", Stored("up-x", "k", None))
    drop(here, "a.jsonl", "y/a.jsonl")
    (here.folder / "y" / "a.jsonl").write_bytes(dataset("a.jsonl"))
    here.finish()
    assert here.far.puts == 1
    assert list(here.far.objects.values()) == [dataset("a.jsonl")]
    assert not (here.folder / "a.jsonl").exists()
    assert not (here.folder / "y" / "a.jsonl").exists(), "a duplicate of what this agent has sent itself"


@pytest.mark.parametrize("record", ["there", "missing"])
def test_a_claim_that_a_kill_left_on_a_file_that_stays_is_released_and_its_record_is_there(
    tmp_path: Path, template: Path, record: str
) -> None:
    here = DropHere(tmp_path / "here", template, after="keep")
    drop(here, "a.jsonl")
    here.finish()
    content = f"{sha256(dataset('a.jsonl'))}/a.jsonl"
    killed = Claims(here.folder, here.identity, keeps=True)
    known = killed.record(content)
    assert killed.take(content) is None
    if record == "missing":
        for file in (here.folder / ".axomsync" / "claims").glob("*.json"):
            file.unlink()
    here.live()
    assert Claims(here.folder, "other", keeps=True).take(content) is None, "nobody waits for a claim of nobody"
    assert killed.record(content) == known
    assert here.far.puts == 1


@pytest.mark.parametrize("proof", ["claim", "receipt"])
def test_a_duplicate_that_only_another_agent_vouches_for_is_archived_and_not_deleted(
    tmp_path: Path, template: Path, proof: str
) -> None:
    here = DropHere(tmp_path / "here", template)
    (here.folder / "uploaded").mkdir()
    if proof == "claim":
        other = Claims(here.folder, "other", keeps=True)
        other.register()
        other.settle(f"{sha256(dataset('x/a.jsonl'))}/a.jsonl", Stored("up-x", "k", None))
    else:
        known = forged_receipt("x/a.jsonl", path="a.jsonl", filename="a.jsonl")
        (here.folder / "uploaded" / "a.jsonl.receipt.json").write_text(known)
    drop(here, "x/a.jsonl")
    (here.folder / "uploaded" / "x").write_text("in the way")
    here.live()
    assert states(here).count(UploadState.DUPLICATE) == 1
    (here.folder / "uploaded" / "x").unlink()
    here.settings = here.settings.model_copy(update={"after": "delete"})
    here.clocks.advance(3600)
    here.live()
    assert (here.folder / "uploaded" / "x" / "a.jsonl").read_bytes() == dataset("x/a.jsonl")
    assert receipt(here.folder / "uploaded" / "x" / "a.jsonl")["upload_id"] == "up-x"
    assert here.far.puts == 0


@pytest.mark.parametrize("change", ["other content", "of another user", "writable by others", "without its content"])
def test_a_record_that_proves_nothing_has_the_content_uploaded(tmp_path: Path, template: Path, change: str) -> None:
    here = DropHere(tmp_path / "here", template)
    other = Claims(here.folder, "other", keeps=True)
    other.register()
    content = f"{sha256(dataset('a.jsonl'))}/a.jsonl"
    other.settle(content, Stored("up-x", "k", None))
    (record,) = (here.folder / ".axomsync" / "claims").glob("*.json")
    document = json.loads(record.read_text())
    assert document["content"] == content
    if change == "of another user":
        os.chown(record, STRANGER, STRANGER)
    elif change == "writable by others":
        record.chmod(0o646)
    else:
        document.pop("content")
        record.write_text(json.dumps(document | ({"content": "another"} if change == "other content" else {})))
    drop(here, "a.jsonl")
    here.finish()
    assert (here.far.puts, states(here)) == (1, [UploadState.UPLOADED])


def test_what_a_crash_left_is_swept_at_the_next_start(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    drop(here, "a.jsonl")
    here.finish()
    claims = here.folder / ".axomsync" / "claims"
    for folder in ("uploaded", "uploaded/x", "rejected/y", ".axomsync/agents", ".axomsync/claims"):
        (here.folder / folder).mkdir(parents=True, exist_ok=True)
        (here.folder / folder / UNFINISHED).write_text("half")
    (here.folder / "uploaded" / f"{UNFINISHED}-theirs").write_text("half")
    os.chown(here.folder / "uploaded" / f"{UNFINISHED}-theirs", STRANGER, STRANGER)
    (claims / ("0" * 64)).symlink_to(here.identity)
    (claims / ("1" * 64)).symlink_to("another")
    (claims / ("1" * 64 + ".judged")).symlink_to(here.identity)
    here.live()
    left = [str(path.relative_to(here.folder)) for path in here.folder.rglob("*unfinished*")]
    assert left == [f"uploaded/{UNFINISHED}-theirs"]
    assert [path.name for path in claims.iterdir()] == ["1" * 64]


def test_what_another_agent_may_be_writing_now_is_not_swept(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    Claims(here.folder, "other", keeps=False).register()
    (here.folder / "uploaded").mkdir()
    fresh, stale = (here.folder / "uploaded" / f"{UNFINISHED}{n}" for n in range(2))
    fresh.write_text("half")
    stale.write_text("half")
    here.clocks.wall = time.time()
    os.utime(stale, (here.clocks.wall - STALE_SECONDS - 60,) * 2)
    here.live()
    assert (fresh.exists(), stale.exists()) == (True, False)


def test_a_claim_on_what_is_under_way_outlives_its_agent(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    drop(here, "a.jsonl")
    here.far.faults.extend(["refused"] * 4)
    here.live()
    (claim,) = (here.folder / ".axomsync" / "claims").iterdir()
    Claims(here.folder, here.identity, keeps=False).register([f"{sha256(dataset('a.jsonl'))}/a.jsonl"])
    assert os.readlink(claim) == here.identity
    here.finish()
    assert list(claim.parent.iterdir()) == []


def test_a_ledger_that_is_lost_under_way_leaves_no_claim_that_blocks(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    Claims(here.folder, "other", keeps=False).register()
    drop(here, "a.jsonl")
    here.far.faults.extend(["refused"] * 4)
    here.live()
    assert len(list((here.folder / ".axomsync" / "claims").iterdir())) == 1
    shutil.copy(template, here.state / "state.db")
    here.live()
    assert (states(here), here.far.puts) == ([UploadState.UPLOADED], 5)


@pytest.mark.parametrize("change", ["none", "another file"])
def test_a_deletion_that_a_crash_cut_off_is_finished(tmp_path: Path, template: Path, change: str) -> None:
    here = DropHere(tmp_path / "here", template, after="keep")
    drop(here, "x/a.jsonl")
    here.finish()
    here.settings = here.settings.model_copy(update={"after": "delete"})
    doomed = here.folder / "x" / f".axomsync-deleting-1-{'0' * 32}"
    os.rename(here.folder / "x" / "a.jsonl", doomed)
    if change == "another file":
        doomed.unlink()
        doomed.write_bytes(dataset("b"))
    here.finish()
    assert not doomed.exists()
    assert sorted(here.far.objects.values()) == sorted([dataset("x/a.jsonl")] + [dataset("b")] * (change != "none"))
    assert not (here.folder / "x" / "a.jsonl").exists()


@pytest.mark.parametrize("name", ["uploaded", "rejected", ".axomsync"])
@pytest.mark.parametrize("plant", ["link", "file"])
def test_what_lies_in_the_place_of_our_folders_is_named_with_its_fix(
    tmp_path: Path, template: Path, name: str, plant: str
) -> None:
    here = DropHere(tmp_path / "here", template)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = here.folder / name
    if plant == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_text("theirs")
    drop(here, "a.jsonl")
    (here.folder / "b.jsonl").write_text("broken")
    here.live()
    fix = "a symlink is in its place" if plant == "link" else "a file has the name of this folder; move it away"
    told = [problem.reason for problem in here.read(Reader.problems)]
    told += [row.reason or "" for row in here.read(Reader.uploads_in_drop)]
    assert any(str(place) in reason and fix in reason for reason in told), told
    assert list(elsewhere.iterdir()) == []
    assert place.is_symlink() or place.read_text() == "theirs"
    place.unlink()
    here.clocks.advance(7200)
    here.finish()
    assert here.far.puts == 1
    assert (here.folder / "uploaded" / "a.jsonl").exists()
    assert (here.folder / "rejected" / "b.jsonl").exists()


@pytest.mark.parametrize("kind", ["folder", "fifo", "file"])
def test_what_lies_in_the_place_of_a_claim_is_named(tmp_path: Path, kind: str) -> None:
    claims = Claims(tmp_path, "here", keeps=False)
    claims.register()
    claims.take("content")
    (claim,) = (tmp_path / ".axomsync" / "claims").iterdir()
    claim.unlink()
    {"folder": claim.mkdir, "fifo": lambda: os.mkfifo(claim), "file": claim.touch}[kind]()
    with pytest.raises(LocalFault, match=f"{claim}: something else is in its place; move that away"):
        claims.take("content")


@pytest.mark.parametrize("mode", [0o755, 0o2770, 0o1777])
def test_who_may_drop_may_take_back_what_was_rejected(mode: int, tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    here.folder.chmod(mode)
    before = os.umask(0o022)
    try:
        drop(here, "x/a.jsonl")
        (here.folder / "b.jsonl").write_text("broken")
        here.finish()
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((here.folder / name).stat().st_mode) for name in ("uploaded", "uploaded/x", "rejected")}
    assert set(modes.values()) == {mode}


def test_shards_of_a_file_that_went_away_are_orphans(tmp_path: Path, template: Path) -> None:
    for writes in range(14):
        here = DropHere(tmp_path / str(writes), template, shard="60B")
        drop(here, "a.jsonl")
        here.live(writes)
        (here.folder / "a.jsonl").unlink(missing_ok=True)
        here.finish()
        known = {shard.key for _, shards in here.uploads() for shard in shards}
        known |= {key for keys in here.read(Reader.orphans).values() for key in keys}
        assert here.far.objects.keys() <= known, writes


@contextmanager
def no_more_files() -> Iterator[None]:
    """Nothing can be opened in the block."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_open_files_make_nothing_absent(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(dataset("a"))
    claims = Claims(tmp_path, "here", keeps=True)
    claims.register()
    claims.take("content")
    claims.settle("content", Stored("up-1", "k", None))
    for question in (
        lambda: stamp_at(tmp_path, b"a.jsonl"),
        lambda: claims.take("content"),
        lambda: claims.record("content"),
        claims.register,
    ):
        with no_more_files(), pytest.raises(LocalFault, match="too many open files; raise LimitNOFILE"):
            question()
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        being_written(os.fsencode(tmp_path / "a.jsonl"))
    with no_more_files():
        assert not claims.alone, "perhaps"
        assert unmounted(tmp_path, b"a.jsonl", tmp_path.stat().st_dev + 1), "nobody knows that it is gone"
    assert claims.record("content") == Stored("up-1", "k", None)


@pytest.mark.parametrize("way", ["x", "x/y"])
def test_a_file_whose_way_is_another_now_is_gone(tmp_path: Path, way: str) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "a.jsonl").write_bytes(dataset("a"))
    assert stamp_at(tmp_path, b"x/y/a.jsonl") is not None
    (tmp_path / way).rename(tmp_path / "away")
    assert stamp_at(tmp_path, b"x/y/a.jsonl") is None
    (tmp_path / way).symlink_to(tmp_path / "away")
    assert stamp_at(tmp_path, b"x/y/a.jsonl") is None
    (tmp_path / way).unlink()
    (tmp_path / way).write_text("a file")
    assert stamp_at(tmp_path, b"x/y/a.jsonl") is None
