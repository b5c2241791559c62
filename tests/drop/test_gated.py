"""A gate before an upload: it judges the very bytes that would be sent, before any is sent."""

import gzip
import os
from pathlib import Path

import pytest

from axomsync.config import HookSettings
from axomsync.core.records import UploadState
from axomsync.ledger import Reader
from axomsync.ops.hooks import gates
from tests.drop.inprocess import DropHere, ledger_template
from tests.rig.gatekeepers import Gatekeeper

GOOD = b'{"text": "hello"}\n' * 100
SECRET = b'{"text": "my key is AKIAIOSFODNN7EXAMPLE"}\n'
LOOKS = 'if b"AKIA" in open(place, "rb").read(): print("line 1: a key"); sys.exit(1)'


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ledger_template(tmp_path_factory.mktemp("gated"))


@pytest.fixture
def keeper(tmp_path: Path) -> Gatekeeper:
    return Gatekeeper(tmp_path)


def test_a_no_rejects_the_file_before_a_byte_is_sent(tmp_path: Path, template: Path, keeper: Gatekeeper) -> None:
    here = DropHere(tmp_path / "here", template)
    here.gates = keeper.gates(LOOKS)
    (here.folder / "bad.jsonl").write_bytes(SECRET)
    (here.folder / "good.jsonl").write_bytes(GOOD)
    here.finish()
    assert list(here.far.names.values()) == ["good.jsonl"]
    states = {row.path: (row.state, row.reason) for row, _ in here.uploads()}
    state, reason = states[b"bad.jsonl"]
    assert state is UploadState.REJECTED
    assert (reason or "").startswith("[hooks] before_upload: line 1: a key; correct it, and move it")
    assert (here.folder / "rejected" / "bad.jsonl").read_bytes() == SECRET
    assert "- [hooks] before_upload: line 1: a key\n" in (here.folder / "rejected" / "bad.jsonl.reason.txt").read_text()
    assert states[b"good.jsonl"][0] is UploadState.UPLOADED
    assert keeper.asked() == ["before_upload"] * 2


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl"])
def test_the_gate_sees_the_content_also_of_a_compressed_file(
    tmp_path: Path, template: Path, keeper: Gatekeeper, name: str
) -> None:
    here = DropHere(tmp_path / "here", template, include=["*.jsonl", "*.jsonl.gz"])
    here.gates = keeper.gates(LOOKS)
    (here.folder / name).write_bytes(gzip.compress(SECRET) if name.endswith(".gz") else SECRET)
    here.finish()
    assert [row.state for row, _ in here.uploads()] == [UploadState.REJECTED]
    assert not here.far.names


def test_shards_wait_for_the_gate(tmp_path: Path, template: Path, keeper: Gatekeeper) -> None:
    here = DropHere(tmp_path / "here", template, shard="1KiB")
    here.gates = keeper.gates("sys.exit(1)")
    (here.folder / "x.jsonl").write_bytes(GOOD)
    here.finish()
    [(row, shards)] = here.uploads()
    assert (row.state, len(shards), here.far.names) == (UploadState.REJECTED, 2, {})
    assert keeper.asked() == ["before_upload"]


def test_a_gate_that_did_not_judge_keeps_the_file_waiting(tmp_path: Path, template: Path, keeper: Gatekeeper) -> None:
    here = DropHere(tmp_path / "here", template)
    (here.folder / "x.jsonl").write_bytes(GOOD)
    here.gates = keeper.gates('print("busy"); sys.exit(75)')
    here.live()
    [(row, _)] = here.uploads()
    assert row.state is UploadState.QUEUED
    assert "ended with 75, and so did not judge; it said: busy" in (row.reason or "")
    assert (here.folder / "x.jsonl").exists()
    here.gates = keeper.gates("")
    here.clocks.advance(3600)
    here.finish()
    assert [row.state for row, _ in here.uploads()] == [UploadState.UPLOADED]


def test_a_row_that_goes_while_the_gate_looks_ends_that_try_quietly(
    tmp_path: Path, template: Path, keeper: Gatekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    here = DropHere(tmp_path / "here", template)
    (here.folder / "x.jsonl").write_bytes(GOOD)
    strike = 'import sqlite3; ledger = sqlite3.connect({!r}); ledger.execute("DELETE FROM uploads"); ledger.commit()'
    here.gates = keeper.gates(strike.format(str(here.state / "state.db")))
    here.finish()
    assert [record.levelname for record in caplog.records if record.exc_info or "lines repeat" not in record.message] == []
    assert (here.far.puts, [row.state for row, _ in here.uploads()]) == (1, [UploadState.UPLOADED]), "as a new file"


def test_a_file_that_changes_under_the_gate_is_judged_anew(
    tmp_path: Path, template: Path, keeper: Gatekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    here = DropHere(tmp_path / "here", template)
    path, mark = here.folder / "x.jsonl", tmp_path / "mark"
    path.write_bytes(SECRET)
    # The file looks harmless while the gate looks, and has its old content, size and time of modification afterwards.
    swap = f"""
path, before = {str(path)!r}, os.stat({str(path)!r})
old = open(path, "rb").read()
if not os.path.exists({str(mark)!r}):
    open({str(mark)!r}, "w").close()
    open(path, "r+b").write(old.replace(b"AKIA", b"aaaa"))
    passed = b"AKIA" not in open(place, "rb").read()
    open(path, "r+b").write(old)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    sys.exit(not passed)
"""
    here.gates = keeper.gates(swap + LOOKS)
    here.finish()
    assert mark.exists()
    assert "changed while [hooks] before_upload looked at it" in caplog.text
    assert keeper.asked() == ["before_upload"] * 2
    assert [row.state for row, _ in here.uploads()] == [UploadState.REJECTED]
    assert here.far.names == {}


def test_a_content_is_judged_once_in_a_life_and_not_if_it_is_not_sent(
    tmp_path: Path, template: Path, keeper: Gatekeeper
) -> None:
    here = DropHere(tmp_path / "here", template, after="keep", dedupe="content")
    here.gates = keeper.gates('assert event["upload"]["sha256"] and event["upload"]["shape"], event')
    here.far.faults.extend(["refused", "lost", "cut"])
    (here.folder / "x.jsonl").write_bytes(GOOD)
    here.finish()
    assert (here.far.puts, keeper.asked()) == (4, ["before_upload"])
    (here.folder / "twin.jsonl").write_bytes(GOOD)
    here.finish()
    assert keeper.asked() == ["before_upload"]
    assert {row.state for row in here.read(Reader.uploads)} == {UploadState.UPLOADED, UploadState.DUPLICATE}


def test_a_shell_reads_the_file_by_its_variable_and_gets_no_key(tmp_path: Path, template: Path) -> None:
    here = DropHere(tmp_path / "here", template)
    looks = 'test -z "$AXOM_KEY" && test "$AXOMSYNC_FILENAME" && ! grep -n AKIA "$AXOMSYNC_FILE"'
    settings = HookSettings.model_validate({"before_upload": ["sh", "-c", looks]})
    here.gates = gates(settings, {**os.environ, "AXOM_KEY": "secret"})
    (here.folder / "bad.jsonl").write_bytes(GOOD + SECRET)
    (here.folder / "good.jsonl").write_bytes(GOOD)
    here.finish()
    assert list(here.far.names.values()) == ["good.jsonl"]
    reason = (here.folder / "rejected" / "bad.jsonl.reason.txt").read_text()
    assert '- [hooks] before_upload: 101:{"text": "my key' in reason
