"""`[drop] archive_for`: archived files that it removes, files that stay, and their amount in `status`."""

import gzip
import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from axomsync.core.errors import Stopping
from axomsync.drop.expiry import Expiry
from axomsync.drop.unpacking import zstd
from axomsync.ledger import Reader
from axomsync.ledger.facts import PUT_AWAY
from tests.drop.inprocess import DropHere, Stop, ledger_template
from tests.rig.agent import AgentProcess, eventually
from tests.rig.contexts import worker_context
from tests.rig.faults import FOREVER, KEY, Fault, FaultyServer, http_date

DAY = 86400.0
DATA = b'{"text": "one"}\n'


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ledger_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def drop(tmp_path: Path, template: Path) -> DropHere:
    """An installation with an archived file, whose archive is kept for 30 days."""
    here = DropHere(tmp_path, template, archive_for="30d")
    (here.folder / "sub").mkdir()
    (here.folder / "sub" / "a.jsonl").write_bytes(DATA)
    os.utime(here.folder / "sub" / "a.jsonl", (here.clocks.wall - 1, here.clocks.wall - 1))
    here.finish()
    assert archived(here).read_bytes() == DATA
    return here


def archived(drop: DropHere) -> Path:
    return drop.folder / "uploaded" / "sub" / "a.jsonl"


def receipt(drop: DropHere) -> Path:
    return drop.folder / "uploaded" / "sub" / "a.jsonl.receipt.json"


def later(drop: DropHere, days: float) -> None:
    """Run one pass so many `days` later."""
    drop.clocks.wall += days * DAY
    drop.clocks.monotonic += days * DAY
    drop.live()


def held(drop: DropHere) -> object:
    return json.loads(drop.read(Reader.facts)[PUT_AWAY] or "")


