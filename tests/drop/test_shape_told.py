"""The shape of a dataset is told in receipt, `uploads`, `explain` and log; files of another than the wanted one go back."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from axomsync.cli import tables
from axomsync.config import load
from axomsync.core.errors import BadConfig
from axomsync.core.records import UploadState
from axomsync.drop.shapes import shape_warning
from axomsync.status.documents import upload_document
from tests.drop.conftest import dataset, receipt
from tests.drop.inprocess import DropHere, ledger_template

CHAT = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
PAIR = b'{"prompt": "a", "completion": "b"}\n'
ODD = CHAT * 6 + b'{"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": ""}]}\n'
TOLD = (
    "3 findings in its shape, first line 7, column 14: no message of messages has the role assistant; "
    "write the answer that is to be learnt, or leave the line out"
)
FOUND = {
    "kind": "chat", "examples": 7, "turns": 14, "longest_line": 2, "characters": 13, "tokens_estimate": 3, "mixed": 0,
    "findings": [
        {"line": 7, "column": 14, "reason": TOLD.partition("14: ")[2]},
        {
            "line": 7, "column": 58,
            "reason": 'message 2 of messages has the unknown role "bot"; set role to assistant',
        },
        {
            "line": 7, "column": 76,
            "reason": "the content of message 2 of messages is empty; write a text, or leave the message out",
        },
    ],
    "findings_total": 3,
}  # fmt: skip


def here_in(tmp_path: Path, name: str = "here", **drop: Any) -> DropHere:
    folder = tmp_path / f"template of {name}"
    folder.mkdir()
    return DropHere(tmp_path / name, ledger_template(folder), **drop)


def test_the_shape_is_told_also_by_a_new_ledger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = here_in(tmp_path)
    (here.folder / "a.jsonl").write_bytes(ODD)
    (here.folder / "b.jsonl").write_bytes(dataset("b"))
    (here.folder / "c.jsonl").write_bytes(b'{"id": 1, "text": "a"}\n')
    with caplog.at_level(logging.WARNING):
        here.finish()
    told = [record.getMessage() for record in caplog.records if "repeat" not in record.getMessage()]
    assert told == [f"a.jsonl: {TOLD}; it is uploaded as it is"], "an extra key is no reason to warn"
    assert receipt(here.folder / "uploaded" / "a.jsonl")["shape"] == FOUND

    elsewhere = here_in(tmp_path, "elsewhere")
    (here.folder / "uploaded").rename(elsewhere.folder / "uploaded")
    old = elsewhere.folder / "uploaded" / "b.jsonl.receipt.json"
    older = {key: value for key, value in json.loads(old.read_text()).items() if key != "shape"}
    old.write_text(json.dumps(older))
    forged = elsewhere.folder / "uploaded" / "c.jsonl.receipt.json"
    forged.write_text(json.dumps(json.loads(forged.read_text()) | {"shape": {"kind": "text", "examples": "many"}}))
    elsewhere.finish()
    for installation in (here, elsewhere):
        documents = {row.filename: upload_document(row) for row, _ in installation.uploads()}
        assert {document["state"] for document in documents.values()} == {UploadState.UPLOADED}
        assert documents["a.jsonl"]["shape"] == FOUND
    assert documents["b.jsonl"]["shape"] is None, "a receipt of an older agent"
    assert documents["c.jsonl"]["shape"] is None, "a remark that somebody changed makes the receipt no less true"
    explained: dict[str, object] = {"kind": "upload", "name": "a.jsonl", "state": "uploaded", "means": "", "reason": None}
    lines = tables.explanation(explained | {"keeps": [], "next_attempt": None, "facts": documents["a.jsonl"]})
    assert [str(line) for line in lines if "shape" in str(line)] == [
        "  shape: chat: 7 examples, 14 turns, 13 characters of text, about 3 tokens (an estimate: characters / 4), "
        "2 of them in the longest line",
        f"  warning: {TOLD}",
    ]


def test_schema_chat_rejects_pairs_and_broken_chats(tmp_path: Path) -> None:
    here = here_in(tmp_path, schema="chat")
    (here.folder / "chat.jsonl").write_bytes(CHAT[:-2] + b', "id": 1}\n')
    (here.folder / "pairs.jsonl").write_bytes(PAIR)
    (here.folder / "odd.jsonl").write_bytes(ODD)
    here.finish()
    rows = {row.filename: row for row, _ in here.uploads()}
    assert {name: str(row.state) for name, row in rows.items()} == {
        "chat.jsonl": "uploaded", "pairs.jsonl": "rejected", "odd.jsonl": "rejected"
    }  # fmt: skip
    reason = (
        'line 1, column 1: the line has the shape pairs (prompt and completion), and [drop] schema is "chat"; '
        'write it as chat, or set [drop] schema = "report"'
    )
    assert (rows["pairs.jsonl"].reason or "").startswith(f"{reason}; correct it, and move it")
    assert reason in (here.folder / "rejected" / "pairs.jsonl.reason.txt").read_text()
    assert "1 x unknown role" in (here.folder / "rejected" / "odd.jsonl.reason.txt").read_text()


@pytest.mark.parametrize("drop", [{"schema": "off"}, {"validate": "off"}])
def test_nothing_is_told_where_nobody_looks(tmp_path: Path, drop: dict[str, Any]) -> None:
    here = here_in(tmp_path, **drop)
    (here.folder / "a.jsonl").write_bytes(ODD)
    here.finish()
    [(row, _)] = here.uploads()
    assert upload_document(row)["shape"] is None
    assert receipt(here.folder / "uploaded" / "a.jsonl")["shape"] is None
    assert shape_warning(None) is None


def test_a_shape_can_not_be_wanted_of_lines_that_nobody_reads(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('[drop]\nvalidate = "off"\nschema = "chat"\n')
    with pytest.raises(BadConfig, match=r'\[drop\] schema: "chat" needs lines that are read; set \[drop\] validate'):
        load(file, {})
