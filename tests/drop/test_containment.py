"""A file that meets a bug affects no other file: it is reported and waits, and the others go on."""

from pathlib import Path

import pytest

from axomsync.core.records import UploadState
from tests.drop.conftest import dataset
from tests.drop.inprocess import DropHere, ledger_template


@pytest.mark.parametrize("shard", ["", "60B"])
def test_file_that_meets_a_bug_waits_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shard: str
) -> None:
    here = DropHere(tmp_path / "here", ledger_template(tmp_path / "template"), shard=shard)
    for name in ("a", "b", "c"):
        (here.folder / f"{name}.jsonl").write_bytes(dataset(name))
    here.far.faults.append("bug")
    here.live()
    rows = [row for row, _ in here.uploads()]
    assert sorted(row.state for row in rows) == [UploadState.QUEUED, UploadState.UPLOADED, UploadState.UPLOADED]
    (row,) = (row for row in rows if row.state is UploadState.QUEUED)
    assert row.reason == "unexpected RuntimeError: a bug; please report it"
    assert (row.attempts, row.next_attempt is not None) == (1, True)
    assert len([record for record in caplog.records if record.exc_info]) == 1, "with its traceback, once"
    here.finish()
    assert {row.state for row, _ in here.uploads()} == {UploadState.UPLOADED}