def test_archive_for_removes_the_file_at_that_age_and_keeps_the_receipt(drop: DropHere) -> None:
    later(drop, 29)
    assert archived(drop).exists()
    later(drop, 2)
    assert not archived(drop).exists()
    assert json.loads(receipt(drop).read_bytes())["bytes"] == len(DATA)
    assert held(drop) == {"uploaded": {"files": 0, "bytes": 0}, "rejected": {"files": 0, "bytes": 0}}
    puts = drop.far.puts
    (drop.folder / "sub" / "a.jsonl").write_bytes(DATA)
    drop.finish()
    assert drop.far.puts == puts, "the content is known from the receipt"


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstd.compress)])
def test_archive_for_removes_compressed_files_whose_own_bytes_the_receipt_names(
    tmp_path: Path, template: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    drop = DropHere(tmp_path, template, archive_for="30d", include=["*.jsonl.*"])
    for name, data in (("a", DATA), ("same", DATA), ("other", DATA * 2)):
        (drop.folder / f"{name}.jsonl{ending}").write_bytes(pack(data))
        os.utime(drop.folder / f"{name}.jsonl{ending}", (drop.clocks.wall - 1, drop.clocks.wall - 1))
    drop.finish()
    changed = drop.folder / "uploaded" / f"other.jsonl{ending}"
    changed.write_bytes(pack(DATA * 3))
    later(drop, 31)
    left = {path.name for path in changed.parent.iterdir()}
    assert left == {changed.name} | {f"{name}.jsonl{ending}.receipt.json" for name in ("a", "same", "other")}


def test_archive_for_unset_removes_nothing(tmp_path: Path, template: Path) -> None:
    drop = DropHere(tmp_path, template)
    (drop.folder / "a.jsonl").write_bytes(DATA)
    (drop.folder / "b.jsonl").write_bytes(b"no dataset")
    drop.finish()
    later(drop, 4000)
    assert (drop.folder / "uploaded" / "a.jsonl").exists()
    counted = {"uploaded": {"files": 1, "bytes": len(DATA)}, "rejected": {"files": 1, "bytes": 10}}
    assert held(drop) == counted, "receipts and reasons are not counted"


def lose_receipt(drop: DropHere) -> None:
    receipt(drop).unlink()


def empty_receipt(drop: DropHere) -> None:
    archived(drop).write_bytes(DATA + DATA)  # else the ledger would know the file, and write its receipt again
    receipt(drop).write_bytes(b"")


def forget_receipt(drop: DropHere) -> None:
    told = json.loads(receipt(drop).read_bytes())
    receipt(drop).write_text(json.dumps({**told, "forgotten": "2026-01-01T00:00:00+00:00"}))


def write_more(drop: DropHere) -> None:
    archived(drop).write_bytes(DATA + DATA)


def write_the_same_size(drop: DropHere) -> None:
    archived(drop).write_bytes(DATA.replace(b"one", b"two"))


def forge_a_receipt(drop: DropHere) -> None:
    """Write a receipt as another user of the group, for a file that was not uploaded."""
    (archived(drop).with_name("c.jsonl")).write_bytes(DATA + DATA)
    told = {**json.loads(receipt(drop).read_bytes()), "bytes": 2 * len(DATA), "sha256": sha256(DATA + DATA).hexdigest()}
    forged = archived(drop).with_name("c.jsonl.receipt.json")
    forged.write_text(json.dumps(told))
    forged.chmod(0o664)
    archived(drop).unlink()


def link_elsewhere(drop: DropHere) -> None:
    (drop.outside / "precious.jsonl").write_bytes(DATA)
    archived(drop).unlink()
    archived(drop).symlink_to(drop.outside / "precious.jsonl")


@pytest.mark.parametrize(
    "change",
    [lose_receipt, empty_receipt, forget_receipt, write_more, write_the_same_size, forge_a_receipt, link_elsewhere],
)
def test_archive_for_leaves_files_without_proof_alone(drop: DropHere, change: Callable[[DropHere], None]) -> None:
    change(drop)
    before = sorted(path.name for path in archived(drop).parent.iterdir() if not path.name.endswith(".receipt.json"))
    later(drop, 31)
    after = sorted(path.name for path in archived(drop).parent.iterdir() if not path.name.endswith(".receipt.json"))
    assert after == before
    assert all(path.read_bytes() == DATA for path in drop.outside.iterdir())


def test_archive_for_ends_with_the_agent_while_a_file_is_read(drop: DropHere) -> None:
    stop = Stop(drop.clocks)
    drop.clocks.advance(31 * DAY)
    with drop.ledger() as ledger:
        context = worker_context(ledger, drop.far, drop.far, stop=stop, now=lambda: drop.clocks.wall)
        with pytest.raises(Stopping):
            Expiry(drop.settings, context).look(stop.set)
    assert archived(drop).exists()


def test_archive_for_looks_again_once_the_console_has_told_its_time(drop: DropHere) -> None:
    drop.clocks.advance(31 * DAY)
    with drop.ledger() as ledger:
        expiry = Expiry(drop.settings, worker_context(ledger, drop.far, drop.far, now=lambda: drop.clocks.wall))
        drop.far.clock_ahead, drop.far.console_refuses = None, "not now"
        expiry.look(lambda: None)
        assert archived(drop).exists()
        assert json.loads(ledger.read.facts()[PUT_AWAY] or "")["uploaded"]["files"] == 1, "counted all the same"
        drop.far.clock_ahead = 0.0
        expiry.look(lambda: None)
    assert not archived(drop).exists()


def test_archive_for_trusts_no_clock_that_is_ahead_of_the_consoles(drop: DropHere) -> None:
    drop.far.clock_ahead = -400 * DAY
    later(drop, 400)
    assert archived(drop).exists()
    drop.far.clock_ahead, drop.far.console_refuses = None, "not now"
    later(drop, 1)
    assert archived(drop).exists(), "the console has not told its time"
    drop.far.console_refuses = None
    later(drop, 1)
    assert not archived(drop).exists()


@pytest.mark.parametrize("status", [200, 401, 403])
def test_passes_that_send_and_mirror_nothing_remove_files_too(server: FaultyServer, tmp_path: Path, status: int) -> None:
    config = {"drop": {"archive_for": "1s"}, "mirror": {"enabled": False}}
    with AgentProcess(tmp_path / "box", server.url, KEY, config) as agent:
        (agent.drop / "a.jsonl").write_bytes(DATA)
        agent.sync()
        file = agent.drop / "uploaded" / "a.jsonl"
        server.inject(Fault(status, {"Date": http_date(3600)}, b"[]"), "/base-models", times=FOREVER)
        eventually("its removal", lambda: (agent.sync(), not file.exists())[1])
        assert file.with_name("a.jsonl.receipt.json").exists()
