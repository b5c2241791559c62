"""Repeated lines: their file is uploaded unchanged; receipt, `uploads`, `explain` and the log report them."""

import json
import logging
from pathlib import Path

import pytest

from axomsync.cli import tables
from axomsync.core.records import UploadState
from axomsync.drop.repeats import repeated_words
from axomsync.status.documents import upload_document
from tests.drop.conftest import dataset, receipt
from tests.drop.inprocess import DropHere, ledger_template


def test_repeated_lines_are_reported_also_by_a_new_ledger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "template").mkdir()
    template = ledger_template(tmp_path / "template")
    here = DropHere(tmp_path / "here", template)
    data = dataset("a", 2000) + dataset("a", 3)
    (here.folder / "a.jsonl").write_bytes(data)
    (here.folder / "b.jsonl").write_bytes(dataset("b"))
    with caplog.at_level(logging.WARNING):
        here.finish()
    told = "3 of 2,003 lines repeat an earlier one: line 2,001, 2,002, 2,003"
    assert [record.getMessage() for record in caplog.records] == [f"a.jsonl: {told}; it is uploaded as it is"]
    assert data in here.far.objects.values()
    found = {"count": 3, "compared": 2003, "first": [2001, 2002, 2003]}
    assert receipt(here.folder / "uploaded" / "a.jsonl")["repeated_lines"] == found
    assert receipt(here.folder / "uploaded" / "b.jsonl")["repeated_lines"] is None

    elsewhere = DropHere(tmp_path / "elsewhere", template)
    (here.folder / "uploaded").rename(elsewhere.folder / "uploaded")
    forged = elsewhere.folder / "uploaded" / "b.jsonl.receipt.json"
    forged.write_text(json.dumps(json.loads(forged.read_text()) | {"repeated_lines": {"count": "many"}}))
    elsewhere.finish()
    for rows in (here.uploads(), elsewhere.uploads()):
        documents = {row.filename: upload_document(row) for row, _ in rows}
        assert [row.state for row, _ in rows] == [UploadState.UPLOADED] * 2
        assert documents["a.jsonl"]["repeated_lines"] == found
        assert repeated_words(documents["a.jsonl"]["repeated_lines"], documents["a.jsonl"]["lines"]) == told
        assert documents["b.jsonl"]["repeated_lines"] is None
    explained: dict[str, object] = {"kind": "upload", "name": "a.jsonl", "state": "uploaded", "means": "", "reason": None}
    lines = tables.explanation(explained | {"keeps": [], "next_attempt": None, "facts": documents["a.jsonl"]})
    assert f"  warning: {told}" in map(str, lines)
